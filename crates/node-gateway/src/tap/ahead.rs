use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// A stream whose beginning was looked at, and is read all the same.
pub(super) struct Ahead<S> {
    stream: S,
    bytes: Vec<u8>,
    /// How many of the bytes were read since.
    given: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Ahead<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, bytes: Vec::new(), given: 0 }
    }

    /// The bytes that come next, which stay to be read. None at the end.
    pub(super) async fn look(&mut self) -> io::Result<&[u8]> {
        let mut buffer = [0; 4096];
        let count = self.stream.read(&mut buffer).await?;
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(buffer.get(..count).unwrap_or_default());
        Ok(self.bytes.get(begin..).unwrap_or_default())
    }

    /// All that was looked at so far.
    pub(super) fn seen(&self) -> &[u8] {
        &self.bytes
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Ahead<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let rest = this.bytes.get(this.given..).unwrap_or_default();
        if rest.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buffer);
        }
        let part = rest.get(..buffer.remaining()).unwrap_or(rest);
        buffer.put_slice(part);
        this.given += part.len();
        if this.given == this.bytes.len() {
            (this.bytes, this.given) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Ahead<S> {
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
