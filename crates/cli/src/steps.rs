//! What is said while something takes long: a bar on a terminal, one line per step elsewhere.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use image_build::{Outcome, Progress};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::duration::shown;

/// How often a bar moves when nothing else happens.
const TICK: Duration = Duration::from_millis(120);
const BAR_STEPS: u64 = 1000;

/// Tells a person at standard error how far things are.
#[derive(Debug)]
pub(crate) struct Steps {
    terminal: bool,
    active: Mutex<HashMap<String, Step>>,
}

/// One thing that takes its time.
#[derive(Debug)]
pub(crate) struct Step {
    what: String,
    began: Instant,
    bar: Option<ProgressBar>,
    announced: bool,
    measured: bool,
}

impl Steps {
    pub(crate) fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), active: Mutex::default() }
    }

    /// Begins a step; `what` is a phrase such as `starting the node`.
    pub(crate) fn begin(&self, what: &str) -> Step {
        let bar = self.terminal.then(|| {
            let bar = ProgressBar::with_draw_target(Some(BAR_STEPS), ProgressDrawTarget::stderr());
            bar.set_style(spinner());
            bar.set_message(what.to_owned());
            bar.enable_steady_tick(TICK);
            bar
        });
        Step {
            what: what.to_owned(),
            began: Instant::now(),
            bar,
            announced: false,
            measured: false,
        }
    }
}

impl Step {
    /// Is this far, 0 to 1.
    pub(crate) fn advance(&mut self, fraction: f64) {
        match &self.bar {
            Some(bar) => {
                if !self.measured {
                    bar.set_style(gauge());
                    self.measured = true;
                }
                bar.set_position((fraction.clamp(0.0, 1.0) * BAR_STEPS as f64) as u64);
            }
            None => self.announce(),
        }
    }

    /// Says that it takes a while, where there is no bar to show it.
    pub(crate) fn announce(&mut self) {
        if self.bar.is_none() && !self.announced {
            self.announced = true;
            eprintln!("{} ...", self.what);
        }
    }

    /// Is now doing `what`, as a part of the step.
    pub(crate) fn note(&mut self, what: &str) {
        self.announced = true;
        match &self.bar {
            Some(bar) => bar.set_message(format!("{}: {what}", self.what)),
            None => eprintln!("{}: {what} ...", self.what),
        }
    }

    /// Done, with a word on how.
    pub(crate) fn done(self, how: &str) {
        let line = format!("{}: {how} ({})", self.what, shown(self.began.elapsed()));
        match &self.bar {
            Some(bar) => {
                bar.finish_and_clear();
                eprintln!("\u{2713} {line}");
            }
            None => eprintln!("{line}"),
        }
    }

    /// Done; nothing to say.
    pub(crate) fn quietly(self) {
        drop(self);
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn spinner() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {msg} {elapsed:.dim}")
        .expect("the template is a constant that parses")
}

fn gauge() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {msg} [{bar:24}] {percent:>3} % {elapsed:.dim}")
        .expect("the template is a constant that parses")
        .progress_chars("=> ")
}

impl Progress for Steps {
    fn begin(&self, step: &str) {
        let begun = Steps::begin(self, step);
        self.active.lock().unwrap_or_else(PoisonError::into_inner).insert(step.to_owned(), begun);
    }

    fn advance(&self, step: &str, fraction: f64) {
        let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(step) = active.get_mut(step) {
            step.advance(fraction);
        }
    }

    fn end(&self, step: &str, outcome: Outcome) {
        let ended = self.active.lock().unwrap_or_else(PoisonError::into_inner).remove(step);
        match (ended, outcome) {
            (Some(step), Outcome::Built) => step.done("built"),
            (Some(step), Outcome::Reused) => step.done("reused"),
            (None, _) => {}
        }
    }
}
