//! A program whose caller may leave.

use std::pin::Pin;
use std::task::{Context, Poll};

use api_node::{ExecBody, ExecEvent};
use futures_util::Stream;
use tokio::sync::{mpsc, watch};

/// A program's events; counts it as abandoned when it is dropped before its end.
pub(crate) struct Watched {
    pub(crate) events: mpsc::Receiver<ExecBody>,
    pub(crate) seq: u64,
    pub(crate) ended: bool,
    pub(crate) abandoned: watch::Sender<usize>,
}

impl Stream for Watched {
    type Item = ExecEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ExecEvent>> {
        let body = std::task::ready!(self.events.poll_recv(cx));
        self.ended |= matches!(body, None | Some(ExecBody::Exit { .. } | ExecBody::Error { .. }));
        let seq = self.seq;
        self.seq += 1;
        Poll::Ready(body.map(|body| ExecEvent { seq, ts: 1_750_000_000_000_000 + seq, body }))
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if !self.ended {
            self.abandoned.send_modify(|abandoned| *abandoned += 1);
        }
    }
}
