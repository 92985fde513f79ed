//! When a command's first output left.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use bytes::Bytes;
use futures_util::StreamExt;

use crate::Witness;

/// What an event of output contains; every event is one line and begins a piece.
const OUTPUT: [&[u8]; 2] = [b"\"type\":\"stdout\"", b"\"type\":\"stderr\""];

/// `body`, with the time from `begun` to its first event of output measured.
pub(crate) fn timed(body: Body, begun: Instant, witness: Arc<Witness>) -> Body {
    let mut waiting = Some(witness);
    let pieces = body.into_data_stream().inspect(move |piece| {
        if let Ok(piece) = piece
            && waiting.is_some()
            && is_output(piece)
            && let Some(witness) = waiting.take()
        {
            witness.metrics.first_output(begun.elapsed());
        }
    });
    Body::from_stream(pieces)
}

fn is_output(piece: &Bytes) -> bool {
    OUTPUT.iter().any(|output| piece.windows(output.len()).any(|part| part == *output))
}
