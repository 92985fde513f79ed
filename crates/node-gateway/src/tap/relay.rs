//! HTTP/1.1 between a guest and a server: requests are read whole heads at a time, changed, and
//! written anew, so that what a server takes for one request is one here; answers go back as they come.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1::UpgradeableConnection;
use hyper::service::Service;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::copy_bidirectional;
use tokio::sync::Mutex;

use super::Tap;
use super::replace::{Place, replace};
use crate::far::Stream;

/// LIMIT: bytes of a request's or answer's head; servers take 8 to 64 KiB.
pub(super) const HEAD_BYTES_MAX: usize = 64 * 1024;
/// LIMIT: lines of a head; as many as fit would be thousands.
const HEAD_LINES_MAX: usize = 256;
/// How long a head may take to come, counted from the end of the exchange before it.
pub(super) const HEAD_WITHIN: Duration = Duration::from_secs(60);

type Body = Either<Incoming, Full<Bytes>>;

/// What the requests of one connection share.
struct Relay<'a> {
    tap: &'a Tap,
    place: &'a Place,
    far: Far,
    /// A request was taken and its answer not yet given.
    busy: AtomicBool,
    /// Both ends of what is no HTTP any more.
    upgraded: StdMutex<Option<(OnUpgrade, OnUpgrade)>>,
}

/// Where requests go.
enum Far {
    Server(Arc<Mutex<SendRequest<Incoming>>>),
    /// Nowhere, and why.
    Nowhere(String),
}

/// Moves requests and answers until either end is done.
pub(super) async fn relay<N: Stream + 'static, F: Stream + 'static>(
    tap: &Tap,
    place: &Place,
    near: N,
    far: F,
) -> hyper::Result<()> {
    let mut client = hyper::client::conn::http1::Builder::new();
    client.preserve_header_case(true).max_headers(HEAD_LINES_MAX).max_buf_size(2 * HEAD_BYTES_MAX);
    let (sender, client) = client.handshake(TokioIo::new(far)).await?;
    let relay = Relay::new(tap, place, Far::Server(Arc::new(Mutex::new(sender))));
    let mut client = pin!(client.with_upgrades());
    let mut server = pin!(relay.serve(near));
    let mut client_is_done = false;
    loop {
        tokio::select! {
            served = &mut server => {
                served?;
                break;
            }
            _ = &mut client, if !client_is_done => {
                client_is_done = true;
                // Nobody is left to ask. What is under way finds that out itself.
                if !relay.busy.load(Ordering::Relaxed) {
                    server.as_mut().graceful_shutdown();
                }
            }
        }
    }
    let upgraded = relay.upgraded.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some((near, far)) = upgraded {
        if !client_is_done {
            client.as_mut().await?;
        }
        let (near, far) = (near.await?, far.await?);
        let (mut near, mut far) = (TokioIo::new(near), TokioIo::new(far));
        // However it ends, it is over.
        let _ = copy_bidirectional(&mut near, &mut far).await;
    }
    Ok(())
}

/// Answers whatever is asked that it goes nowhere.
pub(super) async fn refuse<N: Stream + 'static>(
    tap: &Tap,
    place: &Place,
    near: N,
    why: String,
) -> hyper::Result<()> {
    let relay = Relay::new(tap, place, Far::Nowhere(why));
    relay.serve(near).await
}

impl<'a> Relay<'a> {
    fn new(tap: &'a Tap, place: &'a Place, far: Far) -> Self {
        Self { tap, place, far, busy: AtomicBool::new(false), upgraded: StdMutex::default() }
    }

    fn serve<N: Stream + 'static>(&self, near: N) -> UpgradeableConnection<TokioIo<N>, &Self> {
        let mut server = hyper::server::conn::http1::Builder::new();
        server
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WITHIN)
            .preserve_header_case(true)
            .auto_date_header(false)
            .half_close(true)
            .max_headers(HEAD_LINES_MAX)
            .max_header_size(HEAD_BYTES_MAX)
            .max_buf_size(2 * HEAD_BYTES_MAX);
        server.serve_connection(TokioIo::new(near), self).with_upgrades()
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (mut head, body) = request.into_parts();
        let near = head.extensions.remove::<OnUpgrade>();
        let used = match replace(&mut head, self.place, &self.tap.secrets.granted()) {
            Ok(used) => used,
            Err(refusal) => {
                self.tap.refused(&refusal);
                return refused(refusal.status(), &refusal.to_string());
            }
        };
        let sender = match &self.far {
            Far::Server(sender) => sender,
            Far::Nowhere(why) => return refused(StatusCode::BAD_GATEWAY, why),
        };
        let mut sender = sender.lock().await;
        if sender.ready().await.is_err() {
            return gone(&used.host);
        }
        self.tap.used(&used);
        let sent = sender.send_request(Request::from_parts(head, body)).await;
        let Ok(mut answer) = sent else { return gone(&used.host) };
        if let Some(far) = answer.extensions_mut().remove::<OnUpgrade>() {
            let Some(near) = near else { return gone(&used.host) };
            *self.upgraded.lock().unwrap_or_else(PoisonError::into_inner) = Some((near, far));
        } else if sender.is_closed() {
            // The guest would ask somebody who left.
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        answer.map(Either::Left)
    }
}

impl<'a> Service<Request<Incoming>> for &'a Relay<'_> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'a, Result<Response<Body>, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let relay = *self;
        Box::pin(async move {
            relay.busy.store(true, Ordering::Relaxed);
            let answer = relay.answer(request).await;
            relay.busy.store(false, Ordering::Relaxed);
            Ok(answer)
        })
    }
}

fn gone(host: &api_node::DomainName) -> Response<Body> {
    refused(StatusCode::BAD_GATEWAY, &format!("{host} closed the connection without an answer"))
}

/// An answer of the gateway's own.
fn refused(status: StatusCode, why: &str) -> Response<Body> {
    let body = Full::new(Bytes::from(format!("sandflare: {why}\n")));
    let mut answer = Response::new(Either::Right(body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}
