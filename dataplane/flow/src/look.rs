//! The first look at a frame: all that finding its flow and passing it on takes.
//!
//! A look is taken of every packet of a batch before any is judged, so that the memory their
//! flows lie in is on its way to the cache by the time it is needed. A look changes nothing and
//! decides nothing; what is unusual in any way it leaves alone ([`Look`] without a key), to be
//! read again by the slow path.

use std::net::IpAddr;

use penstock_packet::{Fragment, Glance4, Ip, L4, Parsed, TcpFlags, glance4, parse};

use crate::key::{FlowKey, Key, Key4, Key6, Zone};
use crate::table::{Spot, WayId};
use crate::tcp_state::NOISY;
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
        let zone = Zone::from(ingress);
        match glance4(head, length) {
            Some(glance) => Look(Seen::Plain4(self.plain4(&glance, zone))),
            None => self.parse(head, length, zone),
        }
    }

    #[inline]
    fn plain4(&self, glance: &Glance4, zone: Zone) -> Plain<Key4> {
        let key = Key4::of(glance.addresses, glance.ports, glance.protocol, zone);
        Plain {
            key,
            spot: self.four.table.spot(&key),
            at: WayId::NOWHERE,
            ip_length: u32::from(glance.ip_length),
            acknowledgment: glance.acknowledgment,
            ttl: glance.ttl,
            dont_fragment: glance.dont_fragment,
            loud: is_loud(glance.flags),
        }
    }

    /// Looks at a packet that is not quite as plain.
    fn parse(&self, head: &[u8], length: usize, zone: Zone) -> Look {
        let seen = match parse(head, length) {
            Ok(Parsed::Ip(ip)) if ip.fragment == Fragment::None && !ip.has_options => {
                self.plain(&ip, zone)
            }
            _ => None,
        };
        Look(seen.unwrap_or(Seen::Odd))
    }

    /// A look at an IPv4 packet that was parsed already.
    pub(crate) fn plain_of(&self, ip: &Ip, key: &FlowKey) -> Option<Plain<Key4>> {
        let key = Key4::pack(key)?;
        Some(plain(ip, key, self.four.table.spot(&key)))
    }

    fn plain(&self, ip: &Ip, zone: Zone) -> Option<Seen> {
        let key = FlowKey::of(ip, zone)?;
        Some(match ip.source {
            IpAddr::V4(_) => Seen::Plain4(self.plain_of(ip, &key)?),
            IpAddr::V6(_) => {
                let key = Key6::pack(&key)?;
                Seen::Plain6(plain(ip, key, self.six.table.spot(&key)))
            }
        })
    }

    /// Finds out where the flows of a batch most likely are, with all their cache misses at once:
    /// each pass does as little as it can between two loads, so that as many as the processor can
    /// hold are under way.
    #[inline]
    pub fn locate(&self, looks: &mut [Look]) {
        let mut touched = 0;
        for look in &*looks {
            touched ^= match &look.0 {
                Seen::Plain4(plain) => self.four.table.touch_bucket(plain.spot),
                Seen::Plain6(plain) => self.six.table.touch_bucket(plain.spot),
                Seen::Odd => 0,
            };
        }
        for look in &mut *looks {
            match &mut look.0 {
                Seen::Plain4(plain) => plain.at = self.four.table.candidate(plain.spot),
                Seen::Plain6(plain) => plain.at = self.six.table.candidate(plain.spot),
                Seen::Odd => {}
            }
        }
        for look in &*looks {
            touched ^= match &look.0 {
                Seen::Plain4(plain) => self.four.table.touch_way(plain.at),
                Seen::Plain6(plain) => self.six.table.touch_way(plain.at),
                Seen::Odd => 0,
            };
        }
        // The loads were the point; without this they would not be made.
        std::hint::black_box(touched);
    }
}

/// Whether a segment may change its conversation's state, or is none that an honest stack sends
/// (P44): only ACK is without either.
#[inline]
const fn is_loud(flags: TcpFlags) -> bool {
    flags.0 & NOISY.and(TcpFlags::ACK).0 != TcpFlags::ACK.0
}

fn plain<K: Key>(ip: &Ip, key: K, spot: Spot) -> Plain<K> {
    let (loud, acknowledgment) = match ip.l4 {
        L4::Tcp {
            flags,
            acknowledgment,
            ..
        } => (is_loud(flags), acknowledgment),
        _ => (false, 0),
    };
    Plain {
        key,
        spot,
        at: WayId::NOWHERE,
        // An IP packet is at most 65,575 bytes long.
        ip_length: ip.ip_length() as u32,
        acknowledgment,
        ttl: ip.ttl,
        dont_fragment: ip.dont_fragment,
        loud,
    }
}
