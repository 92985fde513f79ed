//! `keys` and `projects`.

use api_node::{QuotaChange, Role};
use base_types::KeyId;
use clap::{Args as ClapArgs, Subcommand, ValueEnum};

use super::Format;
use crate::duration::parse_lifetime;

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Make a key and print it: nobody can show it again.
    Create(CreateKeyArgs),
    /// List keys.
    #[command(after_help = "\
Example:
  sandflare keys ls -o json")]
    Ls(Format),
    /// Revoke keys; they stop working at once.
    #[command(after_help = "\
Example:
  sandflare keys rm key_0123456789abcdef

The ids of those revoked are printed; one that is not there does not spare the rest.")]
    Rm(RmKeys),
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  sandflare keys create ci --project team
  sandflare keys create laptop --role admin --expires-in 720h")]
pub(crate) struct CreateKeyArgs {
    /// A name for people.
    pub(crate) name: String,
    /// The project it is for, by name or id [default: that of the key in use].
    #[arg(long)]
    pub(crate) project: Option<String>,
    /// What it is good for.
    #[arg(long, value_enum, default_value = "user")]
    pub(crate) role: RoleName,
    /// Let it stop working after this long, such as 12h or 30d [default: never].
    #[arg(long, value_name = "TIME", value_parser = parse_expiry)]
    pub(crate) expires_in: Option<u32>,
    #[command(flatten)]
    pub(crate) format: Format,
}

/// What a key is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleName {
    /// What belongs to its project.
    User,
    /// Everything on the node.
    Admin,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::User => Self::User,
            RoleName::Admin => Self::Admin,
        }
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RmKeys {
    /// The keys, by id.
    #[arg(required = true)]
    pub(crate) ids: Vec<KeyId>,
    #[command(flatten)]
    pub(crate) format: Format,
}

fn parse_expiry(text: &str) -> Result<u32, String> {
    match parse_lifetime(text)? {
        0 if text != "never" => Err("a key that is over at once is good for nothing".to_owned()),
        seconds => Ok(seconds),
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProjectsCommand {
    /// Make a project and print its id.
    Create(CreateProjectArgs),
    /// Change what a project may use.
    Set(SetProjectArgs),
    /// List projects.
    #[command(after_help = "\
Example:
  sandflare projects ls -o json")]
    Ls(Format),
    /// Delete projects that have no sandboxes and no snapshots, with their keys.
    #[command(after_help = "\
Example:
  sandflare projects rm team

The projects deleted are printed; one that is not there does not spare the rest.")]
    Rm(RmProjects),
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Example:
  sandflare projects create team --sandboxes 30 --memory-mib 65536

Figures that are left out are those of the default plan.")]
pub(crate) struct CreateProjectArgs {
    /// Its name, which no other project has.
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) figures: Figures,
    #[command(flatten)]
    pub(crate) format: Format,
}

/// Figures of a quota.
#[derive(Clone, Copy, Debug, ClapArgs)]
pub(crate) struct Figures {
    /// Sandboxes it may have at once.
    #[arg(long)]
    pub(crate) sandboxes: Option<u64>,
    /// Virtual CPUs of its sandboxes together.
    #[arg(long)]
    pub(crate) vcpus: Option<u64>,
    /// Memory of its sandboxes together, in MiB.
    #[arg(long)]
    pub(crate) memory_mib: Option<u64>,
    /// Disk of its sandboxes together, in MiB.
    #[arg(long)]
    pub(crate) disk_mib: Option<u64>,
    /// Sandboxes it may ask for within a minute.
    #[arg(long)]
    pub(crate) creates_per_minute: Option<u64>,
    /// Snapshots it may keep.
    #[arg(long)]
    pub(crate) snapshots: Option<u64>,
}

impl From<Figures> for QuotaChange {
    fn from(figures: Figures) -> Self {
        let Figures { sandboxes, vcpus, memory_mib, disk_mib, creates_per_minute, snapshots } =
            figures;
        Self { sandboxes, vcpus, memory_mib, disk_mib, creates_per_minute, snapshots }
    }
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Example:
  sandflare projects set team --sandboxes 50 --snapshots 200

Figures that are left out stay as they are. What a project has beyond a figure stays; it makes nothing
new until it is under it again.")]
pub(crate) struct SetProjectArgs {
    /// The project, by name or id.
    pub(crate) project: String,
    #[command(flatten)]
    pub(crate) figures: Figures,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RmProjects {
    /// The projects, by name or id.
    #[arg(required = true)]
    pub(crate) projects: Vec<String>,
    #[command(flatten)]
    pub(crate) format: Format,
}
