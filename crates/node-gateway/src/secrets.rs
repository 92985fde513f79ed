use std::sync::Arc;

use api_node::{DomainName, Placeholder, SecretHost, SecretName, SecretValue};

/// The secrets of one sandbox, as they are now: what is set or deleted holds for its next request.
pub trait Secrets: Send + Sync {
    /// All it was granted. Must not block; asked for at each connection and each request.
    fn granted(&self) -> Vec<Granted>;
}

/// One secret a sandbox was granted.
#[derive(Clone, Debug)]
pub struct Granted {
    /// The variable that holds the placeholder.
    pub variable: String,
    /// The secret.
    pub name: SecretName,
    /// What the sandbox has in its place.
    pub placeholder: Placeholder,
    /// Where it may go.
    pub hosts: Arc<[SecretHost]>,
    /// What it says; `None` when it was deleted.
    pub value: Option<SecretValue>,
}

impl Granted {
    /// Whether it may go to this name at this port.
    pub(crate) fn goes_to(&self, name: &DomainName, port: u16) -> bool {
        self.hosts.iter().any(|host| host.covers(name, port))
    }
}

/// Of a sandbox without any.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSecrets;

impl Secrets for NoSecrets {
    fn granted(&self) -> Vec<Granted> {
        Vec::new()
    }
}
