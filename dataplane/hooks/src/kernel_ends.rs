//! The filter the hooks ask before they ask kernel conntrack: ends of conversations it translates.
//!
//! Guarantees: an end noted in the round that runs or in the one before is found, so a conversation
//! that is noted in every round is never missed; one that is not is forgotten after two. Hooks note
//! ends by themselves from the first packet they give the kernel. Without rounds nothing is ever
//! forgotten, which costs look-ups and breaks nothing.
//!
//! Must not decide whose a conversation is: conntrack does, the filter only spares asking it.

use std::net::{IpAddr, SocketAddr};

use libbpf_rs::MapHandle;

use crate::error::HookError;
use crate::hooks::{get, put};
use crate::limits::KERNEL_END_SLOTS;

/// The filter; one owner begins its rounds.
#[derive(Debug)]
pub struct KernelEnds {
    ends: MapHandle,
    round: MapHandle,
}

impl KernelEnds {
    pub(crate) const fn new(ends: MapHandle, round: MapHandle) -> Self {
        Self { ends, round }
    }

    /// Begins a round. To be called before the conversations to note are listed: those that begin
    /// meanwhile are noted by the hooks.
    ///
    /// # Errors
    /// [`HookError::Map`].
    pub fn begin_round(&self) -> Result<(), HookError> {
        let next = self.current()?.wrapping_add(1);
        put(
            &self.round,
            &0_u32.to_ne_bytes(),
            &next.to_ne_bytes(),
            || "round".to_owned(),
        )
    }

    /// Notes one end of a conversation that goes on, of IP protocol `protocol`.
    ///
    /// # Errors
    /// [`HookError::Map`].
    pub fn note(&self, end: SocketAddr, protocol: u8) -> Result<(), HookError> {
        let round = self.current()?.to_ne_bytes();
        put(
            &self.ends,
            &slot(end, protocol).to_ne_bytes(),
            &round,
            || format!("end {end}"),
        )
    }

    fn current(&self) -> Result<u32, HookError> {
        let bytes = get(&self.round, &0_u32.to_ne_bytes(), || "round".to_owned())?;
        let word = bytes.as_deref().and_then(<[u8]>::first_chunk);
        Ok(word.map_or(0, |word| u32::from_ne_bytes(*word)))
    }
}

/// `end_slot` of bpf/conntrack.h.
fn slot(end: SocketAddr, protocol: u8) -> u32 {
    let address = match end.ip() {
        IpAddr::V4(address) => u32::from(address),
        IpAddr::V6(address) => {
            let octets = address.octets();
            let (words, _) = octets.as_chunks::<4>();
            let fold = |folded, word: &[u8; 4]| folded ^ u32::from_be_bytes(*word);
            words.iter().fold(0, fold)
        }
    };
    let mut hash = address ^ (u32::from(end.port()) << 16 | u32::from(protocol));
    hash = hash.wrapping_mul(0x9E37_79B1);
    hash ^= hash >> 15;
    hash = hash.wrapping_mul(0x85EB_CA77);
    (hash ^ (hash >> 13)) & (KERNEL_END_SLOTS - 1)
}
