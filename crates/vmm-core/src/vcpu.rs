//! One thread per virtual processor, and the gate that parks it.
//!
//! ```text
//!            release                      a kick: signal + immediate_exit
//!   parked ───────────▶ running ──KVM_RUN──▶ running ──▶ parked
//!      │                                                    │
//!      └────────────────────── end ─────────────────────────┘
//! ```
//!
//! A parked vCPU has always completed the I/O it was in: after a port or MMIO exit KVM finishes the
//! instruction only when entered again, so parking enters once more with `immediate_exit` set.
//! While parked, whoever holds the gate may use the vCPU's file descriptor.

#![expect(unsafe_code, reason = "the kick signal's handler writes to the kvm_run page")]

use std::cell::Cell;
use std::io;
use std::os::unix::thread::JoinHandleExt;
use std::ptr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use kvm_bindings::kvm_run;
use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

use crate::bus::Bus;

thread_local! {
    /// The `kvm_run` page of the vCPU this thread runs; null on every other thread.
    static RUN_PAGE: Cell<*mut kvm_run> = const { Cell::new(ptr::null_mut()) };
}

/// Sets `immediate_exit` of the vCPU on this thread: also a kick that comes just before `KVM_RUN`
/// is not lost.
extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let run = RUN_PAGE.with(Cell::get);
    if !run.is_null() {
        // SAFETY: non-null means the page of a vCPU that this very thread owns and keeps mapped.
        let flag = unsafe { &raw mut (*run).immediate_exit };
        // SAFETY: as above; one byte, read by the kernel at the next KVM_RUN.
        unsafe { flag.write_volatile(1) };
    }
}

/// Installs the kick signal's handler, once per process and before the first vCPU thread.
pub(crate) fn prepare_kicks() -> io::Result<()> {
    register_signal_handler(SIGRTMIN(), on_kick)
        .map_err(|e| io::Error::from_raw_os_error(e.errno()))
}

/// What a vCPU thread is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    Park,
    Run,
    End,
}

/// Why a vCPU left for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum VcpuEnd {
    /// The guest shut down, reset or triple-faulted.
    GuestShutdown,
    /// KVM cannot go on.
    KvmFailure(String),
}

#[derive(Debug)]
struct Shared {
    want: Mutex<Want>,
    changed: Condvar,
    /// Held by the thread while it runs, free while it is parked.
    fd: Mutex<VcpuFd>,
    ended: Mutex<Option<VcpuEnd>>,
}

/// A virtual processor and its thread.
#[derive(Debug)]
pub(crate) struct Vcpu {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Panics abort the process, so nobody ever sees a poisoned lock.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Vcpu {
    /// Starts the thread of vCPU `id`, parked. `on_start` runs on the new thread first (its seccomp
    /// filter); `exited` is signalled when the vCPU leaves for good.
    pub(crate) fn start(
        id: u8,
        fd: VcpuFd,
        bus: Arc<Bus>,
        exited: EventFd,
        on_start: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            want: Mutex::new(Want::Park),
            changed: Condvar::new(),
            fd: Mutex::new(fd),
            ended: Mutex::new(None),
        });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name(format!("vcpu{id}"))
            // LIMIT: the loop below is shallow; device register handlers are the deepest call.
            .stack_size(128 * 1024)
            .spawn(move || {
                on_start();
                theirs.run(&bus);
                // A full counter cannot happen: the loop reads it, and there are at most 8 vCPUs.
                drop(exited.write(1));
            })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// The vCPU's descriptor, once it is parked.
    pub(crate) fn parked(&self) -> MutexGuard<'_, VcpuFd> {
        lock(&self.shared.fd)
    }

    /// Lets the vCPU run.
    pub(crate) fn release(&self) {
        *lock(&self.shared.want) = Want::Run;
        self.shared.changed.notify_one();
    }

    /// Asks the vCPU to park; [`Self::parked`] waits for it.
    pub(crate) fn kick(&self) {
        *lock(&self.shared.want) = Want::Park;
        self.signal();
    }

    /// Why the vCPU left, if it did.
    pub(crate) fn ended(&self) -> Option<VcpuEnd> {
        lock(&self.shared.ended).clone()
    }

    fn signal(&self) {
        if let Some(thread) = &self.thread {
            // SAFETY: the thread is not joined yet, so its id is valid; the signal has a handler.
            unsafe { libc::pthread_kill(thread.as_pthread_t(), SIGRTMIN()) };
        }
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        *lock(&self.shared.want) = Want::End;
        self.shared.changed.notify_one();
        self.signal();
        if let Some(thread) = self.thread.take() {
            // The thread does not panic (panics abort); there is no result to look at.
            drop(thread.join());
        }
    }
}

impl Shared {
    fn run(&self, bus: &Bus) {
        loop {
            let want = {
                let mut want = lock(&self.want);
                while *want == Want::Park {
                    want = self.changed.wait(want).unwrap_or_else(PoisonError::into_inner);
                }
                *want
            };
            if want == Want::End {
                return;
            }
            let mut fd = lock(&self.fd);
            RUN_PAGE.with(|page| page.set(fd.get_kvm_run()));
            let ended = self.run_until_kicked(&mut fd, bus);
            RUN_PAGE.with(|page| page.set(ptr::null_mut()));
            drop(fd);
            if let Some(end) = ended {
                *lock(&self.ended) = Some(end);
                return;
            }
        }
    }

    fn run_until_kicked(&self, fd: &mut VcpuFd, bus: &Bus) -> Option<VcpuEnd> {
        // Order matters: the flag is cleared before the wish is read, so a kick in between either
        // shows in the wish or sets the flag again.
        fd.set_kvm_immediate_exit(0);
        while *lock(&self.want) == Want::Run {
            if let Some(end) = run_once(fd, bus) {
                return Some(end);
            }
        }
        // Complete the instruction the guest is in, if it is in one.
        fd.set_kvm_immediate_exit(1);
        run_once(fd, bus)
    }
}

/// Enters the guest until it needs us once.
fn run_once(fd: &mut VcpuFd, bus: &Bus) -> Option<VcpuEnd> {
    match fd.run() {
        Ok(VcpuExit::IoOut(port, data)) => {
            bus.port_write(port, data).then_some(VcpuEnd::GuestShutdown)
        }
        Ok(VcpuExit::IoIn(port, data)) => {
            bus.port_read(port, data);
            None
        }
        Ok(VcpuExit::MmioWrite(address, data)) => {
            bus.mmio_write(address, data);
            None
        }
        Ok(VcpuExit::MmioRead(address, data)) => {
            bus.mmio_read(address, data);
            None
        }
        Ok(VcpuExit::Hlt | VcpuExit::Shutdown | VcpuExit::SystemEvent(..)) => {
            Some(VcpuEnd::GuestShutdown)
        }
        Ok(VcpuExit::Intr) => None,
        Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => None,
        Ok(VcpuExit::InternalError) => {
            // SAFETY: the exit reason says that the `internal` member of the union is the valid one.
            let suberror = unsafe { fd.get_kvm_run().__bindgen_anon_1.internal.suberror };
            Some(VcpuEnd::KvmFailure(format!("KVM internal error, suberror {suberror}")))
        }
        Ok(VcpuExit::FailEntry(reason, cpu)) => Some(VcpuEnd::KvmFailure(format!(
            "the processor refused to enter the guest: reason {reason:#x} on CPU {cpu}"
        ))),
        Ok(other) => Some(VcpuEnd::KvmFailure(format!("unexpected exit {other:?}"))),
        Err(error) => Some(VcpuEnd::KvmFailure(format!("KVM_RUN: {error}"))),
    }
}
