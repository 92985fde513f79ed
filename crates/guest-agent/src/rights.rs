//! Files seen and changed with a user's rights.

use std::thread;

use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::agent::Agent;
use crate::failure::{Failure, Stop};
use crate::server::STACK_BYTES;

/// Carries something out with the rights of a user, by name or number.
///
/// On a thread of its own, which ends with it: there is no way back that could fail, and no thread that
/// serves others ever has less than root's rights. Only the effective ids change, so that the user cannot
/// signal or trace the thread.
pub(crate) fn with_those_of(
    agent: &Agent,
    user: &str,
    act: impl FnOnce() -> Result<(), Stop> + Send,
) -> Result<(), Stop> {
    let accounts = agent.accounts.get();
    let user = accounts.find(user)?;
    if user.uid == 0 {
        return act();
    }
    let groups: Vec<Gid> = accounts.groups_of(&user).into_iter().map(Gid::from_raw).collect();
    let cannot = |error| {
        Stop::from(Failure::of(format!("cannot take on the rights of user `{}`", user.name), error))
    };
    let assume = || {
        set_thread_groups(&groups)?;
        set_thread_res_gid(None, Gid::from_raw(user.gid), None)?;
        set_thread_res_uid(None, Uid::from_raw(user.uid), None)
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("as a user".to_owned()).stack_size(STACK_BYTES);
        let started = thread.spawn_scoped(scope, || {
            assume().map_err(cannot)?;
            act()
        });
        let thread = started.map_err(|_| cannot(Errno::AGAIN))?;
        thread.join().unwrap_or(Err(Stop::Gone))
    })
}
