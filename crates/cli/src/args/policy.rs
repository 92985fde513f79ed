//! `policy`: what a sandbox may reach, and what it reached.

use api_node::{Base, Policy, Rule};
use base_types::SandboxId;
use clap::{Args as ClapArgs, Subcommand, ValueEnum};

use super::{Choice, Format};

/// `sandflare policy`
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Show what a sandbox may reach.
    #[command(after_help = "\
Example:
  sandflare policy get sbx_0123456789abcdef -o json")]
    Get(Choice),
    /// Change what a sandbox may reach; it holds at once.
    Set(SetPolicy),
    /// Show what a sandbox reached, and what it was denied.
    Log(PolicyLog),
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  sandflare policy set sbx_0123456789abcdef --base none
  sandflare policy set sbx_0123456789abcdef --base none --allow pypi.org --allow '*.pythonhosted.org:443'
  sandflare policy set sbx_0123456789abcdef --base default --deny 203.0.113.0/24:8000-8090/tcp

The policy is replaced as a whole. A rule is a domain, *.domain (every name below it), an address, a CIDR
or *, then perhaps :PORT or :PORT-PORT, then perhaps /tcp or /udp. What `--deny` names is denied whatever
else is said; then comes --allow, then --base. This machine, other sandboxes and private addresses are
never reached.")]
pub(crate) struct SetPolicy {
    /// The sandbox.
    pub(crate) id: SandboxId,
    #[command(flatten)]
    pub(crate) policy: PolicyOptions,
    #[command(flatten)]
    pub(crate) format: Format,
}

/// A policy, of which something is said.
#[derive(Debug, ClapArgs)]
#[group(required = true, multiple = true)]
pub(crate) struct PolicyOptions {
    /// What holds where no rule does: nothing is reached, or the internet is [default: default].
    #[arg(long, value_enum)]
    base: Option<BaseName>,
    /// Let it reach this. May be repeated.
    #[arg(long, value_name = "RULE")]
    allow: Vec<Rule>,
    /// Do not let it reach this. May be repeated.
    #[arg(long, value_name = "RULE")]
    deny: Vec<Rule>,
}

impl From<PolicyOptions> for Policy {
    fn from(PolicyOptions { base, allow, deny }: PolicyOptions) -> Self {
        Self { base: base.map(Base::from).unwrap_or_default(), allow, deny }
    }
}

/// The network of a sandbox that is made; nothing said is the node's default.
#[derive(Debug, ClapArgs)]
pub(crate) struct NetworkOptions {
    /// What it reaches where no rule says otherwise: nothing, or the internet [default: default].
    #[arg(long, value_enum)]
    network: Option<BaseName>,
    /// Let it reach this, such as pypi.org, '*.example.com:443' or 203.0.113.0/24. May be repeated.
    #[arg(long, value_name = "RULE")]
    allow: Vec<Rule>,
    /// Do not let it reach this. May be repeated.
    #[arg(long, value_name = "RULE")]
    deny: Vec<Rule>,
}

impl NetworkOptions {
    /// The policy, if one was named.
    pub(crate) fn policy(self) -> Option<Policy> {
        let Self { network, allow, deny } = self;
        let said = network.is_some() || !allow.is_empty() || !deny.is_empty();
        said.then(|| Policy { base: network.map(Base::from).unwrap_or_default(), allow, deny })
    }
}

/// What holds where no rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum BaseName {
    None,
    Default,
}

impl From<BaseName> for Base {
    fn from(name: BaseName) -> Self {
        match name {
            BaseName::None => Self::None,
            BaseName::Default => Self::Default,
        }
    }
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  sandflare policy log sbx_0123456789abcdef                   the newest flows and denials
  sandflare policy log sbx_0123456789abcdef --after 41 -o json   those after number 41

The node keeps the newest thousand of a sandbox; `sandflare audit log` has all of them.")]
pub(crate) struct PolicyLog {
    /// The sandbox.
    pub(crate) id: SandboxId,
    /// Those after the one with this number [default: the newest].
    #[arg(long, value_name = "INDEX")]
    pub(crate) after: Option<u64>,
    /// At most this many.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) limit: u32,
    #[command(flatten)]
    pub(crate) format: Format,
}
