//! A connection to a program in a guest.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use api_guest::{Answer, Connect, Request};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

use crate::guest::{ANSWER_WITHIN, GuestConnection, GuestError};
use crate::sandbox::Use;

/// Bytes to and from a program. Its sandbox is in use until this is dropped, which closes the
/// connection; shutting it down ends one direction.
#[derive(Debug)]
pub struct PortStream {
    /// What came together with the agent's answer.
    early: Vec<u8>,
    stream: UnixStream,
    _held_by: Option<Use>,
}

impl GuestConnection {
    /// Connects to the program that listens on `port`.
    pub async fn connect_port(mut self, port: u16) -> Result<PortStream, GuestError> {
        match self.ask(Request::Connect(Connect { port }), ANSWER_WITHIN).await? {
            Answer::Done => {}
            _ => return Err(GuestError::Unexpected),
        }
        let Self { answers, inputs } = self;
        let stream = answers.stream.reunite(inputs.stream);
        let stream = stream.map_err(|error| GuestError::Io(io::Error::other(error)))?;
        Ok(PortStream { early: answers.decoder.into_rest(), stream, _held_by: inputs.held_by })
    }
}

impl AsyncRead for PortStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.early.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let count = self.early.len().min(buffer.remaining());
        buffer.put_slice(&self.early[..count]);
        self.early.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for PortStream {
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
