//! Giving up being root, for good.
#![expect(unsafe_code, reason = "keyctl has no safe interface")]

use std::io;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, remove_capability_from_bounding_set,
    set_capabilities, set_capabilities_secure_bits, set_no_new_privs, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};

use crate::enter::{During, JailError};

/// LIMIT: capabilities are bits of a 64-bit set.
const CAPABILITIES_MAX: u32 = 64;

/// Becomes `uid` and `gid` with no group, capability or key beside them, and no way to gain any.
pub(crate) fn become_user(uid: Uid, gid: Gid) -> Result<(), JailError> {
    // What a set-uid file could give back goes first, while there is the right to drop it.
    empty_bounding_set().during("empty the capability bounding set")?;
    set_capabilities_secure_bits(
        CapabilitiesSecureBits::NO_ROOT
            | CapabilitiesSecureBits::NO_ROOT_LOCKED
            | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
            | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED,
    )
    .during("lock the secure bits")?;

    set_thread_groups(&[]).during("leave its groups")?;
    set_thread_res_gid(gid, gid, gid).during("change its group")?;
    set_thread_res_uid(uid, uid, uid).during("change its user")?;
    // Leaving user 0 emptied the permitted, effective and ambient sets; this also empties the
    // inheritable one and does not rely on it.
    set_capabilities(
        None,
        CapabilitySets {
            effective: CapabilitySet::empty(),
            permitted: CapabilitySet::empty(),
            inheritable: CapabilitySet::empty(),
        },
    )
    .during("drop its capabilities")?;
    set_no_new_privs(true).during("set no_new_privs")?;

    leave_session_keyring().during("leave the session keyring")?;
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    Ok(())
}

fn empty_bounding_set() -> io::Result<()> {
    for bit in 0..CAPABILITIES_MAX {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit)) {
            Ok(()) => {}
            // One past the last capability this kernel knows.
            Err(Errno::INVAL) if bit > 0 => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The session keyring is the node's, keys included, until another one is joined.
fn leave_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    let anonymous = std::ptr::null::<libc::c_char>();
    // SAFETY: with a null name the call takes no other argument and touches no memory.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, anonymous) };
    if result >= 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        // A kernel without keys has none to leave.
        error if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        error => Err(error),
    }
}
