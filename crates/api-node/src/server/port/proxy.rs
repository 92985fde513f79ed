//! Passes one request on to a program, and its answer back.

use std::net::SocketAddr;

use axum::Extension;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{CONNECTION, CONTENT_LENGTH, UPGRADE};
use axum::http::{HeaderValue, Response as HttpResponse, StatusCode, Version};
use axum::response::Response;
use base_types::Chain;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::task::JoinHandle;
use tokio::time::sleep_until;

use crate::server::access_api::AccessApi;
use crate::server::api::NodeApi;
use crate::server::port::Front;
use crate::server::port::headers::{Came, from_program, to_program};
use crate::server::port::place::Place;
use crate::server::shares::Held;
use crate::{ErrorCode, Failure};

/// LIMIT: the head of a program's answer, which is held in memory whole; as much as a caller's own.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// LIMIT: its header lines; as many as a caller's own, and some more of the cookies programs like.
const HEAD_LINES_MAX: usize = 128;
/// LIMIT: what is held of each direction of a connection that is not HTTP any more.
const COPY_BYTES: usize = 16 * 1024;

/// The task that moves a connection's bytes. It ends with this: nothing is left in a sandbox by a
/// caller that is gone.
struct Line(JoinHandle<()>);

impl Drop for Line {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The whole way of a request that was let in.
pub(crate) async fn pass_on<A: NodeApi, G: AccessApi>(
    State(front): State<Front<A, G>>,
    Extension(place): Extension<Place>,
    Extension(held): Extension<Held>,
    mut request: Request,
) -> Result<Response, Failure> {
    let from = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip());
    let came = Came { from, secure: front.addresses.secure };
    let wanted = to_program(request.headers_mut(), &place, &place.prefix(), came);
    let callers = wanted.is_some().then(|| hyper::upgrade::on(&mut request));
    // What this server noted about the request is not for the other side's connection.
    request.extensions_mut().clear();
    *request.version_mut() = Version::HTTP_11;

    let stream = front.doors.api.port_connect(place.sandbox, place.port).await;
    let stream = stream.map_err(|failure| match failure.code {
        ErrorCode::PortUnreachable => failure.with_hint(
            "start a program there first; it must listen on that port of every address, or of \
             loopback",
        ),
        _ => failure,
    })?;
    let broken = |error: &hyper::Error| of_broken(place.port, error);
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEAD_LINES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(&error))?;
    let line = Line(tokio::spawn(async move {
        // The request's own error says it too.
        let _ = connection.with_upgrades().await;
    }));
    let mut answer = sender.send_request(request).await.map_err(|error| broken(&error))?;
    let going_on = from_program(answer.headers_mut(), place.way);
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let held_line = move |frame| {
            // Moved in here, it lives as long as the body.
            let _ = &line;
            frame
        };
        return Ok(answer.map(|body| Body::new(body.map_frame(held_line))));
    }
    match (callers, going_on) {
        (Some(callers), Some(protocol)) => Ok(switch(answer, callers, protocol, line, held)),
        _ => Err(Failure::new(
            ErrorCode::PortBroken,
            format!("the program on port {} went on in another protocol unasked", place.port),
        )),
    }
}

/// The answer after which both sides go on without HTTP; a task carries what they say.
fn switch(
    mut answer: HttpResponse<Incoming>,
    callers: OnUpgrade,
    protocol: HeaderValue,
    line: Line,
    held: Held,
) -> Response {
    let programs = hyper::upgrade::on(&mut answer);
    tokio::spawn(async move {
        let _line = line;
        let until = held.until();
        let carrying = async {
            let (callers, programs) = tokio::try_join!(callers, programs)?;
            let (mut caller, mut program) = (TokioIo::new(callers), TokioIo::new(programs));
            let copied =
                copy_bidirectional_with_sizes(&mut caller, &mut program, COPY_BYTES, COPY_BYTES);
            // Whichever side broke it: both are closed now.
            let _ = copied.await;
            Ok::<_, hyper::Error>(())
        };
        tokio::select! {
            carried = carrying => if let Err(error) = carried {
                tracing::debug!("a connection did not change its protocol: {error}");
            },
            () = sleep_until(until) => {}
        }
    });
    let headers = answer.headers_mut();
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
    answer.map(|_| Body::empty())
}

fn of_broken(port: u16, error: &hyper::Error) -> Failure {
    let what = if error.is_parse() || error.is_parse_too_large() {
        format!(
            "the program on port {port} gave an answer that is not HTTP, or has too large a head"
        )
    } else {
        format!("the program on port {port} closed the connection without a whole answer")
    };
    Failure::new(ErrorCode::PortBroken, what)
        .with_hint("see what the program prints; it may have stopped, or not speak HTTP/1.1")
        .with_internal(Chain(error).to_string())
}
