//! Who may reach the ports of a sandbox: its token, once somebody has asked for it, and those that are
//! public.

use std::collections::BTreeSet;
use std::sync::Arc;

use api_node::{PUBLIC_PORTS_MAX, PortToken};
use base_types::SandboxId;
use node_store::{PortsRow, Store, StoreError};
use tokio::sync::{Mutex, watch};

use super::SandboxHandle;
use crate::machine::{MachineError, random};

/// Why nothing changed about who may reach the ports of a sandbox.
#[derive(Debug, thiserror::Error)]
pub enum PortsError {
    /// As many are public as may be.
    #[error("the sandbox has {0} public ports, as many as it may have; make one private first")]
    Full(usize),
    /// There was no randomness for a token.
    #[error("make a token for the sandbox")]
    Token(#[source] MachineError),
    /// It is not remembered, and its ports not with it.
    #[error("the sandbox is still being made, or is being destroyed; ask again when it runs")]
    Unknown,
    /// It could not be written down.
    #[error("remember who may reach the sandbox's ports")]
    Store(#[source] StoreError),
    /// The node is stopping.
    #[error("the node is shutting down")]
    Stopping,
}

/// Who may reach the ports of a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortsRule {
    /// Whoever has this; nobody by it when there is none.
    pub token: Option<PortToken>,
    /// Ports that anybody may reach.
    pub public: BTreeSet<u16>,
}

impl From<PortsRow> for PortsRule {
    fn from(row: PortsRow) -> Self {
        Self { token: Some(PortToken::from_bytes(row.token)), public: row.public }
    }
}

/// The rule of one sandbox, and the changes of it. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Ports(Arc<Changing>);

#[derive(Debug)]
struct Changing {
    rule: watch::Sender<PortsRule>,
    /// Held by whoever changes it: what is remembered last is what holds.
    turn: Mutex<()>,
}

impl Ports {
    pub(crate) fn new(rule: PortsRule) -> Self {
        Self(Arc::new(Changing { rule: watch::Sender::new(rule), turn: Mutex::new(()) }))
    }

    fn rule(&self) -> PortsRule {
        self.0.rule.borrow().clone()
    }

    /// Changes the rule, which has a token from then on, when the change is remembered.
    async fn change(
        &self,
        id: SandboxId,
        store: &Store,
        change: impl FnOnce(&mut PortsRule) -> Result<(), PortsError>,
    ) -> Result<PortToken, PortsError> {
        let _turn = self.0.turn.lock().await;
        let before = self.rule();
        let token = match before.token {
            Some(token) => token,
            None => PortToken::from_bytes(random().map_err(PortsError::Token)?),
        };
        let mut rule = PortsRule { token: Some(token), ..before.clone() };
        change(&mut rule)?;
        if rule != before {
            let row = PortsRow { id, token: *token.as_bytes(), public: rule.public.clone() };
            if !store.ports_set(row).await.map_err(PortsError::Store)? {
                return Err(PortsError::Unknown);
            }
            self.0.rule.send_replace(rule);
        }
        Ok(token)
    }

    /// The token, made now if there is none.
    pub(crate) async fn token(
        &self,
        id: SandboxId,
        store: &Store,
    ) -> Result<PortToken, PortsError> {
        self.change(id, store, |_| Ok(())).await
    }

    /// Makes a port public, or private.
    pub(crate) async fn set(
        &self,
        id: SandboxId,
        store: &Store,
        port: u16,
        public: bool,
    ) -> Result<(), PortsError> {
        let change = |rule: &mut PortsRule| {
            if !public {
                rule.public.remove(&port);
            } else if rule.public.contains(&port) || rule.public.len() < PUBLIC_PORTS_MAX {
                rule.public.insert(port);
            } else {
                return Err(PortsError::Full(rule.public.len()));
            }
            Ok(())
        };
        self.change(id, store, change).await.map(drop)
    }
}

impl SandboxHandle {
    /// Who may reach its ports.
    pub fn ports(&self) -> PortsRule {
        self.ports.rule()
    }

    pub(crate) fn ports_to_change(&self) -> Ports {
        self.ports.clone()
    }
}

#[cfg(test)]
pub(super) mod test {
    use base_types::{ProjectId, Size};
    use node_store::{LeaseRow, SandboxRow, StoredState};

    use super::*;

    pub(in crate::sandbox) fn row(id: SandboxId) -> SandboxRow {
        SandboxRow {
            id,
            project: ProjectId::DEFAULT,
            name: None,
            template: "agent".parse().unwrap(),
            size: Size::Nano,
            state: StoredState::Creating,
            created_at_ms: 1,
            reason: None,
            env: [].into(),
            times: String::new(),
            metadata: [].into(),
            snapshot: None,
            lease: LeaseRow::default(),
            network: String::new(),
            secrets: "[]".to_owned(),
            errand: None,
        }
    }

    #[tokio::test]
    async fn ports_of_a_sandbox_that_is_not_remembered_yet_do_not_change() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("node.db")).unwrap();
        let ports = Ports::new(PortsRule::default());
        let id = SandboxId::from_bits(1);
        for refused in
            [ports.set(id, &store, 80, true).await, ports.token(id, &store).await.map(drop)]
        {
            assert!(matches!(refused, Err(PortsError::Unknown)), "{refused:?}");
            assert_eq!(ports.rule(), PortsRule::default());
        }
        store.sandbox_insert(row(id)).await.unwrap();
        ports.set(id, &store, 80, true).await.unwrap();
        assert_eq!(ports.rule().public, [80].into());
    }

    #[tokio::test]
    async fn what_changes_is_remembered_before_it_holds() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("node.db")).unwrap();
        let ports = Ports::new(PortsRule::default());
        let id = SandboxId::from_bits(1);
        store.sandbox_insert(row(id)).await.unwrap();
        assert_eq!(ports.rule().token, None);
        let token = ports.token(id, &store).await.unwrap();
        ports.set(id, &store, 8000, true).await.unwrap();
        let rule = PortsRule { token: Some(token), public: [8000].into() };
        assert_eq!(ports.rule(), rule);
        assert_eq!(ports.token(id, &store).await.unwrap(), token);
        ports.set(id, &store, 8000, false).await.unwrap();
        ports.set(id, &store, 8000, false).await.unwrap();
        assert_eq!(ports.rule(), PortsRule { public: [].into(), ..rule });
        // Another sandbox has another one.
        let other = Ports::new(PortsRule::default());
        let id = SandboxId::from_bits(2);
        store.sandbox_insert(row(id)).await.unwrap();
        assert_ne!(other.token(id, &store).await.unwrap(), token);
    }

    #[tokio::test]
    async fn public_ports_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("node.db")).unwrap();
        let ports = Ports::new(PortsRule::default());
        let id = SandboxId::from_bits(1);
        store.sandbox_insert(row(id)).await.unwrap();
        let most = u16::try_from(PUBLIC_PORTS_MAX).unwrap();
        for port in 1..=most {
            ports.set(id, &store, port, true).await.unwrap();
        }
        ports.set(id, &store, 1, true).await.unwrap();
        let refused = ports.set(id, &store, most + 1, true).await;
        assert!(matches!(refused, Err(PortsError::Full(PUBLIC_PORTS_MAX))), "{refused:?}");
        ports.set(id, &store, 1, false).await.unwrap();
        ports.set(id, &store, most + 1, true).await.unwrap();
    }
}
