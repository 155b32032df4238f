//! A frame: the right to use one chunk of UMEM, as a move-only token.
//!
//! Guarantees: a [`Frame`] names a chunk that exists and a byte range inside it, and there is at
//! most one per chunk. Only [`Umem`](crate::Umem) makes and unmakes them; dropping one on the
//! floor loses the chunk (it stays `held` in the audit), so use [`Umem::free`](crate::Umem::free).

use std::marker::PhantomData;
use std::num::NonZeroU32;

use crate::error::SetupError;

/// Bytes the kernel keeps free in front of a received packet (`XDP_PACKET_HEADROOM`); frames we
/// build leave the same room.
pub const HEADROOM: u16 = 256;

/// Size of one chunk of UMEM: 2048 or 4096 bytes.
///
/// The kernel wants a power of two of at least 2048 and no more than a page (net/xdp/xdp_umem.c
/// `xdp_umem_reg`); ENA zero-copy wants exactly 4096.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameSize(u16);

impl FrameSize {
    /// Checks `bytes`.
    ///
    /// # Errors
    ///
    /// [`SetupError::Config`] unless it is 2048 or 4096.
    pub fn new(bytes: u32) -> Result<Self, SetupError> {
        match bytes {
            2048 => Ok(Self(2048)),
            4096 => Ok(Self(4096)),
            _ => Err(SetupError::Config {
                what: "the frame size",
                expected: "2048 or 4096 bytes",
                got: u64::from(bytes),
            }),
        }
    }

    /// Size in bytes.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }

    /// Most packet bytes one frame can carry: the chunk without [`HEADROOM`].
    #[must_use]
    pub fn room(self) -> u16 {
        self.0 - HEADROOM
    }
}

impl Default for FrameSize {
    fn default() -> Self {
        Self(4096)
    }
}

/// A frame without the promise to be the only one: what a port keeps while a chain is incomplete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RawFrame {
    pub(crate) umem: NonZeroU32,
    pub(crate) chunk: u32,
    pub(crate) offset: u16,
    pub(crate) len: u16,
}

/// The right to use one chunk of UMEM, with the byte range that holds packet data.
///
/// Not `Clone` and not `Send`: frames belong to the worker that owns the UMEM.
///
/// ```compile_fail
/// fn must_be_send<T: Send>() {}
/// must_be_send::<penstock_xsk::Frame>();
/// ```
/// ```compile_fail
/// fn twice(frame: penstock_xsk::Frame, umem: &mut penstock_xsk::Umem) {
///     umem.free(frame);
///     umem.free(frame);
/// }
/// ```
#[derive(Debug)]
#[must_use = "a frame that is dropped is lost to its UMEM: free it, send it or keep it"]
pub struct Frame {
    raw: RawFrame,
    room_end: u16,
    not_send: PhantomData<*const ()>,
}

impl Frame {
    /// Turns the raw form back into a token.
    ///
    /// The caller is `Umem` or holds the only raw copy of a chunk that is in state `Held`.
    pub(crate) fn from_raw(raw: RawFrame, size: FrameSize) -> Self {
        Self {
            raw,
            room_end: size.get(),
            not_send: PhantomData,
        }
    }

    pub(crate) fn raw(&self) -> RawFrame {
        self.raw
    }

    /// Offset of the first packet byte inside the chunk.
    #[must_use]
    pub fn offset(&self) -> usize {
        usize::from(self.raw.offset)
    }

    /// Packet bytes in this frame.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.raw.len)
    }

    /// Whether the frame holds no packet bytes yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.raw.len == 0
    }

    /// Most bytes [`Frame::set_len`] accepts: from the offset to the end of the chunk.
    #[must_use]
    pub fn room(&self) -> usize {
        usize::from(self.room_end - self.raw.offset)
    }

    /// Sets the number of packet bytes; false, and no change, if they do not fit in the chunk.
    #[must_use]
    pub fn set_len(&mut self, len: usize) -> bool {
        match u16::try_from(len) {
            Ok(short) if len <= self.room() => {
                self.raw.len = short;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(offset: u16) -> Frame {
        let raw = RawFrame {
            umem: NonZeroU32::MIN,
            chunk: 0,
            offset,
            len: 0,
        };
        Frame::from_raw(raw, FrameSize::default())
    }

    #[test]
    fn set_len_stops_at_the_end_of_the_chunk() {
        let mut frame = frame(256);
        assert!(frame.set_len(3840));
        assert!(!frame.set_len(3841));
        assert!(!frame.set_len(65_536 + 10));
        assert_eq!(frame.len(), 3840);
    }

    #[test]
    fn only_the_kernels_chunk_sizes_are_accepted() {
        assert!(FrameSize::new(2048).is_ok());
        assert!(FrameSize::new(4096).is_ok());
        for wrong in [0, 1024, 3072, 4095, 8192, u32::MAX] {
            assert!(FrameSize::new(wrong).is_err(), "{wrong}");
        }
    }
}
