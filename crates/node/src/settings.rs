//! What can be chosen about a node, resolved before anything starts.

mod bounds;
mod limits;

use std::collections::BTreeMap;
use std::env;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use api_node::{Cidr, Domain, Limits, SecretHash};
use api_vmm::MemoryPath;
use base_types::Size;
use clap::{Parser, ValueEnum};
use node_gateway::GatewaySettings;
use node_host::HostSettings;
use tokio_rustls::TlsAcceptor;

use crate::exposure::Exposure;
use crate::settings::bounds::BoundOptions;
use crate::settings::limits::LimitOptions;
use crate::tls;

/// The node daemon of Sandflare: runs sandboxes on this machine.
#[derive(Debug, Parser)]
#[command(version, about)]
pub(crate) struct Options {
    /// Directory for everything the node writes: database, templates, sandboxes.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Directory of the images it is given: kernel and templates.
    #[arg(long, value_name = "DIR")]
    images: PathBuf,
    /// The sandflare-vmm executable [default: beside this one].
    #[arg(long, value_name = "FILE")]
    vmm: Option<PathBuf>,
    /// Address to serve the HTTP API on.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7878")]
    listen: SocketAddr,
    /// Ask nobody for an API key: whoever reaches the address may do everything. Loopback only.
    #[arg(long, conflicts_with = "admin_key_hash")]
    no_auth: bool,
    /// BLAKE3 hash of a key that is to be good for an administrator, kept by whoever starts the node;
    /// it replaces the one given so before. Without it, a first start makes a key and prints it.
    #[arg(long, value_name = "HEX")]
    admin_key_hash: Option<SecretHash>,
    /// Serve HTTPS, and TLS to clients of databases, with the certificate chain in this PEM file.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The private key of that certificate, a PEM file.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Serve plain HTTP beyond loopback: nothing but this machine reaches the address, as in the
    /// portable host.
    #[arg(long)]
    trust_network: bool,
    /// Domain of the host names of sandboxes' ports, `8000-0123456789abcdef.DOMAIN`; all names under it
    /// must lead to this node.
    #[arg(long, value_name = "DOMAIN", default_value_t)]
    sandbox_domain: Domain,
    /// Addresses that are as those of the internet to sandboxes, although they are private or this
    /// machine's own, such as 10.1.2.0/24. May be repeated.
    #[arg(long, value_name = "CIDR")]
    gateway_allow: Vec<Cidr>,
    /// Resolver to ask for names of sandboxes, such as 10.1.2.3:53, rather than those of
    /// /etc/resolv.conf. May be repeated.
    #[arg(long, value_name = "ADDRESS")]
    gateway_resolver: Vec<SocketAddr>,
    /// Certificate authorities, in a PEM file, that hosts of sandboxes' secrets may be known by, beside
    /// those that browsers trust.
    #[arg(long, value_name = "FILE")]
    gateway_ca: Option<PathBuf>,
    /// Address to take connections to databases on, with TLS where --tls-cert is given; beyond loopback only
    /// with that, or together with --trust-network. Without it, databases are reached by the sandboxes they are wired to.
    #[arg(long, value_name = "ADDRESS")]
    database_listen: Option<SocketAddr>,
    /// Name or address that addresses of databases have, where clients know that of --database-listen by
    /// another, as for 0.0.0.0 or the name in a certificate.
    #[arg(long, value_name = "HOST", requires = "database_listen")]
    database_host: Option<String>,
    /// Databases made ahead once somebody has made one, so that the next take no time; 0 makes none.
    #[arg(long, value_name = "COUNT", default_value_t = 1,
          value_parser = clap::value_parser!(u8).range(..=16))]
    databases_ahead: u8,
    /// Shells kept ready, for each size that should have some.
    #[arg(long, value_name = "SIZE=COUNT", value_parser = parse_pool, default_value = "nano=24")]
    pool: Vec<(Size, usize)>,
    /// Sandboxes that may be alive at once.
    #[arg(long, value_name = "COUNT", default_value_t = 64,
          value_parser = clap::value_parser!(u16).range(1..=4096))]
    max_sandboxes: u16,
    /// How clean memory reaches a clone, unless a create says otherwise.
    #[arg(long, value_enum, default_value = "private")]
    memory_path: MemoryPathName,
    /// Whether pages a template is known to need first are brought in before its clone runs.
    #[arg(long, value_enum, default_value = "on")]
    prefetch: Switch,
    /// How long the agent of a restored sandbox may take to answer, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 10_000,
          value_parser = clap::value_parser!(u64).range(1..=600_000))]
    ready_timeout_ms: u64,
    /// How long a kernel may take from its start until its agent answers, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 120_000,
          value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    boot_timeout_ms: u64,
    /// Whether a root disk is compared with its manifest before a snapshot is made of it; `off` is
    /// for a starter that did so.
    #[arg(long, value_enum, default_value = "on")]
    check_roots: Switch,
    /// How log lines are written to standard error.
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
    /// What is logged: error, warn, info, debug or trace, or a list of MODULE=LEVEL.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log: String,
    #[command(flatten)]
    bounds: BoundOptions,
    #[command(flatten)]
    limits: LimitOptions,
}

/// LIMIT: a shell takes a process and a few MiB; hundreds are a typing error.
const POOL_MAX: usize = 256;

#[derive(Clone, Copy, Debug, ValueEnum)]
enum MemoryPathName {
    /// A plain private mapping of the template's memory.
    Private,
    /// Page by page, by userfaultfd.
    Userfault,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Everything chosen.
pub(crate) struct Settings {
    pub(crate) exposure: Exposure,
    pub(crate) admin_key_hash: Option<SecretHash>,
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) log_format: LogFormat,
    pub(crate) log: String,
    pub(crate) limits: Limits,
    pub(crate) sandbox_domain: Domain,
    pub(crate) gateway: GatewaySettings,
    pub(crate) database_listen: Option<SocketAddr>,
    pub(crate) database_host: Option<String>,
    /// How many databases are made ahead.
    pub(crate) databases_ahead: usize,
    pub(crate) database_tls: Option<TlsAcceptor>,
    pub(crate) host: HostSettings,
}

impl Options {
    /// Fills in what was not given.
    pub(crate) fn resolve(self) -> Result<Settings> {
        let vmm = match self.vmm {
            Some(vmm) => vmm,
            None => env::current_exe()
                .context("find this program's own path")?
                .with_file_name("sandflare-vmm"),
        };
        let memory = match self.memory_path {
            MemoryPathName::Private => MemoryPath::Private,
            MemoryPathName::Userfault => MemoryPath::Userfault,
        };
        let exposure = Exposure {
            listen: self.listen,
            keys: !self.no_auth,
            tls: self.tls_cert.is_some(),
            trusted: self.trust_network,
        };
        exposure.check()?;
        if let Some(at) = self.database_listen {
            exposure.check_databases(at)?;
        }
        let tls = |protocol| match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => tls::acceptor(cert, key, protocol).map(Some),
            _ => Ok(None),
        };
        let (tls, database_tls) = (tls(tls::HTTP)?, tls(node_database::TLS_PROTOCOL)?);
        let host = HostSettings {
            data_dir: self.data,
            images_dir: self.images,
            vmm,
            // The last one given for a size counts.
            pool: self.pool.into_iter().collect::<BTreeMap<_, _>>(),
            sandboxes_max: self.max_sandboxes.into(),
            memory,
            prefetch: self.prefetch == Switch::On,
            ready_within: Duration::from_millis(self.ready_timeout_ms),
            boot_within: Duration::from_millis(self.boot_timeout_ms),
            check_roots: self.check_roots == Switch::On,
            memory_kept_mib: self.bounds.memory_kept_mib(),
            io: self.bounds.io(),
            processes: self.bounds.processes(),
        };
        let roots = self.gateway_ca.as_deref().map(tls::certificates).transpose()?;
        let gateway = GatewaySettings {
            allowance: self.gateway_allow,
            resolvers: (!self.gateway_resolver.is_empty()).then_some(self.gateway_resolver),
            roots: roots.unwrap_or_default(),
            ..GatewaySettings::default()
        };
        Ok(Settings {
            exposure,
            admin_key_hash: self.admin_key_hash,
            tls,
            log_format: self.log_format,
            log: self.log,
            limits: self.limits.resolve(),
            sandbox_domain: self.sandbox_domain,
            gateway,
            database_listen: self.database_listen,
            database_host: self.database_host,
            databases_ahead: self.databases_ahead.into(),
            database_tls,
            host,
        })
    }
}

fn parse_pool(text: &str) -> Result<(Size, usize), String> {
    let (size, count) =
        text.split_once('=').ok_or_else(|| format!("`{text}` is not like nano=24"))?;
    let size = size.parse().map_err(|error| format!("{error}"))?;
    match count.parse() {
        Ok(count) if count <= POOL_MAX => Ok((size, count)),
        _ => Err(format!("`{count}` is not a number of shells, 0 to {POOL_MAX}")),
    }
}

#[cfg(test)]
mod test {
    use std::fs;
    use std::path::Path;

    use api_guest::ProcessBounds;
    use clap::CommandFactory;
    use node_host::IoBounds;

    use super::*;

    fn resolve(arguments: &[&str]) -> Result<Settings, String> {
        let arguments = ["sandflared", "--data", "/data", "--images", "/images"]
            .iter()
            .chain(arguments)
            .copied();
        let options = Options::try_parse_from(arguments).map_err(|error| error.to_string())?;
        options.resolve().map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_a_small_local_node() {
        let settings = resolve(&[]).unwrap();
        assert!(settings.exposure.listen.ip().is_loopback());
        assert!(settings.exposure.keys && !settings.exposure.tls && !settings.exposure.trusted);
        assert_eq!(settings.host.pool, BTreeMap::from([(Size::Nano, 24)]));
        assert_eq!(settings.host.memory, MemoryPath::Private);
        assert!(settings.host.prefetch);
        assert_eq!(settings.limits, Limits::default());
        assert_eq!(settings.host.memory_kept_mib, 256);
        assert_eq!(settings.host.io, IoBounds::default());
        assert_eq!(settings.host.processes, ProcessBounds::PROTOCOL);
        assert!(settings.host.vmm.ends_with("sandflare-vmm"));
    }

    #[test]
    fn a_pool_names_sizes_and_counts() {
        let settings = resolve(&["--pool", "nano=0", "--pool", "small=2"]).unwrap();
        assert_eq!(settings.host.pool, BTreeMap::from([(Size::Nano, 0), (Size::Small, 2)]));
        for wrong in ["nano", "nano=", "nano=-1", "nano=257", "tiny=1"] {
            assert!(resolve(&["--pool", wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn bounds_of_a_sandbox_reach_its_agent_and_its_group() {
        let smallest = ["--max-processes", "1", "--max-output-kept-kib", "256"];
        let settings = resolve(&smallest).unwrap();
        let bounds = ProcessBounds { processes: 1, output_kept_bytes: 256 << 10 };
        assert_eq!(settings.host.processes, bounds);
        let largest = ["--max-processes", "512", "--max-output-kept-kib", "65536"];
        for settings in [settings, resolve(&largest).unwrap()] {
            assert!(settings.host.processes.are_possible(), "{:?}", settings.host.processes);
        }
        let disk = ["--max-disk-mib-per-vcpu", "2", "--max-disk-requests-per-vcpu", "16"];
        let io = IoBounds { bytes_per_vcpu: 2 << 20, requests_per_vcpu: 16 };
        assert_eq!(resolve(&disk).unwrap().host.io, io);
    }

    #[test]
    fn addresses_that_are_opened_to_policies_are_named_one_by_one() {
        assert!(resolve(&[]).unwrap().gateway.allowance.is_empty());
        let given = ["--gateway-allow", "10.1.2.0/24", "--gateway-allow", "127.0.0.1"];
        let allowed = resolve(&given).unwrap().gateway.allowance;
        assert_eq!(allowed.iter().map(Cidr::to_string).collect::<Vec<_>>(), [given[1], given[3]]);
    }

    #[test]
    fn the_guide_has_every_setting_with_its_default() {
        let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guides/operations.md");
        let guide = fs::read_to_string(guide).unwrap();
        // Option and default of each row; a bar within a cell is written `\|`.
        let rows: Vec<(String, String)> = guide
            .lines()
            .filter(|line| line.starts_with("| `--"))
            .map(|line| {
                let line = line.replace("\\|", "/");
                let cells: Vec<&str> = line.split('|').map(str::trim).collect();
                (cells[1].to_owned(), cells[3].to_owned())
            })
            .collect();
        let mut shown = Vec::new();
        for argument in Options::command().get_arguments() {
            let Some(name) = argument.get_long() else { continue };
            let option = format!("--{name}");
            let is_of = |(options, _): &&(String, String)| {
                options.split('`').any(|part| part.split(' ').next() == Some(&option))
            };
            let row = rows.iter().find(is_of);
            let (options, said) =
                row.unwrap_or_else(|| panic!("the guide has no row for {option}"));
            for default in argument.get_default_values() {
                let default = default.to_string_lossy();
                let says = said.split(&['`', ' '][..]).any(|word| word == default);
                assert!(says, "{option} is {default} unless given; the guide says: {said}");
            }
            shown.push(options);
        }
        for (options, _) in &rows {
            assert!(shown.contains(&options), "there is no option {options}");
        }
    }

    #[test]
    fn wrong_settings_are_refused_before_anything_starts() {
        for wrong in [
            ["--listen", "localhost"],
            ["--database-listen", "0.0.0.0:5432"],
            ["--database-host", "db.example.com"],
            ["--ready-timeout-ms", "0"],
            ["--memory-path", "magic"],
            ["--prefetch", "maybe"],
            ["--max-sandboxes", "0"],
            ["--gateway-allow", "10.1.2.3/24"],
            ["--gateway-allow", "localhost"],
            ["--gateway-ca", "/nowhere/ca.pem"],
            ["--max-connections", "0"],
            ["--max-requests-per-sandbox", "256"],
            ["--max-head-kib", "4"],
            ["--request-timeout-s", "0"],
            ["--keep-memory-mib", "1048577"],
            ["--max-processes", "513"],
            ["--max-output-kept-kib", "255"],
            ["--max-disk-mib-per-vcpu", "0"],
            ["--max-disk-requests-per-vcpu", "15"],
        ] {
            assert!(resolve(&wrong).is_err(), "{wrong:?}");
        }
    }
}
