//! One gRPC call over HTTP/2 on a Unix socket: one message there, one back.
//!
//! That is all a kubelet needs. A gRPC library would bring a connection pool, balancing and code
//! generation, and its features would have the AWS SDK, with which it shares dependencies, compiled
//! once more. Reference: gRPC over HTTP/2, "Requests" and "Responses".

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{BufMut as _, Bytes, BytesMut};
use h2::RecvStream;
use h2::client;
use http::{HeaderMap, Request};
use prost::Message;
use tokio::net::UnixStream;

/// A message's prefix: one byte that says whether it is compressed, four of length.
const PREFIX_BYTES: usize = 5;
/// Largest answer taken.
const ANSWER_BYTES: usize = 16 << 20;

/// Sends `request` to the method at `path` and returns what comes back.
pub(crate) async fn unary<A: Message + Default>(
    socket: &Path,
    path: &str,
    request: &impl Message,
) -> Result<A> {
    let stream = UnixStream::connect(socket)
        .await
        .with_context(|| format!("connect to {}", socket.display()))?;
    let (mut sender, connection) = client::handshake(stream).await?;
    // Ends with the last handle to it, at the end of this call.
    let driver = tokio::spawn(connection);
    let head = Request::post(format!("http://localhost{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let (response, mut body) = sender.send_request(head, false)?;
    body.send_data(framed(request), true)?;
    let (head, mut body) = response.await?.into_parts();
    let bytes = collect(&mut body).await?;
    let trailers = body.trailers().await?;
    // An answer without a message has its status in the head.
    succeeded(trailers.as_ref().unwrap_or(&head.headers))?;
    drop((sender, body));
    driver.abort();
    let (prefix, message) = bytes.split_at_checked(PREFIX_BYTES).context("no message")?;
    ensure!(prefix.first() == Some(&0), "a compressed message");
    Ok(A::decode(message)?)
}

fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + length);
    bytes.put_u8(0);
    // A request of this program is some hundred bytes.
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    bytes.put_slice(&message.encode_to_vec());
    bytes.freeze()
}

async fn collect(body: &mut RecvStream) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        bytes.extend_from_slice(&chunk);
        ensure!(bytes.len() <= ANSWER_BYTES, "an answer without end");
    }
    Ok(bytes)
}

fn succeeded(headers: &HeaderMap) -> Result<()> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status") {
        Some("0") => Ok(()),
        Some(_) => bail!("{}", text("grpc-message").unwrap_or("no reason given")),
        None => bail!("an answer without a status"),
    }
}
