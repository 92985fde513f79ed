//! Connections: how many, how long they may take to say what they want, and TLS.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tower_service::Service as _;

use crate::server::limits::Limits;
use crate::server::seats::{Seat, Seats};
use crate::server::stall::Watched;

/// How long to wait before accepting again when the system has no descriptors left.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Serves `router` on `listener`, over TLS if there is an acceptor, until `stop` is done; then takes no
/// more connections and returns when the answers that are on their way have ended. Each request has
/// the address it came from in its extensions, as [`ConnectInfo<SocketAddr>`].
pub async fn serve(
    listener: TcpListener,
    router: Router,
    tls: Option<TlsAcceptor>,
    limits: Limits,
    stop: impl Future<Output = ()> + Send,
) {
    let seats = Seats::new(limits.connections);
    let closing = watch::Sender::new(false);
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // The peer may have left already; else descriptors have run out, and come back.
                if !is_of_one_connection(&error) {
                    tracing::warn!("cannot accept a connection: {error}");
                    seats.make_room();
                    sleep(ACCEPT_AGAIN).await;
                }
                continue;
            }
        };
        // Those that come meanwhile wait in the kernel's queue.
        let seat = tokio::select! {
            seat = seats.take() => seat,
            () = &mut stop => break,
        };
        let (router, tls, closing) = (router.clone(), tls.clone(), closing.subscribe());
        let side = Side { peer, seat: seat.clone(), limits };
        tokio::spawn(async move {
            tokio::select! {
                () = shake_hands(stream, side, router, tls, closing) => {}
                () = seat.asked_to_leave() => tracing::debug!(%peer, "it waited longest, and made room"),
            }
        });
    }
    drop(listener);
    closing.send_replace(true);
    // Each connection holds one end until it is over.
    closing.closed().await;
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// What is known of a connection.
struct Side {
    peer: SocketAddr,
    seat: Arc<Seat>,
    limits: Limits,
}

async fn shake_hands(
    stream: TcpStream,
    side: Side,
    router: Router,
    tls: Option<TlsAcceptor>,
    closing: watch::Receiver<bool>,
) {
    // Events are small and wanted now.
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else { return converse(stream, side, router, closing).await };
    let peer = side.peer;
    match timeout(side.limits.handshake_within, tls.accept(stream)).await {
        Ok(Ok(stream)) => converse(stream, side, router, closing).await,
        Ok(Err(error)) => tracing::debug!(%peer, "no TLS: {error}"),
        Err(_) => tracing::debug!(%peer, "no TLS within the time for it"),
    }
}

async fn converse<S>(stream: S, side: Side, router: Router, mut closing: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Side { peer, seat, limits } = side;
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        request.extensions_mut().insert(seat.clone());
        // A router is always ready.
        router.clone().call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_within)
        .max_buf_size(limits.head_bytes)
        .max_headers(limits.head_lines)
        .serve_connection(TokioIo::new(Watched::new(stream, limits.stall_within)), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = begun(&mut closing) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, "a connection broke: {error}");
    }
}

/// Returns when the end has begun.
async fn begun(closing: &mut watch::Receiver<bool>) {
    // A sender that is gone has said its last word.
    let _ = closing.wait_for(|closing| *closing).await;
}
