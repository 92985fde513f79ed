//! System calls as an attacker makes them: by number.
#![expect(unsafe_code, reason = "attackers do not use safe interfaces")]

use std::ffi::{CStr, c_int, c_long};
use std::io;

/// Exit code of a child whose filter could not be installed.
pub(crate) const NO_FILTER: c_int = 250;
/// Exit code of a child whose error has no number.
pub(crate) const NO_ERRNO: c_int = 251;

/// Argument that points at `value`.
pub(crate) fn address<T: ?Sized>(value: &T) -> usize {
    (&raw const *value).addr()
}

/// Argument that points at `text`.
pub(crate) fn path(text: &CStr) -> usize {
    text.as_ptr().addr()
}

/// Makes system call `number`. Everything pointed at must be as large as the call wants, which the
/// tests here see to.
pub(crate) fn call(number: c_long, arguments: &[usize]) -> io::Result<usize> {
    let argument = |index: usize| arguments.get(index).copied().unwrap_or(0);
    // SAFETY: see above: arguments are numbers, constants or addresses of live variables.
    let result = unsafe {
        libc::syscall(
            number,
            argument(0),
            argument(1),
            argument(2),
            argument(3),
            argument(4),
            argument(5),
        )
    };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Like [`call`], for those that only work or do not.
pub(crate) fn try_call(number: c_long, arguments: &[usize]) -> io::Result<()> {
    call(number, arguments).map(|_| ())
}

/// Runs `action` in a child process, which exits with what it returns; its wait status.
pub(crate) fn in_child(action: &dyn Fn() -> c_int) -> io::Result<c_int> {
    // SAFETY: there is one thread, so the child may go on as if nothing happened.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let code = action();
            // SAFETY: ends the child without running what is the parent's to run.
            unsafe { libc::_exit(code) }
        }
        child => {
            let mut status = 0;
            // SAFETY: `status` is a live variable of the wanted type.
            let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
            if waited == child { Ok(status) } else { Err(io::Error::last_os_error()) }
        }
    }
}

/// Address of the value of environment variable `name`.
pub(crate) fn environment_value(name: &CStr) -> Option<*const u8> {
    // SAFETY: there is one thread, so the environment does not change meanwhile.
    let value = unsafe { libc::getenv(name.as_ptr()) };
    (!value.is_null()).then_some(value.cast())
}

/// The first `length` bytes at `start`, which stay mapped for the process's life.
pub(crate) fn peek(start: *const u8, length: usize) -> Vec<u8> {
    (0..length)
        .map(|index| {
            // SAFETY: the caller knows the bytes to be mapped.
            let byte = unsafe { start.add(index) };
            // SAFETY: as above.
            unsafe { byte.read_volatile() }
        })
        .collect()
}
