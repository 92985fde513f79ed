//! What goes along with a request and its answer for those who watch from outside.

use base_types::SandboxId;

use crate::Sandbox;

/// Names a request in the answer, the node's log and the audit log. Whoever is outermost gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(String);

impl RequestId {
    /// A new one.
    pub fn random() -> Self {
        let mut bits = [0; 8];
        // Without randomness the id only fails to tell requests apart; the request itself can go on.
        let _ = getrandom::fill(&mut bits);
        Self(format!("req_{:016x}", u64::from_be_bytes(bits)))
    }

    /// It, as it is written everywhere.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a handler wants the audit log to say, where the path does not. Never what may be secret:
/// of a command its program, of a file its path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// What was made or changed.
    pub object: Option<String>,
    /// More, for people.
    pub detail: Option<String>,
}

impl Noted {
    /// That this was made.
    pub fn made(object: impl ToString) -> Self {
        Self { object: Some(object.to_string()), detail: None }
    }

    /// That this program was started.
    pub fn program(argv: &[String]) -> Self {
        Self { object: None, detail: argv.first().map(|program| format!("program {program}")) }
    }

    /// That this is more.
    pub fn detail(detail: String) -> Self {
        Self { object: None, detail: Some(detail) }
    }
}

/// In a request's extensions: that it is for a program in a sandbox, not for the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtPort {
    /// The sandbox, if there is one of that id.
    pub sandbox: SandboxId,
    /// The port.
    pub port: u16,
}

/// What sandboxes were made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A template.
    Template,
    /// A snapshot somebody kept.
    Snapshot,
    /// A moment of another sandbox.
    Fork,
}

/// Sandboxes that were made, in the answer's extensions.
#[derive(Clone, Debug)]
pub struct Made {
    /// What from.
    pub from: Origin,
    /// They.
    pub sandboxes: Vec<Sandbox>,
}
