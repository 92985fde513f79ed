use expect_test::expect;

use crate::sandflare::Sandflare;

#[tokio::test]
async fn status_and_lists_are_for_people_and_for_programs() {
    let sandflare = Sandflare::new().await;
    expect![[r#"
        exit code: 0
        ----- stdout -----
        node       http://NODE, version 0.0.0-sim
        up for     1 min 1 s
        machine    2 CPUs, Linux 6.12.0-sim
        kvm        usable: it runs Linux
        sandboxes  0
        shells     2 of 2 ready
        memory     1.8 GiB of 2.4 GiB free
        data       templates 300 MiB, sandboxes 4.0 MiB, 9.0 GiB free
        ----- stderr -----
    "#]]
    .assert_eq(&sandflare.shown(&["status"]).await);
    expect![[r#"
        exit code: 0
        ----- stdout -----
        TEMPLATE  SIZE    CPU     MEMORY   SNAPSHOT
        agent     nano    1 vCPU  512 MiB  ready, 150 MiB
        agent     micro   1 vCPU  1.0 GiB  ready, 150 MiB
        agent     small   2 vCPU  2.0 GiB  ready, 150 MiB
        agent     medium  2 vCPU  4.0 GiB  ready, 150 MiB
        agent     large   4 vCPU  8.0 GiB  ready, 150 MiB
        ----- stderr -----
    "#]]
    .assert_eq(&sandflare.shown(&["template", "ls"]).await);
    expect![[r#"
        exit code: 0
        ----- stdout -----
        ID  NAME  TEMPLATE  SIZE  AGE  STATE
        ----- stderr -----
    "#]]
    .assert_eq(&sandflare.shown(&["ps"]).await);
    for args in [["status", "--json"], ["ps", "--json"]] {
        let output = sandflare.output(&args).await;
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap();
        assert!(output.stderr.is_empty());
    }
}

#[tokio::test]
async fn without_a_node_every_command_says_how_to_start_one() {
    let sandflare = Sandflare::new().await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    for (args, code) in [
        (&["ps"][..], 1),
        (&["status"], 1),
        (&["template", "ls"], 1),
        (&["bench"], 1),
        (&["run", "true"], 125),
    ] {
        let args: Vec<_> = ["--url", &url].into_iter().chain(args.iter().copied()).collect();
        let output = sandflare.output(&args).await;
        assert_eq!(
            String::from_utf8_lossy(&output.stderr),
            format!("error: no node is running at {url}\nhint: start one with `sandflare up`\n"),
        );
        assert_eq!(output.status.code(), Some(code), "{args:?}");
    }
}

#[tokio::test]
async fn a_file_goes_in_and_comes_out_equal() {
    let sandflare = Sandflare::new().await;
    let content: Vec<u8> = (0..=u8::MAX).cycle().take(200_003).collect();
    let (here, back) = (sandflare.home.path().join("in"), sandflare.home.path().join("out"));
    std::fs::write(&here, &content).unwrap();
    let made = client::Client::new(&sandflare.served.url).unwrap();
    let id = made.sandbox_create(&api_node::CreateSandbox::default()).await.unwrap().id;
    let inside = format!("{id}:/home/agent/");
    let named = format!("{id}:/home/agent/in");
    let output = sandflare.output(&["cp", here.to_str().unwrap(), &inside]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = sandflare.output(&["cp", &named, back.to_str().unwrap()]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(std::fs::read(&back).unwrap() == content);
    assert!(sandflare.output(&["cp", &named, "-"]).await.stdout == content);

    let nothing = format!("{id}:/nothing");
    let output = sandflare.output(&["cp", &nothing, back.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(std::fs::read(&back).unwrap() == content);
    assert_eq!(std::fs::read_dir(sandflare.home.path()).unwrap().count(), 2);
    expect![[r#"
        exit code: 1
        ----- stdout -----
        ----- stderr -----
        error: exactly one side of a copy must be in a sandbox
        hint: write that side as ID:PATH, such as sbx_0123456789abcdef:/home/agent/data.csv
    "#]]
    .assert_eq(&sandflare.shown(&["cp", "a", "b"]).await);
}

#[tokio::test]
async fn a_directory_goes_in_and_comes_out_equal() {
    let sandflare = Sandflare::new().await;
    let (here, back) = (sandflare.home.path().join("in"), sandflare.home.path().join("out"));
    let big: Vec<u8> = (0..=u8::MAX).cycle().take(700_001).collect();
    let (small, name) = (&b"small"[..], "n".repeat(150));
    std::fs::create_dir_all(here.join("sub")).unwrap();
    std::fs::write(here.join("sub/big"), &big).unwrap();
    std::fs::write(here.join(&name), small).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", here.join("link")).unwrap();
    let made = client::Client::new(&sandflare.served.url).unwrap();
    let id = made.sandbox_create(&api_node::CreateSandbox::default()).await.unwrap().id;
    let (here, inside) = (here.to_str().unwrap(), format!("{id}:/home/agent/"));
    for (from, to) in [(here, inside.as_str()), (&format!("{inside}in"), back.to_str().unwrap())] {
        let output = sandflare.output(&["cp", from, to]).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout.is_empty());
    }
    assert!(std::fs::read(back.join("sub/big")).unwrap() == big);
    assert!(std::fs::read(back.join(&name)).unwrap() == small);
    assert_eq!(std::fs::read_dir(&back).unwrap().count(), 2);
    // Into a directory that is there, it goes by its name.
    let output = sandflare.output(&["cp", &format!("{inside}in"), back.to_str().unwrap()]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(std::fs::read(back.join("in/sub/big")).unwrap() == big);
    let output = sandflare.output(&["cp", "--mode", "755", here, &inside]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--mode is for a file"));
    let missing = sandflare.home.path().join("missing");
    let output = sandflare.output(&["cp", missing.to_str().unwrap(), &inside]).await;
    assert_eq!(output.status.code(), Some(1));
}

#[tokio::test]
async fn kill_kills_what_is_there_and_tells_the_rest() {
    let sandflare = Sandflare::new().await;
    let client = client::Client::new(&sandflare.served.url).unwrap();
    let id = client.sandbox_create(&api_node::CreateSandbox::default()).await.unwrap().id;
    let args = ["kill", "sbx_00000000000000aa", &id.to_string()];
    expect![[r#"
        exit code: 1
        ----- stdout -----
        sbx_0000000000000001
        ----- stderr -----
        error: there is no sandbox sbx_00000000000000aa
        hint: `sandflare ps` shows those there are
    "#]]
    .assert_eq(&sandflare.shown(&args).await);
    assert_eq!(sandflare.node.sandbox_count(), 0);
}

#[tokio::test]
async fn up_knows_a_node_and_a_stranger_at_its_port() {
    let sandflare = Sandflare::new().await;
    expect![[r#"
        exit code: 0
        ----- stdout -----
        ----- stderr -----
        a node (version 0.0.0-sim) is already running at http://NODE
    "#]]
    .assert_eq(&sandflare.shown(&["up"]).await);
    let stranger = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = stranger.local_addr().unwrap().port().to_string();
    let answering = std::thread::Builder::new()
        .name("stranger".into())
        .spawn(move || {
            use std::io::Write;
            let (mut peer, _) = stranger.accept().unwrap();
            peer.write_all(b"220 mail.example ESMTP\r\n").unwrap();
        })
        .unwrap();
    let shown = sandflare.shown(&["up", "--port", &port]).await.replace(&port, "PORT");
    answering.join().unwrap();
    expect![[r#"
        exit code: 1
        ----- stdout -----
        ----- stderr -----
        error: port PORT is taken by a program that is not a sandflare node
        hint: choose another with --port, or stop that program
    "#]]
    .assert_eq(&shown);
}

#[tokio::test]
async fn down_without_a_node_is_fine() {
    let sandflare = Sandflare::new().await;
    expect![[r#"
        exit code: 0
        ----- stdout -----
        ----- stderr -----
        no node of this machine is running
    "#]]
    .assert_eq(&sandflare.shown(&["down"]).await);
    expect![[r#"
        exit code: 1
        ----- stdout -----
        ----- stderr -----
        error: there is no log at HOME/portable/console.log
        hint: start a node with `sandflare up`
    "#]]
    .assert_eq(
        &sandflare.shown(&["logs"]).await.replace(sandflare.home.path().to_str().unwrap(), "HOME"),
    );
}

#[tokio::test]
async fn doctor_answers_in_a_stable_form() {
    let sandflare = Sandflare::new().await;
    let output = sandflare.output(&["doctor", "--json"]).await;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let ids: Vec<_> =
        report["checks"].as_array().unwrap().iter().map(|c| c["id"].as_str().unwrap()).collect();
    assert_eq!(
        ids.join(" "),
        "programs kvm qemu memory disk packages root cgroup userfaultfd port",
    );
    let ready = report["ready"].as_bool().unwrap();
    assert_eq!(output.status.code(), Some(i32::from(!ready)));
}

#[tokio::test]
async fn the_node_verifies_its_log_and_so_does_whoever_has_the_files() {
    let sandflare = Sandflare::new().await;
    let made = sandflare.output(&["create", "--name", "a"]).await;
    assert!(made.status.success());
    let asked = sandflare.output(&["audit", "verify"]).await;
    let said = String::from_utf8_lossy(&asked.stdout).into_owned();
    assert!(asked.status.success() && said.starts_with("whole: 2 entries\nhead:  1:"), "{said}");
    let head = said.rsplit_once("head:  ").unwrap().1.trim();
    let dir = sandflare.served.audit_dir();
    let here = sandflare.output(&["audit", "verify", dir.to_str().unwrap(), "--head", head]).await;
    assert_eq!(String::from_utf8_lossy(&here.stdout), said);
    let asked = sandflare.output(&["audit", "verify", "--head", head, "-o", "json"]).await;
    let report: serde_json::Value = serde_json::from_slice(&asked.stdout).unwrap();
    assert_eq!((&report["whole"], &report["first"]), (&true.into(), &0.into()), "{report}");
    let file = dir.join("audit-00000000000000000000.jsonl");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("sandbox_create", "sandbox_delete")).unwrap();
    let asked = sandflare.output(&["audit", "verify"]).await;
    let said = String::from_utf8_lossy(&asked.stdout).into_owned();
    assert_eq!(asked.status.code(), Some(1), "{said}");
    assert!(said.starts_with("changed: ") && said.contains("line 2 (entry 1)"), "{said}");
}
