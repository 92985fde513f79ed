//! A stream that gives no more than so many bytes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Passes on what is read of a stream up to a bound, then fails: a server is hostile, and a client
/// library holds each of its messages whole.
#[derive(Debug)]
pub(crate) struct Bounded<S> {
    stream: S,
    left: Bound,
}

/// How many bytes a stream may give yet.
#[derive(Clone, Debug)]
pub(crate) struct Bound(Arc<AtomicUsize>);

impl Bound {
    /// From now on, `bytes_max` more.
    pub(crate) fn set(&self, bytes_max: usize) {
        self.0.store(bytes_max, Ordering::Relaxed);
    }
}

impl<S> Bounded<S> {
    pub(crate) fn new(stream: S, bytes_max: usize) -> Self {
        Self { stream, left: Bound(Arc::new(AtomicUsize::new(bytes_max))) }
    }

    /// Its bound, to set it anew.
    pub(crate) fn bound(&self) -> Bound {
        self.left.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = self.left.0.load(Ordering::Relaxed);
        if left == 0 {
            return Poll::Ready(Err(io::Error::from(io::ErrorKind::FileTooLarge)));
        }
        let room = buffer.remaining().min(left);
        let mut some = ReadBuf::new(buffer.initialize_unfilled_to(room));
        let read = Pin::new(&mut self.stream).poll_read(cx, &mut some);
        let count = some.filled().len();
        buffer.advance(count);
        // Nobody asks for more in the middle of an answer.
        self.left.set(left - count);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod test {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn what_is_over_the_bound_is_an_error() {
        let mut read = Vec::new();
        let mut bounded = Bounded::new(tokio::io::join(&b"0123456789"[..], tokio::io::sink()), 9);
        let error = bounded.read_to_end(&mut read).await.unwrap_err();
        assert_eq!(
            (error.kind(), read.as_slice()),
            (io::ErrorKind::FileTooLarge, &b"012345678"[..])
        );
        let mut bounded = Bounded::new(tokio::io::join(&b"0123"[..], tokio::io::sink()), 9);
        assert_eq!(bounded.read_to_end(&mut Vec::new()).await.unwrap(), 4);
    }

    #[tokio::test]
    async fn a_bound_that_is_set_anew_counts_from_there() {
        let mut bounded = Bounded::new(tokio::io::join(&b"0123456789"[..], tokio::io::sink()), 4);
        let mut read = [0; 4];
        bounded.read_exact(&mut read).await.unwrap();
        bounded.bound().set(5);
        let error = bounded.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }
}
