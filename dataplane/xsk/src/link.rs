//! BPF links: attaching a loaded program to an interface.
//!
//! Guarantees: a link is a descriptor; closing it (also by dying) detaches the program. A program
//! somebody else attached is never replaced or detached. Interfaces are those of the calling
//! thread's network namespace. Programs themselves are loaded elsewhere.
//!
//! References: bpf(2) `BPF_LINK_CREATE`, kernel/bpf/syscall.c, kernel/bpf/tcx.c,
//! net/core/dev.c `bpf_xdp_link_attach`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use crate::error::AttachError;
use crate::sys::{self, Plain};

/// bpf(2) command.
const BPF_LINK_CREATE: libc::c_int = 28;
/// `enum bpf_attach_type`.
const BPF_XDP: u32 = 37;
/// `enum bpf_attach_type`, Linux 6.6.
const BPF_TCX_INGRESS: u32 = 46;
/// `enum bpf_attach_type`, Linux 6.6.
const BPF_TCX_EGRESS: u32 = 47;
/// include/uapi/linux/if_link.h: native mode, run by the driver.
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// The `link_create` member of `union bpf_attr` with its TCX variant.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative_fd: u32,
    reserved: u32,
    expected_revision: u64,
}

// SAFETY: a `repr(C)` struct of integers without padding.
unsafe impl Plain for LinkCreate {}

/// Attaches a TC program to an interface's ingress hook (TCX), after the programs already there.
///
/// # Errors
///
/// [`AttachError`]; `Unsupported` also when the kernel is older than 6.6.
pub fn attach_tcx_ingress(program: BorrowedFd<'_>, ifindex: u32) -> Result<OwnedFd, AttachError> {
    attach(
        program,
        ifindex,
        (BPF_TCX_INGRESS, 0),
        "a TC ingress program",
    )
}

/// Attaches a TC program to an interface's egress hook (TCX), after the programs already there.
///
/// # Errors
///
/// [`AttachError`]; `Unsupported` also when the kernel is older than 6.6.
pub fn attach_tcx_egress(program: BorrowedFd<'_>, ifindex: u32) -> Result<OwnedFd, AttachError> {
    attach(program, ifindex, (BPF_TCX_EGRESS, 0), "a TC egress program")
}

/// Attaches an XDP program in native mode: in the driver, before the kernel builds its buffers.
///
/// # Errors
///
/// [`AttachError`]; `Foreign` when any XDP program is attached, in whatever mode.
pub fn attach_xdp_native(program: BorrowedFd<'_>, ifindex: u32) -> Result<OwnedFd, AttachError> {
    attach(
        program,
        ifindex,
        (BPF_XDP, XDP_FLAGS_DRV_MODE),
        "a native XDP program",
    )
}

fn attach(
    program: BorrowedFd<'_>,
    ifindex: u32,
    (attach_type, flags): (u32, u32),
    what: &'static str,
) -> Result<OwnedFd, AttachError> {
    let mut attributes = LinkCreate {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        target_ifindex: ifindex,
        attach_type,
        flags,
        relative_fd: 0,
        reserved: 0,
        expected_revision: 0,
    };
    // SAFETY: `LinkCreate` is the kernel's struct for this command and holds no address.
    let created = unsafe { sys::bpf(BPF_LINK_CREATE, &mut attributes) };
    created
        .map(sys::owned)
        .map_err(|source| explain(ifindex, what, source))
}

#[cold]
fn explain(ifindex: u32, what: &'static str, source: io::Error) -> AttachError {
    let object = sys::interface_name(ifindex).unwrap_or_else(|| format!("interface {ifindex}"));
    match source.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => AttachError::Foreign {
            what,
            object,
            source,
        },
        Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ERANGE | libc::ENOSPC) => {
            AttachError::Unsupported {
                what,
                object,
                source,
            }
        }
        Some(libc::EPERM | libc::EACCES) => AttachError::Permission {
            what,
            object,
            source,
        },
        _ => AttachError::Os {
            what,
            object,
            source,
        },
    }
}
