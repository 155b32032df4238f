//! A packet generator inside the kernel: XDP test-run with live frames.
//!
//! It must run in the network namespace that holds the interface (an interface index means nothing
//! elsewhere), and the interface's peer must run NAPI (GRO on, or an XDP program), or every frame is
//! lost in silence. Load is bounded by the caller's deadline.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use libbpf_rs::{MapCore as _, MapFlags, Object, ObjectBuilder, ProgramInput};
use zerocopy::{Immutable, IntoBytes};

static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/generator.bpf.o"));

/// `BPF_F_TEST_XDP_LIVE_FRAMES`, include/uapi/linux/bpf.h.
const LIVE_FRAMES: u32 = 1 << 1;
/// Frames per system call: long enough to amortise set-up, short enough to honour a deadline.
const FRAMES_PER_CALL: u32 = 1 << 15;
const UDP: u32 = 17;
const IP_AND_UDP_BYTES: usize = 28;

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
    /// IPv4 destination.
    pub destination: Ipv4Addr,
    /// Lowest UDP source port.
    pub first_port: u16,
    /// Number of flows; each has its own source port.
    pub flows: u16,
    /// UDP destination port.
    pub destination_port: u16,
    /// Bytes of the frame without its checksum (a "64-byte" frame has 60).
    pub frame_bytes: usize,
}

/// Mirrors `struct generator_config` of generator.bpf.c.
#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct Config {
    destination_mac: [u8; 6],
    source_mac: [u8; 6],
    source: [u8; 4],
    destination: [u8; 4],
    first_port: u16,
    flows: u16,
    destination_port: [u8; 2],
    ip_length: [u8; 2],
    ip_checksum: [u8; 2],
    reserved: u16,
    udp_sum: u32,
    ifindex: u32,
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
    /// When the frame is too small for its headers or the kernel refuses the program.
    pub fn load(stream: &Stream) -> Result<Self> {
        let headers = 14 + IP_AND_UDP_BYTES;
        if stream.frame_bytes < headers || stream.flows == 0 {
            bail!("a frame needs {headers} bytes and a stream at least one flow");
        }
        let object = ObjectBuilder::default()
            .open_memory(OBJECT)
            .and_then(libbpf_rs::OpenObject::load)
            .context("cannot load the generator program")?;
        let config = stream.config()?;
        object
            .maps()
            .find(|map| map.name() == "config")
            .context("the generator has no map `config`")?
            .update(&0_u32.to_ne_bytes(), config.as_bytes(), MapFlags::ANY)?;
        Ok(Self {
            object,
            frame: vec![0; stream.frame_bytes],
        })
    }

    /// Sends as fast as the kernel takes it until `duration` has passed; returns frames attempted.
    ///
    /// # Errors
    /// When the kernel refuses the test run.
    pub fn run(&mut self, duration: Duration) -> Result<u64> {
        let deadline = Instant::now() + duration;
        let program = self
            .object
            .progs_mut()
            .find(|program| program.name() == "generate")
            .context("the generator has no program `generate`")?;
        let mut sent = 0;
        while Instant::now() < deadline {
            let input = ProgramInput {
                data_in: Some(&self.frame),
                flags: LIVE_FRAMES,
                repeat: FRAMES_PER_CALL,
                ..ProgramInput::default()
            };
            program.test_run(input).context("live-frame test run")?;
            sent += u64::from(FRAMES_PER_CALL);
        }
        Ok(sent)
    }
}

impl Stream {
    fn config(&self) -> Result<Config> {
        let ip_length = u16::try_from(self.frame_bytes - 14).context("frame too long")?;
        let udp_length = u32::from(ip_length) - 20;
        let addresses = words(self.source) + words(self.destination);
        let ip_sum = 0x4500 + u32::from(ip_length) + 0x4000 + (64 << 8 | UDP) + addresses;
        let udp_sum = addresses + UDP + udp_length + u32::from(self.destination_port) + udp_length;
        Ok(Config {
            destination_mac: self.destination_mac,
            source_mac: self.source_mac,
            source: self.source.octets(),
            destination: self.destination.octets(),
            first_port: self.first_port,
            flows: self.flows,
            destination_port: self.destination_port.to_be_bytes(),
            ip_length: ip_length.to_be_bytes(),
            ip_checksum: (!fold(ip_sum)).to_be_bytes(),
            reserved: 0,
            udp_sum,
            ifindex: self.ifindex,
        })
    }
}

/// The two 16-bit words of an address, summed.
fn words(address: Ipv4Addr) -> u32 {
    let bits = u32::from(address);
    (bits >> 16) + (bits & 0xffff)
}

fn fold(mut sum: u32) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    #[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits above")]
    {
        sum as u16
    }
}
