use std::fs;
use std::io::Read;

use api_guest::{Answer, FailCode, GENERATION, Healthy, Identify, Request, SetClock};

use crate::guest::Guest;

fn identify(number: u8) -> Identify {
    Identify {
        sandbox_id: format!("sbx_{number:016x}"),
        hostname: format!("sandbox-{number}"),
        machine_id: [number; 16],
        boot_id: [number + 1; 16],
        entropy: vec![number; 64],
        wall_clock_ns: 1_800_000_000_000_000_000,
    }
}

fn health(guest: &Guest) -> Healthy {
    match guest.one(&Request::Health) {
        Answer::Healthy(healthy) => healthy,
        other => panic!("{other:?}"),
    }
}

fn with_root() -> (Guest, tempfile::TempDir) {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("etc")).unwrap();
    fs::write(root.path().join("etc/hosts"), "127.0.0.1\tlocalhost\n10.0.0.1\tdb\n").unwrap();
    fs::write(root.path().join("etc/machine-id"), "of the image\n").unwrap();
    (Guest::start_with(&["--root", root.path().to_str().unwrap()]), root)
}

#[test]
fn every_identity_replaces_the_one_before() {
    let (guest, root) = with_root();
    let read = |name: &str| fs::read_to_string(root.path().join(name)).unwrap();
    for number in [0x11, 0x7, 0x2a] {
        let Answer::Identified(identified) = guest.one(&Request::Identify(identify(number))) else {
            panic!("not identified");
        };
        assert_eq!(identified.generation, GENERATION);
        assert_eq!(read("etc/hostname"), format!("sandbox-{number}\n"));
        assert_eq!(read("etc/machine-id"), format!("{}\n", format!("{number:02x}").repeat(16)));
        assert_eq!(read("run/sandflare/sandbox-id"), format!("sbx_{number:016x}\n"));
        let b = format!("{:02x}", number + 1);
        let uuid = [4, 2, 2, 2, 6].map(|count| b.repeat(count)).join("-");
        assert_eq!(read("run/sandflare/boot-id"), format!("{uuid}\n"));
        let hosts = format!("127.0.0.1\tlocalhost\n10.0.0.1\tdb\n127.0.1.1\tsandbox-{number}\n");
        assert_eq!(read("etc/hosts"), hosts);
        assert_eq!(health(&guest).boot_id, [number + 1; 16]);
    }
}

#[test]
fn a_file_the_user_put_in_place_of_a_link_is_renewed_in_place() {
    let (guest, root) = with_root();
    let hostname = root.path().join("etc/hostname");
    fs::remove_file(&hostname).unwrap();
    fs::write(&hostname, "a-much-longer-name-of-the-users-own-choice\n").unwrap();
    guest.one(&Request::Identify(identify(3)));
    assert_eq!(fs::read_to_string(&hostname).unwrap(), "sandbox-3\n");
    assert!(fs::symlink_metadata(&hostname).unwrap().is_file());
}

#[test]
fn an_identity_without_fresh_randomness_is_none() {
    let guest = Guest::start_with(&["--random-device", "/dev/null"]);
    let message = guest.fails(&Request::Identify(identify(3)), FailCode::IdentityFailed);
    assert!(message.starts_with("cannot reseed the random generator: "), "{message}");
    assert_eq!(health(&guest).boot_id, [0; 16]);
}

#[test]
fn the_kernel_takes_the_entropy() {
    let guest = Guest::start_with(&["--random-device", "/dev/urandom"]);
    let mut identify = identify(3);
    // Real randomness: the kernel of the machine that runs this test believes in it.
    let mut random = fs::File::open("/dev/urandom").unwrap();
    random.read_exact(&mut identify.entropy).unwrap();
    let answer = guest.one(&Request::Identify(identify));
    assert!(matches!(answer, Answer::Identified(_)), "{answer:?}");
}

#[test]
fn an_identity_out_of_range_is_refused_whole() {
    let (guest, root) = with_root();
    let wrong: [fn(&mut Identify); 4] = [
        |identify| identify.entropy.truncate(31),
        |identify| identify.entropy = vec![1; 513],
        |identify| identify.hostname = "two\nlines".into(),
        |identify| identify.hostname = String::new(),
    ];
    for spoil in wrong {
        let mut identify = identify(9);
        spoil(&mut identify);
        guest.fails(&Request::Identify(identify), FailCode::InvalidRequest);
    }
    assert_eq!(fs::read_to_string(root.path().join("etc/hostname")).unwrap(), "sandbox\n");
}

#[test]
fn health_tells_generation_version_and_clocks() {
    let guest = Guest::start();
    let (first, second) = (health(&guest), health(&guest));
    assert_eq!(first.generation, GENERATION);
    assert_eq!(first.agent_version, env!("CARGO_PKG_VERSION"));
    assert!(first.uptime_ms <= second.uptime_ms && first.wall_clock_ns > 0);
    let clock = Request::SetClock(SetClock { wall_clock_ns: first.wall_clock_ns });
    assert_eq!(guest.one(&clock), Answer::Done);
}
