use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api_guest::ProcessBounds;
use api_node::Quota;
use api_vmm::MemoryPath;
use base_types::{Chain, ProjectId, Size};
use node_host::{
    CreateError, CreateSpec, Host, HostSettings, IoBounds, Lease, TemplateError, Unplugged,
};

fn settings(data: &Path, pool: usize) -> HostSettings {
    HostSettings {
        data_dir: data.join("data"),
        images_dir: data.join("images"),
        vmm: crate::program("sandflare-vmm"),
        pool: BTreeMap::from([(Size::Nano, pool)]),
        sandboxes_max: 2,
        memory: MemoryPath::Private,
        prefetch: true,
        ready_within: Duration::from_secs(10),
        boot_within: Duration::from_secs(10),
        check_roots: true,
        memory_kept_mib: 0,
        io: IoBounds::default(),
        processes: ProcessBounds::PROTOCOL,
    }
}

fn spec() -> CreateSpec {
    CreateSpec {
        id: None,
        project: ProjectId::DEFAULT,
        quota: Quota::default(),
        template: "agent".parse().unwrap(),
        size: Size::Nano,
        name: None,
        env: BTreeMap::new(),
        metadata: BTreeMap::new(),
        snapshot: None,
        secrets: Vec::new(),
        network: None,
        lease: Lease::default(),
        memory: None,
        prefetch: None,
        cold: false,
        ready_within: None,
        durable: false,
        errand: None,
    }
}

/// Processes of ours that run the VMM: their directories in `/proc`.
fn machines() -> Vec<PathBuf> {
    let me = std::process::id().to_string();
    let of_mine = |entry: fs::DirEntry| {
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        (fields.nth(1)? == me && stat.contains("(sandflare-vmm)")).then(|| entry.path())
    };
    fs::read_dir("/proc").unwrap().flatten().filter_map(of_mine).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pool_fills_with_real_machines_and_closing_leaves_none() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::start(settings(dir.path(), 2), |_| Ok(Arc::new(Unplugged))).await.unwrap();
    let filled = async {
        while host.pool().ready < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), filled).await.expect("the pool fills");
    let machines_there = machines();
    assert_eq!(machines_there.len(), 2);
    for machine in machines_there {
        let mark = fs::read_to_string(machine.join("oom_score_adj")).unwrap();
        assert_eq!(mark, "500\n", "the kernel ends it before the node");
    }
    host.close().await;
    assert!(machines().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_cannot_be_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::start(settings(dir.path(), 0), |_| Ok(Arc::new(Unplugged))).await.unwrap();
    for cold in [false, true] {
        let error = host.create(CreateSpec { cold, ..spec() }).await.unwrap_err();
        assert!(matches!(error, CreateError::Template(_)), "{error}");
    }
    assert!(host.sandboxes().is_empty());
    assert_eq!(fs::read_dir(dir.path().join("data/sandboxes")).unwrap().count(), 0);
    host.close().await;
    let error = host.create(spec()).await.unwrap_err();
    assert!(matches!(error, CreateError::Stopping), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_there_is_no_memory_for_is_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let settings = HostSettings { memory_kept_mib: 1 << 30, ..settings(dir.path(), 0) };
    let host = Host::start(settings, |_| Ok(Arc::new(Unplugged))).await.unwrap();
    let error = host.create(spec()).await.unwrap_err();
    assert!(matches!(error, CreateError::MemoryShort { needed_mib: 8, .. }), "{error}");
    assert!(host.sandboxes().is_empty());
    assert_eq!(fs::read_dir(dir.path().join("data/sandboxes")).unwrap().count(), 0);
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_run_left_is_removed_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let half_made = data.join("templates/.building-agent-nano-0011223344556677");
    let sandbox = data.join("sandboxes/sbx_0000000000000001");
    for left in [&half_made, &sandbox] {
        fs::create_dir_all(left).unwrap();
        fs::write(left.join("memory"), "half").unwrap();
    }
    let host = Host::start(settings(dir.path(), 0), |_| Ok(Arc::new(Unplugged))).await.unwrap();
    assert!(!half_made.exists() && !sandbox.exists());
    assert!(host.sandboxes().is_empty());
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_lies_is_refused_with_its_file_and_the_next_try_looks_again() {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    for (path, text) in [
        (
            "kernel/manifest.json",
            r#"{"release":"6.12","vmlinux_blake3":"aa","initrd_blake3":"bb"}"#,
        ),
        ("kernel/vmlinux", "no kernel"),
        ("kernel/initrd", "no initrd"),
        (
            "templates/agent/manifest.json",
            r#"{"name":"agent","root_bytes":4,"root_blake3":"cc","warm":[]}"#,
        ),
        ("templates/agent/root.ext4", "root"),
    ] {
        let path = images.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let host = Host::start(settings(dir.path(), 0), |_| Ok(Arc::new(Unplugged))).await.unwrap();
    for _ in 0..2 {
        let error = host.create(spec()).await.unwrap_err();
        let CreateError::Template(template) = &error else { panic!("{error}") };
        assert!(matches!(**template, TemplateError::Image(_)), "{template}");
        let text = Chain(&error).to_string();
        assert!(text.contains("vmlinux` does not match its manifest"), "{text}");
    }
    let templates = dir.path().join("data/templates");
    assert_eq!(fs::read_dir(templates).unwrap().count(), 0);
    host.close().await;
}
