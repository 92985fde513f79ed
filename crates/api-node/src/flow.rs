//! What went between a sandbox and the world outside, and what was not let out.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::check::{Check, Refused, refuse};

/// LIMIT: flows in one answer; some hundred KiB.
pub const FLOW_LIMIT_MAX: u32 = 1000;

/// One connection, exchange or question of a sandbox, when it is over, or that it was denied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Flow {
    /// When it began, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The name that was asked for, or whose answer gave the address; absent when no name did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where to; absent for a question of DNS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(value_type = Option<String>, example = "203.0.113.7"))]
    pub address: Option<Ipv4Addr>,
    /// At which port, where there are ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// How.
    pub protocol: FlowProtocol,
    /// Whether it was let out.
    pub verdict: Verdict,
    /// What decided that: a rule of the policy, its base, or what is never reached.
    pub reason: String,
    /// Bytes that left the sandbox, without headers.
    pub bytes_up: u64,
    /// Bytes that came back.
    pub bytes_down: u64,
    /// How long it was.
    pub duration_ms: u64,
    /// How many it stands for: the same denial again within a short time is told once.
    #[serde(default = "one")]
    pub count: u64,
}

const fn one() -> u64 {
    1
}

/// What carried a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum FlowProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// An echo request.
    Icmp,
    /// A question to the gateway's resolver.
    Dns,
    /// Anything else; denied.
    #[serde(other)]
    Other,
}

impl FlowProtocol {
    /// The protocol as it is written in a response.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
            Self::Dns => "dns",
            Self::Other => "other",
        }
    }
}

/// Whether something was let out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It was.
    Allowed,
    /// It was not.
    Denied,
}

impl Verdict {
    /// The verdict as it is written in a response.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
        }
    }
}

/// A flow and its place in the sandbox's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct FlowEntry {
    /// Its place; the first since the node began to serve the sandbox is 0.
    pub index: u64,
    /// What there was.
    #[serde(flatten)]
    pub flow: Flow,
}

/// Which flows are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "server", into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct FlowQuery {
    /// Those after the flow with this index; without it, the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// At most this many, 1 to 1000. Default: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", param(minimum = 1, maximum = 1000))]
    pub limit: Option<u32>,
}

impl Check for FlowQuery {
    fn check(&self) -> Result<(), Refused> {
        if self.limit.is_some_and(|limit| !(1..=FLOW_LIMIT_MAX).contains(&limit)) {
            return refuse(format!("`limit` must be 1 to {FLOW_LIMIT_MAX}"));
        }
        if self.after.is_some_and(|after| i64::try_from(after).is_err()) {
            return refuse("`after` must be below 2^63");
        }
        Ok(())
    }
}

/// Some flows of a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct FlowList {
    /// Oldest first. The node keeps the newest of a sandbox; all of them are in its audit log.
    pub flows: Vec<FlowEntry>,
    /// Whether there are more after the last of them.
    pub more: bool,
}

impl FlowList {
    /// The part of `all`, which is in order, that `query` asks for.
    pub fn page<'a>(
        all: impl ExactSizeIterator<Item = &'a FlowEntry> + DoubleEndedIterator,
        query: &FlowQuery,
    ) -> Self {
        let limit = query.limit.unwrap_or(100) as usize;
        let Some(after) = query.after else {
            let older = all.len().saturating_sub(limit);
            return Self { flows: all.skip(older).cloned().collect(), more: false };
        };
        let mut later = all.filter(|entry| entry.index > after);
        let flows = later.by_ref().take(limit).cloned().collect();
        Self { flows, more: later.next().is_some() }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn entry(index: u64) -> FlowEntry {
        let flow = Flow {
            at_ms: 1_000,
            name: Some("pypi.org".into()),
            address: Some([203, 0, 113, 7].into()),
            port: Some(443),
            protocol: FlowProtocol::Tcp,
            verdict: Verdict::Allowed,
            reason: "allow pypi.org".into(),
            bytes_up: 10,
            bytes_down: 20,
            duration_ms: 30,
            count: 1,
        };
        FlowEntry { index, flow }
    }

    #[test]
    fn a_flow_is_flat_and_says_only_what_it_has() {
        let shown = serde_json::to_value(entry(7)).unwrap();
        assert_eq!((&shown["index"], &shown["address"]), (&7.into(), &"203.0.113.7".into()));
        assert_eq!(serde_json::from_value::<FlowEntry>(shown).unwrap(), entry(7));
        let mut question = entry(8);
        (question.flow.address, question.flow.port) = (None, None);
        let shown = serde_json::to_string(&question).unwrap();
        assert!(!shown.contains("address") && !shown.contains("port\""), "{shown}");
    }

    #[test]
    fn flows_are_the_newest_or_those_after_one() {
        let all: Vec<_> = (100..200).map(entry).collect();
        let page = |after, limit| {
            let page = FlowList::page(all.iter(), &FlowQuery { after, limit });
            (page.flows.iter().map(|entry| entry.index).collect::<Vec<_>>(), page.more)
        };
        assert_eq!(page(None, Some(2)), (vec![198, 199], false));
        assert_eq!(page(None, None).0.len(), 100);
        assert_eq!(page(Some(0), Some(2)), (vec![100, 101], true));
        assert_eq!(page(Some(101), Some(2)), (vec![102, 103], true));
        assert_eq!(page(Some(197), Some(2)), (vec![198, 199], false));
        assert_eq!(page(Some(199), None), (vec![], false));
    }

    #[test]
    fn only_so_many_are_asked_for_at_once() {
        for limit in [0, FLOW_LIMIT_MAX + 1] {
            assert!(FlowQuery { after: None, limit: Some(limit) }.check().is_err(), "{limit}");
        }
        assert!(FlowQuery { after: Some(u64::MAX), limit: None }.check().is_err());
        assert_eq!(FlowQuery::default().check(), Ok(()));
    }
}
