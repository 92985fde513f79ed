//! Databases made ahead, of which a create takes one: a machine with a server, a role that may log in, and a session of it
//! that is open. They are made once somebody has made a database, for as long as more may be wanted, and while there is
//! memory that nobody needs.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api_node::{Failure, Quota};
use base_types::{ProjectId, SandboxId, Size};
use node_access::WHOLE_NODE;
use node_database::{LoginRole, Rights, Session, extensions, new_login, set_password};
use node_host::{Lease, OnTimeout, Phase, SandboxHandle};
use node_store::DatabaseRow;
use tokio::time::sleep;

use super::make::{machine, sow};
use super::serve::{ASKED_WITHIN, ask, silent, verifier};
use super::session::begin;
use super::{Databases, limit, new_password, new_role, of_store};
use crate::{failure, system};

/// How long after a create more are expected.
const WANTED_FOR: Duration = Duration::from_secs(600);
/// How long what is there is left alone between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a create and what follows it get before another one is made beside them.
const QUIET_FOR: Duration = Duration::from_secs(2);
/// How long after one could not be made the next is tried.
const AGAIN_AFTER: Duration = Duration::from_secs(30);
/// LIMIT: memory in MiB that must be free beside what the node keeps back; one takes a third of it.
const ROOM_MIB: u64 = 192;
/// What is made ahead.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Of which size, and when it was asked for last.
    wanted: Option<(Size, Instant)>,
    made: Vec<Made>,
    /// Whether somebody looks after it.
    kept: bool,
}

/// A database that is nobody's yet.
pub(super) struct Made {
    machine: SandboxHandle,
    pub(super) role: LoginRole,
    pub(super) password: String,
    session: Session,
}

impl fmt::Debug for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without its password.
        f.debug_struct("Made").field("sandbox", &self.sandbox()).finish_non_exhaustive()
    }
}

impl Made {
    /// Its machine.
    pub(super) fn sandbox(&self) -> SandboxId {
        self.machine.facts().id
    }

    fn is_good(&self, size: Size) -> bool {
        self.machine.facts().size == size
            && self.machine.view().phase == Phase::Running
            && self.session.is_open()
    }
}

impl Databases {
    /// One of `size`, if there is one.
    pub(super) fn take_made(&self, size: Size) -> Option<Made> {
        let made = &mut self.lock().ahead.made;
        let at = made.iter().position(|one| one.is_good(size))?;
        Some(made.swap_remove(at))
    }

    /// How many there are.
    pub(super) fn count_made(&self) -> usize {
        self.lock().ahead.made.len()
    }

    /// Puts back one that was taken, as it was.
    pub(super) fn put_back(&self, made: Made) {
        self.lock().ahead.made.push(made);
    }

    /// Makes one that was taken the database `row`; `password` is set where it is not the one it has.
    pub(super) async fn give(
        &self,
        row: &DatabaseRow,
        made: Made,
        (quota, lease): (Quota, Lease),
        seed: Option<&str>,
    ) -> Result<(), Failure> {
        // Asked for before the machine is the project's, so that no daemon finds a machine that is nobody's.
        let remembered = self.0.store.database_insert(row.clone());
        let own = made.password == row.password;
        let verifying = (!own).then(|| verifier(row.password.clone()));
        let name = Some(row.name.clone());
        let given = self.0.host.give(made.sandbox(), (row.project, &quota), name, lease).await;
        let machine = given.map_err(|error| failure::of_order(&error))?;
        remembered.await.map_err(|error| of_store(&error))?;
        let mut sql = extensions(&row.extensions);
        if let Some(verifying) = verifying {
            sql.push_str(&set_password(made.role, &verifying.await?));
        }
        if !sql.is_empty() {
            ask(&machine, &sql).await?;
        }
        limit::set(&machine, row.disk_mib).await?;
        if let Some(seed) = seed {
            sow(&machine, made.role, seed).await?;
        }
        let ready = self.0.store.database_set_ready(row.id).await;
        ready.map_err(|error| of_store(&error))?;
        self.entry(row.id)?.waiting.put(machine.facts().id, made.session).await;
        Ok(())
    }

    /// Expects that more of `size` will be wanted.
    pub(super) fn expect(&self, size: Size) {
        if self.0.ahead_max == 0 {
            return;
        }
        let is_kept = {
            let ahead = &mut self.lock().ahead;
            ahead.wanted = Some((size, Instant::now()));
            std::mem::replace(&mut ahead.kept, true)
        };
        if is_kept {
            return;
        }
        let (weak, stop) = (Arc::downgrade(&self.0), self.0.stop.clone());
        let working = async move {
            loop {
                sleep(LOOK_EVERY).await;
                let Some(shared) = weak.upgrade() else { return };
                match Self(shared).look().await {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(failure) => {
                        tracing::warn!("no database is made ahead: {}", failure.message);
                        sleep(AGAIN_AFTER).await;
                    }
                }
            }
        };
        tokio::spawn(async move { stop.run_until_cancelled(working).await });
    }

    /// Removes what is not wanted, and makes one that is; says whether to look again.
    async fn look(&self) -> Result<bool, Failure> {
        let room = self.0.host.has_room(ROOM_MIB);
        let (gone, wanted) = {
            let ahead = &mut self.lock().ahead;
            let wanted = ahead.wanted.filter(|(_, since)| since.elapsed() < WANTED_FOR);
            let size = wanted.map(|(size, _)| size);
            let keep = |one: &mut Made| room && size.is_some_and(|size| one.is_good(size));
            let gone: Vec<Made> = ahead.made.extract_if(.., |one| !keep(one)).collect();
            ahead.kept = wanted.is_some();
            let quiet = wanted.is_some_and(|(_, since)| since.elapsed() > QUIET_FOR);
            let more = room && quiet && ahead.made.len() < self.0.ahead_max;
            (gone, size.map(|size| more.then_some(size)))
        };
        for one in gone {
            one.machine.kill().await;
        }
        let Some(size) = wanted else { return Ok(false) };
        if let Some(size) = size {
            let made = self.make_one(size).await?;
            self.put_back(made);
        }
        Ok(true)
    }

    /// Makes one of `size`.
    async fn make_one(&self, size: Size) -> Result<Made, Failure> {
        let bits = u64::from_le_bytes(system::random()?);
        let (role, password) = (new_role()?, new_password()?);
        let verifying = verifier(password.clone());
        let lease = Lease { timeout_s: 0, idle_timeout_s: 0, on_timeout: OnTimeout::Pause };
        let id = SandboxId::from_bits(bits);
        let spec = machine(id, (ProjectId::NODE, WHOLE_NODE), None, size, lease);
        let machine = self.0.host.create(spec).await.map_err(|error| failure::of_create(&error))?;
        let furnishing = async {
            ask(&machine, &new_login(role, &verifying.await?, Rights::ReadWrite)).await?;
            begin(&machine, role).await.ok_or_else(|| silent(ASKED_WITHIN))
        };
        match furnishing.await {
            Ok(session) => Ok(Made { machine, role, password, session }),
            Err(failure) => {
                machine.kill().await;
                Err(failure)
            }
        }
    }

    /// Removes all that is made ahead. More is made when a database is.
    pub(crate) async fn drop_made(&self) {
        let made = {
            let ahead = &mut self.lock().ahead;
            ahead.wanted = None;
            std::mem::take(&mut ahead.made)
        };
        for one in made {
            one.machine.kill().await;
        }
    }
}
