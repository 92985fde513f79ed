//! What a sandbox may reach: its policy, which whoever carries its packets follows.

use std::sync::Arc;

use api_node::{Base, Policy};
use base_types::SandboxId;
use node_store::{Store, StoreError};
use tokio::sync::{Mutex, watch};

use super::SandboxHandle;

/// Why a sandbox has no other policy.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// It is not remembered, and its policy not with it.
    #[error("the sandbox is still being made, or is being destroyed; ask again when it runs")]
    Unknown,
    /// It could not be written down.
    #[error("remember what the sandbox may reach")]
    Store(#[source] StoreError),
    /// The node is stopping.
    #[error("the node is shutting down")]
    Stopping,
}

/// The policy of one sandbox, and the changes of it. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Network(Arc<Changing>);

#[derive(Debug)]
struct Changing {
    policy: watch::Sender<Arc<Policy>>,
    /// Held by whoever changes it: what is remembered last is what holds.
    turn: Mutex<()>,
}

impl Network {
    pub(crate) fn new(policy: Policy) -> Self {
        let policy = watch::Sender::new(Arc::new(policy));
        Self(Arc::new(Changing { policy, turn: Mutex::new(()) }))
    }

    pub(crate) fn policy(&self) -> Arc<Policy> {
        self.0.policy.borrow().clone()
    }

    /// The policy as it is, and every later one.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Policy>> {
        self.0.policy.subscribe()
    }

    /// Gives it another policy, when that is remembered.
    pub(crate) async fn set(
        &self,
        id: SandboxId,
        store: &Store,
        policy: Policy,
    ) -> Result<(), PolicyError> {
        let _turn = self.0.turn.lock().await;
        let kept = store.sandbox_set_network(id, written(&policy)).await;
        if !kept.map_err(PolicyError::Store)? {
            return Err(PolicyError::Unknown);
        }
        self.0.policy.send_replace(Arc::new(policy));
        Ok(())
    }
}

/// A policy as it is remembered.
pub(crate) fn written(policy: &Policy) -> String {
    serde_json::to_string(policy).expect("a policy is texts in lists")
}

/// A policy that was remembered. One that cannot be read is that nothing is reached: what it took from
/// the sandbox must not be open.
pub(crate) fn read(id: SandboxId, text: &str) -> Policy {
    serde_json::from_str(text).unwrap_or_else(|error| {
        tracing::error!(sandbox = %id, "it reaches nothing, as its policy cannot be read: {error}");
        nothing()
    })
}

/// That nothing is reached.
pub(crate) fn nothing() -> Policy {
    Policy { base: Base::None, ..Policy::default() }
}

impl SandboxHandle {
    /// What it may reach.
    pub fn policy(&self) -> Arc<Policy> {
        self.network.policy()
    }

    /// What it may reach, and every change of that.
    pub fn policy_watch(&self) -> watch::Receiver<Arc<Policy>> {
        self.network.watch()
    }

    pub(crate) fn network_to_change(&self) -> Network {
        self.network.clone()
    }
}

#[cfg(test)]
mod test {
    use super::super::ports::test::row;
    use super::*;

    fn policy(text: &str) -> Policy {
        serde_json::from_str(text).unwrap()
    }

    #[tokio::test]
    async fn a_policy_is_remembered_before_it_holds() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("node.db")).unwrap();
        let (id, network) = (SandboxId::from_bits(1), Network::new(Policy::default()));
        let mut watch = network.watch();
        let narrow = policy(r#"{"base": "none", "allow": ["pypi.org:443", "198.51.100.7/udp"]}"#);
        // Of a sandbox that is not remembered nothing is, so nothing changes.
        let refused = network.set(id, &store, narrow.clone()).await;
        assert!(matches!(refused, Err(PolicyError::Unknown)), "{refused:?}");
        assert_eq!((&*network.policy(), watch.has_changed().unwrap()), (&Policy::default(), false));

        store.sandbox_insert(row(id)).await.unwrap();
        network.set(id, &store, narrow.clone()).await.unwrap();
        assert!(watch.has_changed().unwrap());
        assert_eq!(**watch.borrow_and_update(), narrow);
        let rows = store.sandbox_list().await.unwrap();
        assert_eq!(read(id, &rows[0].network), narrow);
    }

    #[tokio::test]
    async fn what_is_remembered_last_is_what_holds() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("node.db")).unwrap();
        let (id, network) = (SandboxId::from_bits(1), Network::new(Policy::default()));
        store.sandbox_insert(row(id)).await.unwrap();
        let mut setting = tokio::task::JoinSet::new();
        for port in 1..=20 {
            let (network, store) = (network.clone(), store.clone());
            let policy = policy(&format!(r#"{{"deny": ["*:{port}"]}}"#));
            setting.spawn(async move { network.set(id, &store, policy).await });
        }
        while let Some(set) = setting.join_next().await {
            set.unwrap().unwrap();
        }
        let rows = store.sandbox_list().await.unwrap();
        assert_eq!(read(id, &rows[0].network), *network.policy());
    }

    #[test]
    fn a_policy_that_cannot_be_read_opens_nothing() {
        let id = SandboxId::from_bits(1);
        for text in ["", "null", r#"{"base": "all"}"#, r#"{"allow": ["no rule"]}"#] {
            assert_eq!(read(id, text), nothing(), "{text}");
        }
        assert_eq!(read(id, &written(&Policy::default())), Policy::default());
    }
}
