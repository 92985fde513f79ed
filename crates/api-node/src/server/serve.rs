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
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tower_service::Service as _;

/// LIMIT: connections at once. Each takes a descriptor and some tens of KiB; hundreds of sandboxes
/// with a few streams each fit. Whoever comes later waits in the kernel's queue.
const CONNECTIONS_MAX: usize = 4096;
/// LIMIT: the head of a request. The longest lines are a path in a sandbox, percent-encoded, and a
/// key; what an operation reads beyond the head has limits of its own.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// LIMIT: header lines of one request; browsers send about twenty.
const HEADERS_MAX: usize = 100;
/// LIMIT: from the moment a connection is idle until the next request's head has come whole. A client
/// that keeps connections for less than this is never cut off in the middle.
const HEAD_WITHIN: Duration = Duration::from_secs(60);
/// LIMIT: two round trips and a signature; a peer that takes longer does not speak TLS.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// How long to wait before accepting again when the system has no descriptors left.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Serves `router` on `listener`, over TLS if there is an acceptor, until `stop` is done; then takes no
/// more connections and returns when the answers that are on their way have ended. Each request has
/// the address it came from in its extensions, as [`ConnectInfo<SocketAddr>`].
pub async fn serve(
    listener: TcpListener,
    router: Router,
    tls: Option<TlsAcceptor>,
    stop: impl Future<Output = ()> + Send,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let closing = watch::Sender::new(false);
    let mut stop = std::pin::pin!(stop);
    loop {
        let next = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            next = next => next,
            () = &mut stop => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // The peer may have left already; else descriptors have run out, and come back.
                if !is_of_one_connection(&error) {
                    tracing::warn!("cannot accept a connection: {error}");
                    sleep(ACCEPT_AGAIN).await;
                }
                continue;
            }
        };
        let (router, tls, closing) = (router.clone(), tls.clone(), closing.subscribe());
        tokio::spawn(async move {
            let _place = place;
            shake_hands(stream, peer, router, tls, closing).await;
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

async fn shake_hands(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    tls: Option<TlsAcceptor>,
    closing: watch::Receiver<bool>,
) {
    // Events are small and wanted now.
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else { return converse(stream, peer, router, closing).await };
    match timeout(HANDSHAKE_WITHIN, tls.accept(stream)).await {
        Ok(Ok(stream)) => converse(stream, peer, router, closing).await,
        Ok(Err(error)) => tracing::debug!(%peer, "no TLS: {error}"),
        Err(_) => tracing::debug!(%peer, "no TLS within the time for it"),
    }
}

async fn converse<S>(
    stream: S,
    peer: SocketAddr,
    router: Router,
    mut closing: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        // A router is always ready.
        router.clone().call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service)
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
