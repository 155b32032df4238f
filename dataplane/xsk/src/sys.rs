//! The syscall gate: every system call of this crate, each behind a safe function.
//!
//! Guarantees: descriptors and mappings are owned by RAII types, sizes passed to the kernel are
//! the sizes of the types, and every failure is the `errno` as [`io::Error`].
//! It must not decide anything: retries, fall-backs and wording belong to the callers.

use std::ffi::{CString, c_int, c_ulong, c_void};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::time::Duration;

/// A type the kernel may fill with any bytes.
///
/// # Safety
///
/// All-zero bytes and any other bit pattern must be a valid value, and the type must not own
/// anything.
pub(crate) unsafe trait Plain: Sized {}

// SAFETY: an integer is valid for every bit pattern.
unsafe impl Plain for u32 {}
// SAFETY: an integer is valid for every bit pattern.
unsafe impl Plain for c_int {}
// SAFETY: a `repr(C)` struct of integers.
unsafe impl Plain for libc::xdp_mmap_offsets {}
// SAFETY: a `repr(C)` struct of integers.
unsafe impl Plain for libc::xdp_statistics {}
// SAFETY: a `repr(C)` struct of integers.
unsafe impl Plain for libc::xdp_options {}
// SAFETY: a `repr(C)` struct of integers.
unsafe impl Plain for libc::xdp_umem_reg {}
// SAFETY: a `repr(C)` struct of integers.
unsafe impl Plain for libc::sockaddr_xdp {}

/// The value of `T` whose bytes are all zero.
pub(crate) fn zeroed<T: Plain>() -> T {
    // SAFETY: `Plain` promises that all-zero bytes are a valid value.
    unsafe { std::mem::zeroed() }
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Takes ownership of a descriptor that a system call just returned.
pub(crate) fn owned(fd: c_int) -> OwnedFd {
    // SAFETY: callers pass a descriptor the kernel returned to them a moment ago; nobody else
    // knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Opens a close-on-exec socket.
pub(crate) fn socket(domain: c_int, kind: c_int) -> io::Result<OwnedFd> {
    // SAFETY: socket(2) takes integers only.
    let fd = unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, 0) };
    check(fd).map(owned)
}

/// Sets a socket option to the bytes of `value`.
pub(crate) fn set_option<T: Plain>(
    fd: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    value: &T,
) -> io::Result<()> {
    let pointer = std::ptr::from_ref(value).cast::<c_void>();
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: `pointer` is valid for `length` bytes during the call; the kernel only reads.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, pointer, length) };
    check(result).map(drop)
}

/// Reads a socket option; bytes an older kernel does not know stay zero.
pub(crate) fn option<T: Plain>(fd: BorrowedFd<'_>, level: c_int, name: c_int) -> io::Result<T> {
    let mut value = zeroed::<T>();
    let mut length = size_of::<T>() as libc::socklen_t;
    let pointer = std::ptr::from_mut(&mut value).cast::<c_void>();
    // SAFETY: `pointer` is valid for writes of `length` bytes, and `Plain` accepts any bytes.
    let result = unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, pointer, &raw mut length) };
    check(result).map(|_| value)
}

/// Binds an AF_XDP socket.
pub(crate) fn bind_xdp(fd: BorrowedFd<'_>, address: &libc::sockaddr_xdp) -> io::Result<()> {
    let pointer = std::ptr::from_ref(address).cast::<libc::sockaddr>();
    let length = size_of::<libc::sockaddr_xdp>() as libc::socklen_t;
    // SAFETY: `pointer` is valid for `length` bytes during the call; the kernel only reads.
    let result = unsafe { libc::bind(fd.as_raw_fd(), pointer, length) };
    check(result).map(drop)
}

/// Tells the kernel to look at the TX ring (an empty, non-blocking send).
pub(crate) fn kick_tx(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no buffer and no address are passed, so the kernel touches no memory of ours
    // through this call.
    let result = unsafe {
        libc::sendto(
            fd.as_raw_fd(),
            std::ptr::null(),
            0,
            libc::MSG_DONTWAIT,
            std::ptr::null(),
            0,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Tells the kernel to look at the fill ring (an empty, non-blocking receive).
pub(crate) fn kick_rx(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no buffer and no address are passed, so the kernel touches no memory of ours
    // through this call.
    let result = unsafe {
        libc::recvfrom(
            fd.as_raw_fd(),
            std::ptr::null_mut(),
            0,
            libc::MSG_DONTWAIT,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Waits for events; returns how many entries have one.
pub(crate) fn poll(fds: &mut [libc::pollfd], timeout: Duration) -> io::Result<usize> {
    let seconds = timeout.as_secs().min(libc::time_t::MAX as u64) as libc::time_t;
    let timeout = libc::timespec {
        tv_sec: seconds,
        tv_nsec: libc::c_long::from(timeout.subsec_nanos().cast_signed()),
    };
    // SAFETY: the slice is valid for reads and writes of its own length, the timespec for reads,
    // and a null signal mask is allowed.
    let result = unsafe {
        libc::ppoll(
            fds.as_mut_ptr(),
            fds.len() as libc::nfds_t,
            &raw const timeout,
            std::ptr::null(),
        )
    };
    check(result).map(|ready| ready.unsigned_abs() as usize)
}

/// Runs one bpf(2) command and returns its result, often a descriptor.
///
/// # Safety
///
/// `attributes` must be the kernel's struct for `command`, and every address in it must be valid
/// for what the command does with it.
pub(crate) unsafe fn bpf<T: Plain>(command: c_int, attributes: &mut T) -> io::Result<c_int> {
    let pointer = std::ptr::from_mut(attributes).cast::<c_void>();
    // SAFETY: `pointer` is valid for reads and writes of the length passed; the rest is the
    // caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, pointer, size_of::<T>()) };
    check(result as c_int)
}

/// Runs one ethtool command on an interface of this thread's network namespace.
pub(crate) fn ethtool<T: Plain>(ifname: &str, request: &mut T) -> io::Result<()> {
    let socket = socket(libc::AF_INET, libc::SOCK_DGRAM)?;
    let name = CString::new(ifname).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?;
    let name = name.as_bytes();
    if name.is_empty() || name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    let mut ifr_name = [0; libc::IFNAMSIZ];
    for (to, from) in ifr_name.iter_mut().zip(name) {
        *to = from.cast_signed();
    }
    let mut argument = libc::ifreq {
        ifr_name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_data: std::ptr::from_mut(request).cast(),
        },
    };
    let pointer = &raw mut argument;
    // SAFETY: `argument` is a whole ifreq whose data pointer leads to `request`, alive during the
    // call and large enough for the command in its first word (each caller's type is the kernel's
    // struct for that command).
    let result = unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCETHTOOL as c_ulong as _,
            pointer,
        )
    };
    check(result).map(drop)
}

/// The name of an interface of this thread's network namespace, for messages.
pub(crate) fn interface_name(ifindex: u32) -> Option<String> {
    let mut name = [0u8; libc::IFNAMSIZ];
    // SAFETY: the buffer has IFNAMSIZ bytes, the most if_indextoname(3) writes.
    let found = unsafe { libc::if_indextoname(ifindex, name.as_mut_ptr().cast()) };
    if found.is_null() {
        return None;
    }
    let length = name.iter().position(|byte| *byte == 0)?;
    String::from_utf8(name[..length].to_vec()).ok()
}

/// CLOCK_MONOTONIC in nanoseconds.
pub(crate) fn monotonic_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is valid for writes. The call cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// Tells whether an open file is gone, that is, whether the last descriptor of it was closed.
///
/// An epoll instance knows the files it watches without keeping them open, and forgets them when
/// the kernel releases them (fs/eventpoll.c `eventpoll_release_file`); procfs lists what it knows.
#[derive(Debug)]
pub(crate) struct Witness {
    epoll: OwnedFd,
}

impl Witness {
    /// Starts watching the file behind `fd`.
    pub(crate) fn new(fd: BorrowedFd<'_>) -> io::Result<Self> {
        // SAFETY: epoll_create1(2) takes an integer only.
        let epoll = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }).map(owned)?;
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        let (instance, watched) = (epoll.as_raw_fd(), fd.as_raw_fd());
        // SAFETY: `event` is valid for reads during the call.
        let result =
            unsafe { libc::epoll_ctl(instance, libc::EPOLL_CTL_ADD, watched, &raw mut event) };
        check(result).map(|_| Self { epoll })
    }

    /// Whether the file is gone; false also when that cannot be told.
    pub(crate) fn is_released(&self) -> bool {
        let path = format!("/proc/thread-self/fdinfo/{}", self.epoll.as_raw_fd());
        std::fs::read_to_string(path)
            .is_ok_and(|known| !known.lines().any(|line| line.starts_with("tfd:")))
    }
}

/// A memory mapping, unmapped on drop.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread; the type itself never touches the
// memory. Who may touch it is decided by the types that hold it.
unsafe impl Send for Mapping {}
// SAFETY: as above: a shared reference only gives away the address and the length.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Zeroed private memory; `extra_flags` for `MAP_HUGETLB` and the like.
    pub(crate) fn anonymous(bytes: usize, extra_flags: c_int) -> io::Result<Self> {
        Self::map(
            bytes,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | extra_flags,
            -1,
            0,
        )
    }

    /// Memory shared with the kernel object behind `fd`.
    pub(crate) fn shared(fd: BorrowedFd<'_>, bytes: usize, offset: u64) -> io::Result<Self> {
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        Self::map(bytes, flags, fd.as_raw_fd(), offset)
    }

    fn map(bytes: usize, flags: c_int, fd: c_int, offset: u64) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let offset = offset as libc::off_t;
        // SAFETY: no address is asked for, so no existing mapping can be replaced.
        let base =
            unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, fd, offset) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { base, bytes })
    }

    /// Gives the kernel advice about the whole mapping. Only for advice that keeps its content.
    pub(crate) fn advise(&self, advice: c_int) -> io::Result<()> {
        // SAFETY: the range is exactly this mapping.
        check(unsafe { libc::madvise(self.base.as_ptr().cast(), self.bytes, advice) }).map(drop)
    }

    /// First byte.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Length in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is exactly what mmap returned, and whoever holds references into it
        // also holds this mapping.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
