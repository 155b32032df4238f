//! The framing of `penstock_dataplane_api::frame` on asynchronous streams: a 4-byte big-endian length, then JSON.
//!
//! Same limits and same errors as the blocking version; never allocates more than the caller allows.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Writes one message.
///
/// # Errors
/// Whatever the stream reports; `InvalidInput` when the message is too long to send.
pub async fn write<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &T,
) -> io::Result<()> {
    let mut bytes = Vec::new();
    penstock_dataplane_api::frame::write(&mut bytes, message)?;
    stream.write_all(&bytes).await?;
    stream.flush().await
}

/// Reads one message; `None` when the peer closed before sending one.
///
/// # Errors
/// Whatever the stream reports; `InvalidData` for a length over `limit` or for unexpected JSON; `UnexpectedEof` for a
/// message that was cut.
pub async fn read<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    limit: usize,
) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    if stream.read(&mut length[..1]).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut length[1..]).await?;
    let length = u32::from_be_bytes(length) as usize;
    if length > limit {
        let text = format!("message of {length} bytes is over the limit of {limit}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let mut bytes = Vec::new();
    stream.take(length as u64).read_to_end(&mut bytes).await?;
    if bytes.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let parsed = serde_json::from_slice(&bytes);
    parsed
        .map(Some)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn speaks_the_blocking_framing() {
        let mut wire = Vec::new();
        write(&mut wire, &vec!["a", "b"]).await.unwrap();
        let back: Vec<String> = penstock_dataplane_api::frame::read(&mut wire.as_slice(), 64)
            .unwrap()
            .unwrap();
        assert_eq!(back, ["a", "b"]);
        let mut stream = wire.as_slice();
        assert_eq!(
            read::<Vec<String>>(&mut stream, 64).await.unwrap().unwrap(),
            ["a", "b"]
        );
        assert!(
            read::<Vec<String>>(&mut stream, 64)
                .await
                .unwrap()
                .is_none()
        );
    }

    #[tokio::test]
    async fn refuses_lies_and_cuts() {
        let mut lie: &[u8] = &[0xff, 0xff, 0xff, 0xff, b'1'];
        let error = read::<u8>(&mut lie, 1024).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let mut wire = Vec::new();
        write(&mut wire, &"hello").await.unwrap();
        for cut in 1..wire.len() {
            let error = read::<String>(&mut &wire[..cut], 1024).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "cut at {cut}");
        }
    }
}
