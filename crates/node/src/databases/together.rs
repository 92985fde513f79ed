//! Forks of a sandbox together with the databases it is wired to.
//!
//! ```text
//!   sandbox   ──── stands still ────────────────────── goes on
//!   databases         └─ moment, moment, … ─┘
//! ```
//!
//! The sandbox stands still first and goes on last, so that what it knows of its databases is what is in
//! their moments. Each child is wired to a fork of each, by the name, the address, the role and the
//! password that its parent has: what its processes know stays true, and leads to the child's own.

use api_node::{Failure, ForkDatabases, WireDatabase, WireRole};
use base_types::SandboxId;
use futures_util::future::try_join_all;
use node_host::{CreateSpec, Lease, Moment, SandboxHandle};
use node_store::{DatabaseRow, WiringRow};

use super::branch::branch_of;
use super::serve::role;
use super::{Databases, make};
use crate::failure;

/// LIMIT: bytes of a database's name that the name of a child's fork of it begins with; with what comes
/// after that it is a legal one.
const STEM_BYTES_MAX: usize = 54;

/// A database of the parent, at the moment of the fork.
struct Source {
    row: DatabaseRow,
    wiring: WiringRow,
    lease: Lease,
    moment: Moment,
}

/// What a fork has made so far: gone when it ends before all of it is there.
struct Unfinished {
    databases: Databases,
    children: Vec<SandboxHandle>,
    done: bool,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let (databases, children) = (self.databases.clone(), std::mem::take(&mut self.children));
        tokio::spawn(async move {
            for child in children {
                let id = child.facts().id;
                for wiring in databases.wirings_of(id) {
                    // One that is shared is somebody's.
                    if wiring.host != super::host_name(&databases.name_of(&wiring)) {
                        // It tells the log itself when it cannot be deleted.
                        let _ = databases.delete(wiring.database).await;
                    }
                }
                child.kill().await;
            }
        });
    }
}

impl Databases {
    /// Makes `count` children of `parent`, with what `mode` says of the databases it is wired to. All are
    /// made, or none.
    pub(crate) async fn fork_with(
        &self,
        parent: &SandboxHandle,
        count: usize,
        mode: ForkDatabases,
        spec: CreateSpec,
    ) -> Result<(Vec<SandboxHandle>, u64), Failure> {
        let of_order = |error| failure::of_order(&error);
        let wirings = match mode {
            ForkDatabases::None => Vec::new(),
            ForkDatabases::Share | ForkDatabases::Fork => self.wirings_of(parent.facts().id),
        };
        let (moment, sources) = match mode {
            ForkDatabases::Fork => self.moments(parent, wirings.clone()).await?,
            ForkDatabases::None | ForkDatabases::Share => {
                (self.0.host.moment(parent).await.map_err(of_order)?, Vec::new())
            }
        };
        let children =
            self.0.host.children(&moment, count, spec.clone()).await.map_err(of_order)?;
        let mut unfinished =
            Unfinished { databases: self.clone(), children: children.clone(), done: false };
        match mode {
            ForkDatabases::None => {}
            ForkDatabases::Share => {
                for child in &children {
                    for wiring in &wirings {
                        self.wire(child.facts().id, wiring.database, again(wiring)).await?;
                    }
                }
            }
            ForkDatabases::Fork => {
                let each = children.iter().flat_map(|child| {
                    let child = child.facts().id;
                    sources.iter().map(move |source| (child, source))
                });
                let growing = each.map(|(child, source)| self.grow_for(child, source, &spec));
                try_join_all(growing).await?;
            }
        }
        unfinished.done = true;
        Ok((children, moment.held_us))
    }

    /// How many databases a sandbox is wired to.
    pub(crate) fn count_of(&self, sandbox: SandboxId) -> usize {
        self.wirings_of(sandbox).len()
    }

    /// What a sandbox is wired to, in the order of the databases.
    fn wirings_of(&self, sandbox: SandboxId) -> Vec<WiringRow> {
        let state = self.lock();
        let of = state.wirings.values().filter(|one| one.row.sandbox == sandbox);
        of.filter(|one| !one.open.is_cancelled()).map(|one| one.row.clone()).collect()
    }

    fn name_of(&self, wiring: &WiringRow) -> String {
        self.entry(wiring.database).map(|entry| entry.row.name).unwrap_or_default()
    }

    /// The moment of a sandbox, and of the databases it is wired to.
    async fn moments(
        &self,
        parent: &SandboxHandle,
        wirings: Vec<WiringRow>,
    ) -> Result<(Moment, Vec<Source>), Failure> {
        let mut sources = Vec::with_capacity(wirings.len());
        for wiring in wirings {
            // No role comes or goes in the middle of a moment. In the order of the databases, as others
            // may take them at the same time.
            let (entry, machine, changing) = self.held(wiring.database).await?;
            sources.push((wiring, entry.row, machine, changing));
        }
        let machines: Vec<_> = sources.iter().map(|(.., machine, _)| machine.clone()).collect();
        let taken = self.0.host.moment_with(parent, &machines).await;
        let (moment, moments) = taken.map_err(|error| failure::of_order(&error))?;
        let sources = sources.into_iter().zip(moments).map(|(source, moment)| {
            let (wiring, row, machine, _changing) = source;
            Source { row, wiring, lease: machine.view().lease, moment }
        });
        Ok((moment, sources.collect()))
    }

    /// Gives a child its fork of one database.
    async fn grow_for(
        &self,
        child: SandboxId,
        source: &Source,
        spec: &CreateSpec,
    ) -> Result<(), Failure> {
        let Source { row, wiring, lease, moment } = source;
        let stem: String = row.name.chars().take(STEM_BYTES_MAX).collect();
        let row = branch_of(row, format!("{stem}-{:08x}", child.bits() & 0xffff_ffff))?;
        let unfinished = self.begin(&row)?;
        let spec = make::spec(&row, spec.quota, *lease);
        // The child logs in as its parent does.
        let kept = [role(&wiring.user)?];
        self.grow(unfinished, &row, self.child(moment, spec), &kept).await?;
        let wiring = WiringRow { sandbox: child, database: row.id, ..wiring.clone() };
        self.keep_wiring(wiring).await
    }
}

/// The same once more, for another sandbox.
fn again(wiring: &WiringRow) -> WireDatabase {
    let role = if wiring.read_only { WireRole::ReadOnly } else { WireRole::ReadWrite };
    WireDatabase { env: wiring.env.clone(), role }
}
