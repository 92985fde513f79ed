use super::*;
use crate::bounds::IoBounds;

fn launcher(program: &Path) -> VmmLauncher {
    VmmLauncher::new(
        program.into(),
        CgroupTree::open(Path::new("/test"), IoBounds::default()),
        TaskTracker::new(),
    )
    .unwrap()
}

#[tokio::test]
async fn a_program_that_is_no_vmm_fails_with_what_it_said_and_leaves_nothing() {
    // Present on every Debian, writes to its standard error, and never says hello.
    let launcher = launcher(Path::new("/bin/ls"));
    let error = launcher.start(Size::Nano).await.unwrap_err();
    let text = base_types::Chain(&error).to_string();
    assert!(text.contains("did not become ready"), "{text}");
    assert!(text.contains("ls --help"), "{text}");
    assert!(text.ends_with("the VMM process is gone"), "{text}");
    launcher.tasks.close();
    launcher.tasks.wait().await;
}

#[tokio::test]
async fn a_missing_vmm_is_named() {
    let error = launcher(Path::new("/no/vmm")).start(Size::Nano).await.unwrap_err();
    assert!(error.to_string().contains("/no/vmm"), "{error}");
}
