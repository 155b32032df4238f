//! Interface settings by the ethtool ioctl: offloads, channels, driver.
//!
//! Guarantees: a changed feature is read back, because drivers may accept a request and keep their
//! setting. Interfaces are those of the calling thread's network namespace.
//!
//! References: include/uapi/linux/ethtool.h, net/ethtool/ioctl.c.

use std::io;

use crate::error::EthtoolError;
use crate::sys::{self, Plain};

/// `ETHTOOL_GDRVINFO`.
const GET_DRIVER: u32 = 0x03;
/// `ETHTOOL_GCHANNELS`.
const GET_CHANNELS: u32 = 0x3c;

/// An offload that can be switched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// TX checksums (`tx`).
    TxChecksum,
    /// Scatter-gather (`sg`).
    ScatterGather,
    /// TCP segmentation (`tso`).
    Tso,
    /// Generic segmentation (`gso`).
    Gso,
    /// Generic receive offload (`gro`); on a veth with an XDP peer it also switches NAPI on.
    Gro,
}

impl Feature {
    /// The name ethtool(8) uses with `-K`.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::TxChecksum => "tx",
            Self::ScatterGather => "sg",
            Self::Tso => "tso",
            Self::Gso => "gso",
            Self::Gro => "gro",
        }
    }

    /// `ETHTOOL_G*` and `ETHTOOL_S*`.
    fn commands(self) -> (u32, u32) {
        match self {
            Self::TxChecksum => (0x16, 0x17),
            Self::ScatterGather => (0x18, 0x19),
            Self::Tso => (0x1e, 0x1f),
            Self::Gso => (0x23, 0x24),
            Self::Gro => (0x2b, 0x2c),
        }
    }
}

/// Queue counts of an interface (`struct ethtool_channels`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Channels {
    /// Most receive-only queues.
    pub max_rx: u32,
    /// Most transmit-only queues.
    pub max_tx: u32,
    /// Most queues that do both.
    pub max_combined: u32,
    /// Receive-only queues.
    pub rx: u32,
    /// Transmit-only queues.
    pub tx: u32,
    /// Queues that do both.
    pub combined: u32,
}

impl Channels {
    /// Receive queues: what an XDP program can see.
    #[must_use]
    pub fn rx_queues(&self) -> u32 {
        self.rx + self.combined
    }
}

/// Driver of an interface (`struct ethtool_drvinfo`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Driver {
    /// Name, such as `ena` or `veth`.
    pub name: String,
    /// Version; in-tree drivers report the kernel's.
    pub version: String,
}

#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

#[repr(C)]
struct RawChannels {
    command: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

#[repr(C)]
struct RawDriver {
    command: u32,
    driver: [u8; 32],
    version: [u8; 32],
    rest: [u8; 128],
}

// The kernel writes whole structs: ours must not be smaller.
const _: () = assert!(size_of::<RawChannels>() == 36 && size_of::<RawDriver>() == 196);

// SAFETY: a `repr(C)` struct of integers.
unsafe impl Plain for Value {}
// SAFETY: a `repr(C)` struct of integers.
unsafe impl Plain for RawChannels {}
// SAFETY: a `repr(C)` struct of integers and byte arrays.
unsafe impl Plain for RawDriver {}

/// Switches an offload, and checks that it is switched.
///
/// # Errors
///
/// [`EthtoolError`] if the driver refuses or keeps its setting.
pub fn set_feature(ifname: &str, feature: Feature, on: bool) -> Result<(), EthtoolError> {
    let (_, command) = feature.commands();
    let mut request = Value {
        command,
        data: u32::from(on),
    };
    sys::ethtool(ifname, &mut request).map_err(refused("switch an offload", ifname))?;
    if self::feature(ifname, feature)? == on {
        return Ok(());
    }
    Err(EthtoolError::Kept {
        ifname: ifname.to_owned(),
        feature: feature.label(),
        kept: if on { "off" } else { "on" },
    })
}

/// Whether an offload is on.
///
/// # Errors
///
/// [`EthtoolError::Os`] if the interface does not exist.
pub fn feature(ifname: &str, feature: Feature) -> Result<bool, EthtoolError> {
    let (command, _) = feature.commands();
    let mut request = Value { command, data: 0 };
    sys::ethtool(ifname, &mut request).map_err(refused("read an offload", ifname))?;
    Ok(request.data != 0)
}

/// Queue counts.
///
/// # Errors
///
/// [`EthtoolError::Os`] if the interface does not exist or its driver does not say.
pub fn channels(ifname: &str) -> Result<Channels, EthtoolError> {
    let mut raw = sys::zeroed::<RawChannels>();
    raw.command = GET_CHANNELS;
    sys::ethtool(ifname, &mut raw).map_err(refused("read the channels", ifname))?;
    Ok(Channels {
        max_rx: raw.max_rx,
        max_tx: raw.max_tx,
        max_combined: raw.max_combined,
        rx: raw.rx,
        tx: raw.tx,
        combined: raw.combined,
    })
}

/// Driver name and version.
///
/// # Errors
///
/// [`EthtoolError::Os`] if the interface does not exist or its driver does not say.
pub fn driver(ifname: &str) -> Result<Driver, EthtoolError> {
    let mut raw = sys::zeroed::<RawDriver>();
    raw.command = GET_DRIVER;
    sys::ethtool(ifname, &mut raw).map_err(refused("read the driver", ifname))?;
    Ok(Driver {
        name: text(&raw.driver),
        version: text(&raw.version),
    })
}

fn text(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn refused(op: &'static str, ifname: &str) -> impl FnOnce(io::Error) -> EthtoolError {
    let ifname = ifname.to_owned();
    move |source| {
        let advice = match source.raw_os_error() {
            Some(libc::ENODEV) => "The interface is not in this network namespace: see `ip link`",
            Some(libc::EPERM) => "Run with CAP_NET_ADMIN",
            Some(libc::EOPNOTSUPP) => "Its driver does not support this",
            _ => "See the kernel log for the driver's reason",
        };
        EthtoolError::Os {
            op,
            ifname,
            advice,
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_interface_is_named_with_what_to_do() {
        let error = driver("no-such-if").expect_err("there is none");
        let text = error.to_string();
        assert!(
            text.contains("no-such-if") && text.contains("ip link"),
            "{text}"
        );
        assert!(driver("a-name-that-is-too-long-for-linux").is_err());
        assert!(driver("nul\0byte").is_err());
    }
}
