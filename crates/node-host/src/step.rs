//! Named steps of what changes the node, for tests that end it there.
//!
//! A daemon may be killed at any point of any operation. To show that none of them loses or leaks
//! anything, a test needs it to die exactly there. A build with debug assertions aborts at the step
//! that its environment names; one without them, as users get it, has nothing of this in it.

/// Names the step to abort at.
#[cfg(debug_assertions)]
const VARIABLE: &str = "SANDFLARE_ABORT_AT";

/// Says that `step` is done; what comes after it is not.
#[cfg(debug_assertions)]
pub(crate) fn reached(step: &str) {
    if std::env::var_os(VARIABLE).is_some_and(|wanted| wanted == step) {
        // As a kill would: nothing is dropped, nobody is told.
        std::process::abort();
    }
}

/// Does nothing in a build for users.
#[cfg(not(debug_assertions))]
pub(crate) const fn reached(_step: &str) {}
