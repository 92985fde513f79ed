//! The far end of a connection: a socket of the host, or whatever else carries bytes.
//!
//! This is the place for what looks into a connection: it hands in a [`Stream`] of its own, with the
//! socket behind it.

use std::io;
use std::net::SocketAddrV4;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::BoxFuture;
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::tap::Tapped;

/// What carries bytes both ways.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// One that is being connected to.
pub(crate) type Connecting = BoxFuture<'static, io::Result<Far>>;

pub(crate) enum Far {
    Host(TcpStream),
    Other(Box<dyn Stream>),
}

impl Far {
    /// Connects from the host.
    pub(crate) fn connect(to: SocketAddrV4, patience: Duration) -> Connecting {
        Box::pin(async move { Ok(Self::Host(dial(to, patience).await?)) })
    }

    /// Connects from the host for whoever looks into the connection, and hands the guest the end that
    /// this leaves it.
    pub(crate) fn tapped(
        to: SocketAddrV4,
        patience: Duration,
        end: Tapped,
        connected: oneshot::Sender<TcpStream>,
    ) -> Connecting {
        Box::pin(async move {
            // Nobody takes it when the work was given up, and then the end is over too.
            let _ = connected.send(dial(to, patience).await?);
            Ok(Self::Other(Box::new(end)))
        })
    }

    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        room: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(room);
        ready!(self.pin().poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match ready!(self.pin().poll_write(cx, bytes)) {
            Ok(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            result => Poll::Ready(result),
        }
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pin().poll_flush(cx)
    }

    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pin().poll_shutdown(cx)
    }

    /// Ends it so that the other end sees that it was not finished.
    pub(crate) fn reset(self) {
        if let Self::Host(stream) = self {
            // When it fails the end is a plain one.
            let _ = sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
        }
    }

    fn pin(&mut self) -> Pin<&mut dyn Stream> {
        match self {
            Self::Host(stream) => Pin::new(stream),
            Self::Other(stream) => Pin::new(&mut **stream),
        }
    }
}

async fn dial(to: SocketAddrV4, patience: Duration) -> io::Result<TcpStream> {
    let stream = timeout(patience, TcpStream::connect(to)).await??;
    // The guest says what goes out together; and whoever vanished is noticed in time.
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(&stream, true)?;
    Ok(stream)
}
