//! A guest that ends its own machine.

use api_node::{ErrorCode, SandboxState};
use client::ClientError;
use tokio::time::timeout;

use crate::host::{PATIENCE, shared};
use crate::sandbox::{End, command, follow};

#[tokio::test]
async fn a_guest_that_reboots_or_powers_off_ends_its_sandbox_which_says_so() {
    let host = shared().await;
    let client = host.client();
    // Whether the kernel's last word gets out before an emergency restart is luck.
    let silent = "the guest reset itself without a word from its kernel (a triple fault, or sysrq)";
    let told = "the guest shut itself down";
    for (key, reasons) in [("b", [told, silent]), ("o", [told, told])] {
        let sandbox = host.sandbox("base").await;
        let id = sandbox.id();
        let script = format!("echo {key} > /proc/sysrq-trigger; sleep 1000");
        let request =
            api_node::ExecRequest { user: Some("root".into()), ..command(&["sh", "-c", &script]) };
        let done = timeout(PATIENCE, async {
            follow(client.process_exec(id, &request).await.unwrap()).await
        });
        let done = done.await.expect("the stream ends with the machine");
        let End::Error { failure, code } = done.end else { panic!("{:?}", done.end) };
        assert_eq!((failure.code, code), (ErrorCode::SandboxOver, 125), "{failure}");
        assert_eq!(failure.message.lines().count(), 1, "{failure}");

        let seen = client.sandbox_get(id).await.unwrap();
        assert_eq!(seen.state, SandboxState::Failed);
        let reason = seen.reason.expect("a sandbox that is over says why");
        assert!(reasons.contains(&reason.as_str()), "{key}: {reason}");
        let refused = client.process_exec(id, &command(&["true"])).await.unwrap_err();
        assert_eq!(refused.code(), Some(ErrorCode::SandboxOver), "{refused}");

        client.sandbox_kill(id).await.unwrap();
        let gone = client.sandbox_get(id).await.unwrap_err();
        assert!(
            matches!(&gone, ClientError::Refused(f) if f.code == ErrorCode::NotFound),
            "{gone}"
        );
    }
    // The next create works as if nothing had been.
    assert_eq!(host.sandbox("base").await.text("echo fine").await, "fine");
}
