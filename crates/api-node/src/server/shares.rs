//! How many requests of each project, and into each sandbox, are under way.

use std::collections::HashMap;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base_types::{ProjectId, SandboxId};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

use crate::server::limits::Limits;
use crate::server::seats::{Seat, Serving};
use crate::server::seen::AtPort;
use crate::{ErrorCode, Failure};

/// LIMIT: requests that give something back, beyond a limit: whoever is at it can still end what
/// took it there.
const GIVING_BACK: usize = 16;

/// LIMIT: a part of what may be under way, 1/4, that requests to ports leave to the API, and that one
/// project leaves to others of all connections: strangers at public ports do not keep owners out.
const LEFT_TO_API: usize = 4;

/// The requests under way. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Shares {
    limits: Limits,
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    projects: HashMap<ProjectId, usize>,
    sandboxes: HashMap<SandboxId, usize>,
    /// Those to ports, of all projects.
    at_ports: usize,
}

impl Shares {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, counts: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out a request of `project`, into `sandbox` if it is for the inside of one, unless as many
    /// as may be are under way.
    pub(crate) async fn pass(
        &self,
        mut request: Request,
        project: ProjectId,
        sandbox: Option<SandboxId>,
        next: Next,
    ) -> Response {
        let held = match self.admit(&request, project, sandbox) {
            Ok(held) => held,
            Err(failure) => return failure.into_response(),
        };
        request.extensions_mut().insert(self.limits);
        request.extensions_mut().insert(held.clone());
        match timeout_at(held.until(), next.run(request)).await {
            Ok(response) => held.hold(response),
            Err(_) => held.too_long().into_response(),
        }
    }

    fn admit(
        &self,
        request: &Request,
        project: ProjectId,
        sandbox: Option<SandboxId>,
    ) -> Result<Held, Failure> {
        let Limits { connections, request_within, .. } = self.limits;
        let at_port = request.extensions().get::<AtPort>().is_some();
        let most = |limit: usize| {
            let limit = limit.min(part(connections));
            match at_port {
                true => part(limit),
                false if request.method() == Method::DELETE => limit + GIVING_BACK,
                false => limit,
            }
        };
        let (requests_per_project, requests_per_sandbox) =
            (self.limits.requests_per_project, self.limits.requests_per_sandbox);
        let mut counts = self.lock();
        if at_port && counts.at_ports >= part(connections) {
            return Err(too_many("the node", counts.at_ports));
        }
        let of_project = counts.projects.get(&project).copied().unwrap_or_default();
        if of_project >= most(requests_per_project) {
            return Err(too_many("the project", of_project));
        }
        if let Some(id) = sandbox {
            let of_sandbox = counts.sandboxes.get(&id).copied().unwrap_or_default();
            if of_sandbox >= most(requests_per_sandbox) {
                return Err(too_many(&format!("the sandbox {id}"), of_sandbox));
            }
            counts.sandboxes.insert(id, of_sandbox + 1);
        }
        counts.projects.insert(project, of_project + 1);
        counts.at_ports += usize::from(at_port);
        drop(counts);
        let seat = request.extensions().get::<Arc<Seat>>();
        Ok(Held(Arc::new(Share {
            shares: self.clone(),
            project,
            sandbox,
            at_port,
            _serving: seat.map(Seat::serve),
            until: Instant::now() + request_within,
        })))
    }
}

/// All but what is left to others.
const fn part(limit: usize) -> usize {
    limit - limit / LEFT_TO_API
}

fn too_many(whose: &str, count: usize) -> Failure {
    let message = format!("{whose} has {count} requests under way, as many as it may have at once");
    Failure::new(ErrorCode::QuotaExceeded, message)
        .with_hint("end some streams or uploads, or wait for them")
}

/// A request's place among the others of its project, and that its connection serves. In the request's
/// extensions; whatever outlives the answer's head holds a clone.
#[derive(Clone, Debug)]
pub(crate) struct Held(Arc<Share>);

#[derive(Debug)]
struct Share {
    shares: Shares,
    project: ProjectId,
    sandbox: Option<SandboxId>,
    at_port: bool,
    _serving: Option<Serving>,
    until: Instant,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut counts = self.shares.lock();
        one_less(&mut counts.projects, &self.project);
        if let Some(id) = &self.sandbox {
            one_less(&mut counts.sandboxes, id);
        }
        counts.at_ports -= usize::from(self.at_port);
    }
}

fn one_less<K: Eq + Hash>(counts: &mut HashMap<K, usize>, of: &K) {
    if let Some(count) = counts.get_mut(of) {
        *count -= 1;
        if *count == 0 {
            counts.remove(of);
        }
    }
}

impl Held {
    /// When the request must be over.
    pub(crate) fn until(&self) -> Instant {
        self.0.until
    }

    /// That it was not.
    pub(crate) fn too_long(&self) -> Failure {
        let seconds = self.0.shares.limits.request_within.as_secs();
        let message = format!("the request took longer than {seconds} s, which none may");
        Failure::new(ErrorCode::InvalidRequest, message)
    }

    /// `response`, which holds the place until its body has ended, and breaks off when it must be over.
    fn hold(self, response: Response) -> Response {
        let over = Box::pin(sleep_until(self.until()));
        response.map(|body| Body::new(HeldBody { body, over, _held: self }))
    }
}

struct HeldBody {
    body: Body,
    over: Pin<Box<Sleep>>,
    _held: Held,
}

/// An answer that took too long.
#[derive(Debug, thiserror::Error)]
#[error("the answer took longer than any may")]
struct TooLong;

impl HttpBody for HeldBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.over.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(axum::Error::new(TooLong))));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
