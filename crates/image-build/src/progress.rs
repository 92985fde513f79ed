/// Hears how a build goes on. Who shows it, and how, decides the caller.
pub trait Progress: Send + Sync {
    /// `step` begins. It is a short phrase for a person, such as `template agent: root image`.
    fn begin(&self, step: &str);
    /// `step` is this far: 0.0 to 1.0, never going back, estimated.
    fn advance(&self, step: &str, fraction: f64);
    /// `step` is done.
    fn end(&self, step: &str, outcome: Outcome);
}

/// How a step ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Something was made.
    Built,
    /// What was there is still right.
    Reused,
}

/// Nobody listens.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _step: &str) {}
    fn advance(&self, _step: &str, _fraction: f64) {}
    fn end(&self, _step: &str, _outcome: Outcome) {}
}
