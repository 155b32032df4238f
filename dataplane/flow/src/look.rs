//! The first look at a frame: all that finding its flow and passing it on takes.
//!
//! A look is taken of every packet of a batch before any is judged, so that the memory their
//! flows lie in is on its way to the cache by the time it is needed. A look changes nothing and
//! decides nothing; what is unusual in any way it leaves alone ([`Look`] without a key), to be
//! read again by the slow path.

use std::net::IpAddr;

use penstock_packet::{Fragment, Ip, L4, Parsed, TcpFlags, parse};

use crate::entry::{Way4, Way6};
use crate::key::{FlowKey, Key, Key4, Key6, Zone};
use crate::table::{FlowTable, Spot, WayId};
use crate::{Engine, Ingress};

/// What a first look at a frame told.
#[derive(Debug, Clone, Copy)]
pub struct Look(pub(crate) Seen);

/// The kinds of frames.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Seen {
    /// A whole IPv4 packet without options, of a kind that flows are made of.
    Plain4(Plain<Key4>),
    /// A whole IPv6 packet without extension headers, of such a kind.
    Plain6(Plain<Key6>),
    /// Anything else.
    Odd,
}

/// A packet whose headers lie where they nearly always do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plain<K> {
    /// Names its flow and direction.
    pub(crate) key: K,
    /// Where the table may have the key.
    pub(crate) spot: Spot,
    /// Where it most likely has it.
    pub(crate) at: WayId,
    /// Bytes of the IP packet.
    pub(crate) ip_length: u32,
    /// TCP's acknowledgment number; 0 for others.
    pub(crate) acknowledgment: u32,
    /// Time to live as received.
    pub(crate) ttl: u8,
    /// Whether nobody may cut it.
    pub(crate) dont_fragment: bool,
    /// TCP flags that may change a conversation's state.
    pub(crate) loud: bool,
}

impl Engine {
    /// Looks at a packet: its first chunk's bytes, its length over all chunks, and where it came
    /// from.
    #[inline]
    #[must_use]
    pub fn look(&self, head: &[u8], length: usize, ingress: Ingress) -> Look {
        let seen = match parse(head, length) {
            Ok(Parsed::Ip(ip)) if ip.fragment == Fragment::None && !ip.has_options => {
                self.plain(&ip, Zone::from(ingress))
            }
            _ => None,
        };
        Look(seen.unwrap_or(Seen::Odd))
    }

    #[inline]
    fn plain(&self, ip: &Ip, zone: Zone) -> Option<Seen> {
        let key = FlowKey::of(ip, zone)?;
        Some(match ip.source {
            IpAddr::V4(_) => Seen::Plain4(plain(ip, Key4::pack(&key)?, |key| {
                self.four.table.spot(key)
            })),
            IpAddr::V6(_) => {
                Seen::Plain6(plain(ip, Key6::pack(&key)?, |key| self.six.table.spot(key)))
            }
        })
    }

    /// Finds out where the flows of a batch most likely are, with all their cache misses at once.
    #[inline]
    pub fn locate(&self, looks: &mut [Look]) {
        for look in &mut *looks {
            match &mut look.0 {
                Seen::Plain4(plain) => plain.at = self.four.table.candidate(plain.spot),
                Seen::Plain6(plain) => plain.at = self.six.table.candidate(plain.spot),
                Seen::Odd => {}
            }
        }
        for look in looks {
            match &mut look.0 {
                Seen::Plain4(plain) => touch::<Way4>(&self.four.table, plain),
                Seen::Plain6(plain) => touch::<Way6>(&self.six.table, plain),
                Seen::Odd => {}
            }
        }
    }
}

#[inline]
fn plain<K: Key>(ip: &Ip, key: K, spot: impl Fn(&K) -> Spot) -> Plain<K> {
    const LOUD: u8 = TcpFlags::SYN.0 | TcpFlags::FIN.0 | TcpFlags::RST.0;
    let (loud, acknowledgment) = match ip.l4 {
        L4::Tcp {
            flags,
            acknowledgment,
            ..
        } => (
            flags.0 & (LOUD | TcpFlags::ACK.0) != TcpFlags::ACK.0,
            acknowledgment,
        ),
        _ => (false, 0),
    };
    Plain {
        key,
        spot: spot(&key),
        at: WayId::NOWHERE,
        // An IP packet is at most 65,575 bytes long.
        ip_length: ip.ip_length() as u32,
        acknowledgment,
        ttl: ip.ttl,
        dont_fragment: ip.dont_fragment,
        loud,
    }
}

/// Reads the way a packet is thought to take, for what that does to the cache, and forgets the
/// thought when it was wrong.
#[inline]
fn touch<W: crate::entry::Way>(table: &FlowTable<W>, plain: &mut Plain<W::Key>) {
    if !table.is_at(plain.at, &plain.key) {
        plain.at = WayId::NOWHERE;
    }
}
