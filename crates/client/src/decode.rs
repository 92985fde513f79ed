use bytes::{Buf, Bytes, BytesMut};
use serde::de::DeserializeOwned;

/// LIMIT: one event. The node sends output in pieces of well under a megabyte; base64 adds a third.
const LINE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A stream of events that is not one.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// A line without an end.
    #[error("a line is over the limit of {LINE_BYTES_MAX} bytes")]
    TooLong,
    /// A line that is no event.
    #[error("a line is not an event")]
    Malformed(#[from] serde_json::Error),
}

/// Puts lines together from bytes cut anywhere, and events from lines. Empty lines are skipped.
#[derive(Debug, Default)]
pub struct Lines {
    buffer: BytesMut,
    /// How much of `buffer` is known to hold no end of line.
    searched: usize,
}

impl Lines {
    /// Takes bytes as they come.
    pub fn push(&mut self, bytes: &Bytes) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole event, or `None` until more bytes come.
    ///
    /// # Errors
    ///
    /// A line that is too long or no event. The stream is of no use after that.
    pub fn next_event<T: DeserializeOwned>(&mut self) -> Result<Option<T>, DecodeError> {
        loop {
            let rest = self.buffer.get(self.searched..).unwrap_or_default();
            let Some(end) = rest.iter().position(|&b| b == b'\n') else {
                self.searched = self.buffer.len();
                return if self.buffer.len() > LINE_BYTES_MAX {
                    Err(DecodeError::TooLong)
                } else {
                    Ok(None)
                };
            };
            let line = self.buffer.split_to(self.searched + end);
            self.buffer.advance(1);
            self.searched = 0;
            if !line.trim_ascii().is_empty() {
                return Ok(Some(serde_json::from_slice(&line)?));
            }
        }
    }

    /// Whether a line has begun and not ended.
    pub fn is_mid_line(&self) -> bool {
        !self.buffer.is_empty()
    }
}

#[cfg(test)]
mod test {
    use api_node::{ExecBody, ExecEvent};
    use proptest::prelude::*;

    use super::*;

    fn events(data: &[Vec<u8>]) -> Vec<ExecEvent> {
        (0..)
            .zip(data)
            .map(|(seq, data)| ExecEvent {
                seq,
                ts: 5,
                body: ExecBody::Stdout { data: data.clone() },
            })
            .collect()
    }

    proptest! {
        #[test]
        fn events_survive_any_cutting(
            data in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..20),
            cuts in prop::collection::vec(1_usize..40, 1..200),
        ) {
            let sent = events(&data);
            let mut wire = Vec::new();
            for event in &sent {
                serde_json::to_writer(&mut wire, event).unwrap();
                wire.push(b'\n');
            }
            let (mut lines, mut got, mut rest) = (Lines::default(), Vec::new(), &wire[..]);
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                lines.push(&Bytes::copy_from_slice(piece));
                rest = after;
                while let Some(event) = lines.next_event::<ExecEvent>().unwrap() {
                    got.push(event);
                }
            }
            prop_assert_eq!(got, sent);
            prop_assert!(!lines.is_mid_line());
        }

        #[test]
        fn hostile_bytes_end_in_an_error_or_nothing(data: Vec<u8>) {
            let mut lines = Lines::default();
            lines.push(&data.into());
            while let Ok(Some(_)) = lines.next_event::<ExecEvent>() {}
        }
    }

    #[test]
    fn a_line_without_an_end_is_refused_rather_than_collected() {
        let mut lines = Lines::default();
        let piece = Bytes::from(vec![b'x'; 1024 * 1024]);
        let refused = (0..9).any(|_| {
            lines.push(&piece);
            matches!(lines.next_event::<ExecEvent>(), Err(DecodeError::TooLong))
        });
        assert!(refused);
    }

    #[test]
    fn empty_lines_are_nothing() {
        let mut lines = Lines::default();
        lines.push(&Bytes::from_static(b"\n\r\n \n{\"seq\":1,\"ts\":2,\"type\":\"heartbeat\"}\n"));
        let event = lines.next_event::<ExecEvent>().unwrap().unwrap();
        assert_eq!(event.body, ExecBody::Heartbeat);
        assert!(lines.next_event::<ExecEvent>().unwrap().is_none());
    }
}
