//! The kernel's own files a VMM works with: userfaultfd and the process's page map.
#![expect(unsafe_code, reason = "creating a userfaultfd is an unsafe function of rustix")]

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mm::UserfaultfdFlags;

/// The kernel's files a VMM needs and cannot open from inside its jail.
#[derive(Debug)]
pub struct KernelFiles {
    /// A userfaultfd of this process, non-blocking, able to serve faults the kernel itself takes
    /// (KVM's are such). The `UFFDIO_API` handshake has not happened yet.
    pub userfaultfd: OwnedFd,
    /// `/proc/self/pagemap`: the file `PAGEMAP_SCAN` is asked of.
    pub pagemap: File,
    /// `/proc/self/smaps_rollup`: what the process's memory costs, in sum. Read it from offset 0.
    pub smaps: File,
}

/// Why the kernel's files could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelFilesError {
    /// Needs `CAP_SYS_PTRACE`, as only root may handle faults the kernel takes.
    #[error("cannot create a userfaultfd that serves kernel faults; run as root")]
    Userfaultfd(#[source] io::Error),
    /// Needs a mounted `/proc`.
    #[error("cannot open this process's page map in /proc")]
    Maps(#[source] io::Error),
}

/// Opens them for a process that stays outside of a jail: tests and measurements.
///
/// A process that goes into a jail gets them from [`crate::enter`].
pub fn open_kernel_files() -> Result<KernelFiles, KernelFilesError> {
    let userfaultfd = open_userfaultfd().map_err(KernelFilesError::Userfaultfd)?;
    let (pagemap, smaps) =
        OwnProc::open().and_then(|proc| proc.open_maps()).map_err(KernelFilesError::Maps)?;
    Ok(KernelFiles { userfaultfd, pagemap, smaps })
}

pub(crate) fn open_userfaultfd() -> io::Result<OwnedFd> {
    // SAFETY: a userfaultfd does nothing before memory is registered with it.
    let fd =
        unsafe { rustix::mm::userfaultfd(UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::NONBLOCK) }?;
    Ok(fd)
}

/// `/proc/self`, held open to be used when `/proc` itself is out of reach.
#[derive(Debug)]
pub(crate) struct OwnProc(OwnedFd);

impl OwnProc {
    pub(crate) fn open() -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(openat(CWD, "/proc/self", flags, Mode::empty())?))
    }

    /// `pagemap` and `smaps_rollup`, opened with the privileges the process has now.
    pub(crate) fn open_maps(self) -> io::Result<(File, File)> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let pagemap = openat(&self.0, "pagemap", flags, Mode::empty())?;
        let smaps = openat(&self.0, "smaps_rollup", flags, Mode::empty())?;
        Ok((pagemap.into(), smaps.into()))
    }
}
