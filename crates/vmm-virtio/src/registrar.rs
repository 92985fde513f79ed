//! How devices put descriptors into the caller's epoll set.

use std::{io, os::fd::AsRawFd, sync::Arc};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent};

/// Readiness of a descriptor; the bits of `epoll(7)`.
pub type Events = vmm_sys_util::epoll::EventSet;

/// Adds descriptors of one device to an epoll set. Cheap to clone.
///
/// An event's 64-bit data is the device's number in the upper half and the device's own token in
/// the lower; [`split_token`] takes it apart.
#[derive(Clone, Debug)]
pub struct Registrar {
    epoll: Arc<Epoll>,
    device: u32,
}

impl Registrar {
    /// A registrar for device number `device` of the epoll set `epoll`.
    pub fn new(epoll: Arc<Epoll>, device: u32) -> Self {
        Registrar { epoll, device }
    }

    /// Starts watching `fd`.
    pub fn add(&self, fd: &impl AsRawFd, events: Events, sub_token: u32) -> io::Result<()> {
        self.control(ControlOperation::Add, fd, events, sub_token)
    }

    /// Changes what is watched of `fd`.
    pub fn modify(&self, fd: &impl AsRawFd, events: Events, sub_token: u32) -> io::Result<()> {
        self.control(ControlOperation::Modify, fd, events, sub_token)
    }

    /// Stops watching `fd`.
    pub fn remove(&self, fd: &impl AsRawFd) -> io::Result<()> {
        self.control(ControlOperation::Delete, fd, Events::empty(), 0)
    }

    fn control(
        &self,
        operation: ControlOperation,
        fd: &impl AsRawFd,
        events: Events,
        sub_token: u32,
    ) -> io::Result<()> {
        let data = u64::from(self.device) << 32 | u64::from(sub_token);
        self.epoll.ctl(operation, fd.as_raw_fd(), EpollEvent::new(events, data))
    }
}

/// The device number and the device's own token in the data of an event.
pub fn split_token(token: u64) -> (u32, u32) {
    #[expect(clippy::cast_possible_truncation, reason = "the two halves are what is wanted")]
    ((token >> 32) as u32, token as u32)
}
