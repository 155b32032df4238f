//! BPF links: attaching a loaded program to an interface.
//!
//! Guarantees: a link is a descriptor; closing it (also by dying) detaches the program, unless the
//! link is pinned in a BPF file system: then it lasts until that file is gone as well. A program
//! somebody else attached is never replaced or detached. Interfaces are those of the calling
//! thread's network namespace. Programs themselves are loaded elsewhere.
//!
//! References: bpf(2) `BPF_LINK_CREATE`, `BPF_LINK_UPDATE`, `BPF_OBJ_PIN`, kernel/bpf/syscall.c, kernel/bpf/tcx.c,
//! net/core/dev.c `bpf_xdp_link_attach`.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::AttachError;
use crate::sys::{self, Plain};

/// bpf(2) command.
const BPF_LINK_CREATE: libc::c_int = 28;
/// bpf(2) commands.
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_LINK_UPDATE: libc::c_int = 29;
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

/// The members of `union bpf_attr` for `BPF_OBJ_PIN` and `BPF_OBJ_GET`.
#[repr(C)]
struct Pin {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// The `link_update` member of `union bpf_attr`.
#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// The `info` member of `union bpf_attr`.
#[repr(C)]
struct GetInfo {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// `struct bpf_link_info` of a link to an interface.
#[derive(Default)]
#[repr(C)]
struct LinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    pad: u32,
    ifindex: u32,
    attach_type: u32,
}

// SAFETY: a `repr(C)` struct of integers without padding.
unsafe impl Plain for LinkCreate {}
// SAFETY: as above.
unsafe impl Plain for Pin {}
// SAFETY: as above.
unsafe impl Plain for LinkUpdate {}
// SAFETY: as above.
unsafe impl Plain for GetInfo {}
// SAFETY: as above.
unsafe impl Plain for LinkInfo {}

/// Makes a link outlive its descriptors, at a path of a BPF file system.
///
/// # Errors
///
/// Whatever the kernel reports; `AlreadyExists` when something is there.
pub fn pin(link: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = Pin {
        pathname: path.as_ptr().expose_provenance() as u64,
        bpf_fd: link.as_raw_fd().cast_unsigned(),
        file_flags: 0,
    };
    // SAFETY: `Pin` is the kernel's struct for this command; `path` ends with a zero and outlives
    // the call.
    unsafe { sys::bpf(BPF_OBJ_PIN, &mut attributes) }.map(|_| ())
}

/// Opens the link pinned at `path`.
///
/// # Errors
///
/// Whatever the kernel reports; `NotFound` when nothing is there.
pub fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = Pin {
        pathname: path.as_ptr().expose_provenance() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    // SAFETY: as for `pin`.
    unsafe { sys::bpf(BPF_OBJ_GET, &mut attributes) }.map(sys::owned)
}

/// Interface a link holds a program on; 0 once that is gone.
///
/// # Errors
///
/// Whatever the kernel reports.
pub fn interface(link: BorrowedFd<'_>) -> io::Result<u32> {
    let mut info = LinkInfo::default();
    let mut attributes = GetInfo {
        bpf_fd: link.as_raw_fd().cast_unsigned(),
        info_len: size_of::<LinkInfo>() as u32,
        info: (&raw mut info).expose_provenance() as u64,
    };
    // SAFETY: `GetInfo` is the kernel's struct for this command; `info` is as long as it says and
    // outlives the call. The kernel writes no more than that.
    unsafe { sys::bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attributes) }?;
    Ok(info.ifindex)
}

/// Puts another program in place of a link's: each packet meets one of them.
///
/// # Errors
///
/// Whatever the kernel reports; `ENOLINK` when the interface is gone.
pub fn replace(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = LinkUpdate {
        link_fd: link.as_raw_fd().cast_unsigned(),
        new_prog_fd: program.as_raw_fd().cast_unsigned(),
        flags: 0,
        old_prog_fd: 0,
    };
    // SAFETY: `LinkUpdate` is the kernel's struct for this command and holds no address.
    unsafe { sys::bpf(BPF_LINK_UPDATE, &mut attributes) }.map(|_| ())
}

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
