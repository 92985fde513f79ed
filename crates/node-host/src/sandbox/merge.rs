//! Keeps the chain of a sandbox's disk short, however often it is forked and kept.
//!
//! ```text
//!   before:  A  B  C  D  e  f  g  h  own       sizes: capitals are large
//!   after:   A  B  C  M              own       M holds what D to h held
//! ```
//!
//! Each fork and each snapshot freezes the overlay that was on top. Once there are too many frozen
//! ones, the upper of them are merged into a new file beside them, which takes their place in
//! `files.json` when it is written, and for a paused sandbox on stable storage. Directories that
//! share the old ones keep theirs. The machine goes on over the old files, with the same content,
//! until the branch that follows hands it the new chain. Lower overlays are taken along once they are
//! no larger than what is above, so that a byte is copied a few times and not at every turn.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::Duration;

use api_vmm::{Command, MergeSpec};
use base_types::{Chain, SandboxId, Size};
use tokio::task::block_in_place;

use super::CreateError;
use super::files::{FREE_BYTES_MIN, SandboxFiles, create_overlay, failed};
use super::owner::Surroundings;
use crate::disk;
use crate::machine::MachineError;
use crate::shells::ShellError;
use crate::step;
use crate::template::Template;
use crate::vmm::VmmProcess;

/// LIMIT: frozen overlays of a sandbox. A read of what nobody wrote asks each of them; and a machine
/// takes 24 files, of which the root image, the template's overlay and the sandbox's own are three.
pub(super) const FROZEN_MAX: usize = 8;
/// LIMIT: copying what a full disk of 8 GiB holds, within its share of a slow one.
const MERGE_WITHIN: Duration = Duration::from_secs(600);
/// Lower overlays that are left alone while they are large.
const LEFT_ALONE: usize = 4;

/// Which of the frozen overlays, lowest first and of these sizes, are to become one.
fn run(bytes: &[u64]) -> Option<Range<usize>> {
    if bytes.len() < FROZEN_MAX {
        return None;
    }
    let mut start = LEFT_ALONE;
    let mut above: u64 = bytes.iter().skip(start).sum();
    while let Some(below) = start.checked_sub(1).and_then(|index| bytes.get(index)) {
        if *below > above {
            break;
        }
        above += below;
        start -= 1;
    }
    Some(start..bytes.len())
}

/// Merges frozen overlays of the sandbox `id` if there are too many. One that cannot be merged goes
/// on as deep as it is. Dropping the future leaves the directory as it was or as it is then.
pub(super) async fn merge_deep(
    around: &Surroundings,
    template: &Arc<Template>,
    id: SandboxId,
    files: &mut SandboxFiles,
) {
    // An adopted machine may write to one that is only believed to be frozen.
    if !files.is_known() {
        return;
    }
    let sizes: Result<Vec<_>, _> =
        files.frozen.iter().map(|file| file.metadata().map(|found| found.blocks() * 512)).collect();
    let Some(run) = run(&sizes.unwrap_or_default()) else { return };
    let layers = run.len();
    match merge(around, template, files, run).await {
        Ok(()) => tracing::info!(sandbox = %id, "merged {layers} overlays of its disk into one"),
        Err(error) => {
            tracing::warn!(sandbox = %id, "cannot merge overlays of its disk: {}", Chain(&error));
            // Half a file would be in the way of the next one.
            files.sweep();
        }
    }
}

async fn merge(
    around: &Surroundings,
    template: &Template,
    files: &mut SandboxFiles,
    run: Range<usize>,
) -> Result<(), CreateError> {
    let dir = files.dir().to_owned();
    let (below, above) = (files.frozen.get(..run.start), files.frozen.get(run.clone()));
    let (below, above) = (below.unwrap_or_default(), above.unwrap_or_default());
    let mut bytes = FREE_BYTES_MIN;
    for file in above {
        bytes += file.metadata().map_err(|source| failed(&dir, source))?.blocks() * 512;
    }
    let free = disk::free_bytes(&dir).map_err(|source| failed(&dir, source))?;
    if free < bytes {
        return Err(CreateError::DiskFull { path: dir, free_mib: free >> 20 });
    }
    let mut layout = files.layout.clone();
    let name = layout.fresh("disk");
    let path = dir.join(&name);
    let merged = create_overlay(&path, files.disk_bytes())?;
    // What reads the overlays of a guest is jailed, and here without a machine of its own.
    let process = around.launcher.start(Size::Nano).await.map_err(ShellError::Start)?;
    let below: Vec<&File> = [&template.root, &template.disk].into_iter().chain(below).collect();
    let copied = copy(&process, &below, above, &merged).await;
    process.kill();
    copied?;
    step::reached("merge: written");
    // Before it counts: what is open and what is named are changed together or not at all.
    let merged = File::open(&path).map_err(|source| failed(&path, source))?;
    layout.disk.splice(run.clone(), [name]);
    // A power cut ends a machine that runs, and its disk is of no use then.
    let durable = layout.state.is_some();
    block_in_place(|| files.commit(layout, durable))?;
    step::reached("merge: counts");
    files.frozen.splice(run, [merged]);
    Ok(())
}

/// Makes `merged`, an empty overlay, hold what the overlays `run` hold, which lie over `below`.
/// `process` is one without a machine.
async fn copy(
    process: &VmmProcess,
    below: &[&File],
    run: &[File],
    merged: &File,
) -> Result<(), MachineError> {
    let count = |files: usize| u8::try_from(files).unwrap_or(u8::MAX);
    let spec = MergeSpec { below: count(below.len()), run: count(run.len()) };
    let mut descriptors: Vec<_> = below.iter().map(AsFd::as_fd).collect();
    descriptors.extend(run.iter().map(AsFd::as_fd));
    descriptors.push(merged.as_fd());
    let merging = process.control().order(Command::Merge(spec), &descriptors, MERGE_WITHIN);
    let doing = "merge the overlays of a disk";
    merging.await.map_err(|source| MachineError::Vmm { doing, source })
}

#[cfg(test)]
mod test {
    use std::path::Path;
    use std::process::Command as Program;

    use proptest::prelude::*;
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::bounds::IoBounds;
    use crate::cgroup::CgroupTree;
    use crate::vmm::VmmLauncher;

    const DISK_BYTES: u64 = 8 << 20;

    fn qemu_img(arguments: &[&str], files: [&Path; 2]) {
        let done = Program::new("qemu-img").args(arguments).args(files).output();
        let done = done.expect("qemu-img is installed (Debian package qemu-utils)");
        assert!(done.status.success(), "{done:?}");
    }

    /// An overlay in `dir` whose first `bytes` are all `byte`.
    fn overlay(dir: &Path, byte: u8, bytes: u64) -> File {
        let (raw, overlay) = (dir.join("raw"), dir.join(format!("overlay-{byte}")));
        std::fs::write(&raw, vec![byte; usize::try_from(bytes).unwrap()]).unwrap();
        File::options().write(true).open(&raw).unwrap().set_len(DISK_BYTES).unwrap();
        let how = ["convert", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=16k"];
        qemu_img(&how, [&raw, &overlay]);
        File::open(overlay).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_jailed_process_merges_overlays_and_ends() {
        let own = std::env::current_exe().unwrap();
        let program = own.ancestors().nth(2).unwrap().join("sandflare-vmm");
        assert!(program.exists(), "`cargo build -p vmm` makes {}", program.display());
        let dir = tempfile::tempdir().unwrap();
        let (cgroups, tasks) =
            (CgroupTree::open(dir.path(), IoBounds::default()), TaskTracker::new());
        let launcher = VmmLauncher::new(program, cgroups.clone(), tasks.clone()).unwrap();
        let process = launcher.start(Size::Nano).await.unwrap();
        let base = File::create_new(dir.path().join("base")).unwrap();
        base.set_len(DISK_BYTES).unwrap();
        let base = File::open(dir.path().join("base")).unwrap();
        let path = dir.path().join("merged");
        let merged = create_overlay(&path, DISK_BYTES).unwrap();
        let run = [overlay(dir.path(), 1, 5 << 20), overlay(dir.path(), 2, 2 << 20)];
        copy(&process, &[&base], &run, &merged).await.unwrap();

        let flat = dir.path().join("flat");
        qemu_img(&["convert", "-f", "qcow2", "-O", "raw"], [&path, &flat]);
        let mut wanted = vec![2; 2 << 20];
        wanted.resize(5 << 20, 1);
        wanted.resize(8 << 20, 0);
        assert!(std::fs::read(flat).unwrap() == wanted);
        // A file that is no overlay fails that request, and nothing else.
        let again = create_overlay(&dir.path().join("again"), DISK_BYTES).unwrap();
        let wrong = [File::open(dir.path().join("base")).unwrap()];
        let refused = copy(&process, &[&base], &wrong, &again).await.unwrap_err();
        let refused = Chain(&refused).to_string();
        assert!(refused.starts_with("merge the overlays of a disk: open layer 1"), "{refused}");
        process.kill();
        process.gone().await;
        tasks.close();
        tasks.wait().await;
        cgroups.close();
    }

    #[test]
    fn a_short_chain_is_left_alone_and_so_are_large_overlays_below() {
        assert_eq!(run(&[1; FROZEN_MAX - 1]), None);
        assert_eq!(run(&[1000, 1000, 1000, 1000, 1, 1, 1, 1]), Some(4..8));
        assert_eq!(run(&[1000, 10, 1000, 3, 1, 1, 1, 1]), Some(3..8));
        assert_eq!(run(&[1; 8]), Some(0..8));
        assert_eq!(run(&[1; 21]), Some(0..21));
    }

    proptest! {
        #[test]
        fn a_chain_that_grows_for_ever_stays_short_and_its_bytes_are_copied_a_few_times(
            grown in proptest::collection::vec(1..1000_u64, 1..2000)
        ) {
            let (mut chain, mut copied): (Vec<u64>, u64) = (Vec::new(), 0);
            for bytes in &grown {
                if let Some(run) = run(&chain) {
                    let merged: u64 = chain[run.clone()].iter().sum();
                    copied += merged;
                    chain.splice(run, [merged]);
                }
                chain.push(*bytes);
                prop_assert!(chain.len() <= FROZEN_MAX, "{}", chain.len());
            }
            let all: u64 = grown.iter().sum();
            prop_assert!(copied <= all * 40, "{copied} of {all}");
        }
    }
}
