//! A time limit for `KVM_RUN`, which has none.
#![expect(unsafe_code, reason = "POSIX timers and signal handlers have no safe interface")]

use std::io;
use std::mem;
use std::ptr;
use std::time::Duration;

/// LIMIT: a tick that comes just before the thread enters `KVM_RUN` interrupts nothing, so there
/// must be a next one soon.
const TICK: Duration = Duration::from_millis(50);

/// While it lives, interrupts the calling thread's system calls every now and then.
///
/// Calls then fail with `EINTR`, and the caller compares the clock with its deadline.
#[derive(Debug)]
pub(crate) struct Alarm(libc::timer_t);

extern "C" fn do_nothing(_: libc::c_int) {}

impl Alarm {
    pub(crate) fn start() -> io::Result<Self> {
        let signal = libc::SIGRTMAX();
        // SAFETY: all zeros is a valid `sigaction`: no flags (so no restart of system calls, which
        // is the point), nothing blocked.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        action.sa_sigaction = do_nothing as extern "C" fn(libc::c_int) as usize;
        // SAFETY: `action` is initialised and its handler does nothing, which is safe anywhere.
        check(unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) })?;

        // SAFETY: all zeros is a valid `sigevent`.
        let mut event: libc::sigevent = unsafe { mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal;
        event.sigev_notify_thread_id = rustix::thread::gettid().as_raw_nonzero().get();
        let mut timer: libc::timer_t = ptr::null_mut();
        // SAFETY: both pointers are to live variables of the types the call wants.
        check(unsafe {
            libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer)
        })?;
        let alarm = Self(timer);

        let tick = libc::timespec { tv_sec: 0, tv_nsec: i64::from(TICK.subsec_nanos()) };
        let times = libc::itimerspec { it_interval: tick, it_value: tick };
        // SAFETY: `timer` was just created, `times` is initialised, the old value is not wanted.
        check(unsafe { libc::timer_settime(alarm.0, 0, &raw const times, ptr::null_mut()) })?;
        Ok(alarm)
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // SAFETY: the timer exists since `start` and is deleted here only.
        unsafe { libc::timer_delete(self.0) };
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
