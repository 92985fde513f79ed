use serde::{Deserialize, Serialize};

use crate::FRAME_BYTES_MAX;

/// Bytes before a frame's payload: the length and the kind.
pub const HEADER_BYTES: usize = 5;

/// LIMIT: what a decoder holds at most: one frame it waits for the end of, and one push.
const BUFFER_BYTES_MAX: usize = 2 * (4 + FRAME_BYTES_MAX);

/// A stream that is not this protocol, or a message that does not fit it.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The length is zero or above [`FRAME_BYTES_MAX`].
    #[error("frame of {0} bytes is outside 1 to {FRAME_BYTES_MAX}")]
    Length(usize),
    /// No message of the type expected here has this kind.
    #[error("frame kind {0} is unknown or out of place")]
    Kind(u8),
    /// The payload is not what its kind asks for.
    #[error("payload of frame kind {kind} does not decode")]
    Payload {
        /// Kind byte of the frame.
        kind: u8,
        /// What postcard found.
        #[source]
        source: postcard::Error,
    },
    /// The payload goes on after what its kind asks for.
    #[error("payload of frame kind {0} is followed by more bytes")]
    Trailing(u8),
    /// The caller pushed without taking the frames out.
    #[error("more than {BUFFER_BYTES_MAX} bytes were pushed without taking frames out")]
    Overrun,
    /// An earlier frame was refused, so where the next one begins is not known.
    #[error("the stream was refused before")]
    Refused,
}

/// One direction's messages: what a frame of that direction may hold.
pub trait Message: Sized {
    /// The message of this kind with this payload.
    fn decode(kind: u8, payload: &[u8]) -> Result<Self, FrameError>;

    /// Appends the whole frame, header included, to `out`. On an error `out` is as before.
    fn encode_into(&self, out: &mut Vec<u8>) -> Result<(), FrameError>;

    /// The whole frame, header included.
    fn encode(&self) -> Result<Vec<u8>, FrameError> {
        let mut out = Vec::new();
        self.encode_into(&mut out)?;
        Ok(out)
    }
}

/// The header of a frame with `payload_bytes` of payload, for senders that have the data in place
/// already and do not want it copied.
pub fn raw_header(kind: u8, payload_bytes: usize) -> Result<[u8; HEADER_BYTES], FrameError> {
    let length = payload_bytes.saturating_add(1);
    match u32::try_from(length) {
        Ok(prefix) if length <= FRAME_BYTES_MAX => {
            let [a, b, c, d] = prefix.to_le_bytes();
            Ok([a, b, c, d, kind])
        }
        _ => Err(FrameError::Length(length)),
    }
}

/// Turns a stream of bytes, cut anywhere, into messages.
///
/// Push what was read, then take messages until there are none, then read again. Holds a bounded
/// number of bytes and never panics. After an error every further call fails: close the stream.
#[derive(Debug, Default)]
pub struct Decoder {
    /// INVARIANT: at most [`BUFFER_BYTES_MAX`] long; `taken` never passes its end.
    buffer: Vec<u8>,
    taken: usize,
    refused: bool,
}

impl Decoder {
    /// A decoder at the start of a stream.
    pub const fn new() -> Self {
        Self { buffer: Vec::new(), taken: 0, refused: false }
    }

    /// Adds bytes as they came from the stream, at most 128 KiB at a time.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), FrameError> {
        if self.refused {
            return Err(FrameError::Refused);
        }
        self.buffer.drain(..self.taken);
        self.taken = 0;
        if BUFFER_BYTES_MAX - self.buffer.len() < bytes.len() {
            self.refused = true;
            return Err(FrameError::Overrun);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// The next message, or `None` when more bytes are needed.
    ///
    /// The type is chosen per call: the first frame towards the guest is a `Request`, later ones are
    /// `Input`.
    pub fn take<M: Message>(&mut self) -> Result<Option<M>, FrameError> {
        if self.refused {
            return Err(FrameError::Refused);
        }
        let taken = self.parse();
        self.refused = taken.is_err();
        taken
    }

    fn parse<M: Message>(&mut self) -> Result<Option<M>, FrameError> {
        let rest = self.buffer.get(self.taken..).unwrap_or_default();
        let Some((prefix, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        // A target with a narrower usize would see an absurd length, which is refused below.
        let length = usize::try_from(u32::from_le_bytes(*prefix)).unwrap_or(usize::MAX);
        if length == 0 || length > FRAME_BYTES_MAX {
            return Err(FrameError::Length(length));
        }
        let Some((kind, payload)) = rest.get(..length).and_then(<[u8]>::split_first) else {
            return Ok(None);
        };
        let message = M::decode(*kind, payload)?;
        self.taken += prefix.len() + length;
        Ok(Some(message))
    }

    /// What was pushed after the last message taken, for a stream that is no frames from there on.
    pub fn into_rest(mut self) -> Vec<u8> {
        self.buffer.split_off(self.taken)
    }

    /// Whether the stream may end here: nothing is held that a message has not taken.
    pub fn is_empty(&self) -> bool {
        self.taken == self.buffer.len()
    }
}

/// All messages of `stream`, whole frames only, read in pieces of `piece` bytes. What a fuzzer or a
/// test feeds; connections use [`Decoder`].
pub fn decode_all<M: Message>(stream: &[u8], piece: usize) -> Result<Vec<M>, FrameError> {
    let mut decoder = Decoder::new();
    let mut messages = Vec::new();
    for bytes in stream.chunks(piece.clamp(1, FRAME_BYTES_MAX)) {
        decoder.push(bytes)?;
        while let Some(message) = decoder.take()? {
            messages.push(message);
        }
    }
    Ok(messages)
}

/// The fields in `payload`, which must hold nothing else.
pub(crate) fn fields<'a, T: Deserialize<'a>>(kind: u8, payload: &'a [u8]) -> Result<T, FrameError> {
    match postcard::take_from_bytes(payload) {
        Ok((message, [])) => Ok(message),
        Ok(_) => Err(FrameError::Trailing(kind)),
        Err(source) => Err(FrameError::Payload { kind, source }),
    }
}

/// Checks that a message without fields has no payload.
pub(crate) fn nothing(kind: u8, payload: &[u8]) -> Result<(), FrameError> {
    if payload.is_empty() { Ok(()) } else { Err(FrameError::Trailing(kind)) }
}

/// Appends a frame with these fields.
pub(crate) fn put_fields<T: Serialize>(
    kind: u8,
    message: &T,
    out: &mut Vec<u8>,
) -> Result<(), FrameError> {
    let payload =
        postcard::to_stdvec(message).map_err(|source| FrameError::Payload { kind, source })?;
    put_raw(kind, &payload, out)
}

/// Appends a frame with this payload.
pub(crate) fn put_raw(kind: u8, payload: &[u8], out: &mut Vec<u8>) -> Result<(), FrameError> {
    out.extend_from_slice(&raw_header(kind, payload.len())?);
    out.extend_from_slice(payload);
    Ok(())
}
