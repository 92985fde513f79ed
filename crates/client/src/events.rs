use std::marker::PhantomData;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use serde::de::DeserializeOwned;

use crate::decode::Lines;
use crate::error::ClientError;

/// A stream of events. Dropping it closes the connection.
pub struct Events<E> {
    url: String,
    bytes: BoxStream<'static, reqwest::Result<Bytes>>,
    lines: Lines,
    of: PhantomData<fn() -> E>,
}

impl<E> std::fmt::Debug for Events<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("url", &self.url).finish_non_exhaustive()
    }
}

impl<E: DeserializeOwned> Events<E> {
    pub(crate) fn new(url: String, response: reqwest::Response) -> Self {
        let bytes = response.bytes_stream().boxed();
        Self { url, bytes, lines: Lines::default(), of: PhantomData }
    }

    /// The next event; `None` at the end of the stream. May be called again after being cancelled:
    /// nothing is lost.
    ///
    /// # Errors
    ///
    /// The connection broke, or what came is no event.
    pub async fn next(&mut self) -> Result<Option<E>, ClientError> {
        loop {
            match self.lines.next_event() {
                Ok(None) => {}
                Ok(event) => return Ok(event),
                Err(source) => {
                    return Err(ClientError::BadEvent { url: self.url.clone(), source });
                }
            }
            match self.bytes.next().await {
                Some(Ok(bytes)) => self.lines.push(&bytes),
                Some(Err(source)) => {
                    return Err(ClientError::Broken { url: self.url.clone(), source });
                }
                None if self.lines.is_mid_line() => {
                    return Err(ClientError::CutShort { url: self.url.clone() });
                }
                None => return Ok(None),
            }
        }
    }

    /// The error for a stream that ended without the event that should have been its last.
    pub fn cut_short(&self) -> ClientError {
        ClientError::CutShort { url: self.url.clone() }
    }
}
