use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use api_node::{
    CreateOptions, CreateSandbox, ExecBody, ExecRequest, MemoryPath, Sandbox, SandboxStats,
};
use base_types::{SandboxId, Size, TemplateName};
use client::{Client, ClientError};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use crate::bench::report::{Alive, Parallel, Run};
use crate::bench::spread::Spread;
use crate::steps::Step;

/// What a command that answers writes.
const ANSWER: &str = "sandflare";
/// LIMIT: how long a create waits for the pool to be full again. A shell takes a fraction of a
/// second; after this the figures say that the pool was empty.
const POOL_LIMIT: Duration = Duration::from_secs(20);
/// LIMIT: how long creates may take that were under way when the benchmark was broken off.
const CREATE_LIMIT: Duration = Duration::from_secs(60);
/// How often the pool is looked at.
const POOL_LOOK: Duration = Duration::from_millis(50);

/// Makes sandboxes and takes the time. What it has made and not killed, [`Measure::kill_all`] does.
#[derive(Clone, Debug)]
pub(crate) struct Measure {
    client: Client,
    template: TemplateName,
    size: Size,
    made: Arc<Mutex<BTreeSet<SandboxId>>>,
    creating: TaskTracker,
}

impl Measure {
    pub(crate) fn new(client: Client, template: TemplateName, size: Size) -> Self {
        Self { client, template, size, made: Arc::default(), creating: TaskTracker::new() }
    }

    /// What its sandboxes are clones of.
    pub(crate) fn template(&self) -> &TemplateName {
        &self.template
    }

    /// Their size.
    pub(crate) fn size(&self) -> Size {
        self.size
    }

    /// One create, one command, one kill; the pool is full when it begins.
    pub(crate) async fn one(&self, path: MemoryPath) -> Result<Run, ClientError> {
        self.wait_for_pool().await?;
        let began = Instant::now();
        let sandbox = self.create(path).await?;
        let create_us = micros(began, Instant::now());
        let exec_began = Instant::now();
        let first = self.first_output(sandbox.id).await;
        let stats = self.client.sandbox_stats(sandbox.id).await;
        self.kill(sandbox.id).await?;
        let answered = first?;
        Ok(Run {
            create_us,
            first_output_us: micros(began, answered),
            exec_us: micros(exec_began, answered),
            phases: sandbox.phases,
            stats: stats?,
        })
    }

    /// `count` creates begun at the same moment.
    pub(crate) async fn parallel(&self, path: MemoryPath, count: u32) -> Result<Parallel> {
        self.wait_for_pool().await?;
        let mut creates = JoinSet::new();
        for _ in 0..count {
            let this = self.clone();
            creates.spawn(async move {
                let began = Instant::now();
                this.create(path).await.map(|sandbox| (sandbox.id, micros(began, Instant::now())))
            });
        }
        let (mut times, mut failures, mut ids) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(created) = creates.join_next().await {
            match created.context("wait for a create")? {
                Ok((id, us)) => {
                    times.push(us);
                    ids.push(id);
                }
                Err(error) => failures.push(error.to_string()),
            }
        }
        for id in ids {
            self.kill(id).await?;
        }
        Ok(Parallel { count, create_us: Spread::of(times), failures })
    }

    /// `count` sandboxes, all alive when each is asked to answer.
    pub(crate) async fn alive(
        &self,
        path: MemoryPath,
        count: u32,
        step: &mut Step,
    ) -> Result<Alive> {
        let (mut ids, mut failures) = (Vec::new(), Vec::new());
        for made in 0..count {
            match self.create(path).await {
                Ok(sandbox) => ids.push(sandbox.id),
                Err(error) => failures.push(error.to_string()),
            }
            step.advance(f64::from(made) / f64::from(count));
        }
        let mut stats: Vec<SandboxStats> = Vec::new();
        for &id in &ids {
            let answered = match self.first_output(id).await {
                Ok(_) => self.client.sandbox_stats(id).await,
                Err(error) => Err(error),
            };
            match answered {
                Ok(found) => stats.push(found),
                Err(error) => failures.push(error.to_string()),
            }
        }
        let node = self.client.node_get().await;
        for id in ids {
            self.kill(id).await?;
        }
        Ok(Alive {
            count,
            answered: u32::try_from(stats.len()).unwrap_or(u32::MAX),
            private_kib: Spread::of(stats.iter().map(SandboxStats::private_kib)),
            overhead_kib: Spread::of(stats.iter().map(|stats| stats.overhead_kib)),
            memory_available_mib: node.ok().map(|node| node.memory.available_mib),
            failures,
        })
    }

    /// Kills what is left after an error or a signal.
    pub(crate) async fn kill_all(&self) {
        self.creating.close();
        if timeout(CREATE_LIMIT, self.creating.wait()).await.is_err() {
            eprintln!("warning: a create is still under way; look with `sandflare ps`");
        }
        let left = self.list().clone();
        for id in left {
            if let Err(error) = self.kill(id).await {
                eprintln!("warning: sandbox {id} could not be killed: {error}");
            }
        }
    }

    pub(crate) async fn create(&self, path: MemoryPath) -> Result<Sandbox, ClientError> {
        let options = CreateOptions { memory_path: Some(path), ..CreateOptions::default() };
        let request = CreateSandbox {
            template: self.template.clone(),
            size: self.size,
            options,
            ..CreateSandbox::default()
        };
        // A task of its own, so that a benchmark that is broken off still learns what it has made.
        let this = self.clone();
        let creating = self.creating.spawn(async move {
            let sandbox = this.client.sandbox_create(&request).await?;
            this.made(sandbox.id);
            Ok(sandbox)
        });
        creating.await.expect("a create neither panics nor is cancelled")
    }

    /// A sandbox that is to be killed when the benchmark is broken off.
    pub(crate) fn made(&self, id: SandboxId) {
        self.list().insert(id);
    }

    pub(crate) async fn kill(&self, id: SandboxId) -> Result<(), ClientError> {
        self.client.sandbox_kill(id).await?;
        self.list().remove(&id);
        Ok(())
    }

    /// When the first output of `echo` came; the rest of its life is waited for too.
    pub(crate) async fn first_output(&self, id: SandboxId) -> Result<Instant, ClientError> {
        let argv = ["echo", ANSWER].map(str::to_owned).to_vec();
        let request = ExecRequest { argv, ..ExecRequest::default() };
        let mut events = self.client.process_exec(id, &request).await?;
        let mut first = None;
        while let Some(event) = events.next().await? {
            match event.body {
                ExecBody::Stdout { .. } => first = first.or_else(|| Some(Instant::now())),
                ExecBody::Error { failure, .. } => {
                    return Err(ClientError::Refused(Box::new(failure)));
                }
                ExecBody::Exit { exit_code: 0, .. } => {
                    return first.ok_or_else(|| events.cut_short());
                }
                ExecBody::Exit { .. } => return Err(events.cut_short()),
                ExecBody::Started { .. }
                | ExecBody::Stderr { .. }
                | ExecBody::Dropped { .. }
                | ExecBody::Heartbeat
                | ExecBody::Unknown => {}
            }
        }
        Err(events.cut_short())
    }

    /// Returns when the pool is full, or nobody would wait for it any longer.
    pub(crate) async fn wait_for_pool(&self) -> Result<(), ClientError> {
        let end = Instant::now() + POOL_LIMIT;
        loop {
            let pool = self.client.node_get().await?.pool;
            if pool.ready >= pool.target || Instant::now() >= end {
                return Ok(());
            }
            sleep(POOL_LOOK).await;
        }
    }

    fn list(&self) -> MutexGuard<'_, BTreeSet<SandboxId>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Microseconds from `began` to `ended`.
pub(crate) fn micros(began: Instant, ended: Instant) -> u64 {
    u64::try_from(ended.duration_since(began).as_micros()).unwrap_or(u64::MAX)
}
