//! Which way dependencies point.

use crate::repository::Repository;

/// `(crates whose name starts with …, may depend on crates whose name starts with …)`.
///
/// The first row that matches counts; a crate with no row may use nothing of ours, so a new place
/// starts by writing its row. Development dependencies are judged by [`NEVER_SHIPPED`] instead.
const MAY_USE: &[(&str, &[&str])] = &[
    ("base-", &["base-"]),
    ("api-", &["base-"]),
    ("vmm", &["base-", "api-vmm", "vmm-"]),
    ("guest-", &["base-", "api-guest", "guest-"]),
    ("node", &["base-", "api-node", "api-vmm", "api-guest", "node-"]),
    ("client", &["base-", "api-node"]),
    ("cli", &["base-", "api-node", "client", "image-build", "portable-host"]),
    ("image-build", &["base-"]),
    ("portable-", &["base-", "portable-"]),
];

/// Crates no user ever runs: they may use what they like, and nothing shipped may use them.
const NEVER_SHIPPED: [&str; 3] = ["node-sim", "system-tests", "xtask"];

/// `(crate of others, prefixes of ours that may name it, why)`.
const EXCLUSIVE: &[(&str, &[&str], &str)] = &[
    ("kvm-ioctls", &["vmm"], "KVM has one place"),
    ("kvm-bindings", &["vmm"], "KVM has one place"),
    ("seccompiler", &["vmm-jail"], "the jail has one place"),
    ("imago", &["vmm-virtio"], "disk formats have one reader"),
    ("rusqlite", &["node-store"], "SQL has one home"),
    ("smoltcp", &["node-gateway"], "guests have one network"),
    ("tokio-postgres", &["node-database"], "only there is a database spoken to"),
    ("axum", &["api-node", "node"], "only the node serves HTTP"),
    ("reqwest", &["client"], "only the client speaks HTTP"),
    ("clap", &["cli", "node"], "only programs people start have options"),
];

/// Places without an async runtime, and why.
const NO_RUNTIME: &[(&str, &str)] = &[
    ("base-", "shared types do not act"),
    ("vmm", "a monitor is one event loop and one thread for each vCPU"),
    ("guest-", "the agent is threads, and small"),
    ("image-build", "it runs tools one after the other"),
    ("portable-init", "it supervises one process"),
];

/// Dependencies that cross a border, as `from -> to`.
pub(crate) fn directions(repository: &Repository) -> Vec<String> {
    let ours: Vec<&str> = repository.crates.iter().map(|member| member.name.as_str()).collect();
    let edges = repository.crates.iter().flat_map(|member| {
        let uses = member.dependencies.iter().filter(|dependency| !dependency.dev);
        uses.map(|dependency| (member.name.as_str(), dependency.name.as_str()))
    });
    forbidden(edges.filter(|(_, to)| ours.contains(to)))
}

/// Every edge between crates of ours that breaks [`MAY_USE`] or uses what is never shipped.
pub(super) fn forbidden<'a>(edges: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<String> {
    let shipped = |name| !NEVER_SHIPPED.contains(&name);
    edges
        .into_iter()
        .filter(|(from, to)| {
            let row = MAY_USE.iter().find(|(place, _)| from.starts_with(place));
            let allowed = row.is_some_and(|(_, uses)| uses.iter().any(|use_| to.starts_with(use_)));
            shipped(from) && !(allowed && shipped(to))
        })
        .map(|(from, to)| format!("{from} -> {to} crosses a border"))
        .collect()
}

/// Crates of others that are named outside the one place they belong to.
pub(crate) fn exclusive(repository: &Repository) -> Vec<String> {
    let mut findings = Vec::new();
    for member in repository.crates.iter().filter(|m| !NEVER_SHIPPED.contains(&m.name.as_str())) {
        for dependency in &member.dependencies {
            let to = dependency.name.as_str();
            for (name, places, why) in EXCLUSIVE {
                if to == *name && !places.iter().any(|place| member.name.starts_with(place)) {
                    findings.push(format!("{} names {to}: {why}", member.name));
                }
            }
            let runtime = NO_RUNTIME.iter().find(|(place, _)| member.name.starts_with(place));
            if let Some((_, why)) = runtime
                && matches!(to, "tokio" | "async-std" | "smol")
            {
                findings.push(format!("{} names {to}: {why}", member.name));
            }
        }
    }
    findings
}

/// TLS, where it is needed, is rustls: OpenSSL cannot be in a static program without care.
pub(crate) fn no_openssl(repository: &Repository) -> Vec<String> {
    let packages = repository.text("Cargo.lock").lines().filter_map(|line| {
        line.strip_prefix("name = \"")?.strip_suffix('"').filter(|name| name.contains("openssl"))
    });
    packages.map(|name| format!("Cargo.lock contains {name}; use rustls")).collect()
}
