use std::process::{Output, Stdio};

use client::Client;
use node_sim::{Served, SimNode};
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// The program with a home of its own and a node to talk to.
pub(crate) struct Sandflare {
    pub(crate) node: SimNode,
    pub(crate) served: Served,
    pub(crate) home: TempDir,
}

impl Sandflare {
    pub(crate) async fn new() -> Self {
        let node = SimNode::new();
        let served = node.serve().await;
        Self { node, served, home: tempfile::tempdir().unwrap() }
    }

    /// The node, asked directly.
    pub(crate) fn client(&self) -> Client {
        Client::new(&self.served.url).unwrap()
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        self.command_of(env!("CARGO_BIN_EXE_sandflare"), args)
    }

    /// Another program in the same surroundings.
    pub(crate) fn command_of(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("SANDFLARE_HOME", self.home.path())
            .env("SANDFLARE_API_URL", &self.served.url)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    pub(crate) fn spawn(&self, args: &[&str]) -> Child {
        self.command(args).spawn().unwrap()
    }

    pub(crate) async fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().await.unwrap()
    }

    /// Runs it and gives code, standard output and standard error in one text.
    pub(crate) async fn shown(&self, args: &[&str]) -> String {
        let output = self.output(args).await;
        let text = format!(
            "exit code: {}\n----- stdout -----\n{}----- stderr -----\n{}",
            output.status.code().unwrap(),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        text.replace(&self.served.url, "http://NODE")
    }
}
