//! What kernel conntrack holds, by ctnetlink: one dump, entry by entry.
//!
//! Guarantees: an entry is handed over as it is read, so a table of a million costs no memory; what
//! is not TCP or UDP is left out. A dump is no snapshot: entries that come or go meanwhile may or
//! may not be in it. Needs CAP_NET_ADMIN.
//!
//! References: uapi/linux/netfilter/nfnetlink{,_conntrack}.h; net/netfilter/nf_conntrack_netlink.c.

use std::io;
use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::{
    DecodeError, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NlasIterator,
};
use netlink_sys::{Socket, SocketAddr as KernelAddr, protocols::NETLINK_NETFILTER};

use crate::error::{Error, Result, What};
use crate::socket::{RECEIVE_BYTES, receive, retry_interrupted};

/// NFNL_SUBSYS_CTNETLINK and IPCTNL_MSG_CT_GET.
const GET_CONVERSATIONS: u16 = 1 << 8 | 1;
/// `struct nfgenmsg`: all families, version 0.
const GENERIC: [u8; 4] = [0; 4];
const HEADER_BYTES: usize = 16;
const SEQUENCE: u32 = 1;

/// Attributes of an entry, of a tuple, of its addresses, of its protocol.
mod attribute {
    pub(super) const ORIGINAL: u16 = 1;
    pub(super) const REPLY: u16 = 2;
    pub(super) const STATUS: u16 = 3;
    pub(super) const TUPLE_IP: u16 = 1;
    pub(super) const TUPLE_PROTOCOL: u16 = 2;
    pub(super) const IP4_SOURCE: u16 = 1;
    pub(super) const IP4_DESTINATION: u16 = 2;
    pub(super) const IP6_SOURCE: u16 = 3;
    pub(super) const IP6_DESTINATION: u16 = 4;
    pub(super) const PROTOCOL: u16 = 1;
    pub(super) const SOURCE_PORT: u16 = 2;
    pub(super) const DESTINATION_PORT: u16 = 3;
}

/// Both ends as packets of one direction name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple {
    /// Source of the packets.
    pub source: SocketAddr,
    /// Destination of the packets.
    pub destination: SocketAddr,
}

/// A conversation of TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conversation {
    /// IP protocol number: 6 or 17.
    pub protocol: u8,
    /// Packets of whoever began, before translation.
    pub original: Tuple,
    /// Packets of the answers, before they are translated back.
    pub reply: Tuple,
    /// `IPS_` bits, in native order.
    status: u32,
}

impl Conversation {
    /// Whether the kernel replaces its source.
    #[must_use]
    pub const fn source_translated(&self) -> bool {
        self.status & (1 << 4) != 0
    }

    /// Whether the kernel replaces its destination.
    #[must_use]
    pub const fn destination_translated(&self) -> bool {
        self.status & (1 << 5) != 0
    }
}

/// Reads all conversations of the calling thread's network namespace.
///
/// # Errors
/// What the kernel refused; entries handed over until then are good.
pub fn conversations(mut each: impl FnMut(&Conversation)) -> Result<()> {
    let what = What {
        op: "list",
        object: "conversations",
    };
    let failed = |source| Error::new(what, source);
    let socket = ask().map_err(failed)?;
    let mut datagram = Vec::with_capacity(RECEIVE_BYTES);
    loop {
        receive(&socket, &mut datagram).map_err(failed)?;
        if read(&datagram, &mut each).map_err(failed)? {
            return Ok(());
        }
    }
}

fn ask() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&KernelAddr::new(0, 0))?;
    let mut request = [0; HEADER_BYTES + GENERIC.len()];
    let mut header = NetlinkBuffer::new(request.as_mut_slice());
    header.set_length((HEADER_BYTES + GENERIC.len()) as u32);
    header.set_message_type(GET_CONVERSATIONS);
    header.set_flags(NLM_F_REQUEST | NLM_F_DUMP);
    header.set_sequence_number(SEQUENCE);
    retry_interrupted(|| socket.send(&request, 0))?;
    Ok(socket)
}

/// Hands over the entries in a datagram; whether it was the last.
fn read(mut datagram: &[u8], each: &mut impl FnMut(&Conversation)) -> io::Result<bool> {
    while !datagram.is_empty() {
        let message = NetlinkBuffer::new_checked(datagram).map_err(invalid)?;
        let consumed = (message.length() as usize).next_multiple_of(4);
        if message.sequence_number() == SEQUENCE {
            if matches!(message.message_type(), NLMSG_DONE | NLMSG_ERROR) {
                return end(message.payload());
            }
            let attributes = message.payload().get(GENERIC.len()..).unwrap_or_default();
            if let Some(conversation) = conversation(attributes).map_err(invalid)? {
                each(&conversation);
            }
        }
        datagram = datagram.get(consumed..).unwrap_or_default();
    }
    Ok(false)
}

fn end(payload: &[u8]) -> io::Result<bool> {
    let code = payload
        .first_chunk()
        .map_or(0, |code| i32::from_ne_bytes(*code));
    match code {
        0 => Ok(true),
        negative => Err(io::Error::from_raw_os_error(negative.saturating_neg())),
    }
}

/// The entry that these attributes describe; `None` for what is not of TCP or UDP.
fn conversation(attributes: &[u8]) -> std::result::Result<Option<Conversation>, DecodeError> {
    let (mut original, mut reply, mut status) = (None, None, None);
    for entry in NlasIterator::new(attributes) {
        let entry = entry?;
        match entry.kind() {
            attribute::ORIGINAL => original = tuple(entry.value())?,
            attribute::REPLY => reply = tuple(entry.value())?,
            attribute::STATUS => status = word(entry.value()).map(u32::from_be_bytes),
            _ => {}
        }
    }
    Ok(match (original, reply, status) {
        (Some((protocol, original)), Some((_, reply)), Some(status)) => Some(Conversation {
            protocol,
            original,
            reply,
            status,
        }),
        _ => None,
    })
}

/// Protocol and ends; `None` for what has no ports.
fn tuple(attributes: &[u8]) -> std::result::Result<Option<(u8, Tuple)>, DecodeError> {
    let (mut addresses, mut ports) = (None, None);
    for part in NlasIterator::new(attributes) {
        let part = part?;
        match part.kind() {
            attribute::TUPLE_IP => addresses = ends(part.value())?,
            attribute::TUPLE_PROTOCOL => ports = protocol(part.value())?,
            _ => {}
        }
    }
    let (Some([source, destination]), Some((protocol, [from, to]))) = (addresses, ports) else {
        return Ok(None);
    };
    let tuple = Tuple {
        source: SocketAddr::new(source, from),
        destination: SocketAddr::new(destination, to),
    };
    Ok(Some((protocol, tuple)))
}

fn ends(attributes: &[u8]) -> std::result::Result<Option<[IpAddr; 2]>, DecodeError> {
    let (mut source, mut destination) = (None, None);
    for part in NlasIterator::new(attributes) {
        let part = part?;
        let address = || -> Option<IpAddr> {
            match part.value() {
                four if four.len() == 4 => Some(IpAddr::from(word(four)?)),
                six => Some(IpAddr::from(*six.first_chunk::<16>()?)),
            }
        };
        match part.kind() {
            attribute::IP4_SOURCE | attribute::IP6_SOURCE => source = address(),
            attribute::IP4_DESTINATION | attribute::IP6_DESTINATION => destination = address(),
            _ => {}
        }
    }
    Ok(source.zip(destination).map(<[IpAddr; 2]>::from))
}

fn protocol(attributes: &[u8]) -> std::result::Result<Option<(u8, [u16; 2])>, DecodeError> {
    let (mut number, mut ports) = (None, [None; 2]);
    for part in NlasIterator::new(attributes) {
        let part = part?;
        let port = || {
            part.value()
                .first_chunk()
                .map(|port| u16::from_be_bytes(*port))
        };
        match part.kind() {
            attribute::PROTOCOL => number = part.value().first().copied(),
            attribute::SOURCE_PORT => ports[0] = port(),
            attribute::DESTINATION_PORT => ports[1] = port(),
            _ => {}
        }
    }
    Ok(match (number, ports) {
        (Some(number @ (6 | 17)), [Some(source), Some(destination)]) => {
            Some((number, [source, destination]))
        }
        _ => None,
    })
}

fn word(bytes: &[u8]) -> Option<[u8; 4]> {
    bytes.first_chunk().copied()
}

fn invalid(source: DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, source)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(value.len() + 4)
            .unwrap()
            .to_ne_bytes()
            .to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn tuple_of(protocol: u8, from: ([u8; 4], u16), to: ([u8; 4], u16)) -> Vec<u8> {
        let addresses = [attribute(1, &from.0), attribute(2, &to.0)].concat();
        let ports = [
            attribute(1, &[protocol]),
            attribute(2, &from.1.to_be_bytes()),
            attribute(3, &to.1.to_be_bytes()),
        ];
        [attribute(1, &addresses), attribute(2, &ports.concat())].concat()
    }

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(payload.len() + 16)
            .unwrap()
            .to_ne_bytes()
            .to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 2]);
        bytes.extend(SEQUENCE.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(payload);
        bytes
    }

    fn entry(protocol: u8, status: u32) -> Vec<u8> {
        let (client, service, pod) = ([10, 0, 0, 1], [172, 20, 0, 10], [10, 0, 0, 9]);
        let parts = [
            GENERIC.to_vec(),
            attribute(1, &tuple_of(protocol, (client, 5_000), (service, 80))),
            attribute(2, &tuple_of(protocol, (pod, 8_080), (client, 5_000))),
            attribute(3, &status.to_be_bytes()),
        ];
        message(0x100, &parts.concat())
    }

    #[test]
    fn entries_of_tcp_and_udp_are_read_and_the_end_is_seen() {
        let mut datagram = [entry(6, 1 << 5 | 0xe), entry(1, 1 << 5), entry(17, 1 << 4)].concat();
        datagram.extend(message(NLMSG_DONE, &[0; 4]));
        let mut seen = Vec::new();
        assert!(read(&datagram, &mut |entry| seen.push(*entry)).unwrap());
        let [tcp, udp] = seen[..] else {
            panic!("{seen:?}");
        };
        assert_eq!(tcp.original.source, "10.0.0.1:5000".parse().unwrap());
        assert_eq!(tcp.original.destination, "172.20.0.10:80".parse().unwrap());
        assert_eq!(tcp.reply.source, "10.0.0.9:8080".parse().unwrap());
        assert!(tcp.destination_translated() && !tcp.source_translated());
        assert!(udp.source_translated() && !udp.destination_translated());
        assert_eq!(udp.protocol, 17);
    }

    #[test]
    fn a_refusal_is_an_error() {
        let refused = message(NLMSG_ERROR, &(-1_i32).to_ne_bytes());
        let error = read(&refused, &mut |_| {}).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    }

    #[test]
    fn cut_and_bent_datagrams_never_panic_and_never_loop() {
        let whole = entry(6, 1 << 5);
        for cut in 0..whole.len() {
            assert!(!read(&whole[..cut], &mut |_| {}).unwrap_or(false), "{cut}");
        }
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bent = whole.clone();
                bent[at] = value;
                let _ = read(&bent, &mut |_| {});
            }
        }
    }
}
