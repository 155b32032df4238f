//! The socket: requests out, acknowledgements and dumps in.
//!
//! Guarantees: one request is outstanding at a time; messages with another sequence number are
//! skipped; a dump the kernel marks as interrupted is repeated, then refused.

use std::io;

use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::error::{Error, Result, What};

/// Largest datagram accepted: the kernel packs dumps into at most 32 KiB
/// (`NLMSG_GOODSIZE` and `max_recvmsg_len`, net/netlink/af_netlink.c).
pub(crate) const RECEIVE_BYTES: usize = 64 << 10;

/// A dump of a table that changes all the time is given up after this many attempts.
const DUMP_ATTEMPTS: u32 = 8;

/// Attribute of an extended acknowledgement that carries text (uapi/linux/netlink.h).
const NLMSGERR_ATTR_MSG: u16 = 1;

const MESSAGE_HEADER_BYTES: usize = 16;
const ATTRIBUTE_HEADER_BYTES: usize = 4;

/// An rtnetlink socket, bound to one network namespace for life.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    received: Vec<u8>,
}

impl Netlink {
    /// Opens a socket in the network namespace the calling thread is in.
    ///
    /// # Errors
    /// What socket(2), bind(2) and connect(2) report.
    pub fn open() -> Result<Self> {
        let what = What {
            op: "open",
            object: "rtnetlink socket",
        };
        Self::connect().map_err(|source| Error::new(what, source))
    }

    fn connect() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        // Acknowledgements carry the kernel's text and not a copy of our request.
        socket.set_cap_ack(true)?;
        socket.set_ext_ack(true)?;
        socket.bind_auto()?;
        // Connected to the kernel (port 0): unicasts of other processes are refused.
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
            received: Vec::with_capacity(RECEIVE_BYTES),
        })
    }

    /// Sends one request and waits for its acknowledgement.
    pub(crate) fn change(
        &mut self,
        what: What<'_>,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<()> {
        self.exchange(what, message, NLM_F_REQUEST | NLM_F_ACK | flags)
            .map(drop)
    }

    /// Sends one request and returns what comes back before its acknowledgement.
    pub(crate) fn get(
        &mut self,
        what: What<'_>,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>> {
        self.exchange(what, message, NLM_F_REQUEST | NLM_F_ACK)
            .map(|answer| answer.messages)
    }

    /// Reads a whole table.
    pub(crate) fn dump(
        &mut self,
        what: What<'_>,
        message: &RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>> {
        for _ in 0..DUMP_ATTEMPTS {
            let answer = self.exchange(what, message.clone(), NLM_F_REQUEST | NLM_F_DUMP)?;
            if !answer.interrupted {
                return Ok(answer.messages);
            }
        }
        Err(Error::refused(
            what,
            libc::EAGAIN,
            Some("the table kept changing while it was read".to_owned()),
        ))
    }

    fn exchange(
        &mut self,
        what: What<'_>,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Answer> {
        self.send(message, flags)
            .map_err(|source| Error::new(what, source))?;
        let mut answer = Answer::default();
        loop {
            self.receive().map_err(|source| Error::new(what, source))?;
            if answer.take(&self.received, self.sequence, what)? {
                return Ok(answer);
            }
        }
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        // Zero is what asynchronous notifications carry.
        self.sequence = self.sequence.checked_add(1).unwrap_or(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        retry_interrupted(|| self.socket.send(&bytes, 0)).map(drop)
    }

    fn receive(&mut self) -> io::Result<()> {
        receive(&self.socket, &mut self.received)
    }
}

/// Reads one datagram in place of what is in `received`.
pub(crate) fn receive(socket: &Socket, received: &mut Vec<u8>) -> io::Result<()> {
    received.clear();
    let length = retry_interrupted(|| socket.recv(received, libc::MSG_TRUNC))?;
    if length > received.len() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("answer of {length} bytes was truncated"),
        ));
    }
    Ok(())
}

/// What has arrived for the outstanding request.
#[derive(Default)]
struct Answer {
    messages: Vec<RouteNetlinkMessage>,
    interrupted: bool,
}

impl Answer {
    /// Takes one datagram in; `true` when it completed the request.
    fn take(&mut self, mut datagram: &[u8], sequence: u32, what: What<'_>) -> Result<bool> {
        while !datagram.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(datagram)
                .map_err(|source| Error::new(what, invalid_data(source)))?;
            let consumed = (message.header.length as usize).next_multiple_of(4);
            datagram = datagram.get(consumed..).unwrap_or_default();
            if message.header.sequence_number != sequence {
                continue;
            }
            self.interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
            match message.payload {
                NetlinkPayload::InnerMessage(inner) => self.messages.push(inner),
                NetlinkPayload::Done(done) => return finished(done.code, None, what),
                NetlinkPayload::Error(error) => {
                    let code = error.code.map_or(0, std::num::NonZeroI32::get);
                    return finished(code, kernel_text(&error), what);
                }
                _ => {}
            }
        }
        Ok(false)
    }
}

fn finished(code: i32, kernel_message: Option<String>, what: What<'_>) -> Result<bool> {
    match code {
        0 => Ok(true),
        negative => Err(Error::refused(
            what,
            negative.saturating_neg(),
            kernel_message,
        )),
    }
}

/// The text of an extended acknowledgement: attributes after the echoed header.
fn kernel_text(error: &ErrorMessage) -> Option<String> {
    let mut attributes = error.header.get(MESSAGE_HEADER_BYTES..)?;
    loop {
        let length = usize::from(u16::from_ne_bytes(attributes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(attributes.get(2..4)?.try_into().ok()?);
        let value = attributes.get(ATTRIBUTE_HEADER_BYTES..length)?;
        if kind == NLMSGERR_ATTR_MSG {
            let text = value.strip_suffix(&[0]).unwrap_or(value);
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn invalid_data(source: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, source)
}

pub(crate) fn retry_interrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHAT: What<'_> = What {
        op: "test",
        object: "x",
    };

    /// An NLMSG_ERROR as the kernel writes it with CAP_ACK and EXT_ACK on.
    fn acknowledgement(sequence: u32, code: i32, text: &str) -> Vec<u8> {
        let mut body = code.to_ne_bytes().to_vec();
        body.extend([0; MESSAGE_HEADER_BYTES]);
        if !text.is_empty() {
            body.extend(u16::try_from(text.len() + 5).unwrap().to_ne_bytes());
            body.extend(NLMSGERR_ATTR_MSG.to_ne_bytes());
            body.extend(text.as_bytes());
            body.push(0);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        let mut wire = u32::try_from(body.len() + 16)
            .unwrap()
            .to_ne_bytes()
            .to_vec();
        wire.extend(2_u16.to_ne_bytes());
        wire.extend(0_u16.to_ne_bytes());
        wire.extend(sequence.to_ne_bytes());
        wire.extend(0_u32.to_ne_bytes());
        wire.extend(body);
        wire
    }

    #[test]
    fn an_acknowledgement_completes_only_its_own_request() {
        let mut answer = Answer::default();
        assert!(
            !answer
                .take(&acknowledgement(6, -libc::EPERM, ""), 7, WHAT)
                .unwrap()
        );
        assert!(answer.take(&acknowledgement(7, 0, ""), 7, WHAT).unwrap());
    }

    #[test]
    fn a_refusal_carries_errno_and_the_kernels_text() {
        let wire = acknowledgement(7, -libc::EINVAL, "Invalid prefix for given prefix length");
        let error = Answer::default().take(&wire, 7, WHAT).unwrap_err();
        assert_eq!(error.errno(), Some(libc::EINVAL));
        assert!(error.to_string().contains("Invalid prefix"), "{error}");
    }

    #[test]
    fn cut_datagrams_are_errors_and_never_loop() {
        let wire = acknowledgement(7, -libc::EINVAL, "text");
        for cut in 1..wire.len() {
            assert!(
                Answer::default().take(&wire[..cut], 7, WHAT).is_err(),
                "{cut}"
            );
        }
        assert!(!Answer::default().take(&[], 7, WHAT).unwrap());
    }
}
