//! A packet generator inside the kernel: XDP test-run with live frames.
//!
//! It must run in the network namespace that holds the interface (an interface index means nothing
//! elsewhere), and the interface's peer must run NAPI (GRO on, or an XDP program), or every frame is
//! lost in silence. Load is bounded by the caller's deadline or count.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use libbpf_rs::{MapCore as _, MapFlags, Object, ObjectBuilder, ProgramInput};
use zerocopy::{Immutable, IntoBytes};

static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/generator.bpf.o"));

/// `BPF_F_TEST_XDP_LIVE_FRAMES`, include/uapi/linux/bpf.h.
const LIVE_FRAMES: u32 = 1 << 1;
/// Frames per system call: long enough to amortise set-up, short enough to honour a deadline.
const FRAMES_PER_CALL: u32 = 1 << 13;
const MAX_SHAPES: usize = 16;
const MAX_DESTINATIONS: usize = 4096;
const ETHERNET: u16 = 14;
const IP: u16 = 20;

/// Bytes of a frame without its check sequence: 64 on the wire.
pub const SMALLEST: u16 = 60;

/// What is in the frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// UDP datagrams of zeros.
    Udp,
    /// TCP SYNs.
    TcpSyn,
}

impl Protocol {
    fn number(self) -> u8 {
        match self {
            Self::Udp => 17,
            Self::TcpSyn => 6,
        }
    }

    fn header(self) -> u16 {
        match self {
            Self::Udp => 8,
            Self::TcpSyn => 20,
        }
    }
}

/// Lengths of frames, in turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frames(Vec<u16>);

impl Frames {
    /// All alike; `wire_bytes` counts the check sequence, as benchmarks do.
    #[must_use]
    pub fn of(wire_bytes: u16) -> Self {
        Self(vec![wire_bytes.saturating_sub(4)])
    }

    /// The internet's mix as RFC 2544 laboratories use it: 7 of 64 bytes, 4 of 570 and 1 of 1518.
    #[must_use]
    pub fn imix() -> Self {
        let (small, middle, large) = (60, 566, 1514);
        Self(vec![
            small, middle, small, small, middle, small, large, small, middle, small, middle, small,
        ])
    }
}

/// What to send.
#[derive(Debug, Clone)]
pub struct Stream {
    /// Interface to send from.
    pub ifindex: u32,
    /// Its address.
    pub source_mac: [u8; 6],
    /// Next hop's address.
    pub destination_mac: [u8; 6],
    /// IPv4 source.
    pub source: Ipv4Addr,
    /// Lowest source port.
    pub first_port: u16,
    /// Number of source ports.
    pub flows: u16,
    /// Where to: every source port sends to every destination, in an order without pattern.
    pub destinations: Vec<SocketAddrV4>,
    /// What to send.
    pub protocol: Protocol,
    /// How long the frames are.
    pub frames: Frames,
}

/// Mirrors `struct shape` of generator.bpf.c.
#[repr(C)]
#[derive(Clone, Copy, IntoBytes, Immutable, Default)]
struct Shape {
    frame_bytes: u16,
    ip_length: [u8; 2],
    ip_sum: u32,
    l4_sum: u32,
}

/// Mirrors `struct generator_config` of generator.bpf.c.
#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct Config {
    stride: u64,
    destination_mac: [u8; 6],
    source_mac: [u8; 6],
    source: [u8; 4],
    flows: u32,
    destinations: u32,
    ifindex: u32,
    largest_frame: u32,
    shapes_used: u32,
    first_port: u16,
    protocol: u8,
    reserved: u8,
    shapes: [Shape; MAX_SHAPES],
}

/// A loaded generator.
pub struct Generator {
    object: Object,
    frame: Vec<u8>,
}

impl Generator {
    /// Loads the program for one stream.
    ///
    /// # Errors
    /// When a frame is too small for its headers, there are none or too many of something, or the
    /// kernel refuses the program.
    pub fn load(stream: &Stream) -> Result<Self> {
        let object = ObjectBuilder::default()
            .open_memory(OBJECT)
            .and_then(libbpf_rs::OpenObject::load)
            .context("cannot load the generator program")?;
        let config = stream.config()?;
        let map = |name: &str| {
            object
                .maps()
                .find(|map| map.name() == name)
                .with_context(|| format!("the generator has no map `{name}`"))
        };
        map("config")?.update(&0_u32.to_ne_bytes(), config.as_bytes(), MapFlags::ANY)?;
        let destinations = map("destinations")?;
        for (index, to) in (0_u32..).zip(&stream.destinations) {
            let mut value = [0; 8];
            value[..4].copy_from_slice(&to.ip().octets());
            value[4..6].copy_from_slice(&to.port().to_ne_bytes());
            destinations.update(&index.to_ne_bytes(), &value, MapFlags::ANY)?;
        }
        Ok(Self {
            frame: vec![0; config.largest_frame as usize],
            object,
        })
    }

    /// Sends as fast as the kernel takes it until `duration` has passed; returns frames attempted.
    ///
    /// # Errors
    /// When the kernel refuses the test run.
    pub fn run(&mut self, duration: Duration) -> Result<u64> {
        let deadline = Instant::now() + duration;
        let mut sent = 0;
        while Instant::now() < deadline {
            self.send(FRAMES_PER_CALL)?;
            sent += u64::from(FRAMES_PER_CALL);
        }
        Ok(sent)
    }

    /// Sends that many frames as fast as the kernel takes them.
    ///
    /// # Errors
    /// When the kernel refuses the test run.
    pub fn send(&mut self, frames: u32) -> Result<()> {
        let program = self
            .object
            .progs_mut()
            .find(|program| program.name() == "generate")
            .context("the generator has no program `generate`")?;
        let input = ProgramInput {
            data_in: Some(&self.frame),
            flags: LIVE_FRAMES,
            repeat: frames,
            ..ProgramInput::default()
        };
        program.test_run(input).context("live-frame test run")?;
        Ok(())
    }
}

impl Stream {
    fn config(&self) -> Result<Config> {
        let Frames(lengths) = &self.frames;
        let least = ETHERNET + IP + self.protocol.header();
        if lengths.is_empty() || lengths.len() > MAX_SHAPES || lengths.iter().any(|&l| l < least) {
            bail!("a stream has 1 to {MAX_SHAPES} lengths of at least {least} bytes");
        }
        if self.flows == 0 || !(1..=MAX_DESTINATIONS).contains(&self.destinations.len()) {
            bail!("a stream has a flow, and 1 to {MAX_DESTINATIONS} destinations");
        }
        let mut shapes = [Shape::default(); MAX_SHAPES];
        for (shape, &length) in shapes.iter_mut().zip(lengths) {
            *shape = self.shape(length);
        }
        let pairs = u64::from(self.flows) * self.destinations.len() as u64;
        Ok(Config {
            stride: stride(pairs),
            destination_mac: self.destination_mac,
            source_mac: self.source_mac,
            source: self.source.octets(),
            flows: self.flows.into(),
            destinations: self.destinations.len() as u32,
            ifindex: self.ifindex,
            largest_frame: lengths.iter().copied().max().unwrap_or_default().into(),
            shapes_used: lengths.len() as u32,
            first_port: self.first_port,
            protocol: self.protocol.number(),
            reserved: 0,
            shapes,
        })
    }

    fn shape(&self, frame_bytes: u16) -> Shape {
        let ip_length = frame_bytes - ETHERNET;
        let l4_length = u32::from(ip_length - IP);
        let protocol = u32::from(self.protocol.number());
        let source = u32::from(self.source);
        let words = (source >> 16) + (source & 0xffff);
        let header = match self.protocol {
            Protocol::Udp => l4_length,
            // 20 bytes and SYN, window; the segment's length is in the pseudo-header alone.
            Protocol::TcpSyn => 0x5002 + 0xffff,
        };
        Shape {
            frame_bytes,
            ip_length: ip_length.to_be_bytes(),
            ip_sum: 0x4500 + u32::from(ip_length) + 0x4000 + (64 << 8 | protocol) + words,
            l4_sum: words + protocol + l4_length + header,
        }
    }
}

/// A step that visits all of `pairs` before any twice, and neighbours far apart.
fn stride(pairs: u64) -> u64 {
    let golden = (pairs as f64 * 0.618_033_988_749_895) as u64;
    (golden.max(1)..)
        .find(|&step| gcd(step, pairs) == 1)
        .unwrap_or(1)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Default for Stream {
    /// 64-byte UDP of 256 flows to the discard port of nowhere.
    fn default() -> Self {
        Self {
            ifindex: 0,
            source_mac: [0; 6],
            destination_mac: [0; 6],
            source: Ipv4Addr::UNSPECIFIED,
            first_port: 20_000,
            flows: 256,
            destinations: vec![SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 9)],
            protocol: Protocol::Udp,
            frames: Frames::of(64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_stride_visits_every_pair() {
        for pairs in [1, 2, 3, 256, 1_000, 65_536, 1_000_000] {
            let step = stride(pairs);
            let seen: HashSet<u64> = (0..pairs).map(|n| n * step % pairs).collect();
            assert_eq!(seen.len() as u64, pairs);
        }
    }

    #[test]
    fn streams_that_cannot_be_are_refused() {
        let good = Stream::default();
        assert!(good.config().is_ok());
        let short = Stream {
            frames: Frames::of(40),
            ..good.clone()
        };
        assert!(short.config().is_err());
        let nowhere = Stream {
            destinations: Vec::new(),
            ..good
        };
        assert!(nowhere.config().is_err());
    }

    #[test]
    fn the_mix_has_the_shares_of_its_name() {
        let Frames(lengths) = Frames::imix();
        let of = |length| lengths.iter().filter(|&&l| l == length).count();
        assert_eq!((of(60), of(566), of(1514)), (7, 4, 1));
    }
}
