//! `db`: databases, and which sandboxes may use them.

use std::path::PathBuf;
use std::time::Duration;

use api_node::{DATABASE_DISK_MIB_MAX, DATABASE_DISK_MIB_MIN, Outside, QUERY_ROWS_MAX};
use base_types::{SandboxId, Size};
use clap::{Args as ClapArgs, Subcommand};

use super::Format;
use crate::duration::{parse_duration, parse_lifetime};

/// LIMIT: bytes of a database's name, as the node has it; ids are shorter.
const NAME_BYTES_MAX: usize = 63;

/// `sandflare db`
#[derive(Debug, Subcommand)]
pub(crate) enum DbCommand {
    /// Make a database, and print its id.
    Create(CreateDb),
    /// List databases.
    #[command(after_help = "\
Example:
  sandflare db ls -o json")]
    Ls(Format),
    /// Show a database, without its password.
    #[command(after_help = "\
Examples:
  sandflare db get memory
  sandflare db get memory -o json      with its password and addresses, for a program")]
    Get(DbChoice),
    /// Show whether a database answers, what its server counts, and its slowest queries.
    #[command(after_help = "\
Examples:
  sandflare db stats memory
  sandflare db stats memory -o json    with numbers for a program

A paused database is not woken, and shows its status alone.")]
    Stats(DbChoice),
    /// Print the address of a database, with its password.
    Url(DbUrl),
    /// Open a database in this machine's psql.
    Psql(DbPsql),
    /// Run SQL as the database's owner, and print the rows of its last statement.
    Query(DbQuery),
    /// Let a sandbox use a database, and print the names of the variables it gets.
    Wire(WireDb),
    /// Let a sandbox use a database no more; its sessions end.
    #[command(after_help = "\
Example:
  sandflare db unwire sbx_0123456789abcdef memory")]
    Unwire(UnwireDb),
    /// Make a database from a moment of another, and print its id.
    /// Say who may connect to a database by the node's listener for databases.
    Outside(DbOutside),
    Fork(ForkDb),
    /// Write all that is in a database to standard output, as SQL.
    #[command(after_help = "\
Examples:
  sandflare db dump memory > memory.sql
  sandflare db dump memory > all.sql && sandflare db restore other < all.sql

It is what pg_dump writes, without its extensions and who owns what.")]
    Dump(DumpDb),
    /// Keep this moment of a database under a name.
    #[command(after_help = "\
Examples:
  sandflare db snapshot memory before-upgrade
  sandflare db restore memory --snapshot before-upgrade          back to it
  sandflare db fork memory branch --snapshot before-upgrade      another database from it

The snapshot is deleted with the database.")]
    Snapshot(SnapshotDb),
    /// List the snapshots of a database.
    #[command(after_help = "\
Example:
  sandflare db snapshots memory -o json")]
    Snapshots(DbChoice),
    /// Delete snapshots of a database.
    #[command(after_help = "\
Example:
  sandflare db rm-snapshot memory before-upgrade")]
    RmSnapshot(RmDbSnapshots),
    /// Run a dump from standard input in a database, or go back to a snapshot of it.
    Restore(RestoreDb),
    /// Give a database's owner another password; it holds at once.
    Password(DbPassword),
    /// Delete databases, with all that is in them.
    #[command(after_help = "\
Example:
  sandflare db rm memory

The databases deleted are printed; one that is not there does not spare the rest.")]
    Rm(RmDbs),
}

/// A database, and how the answer is printed.
#[derive(Debug, ClapArgs)]
pub(crate) struct DbChoice {
    /// The database, by name or id.
    #[arg(value_parser = parse_name)]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) format: Format,
}

/// A database whose data is the answer.
#[derive(Debug, ClapArgs)]
pub(crate) struct DumpDb {
    /// The database, by name or id.
    #[arg(value_parser = parse_name)]
    pub(crate) name: String,
}

/// A moment of a database to keep.
#[derive(Debug, ClapArgs)]
pub(crate) struct SnapshotDb {
    /// The database, by name or id; it goes on.
    #[arg(value_parser = parse_name)]
    pub(crate) name: String,
    /// What the moment is called.
    #[arg(value_parser = parse_name)]
    pub(crate) snapshot: String,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RmDbSnapshots {
    /// The database, by name or id.
    #[arg(value_parser = parse_name)]
    pub(crate) name: String,
    /// Its snapshots, by name or id.
    #[arg(required = true, value_parser = parse_name)]
    pub(crate) snapshots: Vec<String>,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  sandflare db restore memory < memory.sql
  sandflare db restore memory --snapshot before-upgrade

psql runs a dump as the database's owner, in one transaction: all of it is there then, or nothing. The database
must have the extensions that the dump needs. With `--snapshot` everything is as it was then, but for names,
passwords and wired sandboxes, and what was written since is gone.")]
pub(crate) struct RestoreDb {
    /// The database, by name or id.
    #[arg(value_parser = parse_name)]
    pub(crate) name: String,
    /// Go back to this snapshot, by name or id, and read no dump.
    #[arg(long, value_name = "SNAPSHOT", value_parser = parse_name)]
    pub(crate) snapshot: Option<String>,
    #[command(flatten)]
    pub(crate) format: Format,
}

/// Where a password is, which is never an argument: those are seen by everybody on a machine.
#[derive(Debug, ClapArgs)]
pub(crate) struct PasswordOption {
    /// The owner's password is in this file, without the end of its last line; `-` is standard input
    /// [default: a random one].
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  sandflare db create memory
  sandflare db create memory --size small --extension vector --extension pg_trgm --seed schema.sql
  sandflare db create memory --exist-ok -o json     with its password and addresses, made or found
  sandflare db create scratch --disk-mib 512 --ttl 1h --password-file - < password
  sandflare db create shared --outside 10.0.0.0/8,2001:db8::/32

It takes connections when this returns. `sandflare db url` prints its address.")]
pub(crate) struct CreateDb {
    /// Its name, which no other database of the project has.
    #[arg(value_parser = parse_name)]
    pub(crate) name: String,
    /// nano, micro, small, medium or large.
    #[arg(long, default_value = "nano")]
    pub(crate) size: Size,
    /// Let its data take this much of the disk and no more, 64 to 6144 MiB [default: 6144].
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32)
        .range(i64::from(DATABASE_DISK_MIB_MIN)..=i64::from(DATABASE_DISK_MIB_MAX)))]
    pub(crate) disk_mib: Option<u32>,
    #[command(flatten)]
    pub(crate) password: PasswordOption,
    /// Make this extension in it. May be repeated [default: vector].
    #[arg(long, value_name = "NAME")]
    pub(crate) extension: Vec<String>,
    /// Run the SQL in this file; when it fails there is no database. `-` is standard input.
    #[arg(long, value_name = "FILE")]
    pub(crate) seed: Option<PathBuf>,
    /// Delete it after this long, such as 1h, 7d or never [default: never].
    #[arg(long, value_name = "TIME", value_parser = parse_lifetime)]
    pub(crate) ttl: Option<u32>,
    /// Pause it when nobody used it for this long, such as 10m or never [default: 5m].
    #[arg(long, value_name = "TIME", value_parser = parse_lifetime)]
    pub(crate) idle_timeout: Option<u32>,
    /// Who may connect by the node's listener for databases: off, loopback, or networks with commas between
    /// them [default: loopback].
    #[arg(long, value_name = "WHO")]
    pub(crate) outside: Option<Outside>,
    /// When there is one of this name, answer with that, whatever else is said.
    #[arg(long)]
    pub(crate) exist_ok: bool,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  sandflare db url memory                   by way of the pool, for short transactions
  pg_dump $(sandflare db url memory --direct)

It has the owner's password. `--direct` is for migrations, LISTEN, prepared statements and whatever else
belongs to a session.")]
pub(crate) struct DbUrl {
    /// The database, by name or id.
    #[arg(value_parser = parse_name)]
    pub(crate) name: String,
    /// Print the address without the pool.
    #[arg(long)]
    pub(crate) direct: bool,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  sandflare db outside memory off
  sandflare db outside memory loopback                        programs of the node's own machine
  sandflare db outside memory 10.0.0.0/8 2001:db8::/32 127.0.0.1

It holds at once: sessions of clients that may not connect any more end. Sandboxes that are wired to it stay so.")]
pub(crate) struct DbOutside {
    /// The database, by name or id.
    #[arg(value_parser = parse_name)]
    pub(crate) name: String,
    /// off, loopback, or addresses and CIDRs.
    #[arg(required = true, value_name = "WHO")]
    pub(crate) who: Vec<String>,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  sandflare db psql memory
  sandflare db psql memory -- -c 'SELECT now()'
  sandflare db psql memory -- -f schema.sql

The node must have been started with `--database-listen`. Exit codes are those of psql.")]
pub(crate) struct DbPsql {
    /// The database, by name or id.
    #[arg(value_parser = parse_name)]
    pub(crate) name: String,
    /// Arguments for psql, after `--`.
    #[arg(last = true, value_name = "ARG")]
    pub(crate) arguments: Vec<String>,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  sandflare db query memory 'SELECT count(*) FROM notes'
  sandflare db query memory 'SELECT * FROM notes' --limit 10 -o json
  sandflare db query memory - < report.sql

Several statements are one transaction. No connection is needed: the node runs them.")]
pub(crate) struct DbQuery {
    /// The database, by name or id.
    #[arg(value_parser = parse_name)]
    pub(crate) name: String,
    /// What to run; `-` reads it from standard input.
    pub(crate) sql: String,
    /// At most this many rows.
    #[arg(long, default_value_t = 1000,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(QUERY_ROWS_MAX)))]
    pub(crate) limit: u32,
    /// How long it may run, such as 500ms or 5m, at most 10m [default: 30s].
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) timeout: Option<Duration>,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  sandflare db wire sbx_0123456789abcdef memory
  sandflare db wire sbx_0123456789abcdef archive --env ARCHIVE_URL --readonly

Every process started from then on has the variables, with a password that is good in this sandbox only;
-o json has their values.")]
pub(crate) struct WireDb {
    /// The sandbox.
    pub(crate) sandbox: SandboxId,
    /// The database, by name or id.
    #[arg(value_parser = parse_name)]
    pub(crate) name: String,
    /// The variable that has the address [default: DATABASE_URL, which brings PGHOST and others along].
    #[arg(long, value_name = "VARIABLE")]
    pub(crate) env: Option<String>,
    /// Let it look at everything and change nothing.
    #[arg(long)]
    pub(crate) readonly: bool,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct UnwireDb {
    /// The sandbox.
    pub(crate) sandbox: SandboxId,
    /// The database, by name or id.
    #[arg(value_parser = parse_name)]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  sandflare db fork memory branch
  sandflare db fork memory branch --snapshot before

The new one has all that was committed, and a password of its own.")]
pub(crate) struct ForkDb {
    /// The database, by name or id; it goes on.
    #[arg(value_parser = parse_name)]
    pub(crate) name: String,
    /// What the new one is called.
    #[arg(value_parser = parse_name)]
    pub(crate) new: String,
    /// Make it from this snapshot of the database, by name or id [default: this moment].
    #[arg(long, value_name = "SNAPSHOT", value_parser = parse_name)]
    pub(crate) snapshot: Option<String>,
    #[command(flatten)]
    pub(crate) password: PasswordOption,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  sandflare db password memory                                    a random one
  sandflare db password memory --password-file ~/memory.password

`sandflare db url` prints the address with it.")]
pub(crate) struct DbPassword {
    /// The database, by name or id.
    #[arg(value_parser = parse_name)]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) password: PasswordOption,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RmDbs {
    /// The databases, by name or id.
    #[arg(required = true, value_parser = parse_name)]
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    pub(crate) format: Format,
}

/// A name becomes part of a path, and must not lead anywhere else.
fn parse_name(text: &str) -> Result<String, String> {
    let legal = (1..=NAME_BYTES_MAX).contains(&text.len())
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if legal {
        Ok(text.to_owned())
    } else {
        Err("use 1 to 63 of a-z, A-Z, 0-9, `.`, `_` and `-`, a letter or digit first".to_owned())
    }
}
