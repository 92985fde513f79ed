//! A connection to a program in a guest.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use api_guest::{Answer, Connect, ConnectUnix, Request};
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
    pub async fn connect_port(self, port: u16) -> Result<PortStream, GuestError> {
        self.connected(Request::Connect(Connect { port })).await
    }

    /// Connects to the program that listens on the Unix socket at `path`, as the guest's root.
    pub async fn connect_unix(self, path: String) -> Result<PortStream, GuestError> {
        self.connected(Request::ConnectUnix(ConnectUnix { path })).await
    }

    async fn connected(mut self, request: Request) -> Result<PortStream, GuestError> {
        match self.ask(request, ANSWER_WITHIN).await? {
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

#[cfg(test)]
mod test {
    use api_guest::{Decoder, FailCode, Failed, Message};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A connection, and the agent's end of it once it has read a request for port 8000.
    async fn asked(answer: Vec<u8>) -> (Result<PortStream, GuestError>, UnixStream) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let agent = async {
            let mut decoder = Decoder::new();
            let mut buffer = [0; 256];
            loop {
                let count = theirs.read(&mut buffer).await.unwrap();
                decoder.push(&buffer[..count]).unwrap();
                if let Some(request) = decoder.take::<Request>().unwrap() {
                    assert_eq!(request, Request::Connect(Connect { port: 8000 }));
                    return theirs.write_all(&answer).await.unwrap();
                }
            }
        };
        let connecting = GuestConnection::over(ours).connect_port(8000);
        let (connected, ()) = tokio::join!(connecting, agent);
        (connected, theirs)
    }

    #[tokio::test]
    async fn what_a_program_says_at_once_is_not_taken_for_frames() {
        let mut answer = Answer::Done.encode().unwrap();
        answer.extend([255; 9]);
        let (connected, mut theirs) = asked(answer).await;
        let mut connected = connected.unwrap();
        theirs.write_all(b"later").await.unwrap();
        let mut said = [0; 14];
        connected.read_exact(&mut said).await.unwrap();
        assert_eq!(said, *b"\xff\xff\xff\xff\xff\xff\xff\xff\xfflater");
        connected.write_all(b"hi").await.unwrap();
        // Ends one direction, and only that.
        connected.shutdown().await.unwrap();
        let mut heard = Vec::new();
        theirs.read_to_end(&mut heard).await.unwrap();
        theirs.write_all(b"!").await.unwrap();
        assert_eq!((&heard[..], connected.read_u8().await.unwrap()), (&b"hi"[..], b'!'));
    }

    #[tokio::test]
    async fn an_agent_that_cannot_connect_says_why() {
        let failed = Failed { code: FailCode::NothingListens, message: "nothing".into() };
        let (connected, _) = asked(Answer::Failed(failed).encode().unwrap()).await;
        let Err(GuestError::Failed { code, .. }) = connected else { panic!("{connected:?}") };
        assert_eq!(code, FailCode::NothingListens);
        let (connected, _) = asked(Answer::End.encode().unwrap()).await;
        assert!(matches!(connected, Err(GuestError::Unexpected)), "{connected:?}");
    }
}
