//! What an owner does when it is asked: pause, resume, branch, set a time.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::block_in_place;
use tokio::time::timeout;

use super::activity::now_ms;
use super::files::{SandboxFiles, blame, create_file, create_overlay, failed};
use super::layout::{Layout, Moment, OVERLAYS_MAX};
use super::make::{Primed, ThawError, frozen, prepare, stand, template_of, wake};
use super::merge::merge_deep;
use super::owner::Owner;
use super::{CreateError, CreateTimes, Lease, OVER_WITHIN, SandboxFacts};
use crate::control::ControlError;
use crate::machine::{self, FreezeFiles, Frozen, Gate, MachineError};
use crate::phase::{Event, Phase};
use crate::step;
use crate::template::Template;
use crate::vmm::{MachineOver, VmmProcess};

/// Why a sandbox was not paused, resumed, branched or given another time.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// Not while it is where it is.
    #[error("a sandbox that is {} cannot be {asked}", word(*.phase))]
    NotNow {
        /// Where it is.
        phase: Phase,
        /// What was wanted, as a participle.
        asked: &'static str,
    },
    /// It is over, for this reason.
    #[error("the sandbox is over: {0}")]
    Over(String),
    /// It has no snapshot below it.
    #[error("a sandbox that was booted, not restored, cannot be {0}; create it without `cold`")]
    Booted(&'static str),
    /// Its disk is as deep as a machine can read, and could not be made less so.
    #[error(
        "the sandbox's disk has {0} layers, as many as a machine can have, and they cannot be merged now; free some space on the node's disk"
    )]
    Deep(usize),
    /// What was to be written down together with it took too long.
    #[error("what is to be forked with it was not written within {} s", .0.as_secs())]
    Slow(Duration),
    /// A machine or a file failed.
    #[error(transparent)]
    Failed(#[from] CreateError),
}

/// A phase as people say it.
pub(super) const fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Creating => "being made",
        Phase::Running => "running",
        Phase::Pausing => "being paused",
        Phase::Paused => "paused",
        Phase::Resuming => "being resumed",
        Phase::Failed => "over",
        Phase::Stopping | Phase::Stopped => "being destroyed",
        Phase::Left => "left to the next node",
    }
}

type Answer<T> = oneshot::Sender<Result<T, OrderError>>;

/// Something an owner is asked for.
#[derive(Debug)]
pub(crate) enum Ask {
    /// Pause it.
    Pause(Answer<()>),
    /// Let it run.
    Resume(Answer<()>),
    /// Boot it from its disk, if its machine is over.
    Restart(Answer<()>),
    /// Give it this many seconds from now; 0 is for ever.
    SetTimeout(u32, Answer<()>),
    /// Be of these facts from now on, with this agreed about its time.
    Give(Arc<SandboxFacts>, Lease, Answer<()>),
    /// Write one moment of it to this directory, which is there and empty; with a gate, once that is
    /// open. Answered with how long it stood still, in microseconds.
    Branch(PathBuf, Option<Gate>, Answer<u64>),
}

impl Owner {
    /// Does what was asked. Whoever asked may be gone.
    pub(super) async fn carry_out(&mut self, ask: Ask) {
        match ask {
            Ask::Pause(answer) => drop(answer.send(self.pause().await)),
            Ask::Resume(answer) => drop(answer.send(self.resume().await)),
            Ask::Restart(answer) => drop(answer.send(self.restart().await)),
            Ask::SetTimeout(timeout_s, answer) => {
                drop(answer.send(self.set_timeout(timeout_s).await));
            }
            Ask::Give(facts, lease, answer) => drop(answer.send(self.give(facts, lease).await)),
            // Whoever asked took the directory along.
            Ask::Branch(_, _, answer) if answer.is_closed() => {}
            Ask::Branch(dir, gate, answer) => drop(answer.send(self.branch(&dir, gate).await)),
        }
    }

    /// Where it is, as the reason why it cannot be `asked`.
    pub(super) fn not_now(&self, asked: &'static str) -> OrderError {
        let view = self.view.borrow();
        match (view.phase, &view.reason) {
            (Phase::Failed, Some(reason)) => OrderError::Over(reason.clone()),
            (phase, _) => OrderError::NotNow { phase, asked },
        }
    }

    async fn set_timeout(&mut self, timeout_s: u32) -> Result<(), OrderError> {
        let phase = self.phase();
        if !phase.is_alive() {
            return Err(self.not_now("given another time"));
        }
        self.view.send_modify(|view| {
            view.lease.timeout_s = timeout_s;
            // That of a paused one begins when it is resumed.
            let begins = phase == Phase::Running;
            view.ends_at_ms = begins.then(|| view.lease.end_after(now_ms())).flatten();
        });
        self.remember_lease().await;
        Ok(())
    }

    /// Belongs to somebody else from now on.
    async fn give(&mut self, facts: Arc<SandboxFacts>, lease: Lease) -> Result<(), OrderError> {
        if self.phase() != Phase::Running {
            return Err(self.not_now("given away"));
        }
        self.facts = facts;
        self.view.send_modify(|view| {
            view.lease = lease;
            view.ends_at_ms = lease.end_after(now_ms());
        });
        let SandboxFacts { id, project, ref name, .. } = *self.facts;
        let given = self.around.store.sandbox_give(id, project, name.clone(), self.lease_row());
        given.await.map_err(CreateError::Store)?;
        step::reached("give: remembered");
        Ok(())
    }

    /// Pauses it; returns when all of it is on stable storage and its machine is gone.
    pub(super) async fn pause(&mut self) -> Result<(), OrderError> {
        const ASKED: &str = "paused";
        match self.phase().on(Event::Pause) {
            Ok((phase, _)) if phase == self.phase() => return Ok(()),
            Ok(_) => {}
            Err(_) => return Err(self.not_now(ASKED)),
        }
        let (Some(process), Some(files)) = (self.process.take(), self.files.take()) else {
            return Err(self.not_now(ASKED));
        };
        if files.layout.template.is_none() {
            (self.process, self.files) = (Some(process), Some(files));
            return Err(OrderError::Booted(ASKED));
        }
        self.happened(Event::Pause).await;
        let written = self.unless_ended(Some(&process), write_down(&process, &files)).await;
        self.process = Some(process);
        let layout = match written {
            Ok(layout) => layout,
            Err(ended) => return Err(self.undo(files, ended).await),
        };
        step::reached("pause: written");
        match self.commit(files, layout, true).await {
            Ok(()) => {
                step::reached("pause: counts as paused");
                self.happened(Event::Frozen).await;
                Ok(())
            }
            Err(error) => {
                if let Some(process) = &self.process
                    && let Err(error) = machine::go_on(process).await
                {
                    // The owner hears of its end.
                    tracing::warn!(sandbox = %self.facts.id, "{}", base_types::Chain(&error));
                }
                self.happened(Event::Undone).await;
                Err(error.into())
            }
        }
    }

    /// Takes back a pause whose writing failed, or goes where the interruption leads.
    async fn undo(&mut self, files: SandboxFiles, ended: Ended) -> OrderError {
        files.sweep();
        self.files = Some(files);
        match ended {
            Ended::Failed(error) => {
                self.happened(Event::Undone).await;
                error.into()
            }
            Ended::Killed => {
                self.happened(Event::Kill).await;
                self.not_now("paused")
            }
            Ended::Over(over) => {
                self.ended(over);
                self.happened(Event::Over).await;
                self.not_now("paused")
            }
        }
    }

    /// Lets it run again; returns when its agent answers.
    async fn resume(&mut self) -> Result<(), OrderError> {
        match self.phase().on(Event::Resume) {
            Ok((phase, _)) if phase == self.phase() => return Ok(()),
            Ok(_) => {}
            Err(_) => return Err(self.not_now("resumed")),
        }
        let Some(mut files) = self.files.take() else { return Err(self.not_now("resumed")) };
        if let Err(error) = files.reopen() {
            self.files = Some(files);
            return Err(error.into());
        }
        self.happened(Event::Resume).await;
        let moment = Moment { dir: files.dir().to_owned(), layout: files.layout.clone() };
        let (around, facts) = (self.around.clone(), self.facts.clone());
        let prepared = tokio::select! {
            prepared = prepare(&around, &facts, &moment) => prepared,
            () = around.stop.cancelled() => Err(CreateError::Stopping),
            killer = self.kills.recv() => {
                self.killers.extend(killer);
                self.files = Some(files);
                self.happened(Event::Kill).await;
                return Err(self.not_now("resumed"));
            }
        };
        let thawed = match prepared {
            Ok(primed) => self.go_on(primed, files, &moment.layout).await,
            Err(error) => {
                self.files = Some(files);
                Err(ThawError::Before(error))
            }
        };
        match thawed {
            Ok((process, times)) => {
                self.serve_by(process, times);
                self.happened(Event::Ready).await;
                Ok(())
            }
            Err(ThawError::Before(error)) => {
                self.happened(Event::Undone).await;
                Err(error.into())
            }
            Err(ThawError::After(error)) => {
                let reason = format!("it did not resume: {}", base_types::Chain(&error));
                self.view.send_modify(|view| view.reason = Some(reason));
                self.happened(Event::Over).await;
                Err(error.into())
            }
        }
    }

    /// Runs a machine that was prepared. It is kept before it counts as running, and counts before its
    /// guest may write to its disk: a node that dies in between finds it paused, or finds its machine.
    async fn go_on(
        &mut self,
        primed: Primed,
        files: SandboxFiles,
        paused: &Layout,
    ) -> Result<(VmmProcess, CreateTimes), ThawError> {
        let standing = async {
            let standing =
                stand(&self.around, &self.facts, self.network.watch(), primed, &files).await?;
            standing.process.keep(files.dir()).await?;
            Ok(standing)
        };
        let standing = self.around.stop.run_until_cancelled(standing).await;
        let standing = match standing.unwrap_or(Err(CreateError::Stopping)) {
            Ok(standing) => standing,
            Err(error) => {
                self.files = Some(files);
                return Err(ThawError::Before(error));
            }
        };
        step::reached("resume: kept");
        self.commit(files, paused.running(standing.lazy), true).await.map_err(ThawError::Before)?;
        step::reached("resume: counts as running");
        let Some(files) = &self.files else { return Err(ThawError::After(CreateError::Stopping)) };
        wake(standing, files, self.around.ready_within).await.map_err(ThawError::After)
    }

    /// Makes the sandbox's directory hold `layout`.
    async fn commit(
        &mut self,
        mut files: SandboxFiles,
        layout: Layout,
        durable: bool,
    ) -> Result<(), CreateError> {
        let committing = self.around.tasks.spawn_blocking(move || {
            let done = files.commit(layout, durable);
            (files, done)
        });
        let (files, done) = committing.await.map_err(|_| CreateError::Stopping)?;
        self.files = Some(files);
        done
    }

    /// Writes one moment of it to `dir`.
    async fn branch(&mut self, dir: &Path, gate: Option<Gate>) -> Result<u64, OrderError> {
        const ASKED: &str = "forked or kept as a snapshot";
        let phase = self.phase();
        if !matches!(phase, Phase::Running | Phase::Paused) {
            return Err(self.not_now(ASKED));
        }
        let Some(mut files) = self.files.take() else { return Err(self.not_now(ASKED)) };
        if files.layout.template.is_none() {
            self.files = Some(files);
            return Err(OrderError::Booted(ASKED));
        }
        let process = self.process.take();
        let (around, id) = (Arc::clone(&self.around), self.facts.id);
        let work = async {
            let template = template_of(&around, &files.layout).await?;
            merge_deep(&around, &template, id, &mut files).await;
            let overlays = files.layout.disk.len();
            if overlays >= OVERLAYS_MAX {
                return Ok(Err(OrderError::Deep(overlays)));
            }
            Ok(Ok(match &process {
                Some(process) => branch_running(process, &template, &mut files, dir, gate).await?,
                None => {
                    if let Some(gate) = gate {
                        gate.pass().await;
                    }
                    block_in_place(|| branch_paused(&mut files, dir)).map(|()| 0)?
                }
            }))
        };
        // A node that stops waits for less than a merge may take.
        let work = around.stop.run_until_cancelled(work);
        let work = async { work.await.unwrap_or(Err(CreateError::Stopping)) };
        let branched = self.unless_ended(process.as_ref(), work).await;
        if branched.is_err() {
            // A file that nothing names would be in the way of the next one.
            files.sweep();
        }
        (self.process, self.files) = (process, Some(files));
        match branched {
            Ok(held_us) => held_us,
            Err(Ended::Failed(error)) => Err(error.into()),
            Err(Ended::Killed) => {
                self.happened(Event::Kill).await;
                Err(self.not_now(ASKED))
            }
            Err(Ended::Over(over)) => {
                self.ended(over);
                self.happened(Event::Over).await;
                Err(self.not_now(ASKED))
            }
        }
    }

    /// What `work` comes to, unless the machine ends or somebody kills the sandbox first.
    async fn unless_ended<T>(
        &mut self,
        process: Option<&VmmProcess>,
        work: impl Future<Output = Result<T, CreateError>>,
    ) -> Result<T, Ended> {
        let over = async {
            match process {
                Some(process) => process.over().await,
                None => std::future::pending().await,
            }
        };
        let mut over = pin!(over);
        let done = tokio::select! {
            done = work => done,
            over = &mut over => return Err(Ended::Over(over)),
            killer = self.kills.recv() => {
                self.killers.extend(killer);
                return Err(Ended::Killed);
            }
        };
        let lost = |error: &CreateError| {
            matches!(
                error,
                CreateError::Machine(MachineError::Vmm { source: ControlError::Gone, .. })
            )
        };
        match done {
            // A machine that dies closes its socket first; its end is the better reason.
            Err(error) if lost(&error) => match timeout(OVER_WITHIN, over).await {
                Ok(over) => Err(Ended::Over(over)),
                Err(_) => Err(Ended::Failed(error)),
            },
            done => done.map_err(Ended::Failed),
        }
    }
}

/// Why work on a machine came to nothing.
enum Ended {
    Failed(CreateError),
    Over(MachineOver),
    Killed,
}

/// Stops a machine and writes it beside its disk. Returns what the directory is then to hold.
async fn write_down(process: &VmmProcess, files: &SandboxFiles) -> Result<Layout, CreateError> {
    let mut layout = files.layout.clone();
    let (state_name, memory_name) = (layout.fresh("state"), layout.fresh("memory"));
    let state = create_file(&files.dir().join(&state_name))?;
    let memory = create_file(&files.dir().join(&memory_name))?;
    let freeze = FreezeFiles { state: &state, memory: &memory, disk: None };
    machine::freeze(process, freeze, None).await.map_err(|error| blame(files.dir(), error))?;
    layout.memory.insert(0, memory_name);
    layout.state = Some(state_name);
    Ok(layout)
}

/// Writes one moment of a running machine to `dir`; it goes on over a new overlay. Returns how long
/// it stood still, in microseconds.
async fn branch_running(
    process: &VmmProcess,
    template: &Template,
    files: &mut SandboxFiles,
    dir: &Path,
    gate: Option<Gate>,
) -> Result<u64, CreateError> {
    let before = files.layout.clone();
    let mut layout = before.clone();
    let own = layout.fresh("disk");
    let (state_name, memory_name) = (layout.fresh("state"), layout.fresh("memory"));
    let overlay = create_overlay(&files.dir().join(&own), files.disk_bytes())?;
    let state = create_file(&dir.join(&state_name))?;
    let memory = create_file(&dir.join(&memory_name))?;
    layout.disk.push(own);
    let below = files.own_for_reading()?;
    // Ahead of the machine: an empty overlay that it does not have yet changes nothing, one that
    // it has and nobody knows of would be lost.
    files.commit(layout, false)?;
    step::reached("branch: overlay named");
    let mut disk = vec![&template.root];
    disk.extend(frozen(template, files));
    disk.extend([&below, &overlay]);
    let freeze = FreezeFiles { state: &state, memory: &memory, disk: Some(&disk) };
    let Frozen { held_us, flushed } = match machine::freeze(process, freeze, gate).await {
        Ok(frozen) => frozen,
        Err(error) => {
            let error = blame(dir, error);
            // Room for what is written now.
            drop(memory.set_len(0));
            // An overlay that cannot be unnamed stays, empty, below the next one.
            if files.commit(before, false).is_err() {
                files.push(below, overlay, false);
            }
            return Err(error);
        }
    };
    step::reached("branch: written");
    files.push(below, overlay, true);
    if let Err(source) = flushed {
        // The machine goes on over its new overlay all the same; room for what is written now.
        drop(memory.set_len(0));
        return Err(failed(dir, source));
    }
    let mut moment = Moment { dir: files.dir().to_owned(), layout: before };
    link(&moment, dir)?;
    moment.layout.memory.insert(0, memory_name);
    moment.layout.state = Some(state_name);
    moment.layout.next = files.layout.next;
    moment.layout.write(dir, false).map_err(|source| failed(dir, source))?;
    Ok(held_us)
}

/// Gives `dir` the moment of a paused machine, which will go on over a new overlay.
fn branch_paused(files: &mut SandboxFiles, dir: &Path) -> Result<(), CreateError> {
    let moment = Moment { dir: files.dir().to_owned(), layout: files.layout.clone() };
    let mut layout = files.layout.clone();
    let own = layout.fresh("disk");
    let overlay = create_overlay(&files.dir().join(&own), files.disk_bytes())?;
    layout.disk.push(own);
    let below = files.own_for_reading()?;
    // Before anybody shares the one that was on top.
    files.commit(layout, true)?;
    files.push(below, overlay, true);
    link(&moment, dir)?;
    moment.layout.write(dir, false).map_err(|source| failed(dir, source))
}

fn link(moment: &Moment, dir: &Path) -> Result<(), CreateError> {
    moment.link(moment.layout.names(), dir).map_err(|source| failed(dir, source))
}
