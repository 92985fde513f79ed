//! The report for people.

use std::fmt::Write;

use crate::doctor::judge::{Report, Status, Way};

pub(crate) fn text(report: &Report) -> String {
    let mut text = String::new();
    for check in &report.checks {
        let status = match check.status {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Missing => "missing",
            Status::Broken => "broken",
        };
        let _ = writeln!(text, "{status:<8} {:<12} {}", check.id, check.found);
        if let Some(advice) = &check.advice {
            let _ = writeln!(text, "{:<21} -> {advice}", "");
        }
    }
    let last = match (report.ready, report.way) {
        (true, Way::Native) => "sandflare up will run the node natively, on this machine's KVM",
        (true, _) => "sandflare up will run the node in the portable host (QEMU)",
        (false, _) => "sandflare up will not work before what is missing or broken is mended",
    };
    let _ = writeln!(text, "\n{last}");
    text
}

#[cfg(test)]
mod test {
    use api_node::KvmKind;
    use expect_test::expect;

    use super::*;
    use crate::doctor::judge::judge;
    use crate::doctor::judge::test::{good, verdict};
    use crate::doctor::look::{Found, Port};

    #[test]
    fn a_machine_without_kvm_reads_so() {
        let found = Found {
            kvm: verdict(KvmKind::CannotRunLinux, "this KVM does not run cmpxchg16b in ring 0"),
            packages_missing: vec!["mmdebstrap"],
            port: Port::Node { version: "0.1.0".into() },
            ..good()
        };
        expect![[r#"
            ok       programs     all programs of this release are here
            warn     kvm          this KVM does not run cmpxchg16b in ring 0
                                  -> nothing on this machine mends that; the portable host is used instead
            ok       qemu         version 7.2.22
            ok       memory       8.0 GiB available
            ok       disk         49 GiB free for /home/me/.local/share/sandflare
            missing  packages     not installed: mmdebstrap
                                  -> apt-get install mmdebstrap
            ok       root         running as root
            ok       cgroup       cgroup v2
            ok       userfaultfd  the kernel has it
            ok       port         a node (version 0.1.0) serves http://127.0.0.1:7878

            sandflare up will not work before what is missing or broken is mended
        "#]].assert_eq(&text(&judge(&found)));
    }
}
