//! Files that are not what they should be.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::{Path, PathBuf};

use api_node::ErrorCode;
use base_types::Size;

use crate::daemon::{Daemon, log_text};
use crate::left::{half_made, until, until_nothing};

/// The directory of the snapshot of `base` at nano.
fn snapshot() -> PathBuf {
    let entries = fs::read_dir("/data/templates").unwrap().flatten().map(|entry| entry.path());
    let mut all: Vec<_> =
        entries.filter(|path| path.to_string_lossy().contains("/base-nano-")).collect();
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

/// Turns one bit in the middle of what the file has on disk.
fn flip(path: &Path) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let at = file.metadata().unwrap().len() / 2;
    // A hole in the middle is a lie of another kind; look for data.
    let at = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at)).unwrap_or(64);
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

/// A file of a snapshot, and what is done to it.
type Damage = (&'static str, fn(&Path));

pub(crate) async fn a_damaged_snapshot() {
    let cases: [Damage; 3] = [
        ("memory", flip),
        ("disk.qcow2", flip),
        ("state", |path| {
            let file = File::options().write(true).open(path).unwrap();
            file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        }),
    ];
    for (name, damage) in cases {
        damage(&snapshot().join(name));
        let daemon = Daemon::start(&["--check-roots", "off", "--pool", "nano=1"]).await;
        // No question to anybody: the snapshot is made again from its images.
        let id = daemon.sandbox().await;
        let log = log_text();
        let line = log.lines().find(|line| line.contains("making a snapshot again"));
        println!("{name}: {line:?}");
        let path = format!("{}`", snapshot().join(name).display());
        assert!(line.is_some_and(|line| line.contains(&path)), "{log}");
        daemon.kill_sandbox(id).await;
        daemon.stop().await;
    }
}

/// Images like the usual ones, but for a kernel directory of our own.
fn images_with_a_kernel_of_its_own() -> PathBuf {
    let images = PathBuf::from("/data/images");
    fs::create_dir_all(images.join("kernel")).unwrap();
    symlink("/images/templates", images.join("templates")).unwrap();
    for name in ["vmlinux", "initrd", "manifest.json"] {
        fs::copy(Path::new("/images/kernel").join(name), images.join("kernel").join(name)).unwrap();
    }
    images
}

/// Puts another initrd into `images`, with the manifest that goes with it.
fn set_initrd(images: &Path, initrd: &[u8]) {
    let manifest = images.join("kernel/manifest.json");
    let mut value: serde_json::Value =
        serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    value["initrd_blake3"] = blake3::hash(initrd).to_hex().to_string().into();
    fs::write(&manifest, serde_json::to_vec(&value).unwrap()).unwrap();
    fs::write(images.join("kernel/initrd"), initrd).unwrap();
}

pub(crate) async fn a_damaged_image() {
    let images = images_with_a_kernel_of_its_own();
    let original = fs::read(images.join("kernel/initrd")).unwrap();
    // A manifest of its own, so that no snapshot is there.
    let mut other = original.clone();
    other.extend([0; 4]);
    set_initrd(&images, &other);
    for name in ["vmlinux", "initrd"] {
        flip(&images.join("kernel").join(name));
        let text = images.to_string_lossy().into_owned();
        let daemon = Daemon::start_on(&text, &["--check-roots", "off", "--pool", "nano=0"]).await;
        let run = daemon.sandflare(&["run", "--template", "base", "--", "true"]).await;
        assert_eq!(run.code, 125);
        let path = images.join("kernel").join(name);
        let expected = format!("`{}` does not match its manifest (checksum)", path.display());
        assert!(run.stderr.contains(&expected), "{run:?}");
        assert!(run.stderr.contains("build the images again"), "{run:?}");
        until_nothing().await;
        daemon.stop().await;
        fs::copy(Path::new("/images/kernel/vmlinux"), images.join("kernel/vmlinux")).unwrap();
    }
    set_initrd(&images, &other);

    // A root disk: the same length, one bit different.
    fs::remove_file(images.join("templates")).unwrap();
    let base = images.join("templates/base");
    fs::create_dir_all(&base).unwrap();
    fs::copy("/images/templates/base/manifest.json", base.join("manifest.json")).unwrap();
    let length = fs::metadata("/images/templates/base/root.ext4").unwrap().len();
    let root = File::create(base.join("root.ext4")).unwrap();
    root.set_len(length).unwrap();
    let daemon = Daemon::start_on(&images.to_string_lossy(), &["--pool", "nano=0"]).await;
    let failure = daemon.build(Size::Nano).await.unwrap_err();
    println!("root: {failure}");
    assert_eq!(failure.code, ErrorCode::ImageBroken);
    assert!(failure.message.contains("root.ext4` does not match its manifest"), "{failure}");
    until("half-made templates", vec![], half_made).await;
    daemon.stop().await;
    fs::remove_dir_all(images).unwrap();
}

pub(crate) async fn a_kernel_that_panics() {
    let images = images_with_a_kernel_of_its_own();
    // A well-formed archive without an agent.
    let mut initrd = b"070701".to_vec();
    for field in [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 11, 0] {
        initrd.extend(format!("{field:08X}").bytes());
    }
    initrd.extend(b"TRAILER!!!\0");
    initrd.resize(512, 0);
    set_initrd(&images, &initrd);
    let failure = refuses_to_boot(&images, "60000").await;
    assert_eq!(failure.code, ErrorCode::GuestFailed, "{failure}");
    assert!(failure.message.contains("the guest ended before its agent answered"), "{failure}");
    assert!(failure.message.contains("Kernel panic"), "{failure}");
}

pub(crate) async fn an_agent_that_never_answers() {
    let images = images_with_a_kernel_of_its_own();
    let mut archive = base_cpio::Archive::new(Vec::new());
    archive.file("init", 0o755, &sleeper()).unwrap();
    let initrd = archive.finish().unwrap();
    set_initrd(&images, &initrd);
    let failure = refuses_to_boot(&images, "6000").await;
    assert_eq!(failure.code, ErrorCode::AgentSilent, "{failure}");
    assert!(failure.message.contains("did not answer within 6000 ms"), "{failure}");
}

async fn refuses_to_boot(images: &Path, limit_ms: &str) -> Box<api_node::Failure> {
    let args = ["--check-roots", "off", "--pool", "nano=0", "--boot-timeout-ms", limit_ms];
    let daemon = Daemon::start_on(&images.to_string_lossy(), &args).await;
    let failure = daemon.build(Size::Nano).await.unwrap_err();
    println!("boot: {failure}");
    assert!(!failure.message.contains('\n'), "{failure}");
    until_nothing().await;
    let run = daemon.sandflare(&["run", "--template", "base", "--", "true"]).await;
    assert_eq!(run.code, 125, "{run:?}");
    until_nothing().await;
    daemon.stop().await;
    fs::remove_dir_all(images).unwrap();
    failure
}

/// The smallest program that does nothing for ever: an ELF file with one segment, in which `pause` is
/// called in a loop.
fn sleeper() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    // mov eax, 34; syscall; jmp back
    let code = [0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7];
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for field in [BASE + HEADERS, 64, 0] {
        elf.extend(field.to_le_bytes());
    }
    elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    let length = HEADERS + code.len() as u64;
    for field in [0, BASE, BASE, length, length, 0x1000] {
        elf.extend(field.to_le_bytes());
    }
    elf.extend(code);
    elf
}
