//! What the findings mean.

use api_node::KvmKind;
use serde::Serialize;

use crate::doctor::look::{Found, Port};
use crate::table::bytes;

/// Memory the portable host takes by default.
const PORTABLE_MEMORY_MIB: u64 = 2560;
/// Memory below which a native node cannot run its smallest sandbox in comfort.
const NATIVE_MEMORY_MIB: u64 = 1024;
/// Disk the default template, its caches and a few snapshots take.
const DISK_MIB: u64 = 6 * 1024;

/// How good something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    /// As it should be.
    Ok,
    /// It works, but not as well as it could.
    Warn,
    /// It is not there.
    Missing,
    /// It is there and does not work.
    Broken,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// Its name, which never changes.
    pub(crate) id: &'static str,
    pub(crate) status: Status,
    /// What was found.
    pub(crate) found: String,
    /// What to do, when something is to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) advice: Option<String>,
}

/// How `sandflare up` would run a node here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Way {
    Native,
    Portable,
    None,
}

/// The whole answer; its JSON form is stable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    /// Version of this form.
    pub(crate) schema: u32,
    /// Whether `sandflare up` can be expected to work.
    pub(crate) ready: bool,
    pub(crate) way: Way,
    /// What KVM is worth: `no_device`, `no_permission`, `cannot_run_linux`, `good` or `unknown`.
    pub(crate) kvm: KvmKind,
    pub(crate) checks: Vec<Check>,
}

pub(crate) fn judge(found: &Found) -> Report {
    let native = found.kvm.as_ref().is_ok_and(|verdict| verdict.usable);
    let way = match (native, &found.qemu) {
        (true, _) => Way::Native,
        (false, Some(_)) => Way::Portable,
        (false, None) => Way::None,
    };
    let checks = vec![
        programs(found),
        kvm(found, way),
        qemu(found, way),
        memory(found, way),
        disk(found),
        packages(found),
        root(found),
        cgroup(found, way),
        userfaultfd(found, way),
        port(found),
    ];
    let ready = way != Way::None
        && checks.iter().all(|check| matches!(check.status, Status::Ok | Status::Warn));
    let kvm = found.kvm.as_ref().map_or(KvmKind::Unknown, |verdict| verdict.kind);
    Report { schema: 1, ready, way, kvm, checks }
}

fn check(id: &'static str, status: Status, found: impl Into<String>) -> Check {
    Check { id, status, found: found.into(), advice: None }
}

fn advised(
    id: &'static str,
    status: Status,
    found: impl Into<String>,
    advice: impl Into<String>,
) -> Check {
    Check { advice: Some(advice.into()), ..check(id, status, found) }
}

fn programs(found: &Found) -> Check {
    if found.programs_missing.is_empty() {
        check("programs", Status::Ok, "all programs of this release are here")
    } else {
        advised(
            "programs",
            Status::Missing,
            format!("not beside sandflare: {}", found.programs_missing.join(", ")),
            "build the whole workspace, or install all programs of one release into one directory",
        )
    }
}

/// What KVM lacks is no obstacle where QEMU can stand in for it.
fn kvm(found: &Found, way: Way) -> Check {
    let verdict = match &found.kvm {
        Ok(verdict) => verdict,
        Err(reason) => {
            return advised("kvm", Status::Warn, reason.clone(), "see the programs above");
        }
    };
    let lacking = |status| if way == Way::Portable { Status::Warn } else { status };
    let (status, fallback) = match verdict.kind {
        KvmKind::Good => return check("kvm", Status::Ok, verdict.reason.clone()),
        KvmKind::NoDevice => (
            lacking(Status::Missing),
            "turn on virtualization in the firmware, or nested virtualization for this virtual machine",
        ),
        KvmKind::NoPermission => {
            (Status::Warn, "run sandflare with sudo, or add yourself to the group kvm")
        }
        KvmKind::CannotRunLinux | KvmKind::Unknown => (
            lacking(Status::Broken),
            "nothing on this machine mends that; the portable host is used instead",
        ),
    };
    let advice = if verdict.hint.is_empty() { fallback } else { &verdict.hint };
    advised("kvm", status, verdict.reason.clone(), advice)
}

fn qemu(found: &Found, way: Way) -> Check {
    match (&found.qemu, way) {
        (Some(version), _) => check("qemu", Status::Ok, format!("version {version}")),
        (None, Way::Native) => check("qemu", Status::Ok, "not installed, and not needed here"),
        (None, _) => advised(
            "qemu",
            Status::Missing,
            "not installed",
            "apt-get install qemu-system-x86 (the node runs in it where KVM cannot be used)",
        ),
    }
}

fn memory(found: &Found, way: Way) -> Check {
    let needed = if way == Way::Native { NATIVE_MEMORY_MIB } else { PORTABLE_MEMORY_MIB };
    let free = format!("{} available", bytes(found.memory_available_mib << 20));
    if found.memory_available_mib >= needed {
        check("memory", Status::Ok, free)
    } else {
        let advice = match way {
            Way::Native => "free some memory, or sandboxes will be refused".to_owned(),
            _ => format!("free some memory, or give the host less than {needed} MiB: up --memory"),
        };
        advised("memory", Status::Warn, free, advice)
    }
}

fn disk(found: &Found) -> Check {
    let free = format!("{} free for {}", bytes(found.disk_free_mib << 20), found.home.display());
    if found.disk_free_mib >= DISK_MIB {
        check("disk", Status::Ok, free)
    } else {
        let needed = bytes(DISK_MIB << 20);
        advised(
            "disk",
            Status::Warn,
            free,
            format!("have {needed} free, or set SANDFLARE_HOME to a place that has"),
        )
    }
}

fn packages(found: &Found) -> Check {
    if found.packages_missing.is_empty() {
        check("packages", Status::Ok, "the tools that build images are installed")
    } else {
        let names = found.packages_missing.join(" ");
        advised(
            "packages",
            Status::Missing,
            format!("not installed: {names}"),
            format!("apt-get install {names}"),
        )
    }
}

fn root(found: &Found) -> Check {
    if found.root {
        check("root", Status::Ok, "running as root")
    } else {
        advised(
            "root",
            Status::Warn,
            "not running as root",
            "use sudo: building images and jailing machines both need it",
        )
    }
}

fn cgroup(found: &Found, way: Way) -> Check {
    match (found.cgroup_v2, way) {
        (true, _) => check("cgroup", Status::Ok, "cgroup v2"),
        (false, Way::Native) => advised(
            "cgroup",
            Status::Warn,
            "cgroup v2 is not mounted at /sys/fs/cgroup",
            "boot with systemd.unified_cgroup_hierarchy=1; without it sandboxes share the machine \
             unchecked",
        ),
        (false, _) => check("cgroup", Status::Ok, "not here; the portable host has its own"),
    }
}

fn userfaultfd(found: &Found, way: Way) -> Check {
    match (found.userfaultfd, way) {
        (true, _) => check("userfaultfd", Status::Ok, "the kernel has it"),
        (false, Way::Native) => advised(
            "userfaultfd",
            Status::Warn,
            "the kernel does not have it",
            "use a kernel with CONFIG_USERFAULTFD; only the private memory path works without",
        ),
        (false, _) => check("userfaultfd", Status::Ok, "not here; the portable host has its own"),
    }
}

fn port(found: &Found) -> Check {
    match &found.port {
        Port::Free => check("port", Status::Ok, format!("{} is free", found.url)),
        Port::Node { version } => {
            check("port", Status::Ok, format!("a node (version {version}) serves {}", found.url))
        }
        Port::Taken => advised(
            "port",
            Status::Broken,
            format!("another program has the port of {}", found.url),
            "stop that program, or use another port: sandflare up --port 7879",
        ),
    }
}

#[cfg(test)]
pub(crate) mod test {
    use super::*;
    use crate::doctor::look::KvmVerdict;

    pub(crate) fn good() -> Found {
        Found {
            kvm: verdict(KvmKind::Good, "KVM runs Linux"),
            qemu: Some("7.2.22".into()),
            memory_available_mib: 8192,
            home: "/home/me/.local/share/sandflare".into(),
            disk_free_mib: 50_000,
            packages_missing: vec![],
            cgroup_v2: true,
            userfaultfd: true,
            root: true,
            url: "http://127.0.0.1:7878".into(),
            port: Port::Free,
            programs_missing: vec![],
        }
    }

    pub(crate) fn verdict(kind: KvmKind, reason: &str) -> Result<KvmVerdict, String> {
        let usable = kind == KvmKind::Good;
        Ok(KvmVerdict { usable, kind, reason: reason.into(), hint: String::new() })
    }

    fn status(report: &Report, id: &str) -> Status {
        report.checks.iter().find(|check| check.id == id).map(|check| check.status).unwrap()
    }

    #[test]
    fn the_four_kinds_of_kvm_lead_to_different_answers() {
        let judged = |kind, qemu: Option<&str>| {
            let kvm = verdict(kind, "because");
            let report = judge(&Found { kvm, qemu: qemu.map(str::to_owned), ..good() });
            (report.ready, report.way, status(&report, "kvm"))
        };
        use {KvmKind as K, Status as S};
        let qemu = Some("7.2");
        assert_eq!(judged(K::Good, None), (true, Way::Native, S::Ok));
        assert_eq!(judged(K::NoDevice, qemu), (true, Way::Portable, S::Warn));
        assert_eq!(judged(K::NoDevice, None), (false, Way::None, S::Missing));
        assert_eq!(judged(K::NoPermission, qemu), (true, Way::Portable, S::Warn));
        assert_eq!(judged(K::CannotRunLinux, qemu), (true, Way::Portable, S::Warn));
        assert_eq!(judged(K::CannotRunLinux, None), (false, Way::None, S::Broken));
    }

    #[test]
    fn whatever_is_not_ok_comes_with_advice() {
        let bad = Found {
            kvm: Err("`sandflare-vmm` is not beside `sandflare`".into()),
            qemu: None,
            memory_available_mib: 100,
            disk_free_mib: 10,
            packages_missing: vec!["mmdebstrap", "e2fsprogs"],
            cgroup_v2: false,
            userfaultfd: false,
            root: false,
            port: Port::Taken,
            programs_missing: vec!["sandflare-vmm"],
            ..good()
        };
        for found in [bad, good()] {
            for check in judge(&found).checks {
                assert_eq!(check.status != Status::Ok, check.advice.is_some(), "{check:?}");
            }
        }
    }
}
