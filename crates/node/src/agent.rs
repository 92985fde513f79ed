//! Asking the agent of a sandbox, and asking again over another connection.

use api_node::Failure;
use node_host::{GuestConnection, GuestError, Phase, SandboxHandle};

use crate::failure;

/// LIMIT: how often a broken connection to a guest that still answers is made again before anything
/// comes over it; more often, the guest is not well.
const RESUMES_MAX: u32 = 3;

/// Asks the agent of a sandbox one thing.
pub(crate) async fn ask<T, F>(
    sandbox: &SandboxHandle,
    request: impl FnOnce(GuestConnection) -> F,
) -> Result<T, Failure>
where
    F: Future<Output = Result<T, GuestError>>,
{
    let agent = sandbox.connect().await.map_err(|error| failure::of_ask(&error))?;
    match request(agent).await {
        Ok(answer) => Ok(answer),
        Err(error) => Err(failure::of_broken(sandbox, error).await),
    }
}

/// How often a stream was connected again since something came over it.
#[derive(Debug, Default)]
pub(crate) struct Resumes(u32);

impl Resumes {
    /// Something came.
    pub(crate) fn came(&mut self) {
        self.0 = 0;
    }

    /// What `open` gives, where the sandbox runs and only the connection is gone; otherwise why the
    /// stream is over, which of a paused sandbox `paused` says.
    pub(crate) async fn again<T>(
        &mut self,
        sandbox: &SandboxHandle,
        error: GuestError,
        open: impl Future<Output = Result<T, Failure>>,
        paused: impl FnOnce() -> Failure,
    ) -> Result<T, Failure> {
        let broken =
            matches!(error, GuestError::Closed | GuestError::Io(_) | GuestError::Unopened(_));
        match sandbox.view().phase {
            Phase::Running if broken && self.0 < RESUMES_MAX => {
                self.0 += 1;
                open.await
            }
            Phase::Pausing | Phase::Paused => Err(paused()),
            _ => Err(failure::of_broken(sandbox, error).await),
        }
    }
}
