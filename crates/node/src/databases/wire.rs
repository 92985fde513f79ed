//! Letting sandboxes use databases, and no more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api_node::{ErrorCode, Failure, WireDatabase, WireRole, Wired};
use base_types::{DatabaseId, SandboxId};
use node_database::{
    Address, DATABASE, DIRECT_PORT, POOLED_PORT, Rights, drop_login, new_login, shut_out,
};
use node_store::WiringRow;
use tokio_util::sync::CancellationToken;

use super::serve::{ask, role, verifier};
use super::{Databases, Wiring, host_name, new_password, new_role, of_store};

/// LIMIT: databases of one sandbox; each has an address of its own.
const WIRINGS_MAX: usize = 32;

impl Databases {
    /// What a sandbox is wired to, by name.
    pub(super) fn wired(&self, sandbox: SandboxId) -> Vec<Wired> {
        let state = self.lock();
        let of_sandbox = state.wirings.range((sandbox, FIRST)..=(sandbox, LAST));
        let mut all: Vec<Wired> = of_sandbox
            .filter_map(|((_, database), wiring)| {
                let entry = state.databases.get(database)?;
                Some(shown(&entry.row.name, &wiring.row))
            })
            .collect();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    }

    /// `env` of a process in a sandbox, with the variables of what is wired to it. Those of the process win.
    pub(crate) fn with_wired(
        &self,
        sandbox: SandboxId,
        env: BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        let mut all: BTreeMap<_, _> =
            self.wired(sandbox).into_iter().flat_map(|wired| wired.env).collect();
        all.extend(env);
        all
    }

    /// Lets a sandbox use a database.
    pub(super) async fn wire(
        &self,
        sandbox: SandboxId,
        id: DatabaseId,
        request: WireDatabase,
    ) -> Result<Wired, Failure> {
        let read_only = request.role == WireRole::ReadOnly;
        let turn = self.turn(sandbox);
        let _turn = turn.lock().await;
        let (entry, machine, changing) = self.held(id).await?;
        let present = self.lock().wirings.get(&(sandbox, id)).cloned();
        let host = host_name(&entry.row.name);
        let number = self.number(sandbox, id, &request.env, &host)?;
        match present {
            // One that is cut is what an unwiring left that did not come to its end.
            Some(Wiring { row, open })
                if (row.read_only, &row.env) == (read_only, &request.env)
                    && !open.is_cancelled() =>
            {
                return Ok(shown(&entry.row.name, &row));
            }
            Some(_) => self.unwire_now(sandbox, id).await?,
            None => {}
        }
        let (role, password) = (new_role()?, new_password()?);
        let rights = if read_only { Rights::ReadOnly } else { Rights::ReadWrite };
        ask(&machine, &new_login(role, &verifier(password.clone()).await?, rights)).await?;
        let user = role.to_string();
        let row = WiringRow {
            sandbox,
            database: id,
            env: request.env,
            host,
            read_only,
            user,
            password,
            number,
        };
        let wired = shown(&entry.row.name, &row);
        self.keep_wiring(row).await?;
        drop(changing);
        Ok(wired)
    }

    /// Lets a sandbox in that has a role already.
    pub(super) async fn keep_wiring(&self, row: WiringRow) -> Result<(), Failure> {
        let (sandbox, id) = (row.sandbox, row.database);
        self.0.store.wiring_set(row.clone()).await.map_err(|error| of_store(&error))?;
        let wiring = Wiring { row, open: CancellationToken::new() };
        {
            let mut state = self.lock();
            // It may have been deleted meanwhile, and its wirings with it.
            if !state.databases.contains_key(&id) {
                return Err(Failure::no_database(&id.to_string()));
            }
            state.wirings.insert((sandbox, id), wiring);
        }
        self.unwire_at_end(sandbox, id);
        Ok(())
    }

    /// What whoever wires a sandbox holds.
    fn turn(&self, sandbox: SandboxId) -> Arc<tokio::sync::Mutex<()>> {
        let mut state = self.lock();
        state.turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        state.turns.entry(sandbox).or_default().clone()
    }

    /// An address for database `id` of a sandbox, whose variables and host are to have these names. What
    /// it has already of that database does not count.
    fn number(
        &self,
        sandbox: SandboxId,
        id: DatabaseId,
        env: &str,
        host: &str,
    ) -> Result<u8, Failure> {
        let state = self.lock();
        let of_sandbox = state.wirings.range((sandbox, FIRST)..=(sandbox, LAST));
        let others = of_sandbox.filter(|((_, database), _)| *database != id);
        let rows: Vec<&WiringRow> = others.map(|(_, wiring)| &wiring.row).collect();
        if rows.len() >= WIRINGS_MAX {
            let message =
                format!("{sandbox} is wired to {WIRINGS_MAX} databases, as many as it can");
            return Err(Failure::new(ErrorCode::Conflict, message));
        }
        if rows.iter().any(|row| row.env == env) {
            let message = format!("`{env}` of {sandbox} is another database's");
            return Err(Failure::new(ErrorCode::Conflict, message)
                .with_hint("choose another `env`, or unwire that one first"));
        }
        if rows.iter().any(|row| row.host == host) {
            let message = format!("`{host}` of {sandbox} is another database's, a fork");
            return Err(
                Failure::new(ErrorCode::Conflict, message).with_hint("unwire that one first")
            );
        }
        let taken: BTreeSet<u8> = rows.iter().map(|row| row.number).collect();
        let free = (1..=u8::MAX - 1).find(|number| !taken.contains(number));
        free.ok_or_else(|| Failure::new(ErrorCode::Conflict, "no address is left"))
    }

    /// Lets a sandbox use a database no more.
    pub(super) async fn unwire(&self, sandbox: SandboxId, id: DatabaseId) -> Result<(), Failure> {
        let entry = self.entry(id)?;
        let _changing = entry.changing.lock().await;
        if !self.lock().wirings.contains_key(&(sandbox, id)) {
            let message = format!("{sandbox} is not wired to `{}`", entry.row.name);
            return Err(Failure::new(ErrorCode::NotFound, message));
        }
        self.unwire_now(sandbox, id).await
    }

    /// As [`Self::unwire`], by whoever holds its lock. When the server cannot be asked, the sandbox is cut
    /// off all the same, and the next try or daemon drops the role.
    async fn unwire_now(&self, sandbox: SandboxId, id: DatabaseId) -> Result<(), Failure> {
        let Some(wiring) = self.lock().wirings.get(&(sandbox, id)).cloned() else { return Ok(()) };
        wiring.open.cancel();
        let (_, machine) = self.awake(id).await?;
        let role = role(&wiring.row.user)?;
        ask(&machine, &shut_out(role)).await?;
        ask(&machine, &drop_login(role)).await?;
        let forgotten = self.0.store.wiring_delete(sandbox, id).await;
        forgotten.map_err(|error| of_store(&error))?;
        self.lock().wirings.remove(&(sandbox, id));
        Ok(())
    }

    /// Unwires a sandbox when it is over.
    pub(super) fn unwire_at_end(&self, sandbox: SandboxId, id: DatabaseId) {
        let handle = self.0.host.sandbox(sandbox);
        let open = self.lock().wirings.get(&(sandbox, id)).map(|wiring| wiring.open.clone());
        let (weak, stop) = (Arc::downgrade(&self.0), self.0.stop.clone());
        let Some(open) = open else { return };
        tokio::spawn(async move {
            let ended = async {
                if let Some(handle) = &handle {
                    handle.ended().await;
                }
            };
            tokio::select! {
                // Those that stopped with the node are unwired by the next one.
                () = stop.cancelled() => return,
                // Wired anew, or unwired, and so somebody else's.
                () = open.cancelled() => return,
                () = ended => {}
            }
            let Some(shared) = weak.upgrade() else { return };
            if let Err(error) = Self(shared).unwire(sandbox, id).await {
                tracing::warn!(%sandbox, database = %id, "its role could not be dropped: {error}");
            }
        });
    }
}

const FIRST: DatabaseId = DatabaseId::from_bits(0);
const LAST: DatabaseId = DatabaseId::from_bits(u64::MAX);

fn shown(name: &str, row: &WiringRow) -> Wired {
    let role = if row.read_only { WireRole::ReadOnly } else { WireRole::ReadWrite };
    Wired { id: row.database, name: name.to_owned(), role, env: variables(row) }
}

/// The variables that tell a process how it gets in.
fn variables(row: &WiringRow) -> BTreeMap<String, String> {
    let host = row.host.clone();
    let url = |port| {
        let (user, password) = (row.user.as_str(), row.password.as_str());
        Address { user, password, host: &host, port, database: DATABASE }.url()
    };
    let mut env = BTreeMap::from([
        (row.env.clone(), url(POOLED_PORT)),
        (format!("{}_UNPOOLED", row.env), url(DIRECT_PORT)),
    ]);
    if row.env == WireDatabase::ENV_DEFAULT {
        let more = [
            ("POSTGRES_URL", url(POOLED_PORT)),
            ("PGHOST", host.clone()),
            ("PGPORT", DIRECT_PORT.to_string()),
            ("PGUSER", row.user.clone()),
            ("PGPASSWORD", row.password.clone()),
            ("PGDATABASE", DATABASE.to_owned()),
        ];
        env.extend(more.map(|(name, value)| (name.to_owned(), value)));
    }
    env
}

#[cfg(test)]
mod test {
    use super::*;

    fn row(env: &str) -> WiringRow {
        WiringRow {
            sandbox: SandboxId::from_bits(1),
            database: DatabaseId::from_bits(2),
            env: env.to_owned(),
            host: host_name("Memory"),
            read_only: false,
            user: "u000000000001".to_owned(),
            password: "p:w".to_owned(),
            number: 1,
        }
    }

    #[test]
    fn the_default_variable_brings_all_others_along_and_another_only_its_own() {
        let all = variables(&row("DATABASE_URL"));
        let names: Vec<&str> = all.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "DATABASE_URL",
                "DATABASE_URL_UNPOOLED",
                "PGDATABASE",
                "PGHOST",
                "PGPASSWORD",
                "PGPORT",
                "PGUSER",
                "POSTGRES_URL"
            ]
        );
        let pooled = "postgresql://u000000000001:p%3Aw@memory.db.internal:6432/main";
        assert_eq!(all["DATABASE_URL"], pooled);
        assert_eq!(all["PGPASSWORD"], "p:w");
        let other = variables(&row("OTHER"));
        assert_eq!(other.keys().collect::<Vec<_>>(), ["OTHER", "OTHER_UNPOOLED"]);
    }
}
