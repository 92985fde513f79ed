use api_node::{ErrorCode, Failure};

use crate::decode::DecodeError;

/// Why a node did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address cannot be used.
    #[error("`{url}` is not the address of a node: {reason}")]
    BadUrl {
        /// As given.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The certificates to accept it by cannot be read.
    #[error("read the certificates a node is accepted by")]
    BadCa(#[source] reqwest::Error),
    /// There are none where there should be.
    #[error("the certificates a node is accepted by are none at all")]
    NoCa,
    /// Nobody listens there.
    #[error("no node is running at {url}")]
    NoNode {
        /// Where it was looked for.
        url: String,
        /// What connecting said.
        source: reqwest::Error,
    },
    /// The node answered that it failed, or that the request is wrong.
    #[error("{0}")]
    Refused(Box<Failure>),
    /// The connection broke.
    #[error("the node at {url} did not finish its answer")]
    Broken {
        /// Which node.
        url: String,
        /// What went wrong.
        source: reqwest::Error,
    },
    /// The answer is not one of a node of this kind.
    #[error("the answer of {url} is not that of a sandflare node (status {status})")]
    NotANode {
        /// Which address.
        url: String,
        /// HTTP status it sent.
        status: u16,
    },
    /// The answer has a shape this build does not know.
    #[error("the answer of the node at {url} does not decode")]
    Malformed {
        /// Which node.
        url: String,
        /// Where it does not.
        source: serde_json::Error,
    },
    /// An event of a stream does not decode.
    #[error("an event of the node at {url} does not decode")]
    BadEvent {
        /// Which node.
        url: String,
        /// Why.
        source: DecodeError,
    },
    /// The connection to a process broke, or carried what is no WebSocket.
    #[error("the connection to the process at {url} broke")]
    Socket {
        /// Which node.
        url: String,
        /// What went wrong.
        source: Box<tokio_tungstenite::tungstenite::Error>,
    },
    /// The stream stopped before its last event.
    #[error("the node at {url} went away in the middle of its answer")]
    CutShort {
        /// Which node.
        url: String,
    },
}

impl ClientError {
    /// The code, when the node gave one.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused(failure) => Some(failure.code),
            Self::BadUrl { .. }
            | Self::BadCa(_)
            | Self::NoCa
            | Self::NoNode { .. }
            | Self::Broken { .. }
            | Self::NotANode { .. }
            | Self::Malformed { .. }
            | Self::BadEvent { .. }
            | Self::Socket { .. }
            | Self::CutShort { .. } => None,
        }
    }

    /// What to do about it: a sentence in the imperative, or nothing.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::BadUrl { .. } => Some("use an address such as http://127.0.0.1:7878".into()),
            Self::BadCa(_) | Self::NoCa => Some("give a PEM file with certificates".into()),
            Self::NoNode { .. } => Some("start one with `sandflare up`".into()),
            Self::Refused(failure) => failure.hint.clone(),
            Self::NotANode { .. } => {
                Some("check SANDFLARE_API_URL; another program may have that port".into())
            }
            Self::Malformed { .. } | Self::BadEvent { .. } => {
                Some("use the same version of sandflare on both sides".into())
            }
            Self::Broken { .. } | Self::Socket { .. } | Self::CutShort { .. } => {
                Some("see `sandflare logs` for what happened to the node".into())
            }
        }
    }

    /// Whether nobody listens at the address.
    pub const fn is_no_node(&self) -> bool {
        matches!(self, Self::NoNode { .. })
    }
}
