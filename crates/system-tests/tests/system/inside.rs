//! Scenarios that break a node from inside its own machine.
//!
//! Killing a VMM or the daemon takes a place on their machine, which is the portable host. So these
//! run there: one program (`examples/inside`) in a portable host of its own, all scenarios in one go, and
//! each test looks up its own. What a scenario does is written there. Whoever works on one names it in
//! SANDFLARE_TEST_SCENARIOS: then only that runs, and what it says is seen at once.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use base_types::Chain;
use portable_host::{HostError, Once, run_once};
use tokio::sync::OnceCell;

use crate::host::{images, private, program};

/// LIMIT: twice what all scenarios take on two processors that are not busy otherwise.
const SECONDS_MAX: u64 = 4500;
/// Room for a few templates and sandboxes, and small enough to be filled.
const DATA_BYTES: u64 = 3 << 30;

/// Waits for all scenarios; what they said.
pub(crate) async fn output() -> &'static str {
    static OUTPUT: OnceCell<String> = OnceCell::const_new();
    OUTPUT.get_or_init(run).await
}

/// Waits for all scenarios, and passes when the one called `name` did.
pub(crate) async fn passed(name: &str) {
    let output = output().await;
    let (begin, passed) = (format!("begin {name}\n"), format!("\npassed {name} "));
    let said = output.split_once(&begin).map(|(_, rest)| rest).unwrap_or_default();
    let said = said.split("\nbegin ").next().unwrap_or_default();
    assert!(
        format!("\n{said}").contains(&passed),
        "inside, `{name}` did not pass; what was said from its begin:\n{}",
        if said.is_empty() { output } else { said },
    );
}

/// LIMIT: hosts that the scenarios may take. QEMU, not what is tested, makes the kernel of one in many
/// panic when it patches its own code (docs/decisions/0026-few-kicks.md); what had not ended then is run
/// in another.
const HOSTS_MAX: usize = 3;

async fn run() -> String {
    // For its images disk, and so that nothing else runs meanwhile.
    let session = private().await;
    let wanted = std::env::var("SANDFLARE_TEST_SCENARIOS").unwrap_or_default();
    let mut args: Vec<String> = wanted.split_whitespace().map(str::to_owned).collect();
    let watched = !args.is_empty();
    let mut output = String::new();
    for _ in 0..HOSTS_MAX {
        let once = once(session.state(), args.clone());
        let (said, outcome) =
            tokio::task::spawn_blocking(move || attempt(&once, watched)).await.unwrap();
        let Err(error) = outcome else { return output + &said };
        // What passed before the host failed has passed.
        let (ended, open) = open_of(&said);
        output.push_str(ended);
        let why = Chain(&error).to_string();
        output.push_str(&format!("\nthe portable host failed: {why}\n"));
        eprintln!("the portable host failed, with {} scenarios to run: {why}", open.len());
        if open.is_empty() || !why.contains("Kernel panic") {
            return output;
        }
        args = open;
    }
    output
}

fn once(images_disk: PathBuf, args: Vec<String>) -> Once {
    let mut once = Once::new(images().to_owned(), "/bin/inside");
    once.images_disk = Some(images_disk);
    once.data_bytes = Some(DATA_BYTES);
    once.seconds_max = SECONDS_MAX;
    once.env.insert("RUST_BACKTRACE".to_owned(), "0".to_owned());
    once.files = vec![("/bin/inside".to_owned(), beside("examples/inside"))];
    for name in ["sandflare", "sandflared", "sandflare-vmm"] {
        once.files.push((format!("/bin/{name}"), program(name)));
    }
    once.files.push(("/bin/debug/sandflared".to_owned(), beside("sandflared")));
    once.args = args;
    once
}

/// What the program said in one host, and how that ended.
fn attempt(once: &Once, watched: bool) -> (String, Result<(), HostError>) {
    let mut output = Vec::new();
    let outcome = run_once(once, |said| {
        if watched {
            print!("{}", String::from_utf8_lossy(said));
        }
        output.extend_from_slice(said);
    });
    (String::from_utf8_lossy(&output).into_owned(), outcome.map(drop))
}

/// What was said by scenarios that came to an end, and the names of those that did not.
fn open_of(said: &str) -> (&str, Vec<String>) {
    let names = said.lines().find_map(|line| line.strip_prefix("scenarios "));
    let over = |name: &&str| {
        ["passed", "failed"].iter().any(|how| said.contains(&format!("\n{how} {name} ")))
    };
    let all = names.unwrap_or_default().split_whitespace();
    let open: Vec<&str> = all.filter(|name| !over(name)).collect();
    let begun = open.iter().filter_map(|name| said.find(&format!("begin {name}\n"))).min();
    let ended = &said[..begun.unwrap_or(said.len())];
    (ended, open.into_iter().map(str::to_owned).collect())
}

#[test]
fn what_a_host_that_fails_had_not_ended_is_left_to_another() {
    let said = "scenarios a b c d\nbegin a\n| row |\n\npassed a 1.0\nbegin b\n\nfailed b 2.0\nbegin c\n| row |\n";
    let (ended, open) = open_of(said);
    assert_eq!(open, ["c", "d"]);
    assert!(ended.ends_with("failed b 2.0\n"), "{ended}");
    assert_eq!(open_of("").1, Vec::<String>::new());
}

/// A program built as this one is: the scenarios, and a daemon that can be told to die at a step.
pub(crate) fn beside(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let path = own.ancestors().nth(2).unwrap().join(name);
    let mode = std::fs::metadata(&path).map(|found| found.permissions().mode());
    assert!(
        mode.is_ok_and(|mode| mode & 0o111 != 0),
        "{} is not there; `cargo build -p system-tests --examples` and `cargo build -p node` make it",
        path.display(),
    );
    path
}
