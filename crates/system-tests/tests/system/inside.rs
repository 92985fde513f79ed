//! Scenarios that break a node from inside its own machine.
//!
//! Killing a VMM or the daemon takes a place on their machine, which is the portable host. So these
//! run there: one program (`examples/inside`) in a portable host of its own, all scenarios of a part in one
//! go, and each test looks up its own. There are two parts, which need not run in one process. What a
//! scenario does is written there. Whoever works on one names it in SANDFLARE_TEST_SCENARIOS: then only that
//! runs, and what it says is seen at once.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use base_types::Chain;
use portable_host::{Once, run_once};
use tokio::sync::OnceCell;

use crate::host::{images, private, program};

/// LIMIT: twice what the scenarios of a part take on two processors that are not busy otherwise.
const SECONDS_MAX: u64 = 4500;
/// Room for a few templates and sandboxes, and small enough to be filled.
const DATA_BYTES: u64 = 3 << 30;

/// The part with chains of forks.
const CHAINS: &str = "--chains";
/// The part with all else.
const OTHERS: &str = "--others";

/// Waits for all scenarios but chains; what they said.
pub(crate) async fn output() -> &'static str {
    static OUTPUT: OnceCell<String> = OnceCell::const_new();
    OUTPUT.get_or_init(|| run(OTHERS)).await
}

/// Waits for all scenarios but chains, and passes when the one called `name` did.
pub(crate) async fn passed(name: &str) {
    passed_in(output().await, name);
}

/// Waits for all scenarios with chains, and passes when the one called `name` did.
pub(crate) async fn chained(name: &str) {
    static OUTPUT: OnceCell<String> = OnceCell::const_new();
    passed_in(OUTPUT.get_or_init(|| run(CHAINS)).await, name);
}

fn passed_in(output: &str, name: &str) {
    let (begin, passed) = (format!("begin {name}\n"), format!("\npassed {name} "));
    let said = output.split_once(&begin).map(|(_, rest)| rest).unwrap_or_default();
    let said = said.split("\nbegin ").next().unwrap_or_default();
    assert!(
        format!("\n{said}").contains(&passed),
        "inside, `{name}` did not pass; what was said from its begin:\n{}",
        if said.is_empty() { output } else { said },
    );
}

async fn run(part: &str) -> String {
    // For its images disk, and so that nothing else runs meanwhile.
    let session = private().await;
    let mut once = Once::new(images().to_owned(), "/bin/inside");
    once.images_disk = Some(session.state());
    once.data_bytes = Some(DATA_BYTES);
    once.seconds_max = SECONDS_MAX;
    once.env.insert("RUST_BACKTRACE".to_owned(), "0".to_owned());
    once.files = vec![("/bin/inside".to_owned(), beside("examples/inside"))];
    for name in ["sandflare", "sandflared", "sandflare-vmm"] {
        once.files.push((format!("/bin/{name}"), program(name)));
    }
    once.files.push(("/bin/debug/sandflared".to_owned(), beside("sandflared")));
    let wanted = std::env::var("SANDFLARE_TEST_SCENARIOS").unwrap_or_default();
    once.args = wanted.split_whitespace().map(str::to_owned).collect();
    let watched = !once.args.is_empty();
    if !watched {
        once.args.push(part.to_owned());
    }
    let running = tokio::task::spawn_blocking(move || {
        let mut output = Vec::new();
        let outcome = run_once(&once, |said| {
            if watched {
                print!("{}", String::from_utf8_lossy(said));
            }
            output.extend_from_slice(said);
        });
        // What passed before the host failed has passed.
        let mut output = String::from_utf8_lossy(&output).into_owned();
        if let Err(error) = outcome {
            output.push_str(&format!("\nthe portable host failed: {}\n", Chain(&error)));
        }
        output
    });
    running.await.unwrap()
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
