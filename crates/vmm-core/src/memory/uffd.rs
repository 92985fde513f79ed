//! The few userfaultfd calls the fault handler makes (Linux `include/uapi/linux/userfaultfd.h`).
//!
//! Our own bindings: the `userfaultfd` crate needs libclang to build and misreads a negative count
//! from a copy that was interrupted.

#![expect(unsafe_code, reason = "userfaultfd ioctls on ranges of guest memory")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ref};
use vmm_sys_util::{ioctl_ior_nr, ioctl_iowr_nr};

use super::MemoryError;

const UFFDIO: u32 = 0xaa;
const UFFD_API: u64 = 0xaa;
const FEATURE_MINOR_SHMEM: u64 = 1 << 10;
const FEATURE_THREAD_ID: u64 = 1 << 8;
const MODE_MISSING: u64 = 1;
const MODE_MINOR: u64 = 1 << 2;
const EVENT_PAGEFAULT: u8 = 0x12;
const FLAG_MINOR: u64 = 1 << 2;

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}
#[repr(C)]
struct Range {
    start: u64,
    len: u64,
}
#[repr(C)]
struct Register {
    range: Range,
    mode: u64,
    ioctls: u64,
}
#[repr(C)]
struct Copy {
    dst: u64,
    src: u64,
    len: u64,
    mode: u64,
    copied: i64,
}
/// `uffdio_zeropage` and `uffdio_continue` have one shape.
#[repr(C)]
struct Fill {
    range: Range,
    mode: u64,
    filled: i64,
}
/// `struct uffd_msg` for a page fault; other events have the same size.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Msg {
    event: u8,
    reserved: [u8; 7],
    flags: u64,
    address: u64,
    extra: u64,
}

ioctl_ior_nr!(UFFDIO_WAKE, UFFDIO, 0x02, Range);
ioctl_iowr_nr!(UFFDIO_API, UFFDIO, 0x3f, Api);
ioctl_iowr_nr!(UFFDIO_REGISTER, UFFDIO, 0x00, Register);
ioctl_iowr_nr!(UFFDIO_COPY, UFFDIO, 0x03, Copy);
ioctl_iowr_nr!(UFFDIO_ZEROPAGE, UFFDIO, 0x04, Fill);
ioctl_iowr_nr!(UFFDIO_CONTINUE, UFFDIO, 0x07, Fill);

/// A page the guest (or a device) touched and that is not mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Host address.
    pub(crate) address: u64,
    /// The page is in the template's memfd; only the mapping is missing.
    pub(crate) minor: bool,
}

/// Faults read at once.
const FAULTS_PER_READ: usize = 16;

/// A userfaultfd of this process.
#[derive(Debug)]
pub(crate) struct Userfault {
    fd: File,
}

impl Userfault {
    /// Takes a new userfaultfd and agrees on its features.
    pub(crate) fn new(fd: OwnedFd) -> Result<Self, MemoryError> {
        let fd = File::from(fd);
        let mut api =
            Api { api: UFFD_API, features: FEATURE_MINOR_SHMEM | FEATURE_THREAD_ID, ioctls: 0 };
        // SAFETY: the kernel reads and writes one `Api`.
        check("UFFDIO_API", unsafe { ioctl_with_mut_ref(&fd, UFFDIO_API(), &mut api) })?;
        Ok(Self { fd })
    }

    /// For polling.
    pub(crate) fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// From now on, first touches in the range become faults on this descriptor.
    pub(crate) fn register(&self, start: u64, len: u64) -> Result<(), MemoryError> {
        let mut register =
            Register { range: Range { start, len }, mode: MODE_MISSING | MODE_MINOR, ioctls: 0 };
        // SAFETY: the kernel reads and writes one `Register`.
        let result = unsafe { ioctl_with_mut_ref(&self.fd, UFFDIO_REGISTER(), &mut register) };
        check("UFFDIO_REGISTER", result)
    }

    /// The faults waiting now; empty when there are none.
    pub(crate) fn faults(&self) -> Result<Vec<Fault>, MemoryError> {
        let mut messages = [Msg::default(); FAULTS_PER_READ];
        // SAFETY: the kernel writes at most the size of the array, in whole messages.
        let got = unsafe {
            libc::read(self.fd.as_raw_fd(), messages.as_mut_ptr().cast(), size_of_val(&messages))
        };
        let Ok(got) = usize::try_from(got) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(Vec::new()),
                _ => Err(MemoryError::Userfault { call: "read userfaultfd", source: error }),
            };
        };
        Ok(messages
            .iter()
            .take(got / size_of::<Msg>())
            .filter(|message| message.event == EVENT_PAGEFAULT)
            .map(|message| Fault {
                address: message.address,
                minor: message.flags & FLAG_MINOR != 0,
            })
            .collect())
    }

    /// Puts private copies of `bytes` at `start`. Pages that are there already are left alone.
    /// Returns how many bytes were placed.
    pub(crate) fn copy(&self, start: u64, bytes: &[u8]) -> Result<u64, MemoryError> {
        let page = base_types::PAGE_SIZE;
        let (mut done, mut placed) = (0, 0);
        while done < bytes.len() as u64 {
            let mut copy = Copy {
                dst: start + done,
                src: bytes.as_ptr() as u64 + done,
                len: bytes.len() as u64 - done,
                mode: 0,
                copied: 0,
            };
            // SAFETY: the kernel reads `len` bytes from `src`, inside `bytes`, and writes `dst` only
            // where the range is registered with this userfaultfd, that is guest memory.
            let result = unsafe { ioctl_with_mut_ref(&self.fd, UFFDIO_COPY(), &mut copy) };
            let step = self.progress("UFFDIO_COPY", result, copy.copied, start + done)?;
            placed += step.placed;
            done += step.placed.max(if step.present { page } else { 0 });
        }
        Ok(placed)
    }

    /// Maps zero pages.
    pub(crate) fn zero(&self, start: u64, len: u64) -> Result<u64, MemoryError> {
        self.fill("UFFDIO_ZEROPAGE", UFFDIO_ZEROPAGE(), start, len)
    }

    /// Maps the template's own pages, shared until written.
    pub(crate) fn map(&self, start: u64, len: u64) -> Result<u64, MemoryError> {
        self.fill("UFFDIO_CONTINUE", UFFDIO_CONTINUE(), start, len)
    }

    /// Lets whoever waits for this range look again.
    pub(crate) fn wake(&self, start: u64, len: u64) -> Result<(), MemoryError> {
        let range = Range { start, len };
        // SAFETY: the kernel reads one `Range`.
        check("UFFDIO_WAKE", unsafe { ioctl_with_ref(&self.fd, UFFDIO_WAKE(), &range) })
    }

    fn fill(
        &self,
        call: &'static str,
        request: u64,
        start: u64,
        len: u64,
    ) -> Result<u64, MemoryError> {
        let page = base_types::PAGE_SIZE;
        let (mut done, mut placed) = (0, 0);
        while done < len {
            let mut fill =
                Fill { range: Range { start: start + done, len: len - done }, mode: 0, filled: 0 };
            // SAFETY: the kernel reads and writes one `Fill`, and maps pages only where the range
            // is registered with this userfaultfd.
            let result = unsafe { ioctl_with_mut_ref(&self.fd, request, &mut fill) };
            let step = self.progress(call, result, fill.filled, start + done)?;
            placed += step.placed;
            done += step.placed.max(if step.present { page } else { 0 });
        }
        Ok(placed)
    }

    /// How far a call got. `EEXIST` means the page is there but its waiters were not woken;
    /// `EAGAIN` that the address space changed meanwhile, and to try again.
    fn progress(
        &self,
        call: &'static str,
        result: i32,
        count: i64,
        at: u64,
    ) -> Result<Step, MemoryError> {
        if result == 0 || count > 0 {
            return Ok(Step { placed: u64::try_from(count).unwrap_or(0), present: false });
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EEXIST) => {
                self.wake(at, base_types::PAGE_SIZE)?;
                Ok(Step { placed: 0, present: true })
            }
            Some(libc::EAGAIN) => Ok(Step { placed: 0, present: false }),
            _ => Err(MemoryError::Userfault { call, source: error }),
        }
    }
}

struct Step {
    placed: u64,
    present: bool,
}

fn check(call: &'static str, result: i32) -> Result<(), MemoryError> {
    if result < 0 {
        return Err(MemoryError::Userfault { call, source: io::Error::last_os_error() });
    }
    Ok(())
}
