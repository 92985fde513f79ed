//! Parts of a request, parsed and checked, with every refusal a [`Failure`].

use std::str::FromStr;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::server::api::{UploadError, UploadStream};
use crate::server::limits::Limits;
use crate::{Check, ErrorCode, Failure, JSON_BYTES_MAX};

/// A checked JSON body of at most [`JSON_BYTES_MAX`].
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<S: Sync, T: DeserializeOwned + Check> FromRequest<S> for JsonBody<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        // A browser may send other types to any address without asking first.
        let json = request.headers().get(CONTENT_TYPE).is_some_and(|value| {
            let essence = value.as_bytes().split(|&b| b == b';').next().unwrap_or_default();
            essence.trim_ascii().eq_ignore_ascii_case(b"application/json")
        });
        if !json {
            return Err(Failure::new(ErrorCode::Unsupported, "this operation takes a JSON body")
                .with_hint("send `content-type: application/json`"));
        }
        let within = Limits::of(request.extensions()).body_within;
        let bytes = whole(request.into_body(), JSON_BYTES_MAX, within).await?;
        // serde would also fill a struct from an array, by position.
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            return Err(Failure::new(ErrorCode::InvalidRequest, "the body is not a JSON object"));
        }
        let value: T = serde_json::from_slice(&bytes).map_err(|error| {
            let why = without_texts(&error.to_string());
            Failure::new(ErrorCode::InvalidRequest, format!("the body is not valid: {why}"))
        })?;
        checked(value).map(Self)
    }
}

/// A complaint of serde without the text it found, which may be a secret in a place of another type.
fn without_texts(complaint: &str) -> String {
    let parts = complaint.split_once("string \"").zip(complaint.rsplit_once("\", expected"));
    match parts {
        Some(((before, _), (_, after))) => format!("{before}text, expected{after}"),
        None => complaint.to_owned(),
    }
}

/// The whole body, of at most `limit` bytes, if it comes in time.
pub(crate) async fn whole(body: Body, limit: usize, within: Duration) -> Result<Bytes, Failure> {
    let Ok(collected) = timeout(within, Limited::new(body, limit).collect()).await else {
        let message = format!("the body did not arrive within {} s", within.as_secs());
        return Err(Failure::new(ErrorCode::InvalidRequest, message));
    };
    match collected {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Failure::new(
            ErrorCode::BodyTooLarge,
            format!("the body is over this operation's limit of {limit} bytes"),
        )),
        Err(error) => Err(Failure::new(ErrorCode::InvalidRequest, "the body broke off")
            .with_internal(error.to_string())),
    }
}

/// The body as it comes, cut off when it is over the node's bound.
pub(crate) fn upload(request: Request) -> UploadStream {
    let Limits { body_within, upload_bytes, .. } = Limits::of(request.extensions());
    let mut total: u64 = 0;
    let chunks =
        stream::unfold(request.into_body().into_data_stream(), move |mut body| async move {
            match timeout(body_within, body.next()).await {
                Ok(chunk) => chunk.map(|chunk| (chunk.map_err(|_| UploadError::BrokenOff), body)),
                Err(_) => Some((Err(UploadError::BrokenOff), body)),
            }
        });
    chunks
        .map(move |chunk| {
            let chunk = chunk?;
            total = total.saturating_add(chunk.len() as u64);
            if total > upload_bytes { Err(UploadError::TooLarge) } else { Ok(chunk) }
        })
        .boxed()
}

/// As [`upload`], and refused when there is nothing in it.
pub(crate) async fn upload_of_something(request: Request) -> Result<UploadStream, Failure> {
    let mut bytes = upload(request);
    loop {
        match bytes.next().await {
            Some(Ok(chunk)) if chunk.is_empty() => {}
            Some(first) => return Ok(stream::iter([first]).chain(bytes).boxed()),
            None => {
                return Err(Failure::new(ErrorCode::InvalidRequest, "the body is empty"));
            }
        }
    }
}

/// A checked query string.
pub(crate) struct Params<T>(pub(crate) T);

impl<S: Sync, T: DeserializeOwned + Check> FromRequestParts<S> for Params<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let Query(value) = Query::<T>::try_from_uri(&parts.uri).map_err(|error| {
            // The cause names the field; the outer text only says that there is a query string.
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            let cause = cause.unwrap_or_else(|| error.to_string());
            Failure::new(ErrorCode::InvalidRequest, format!("the query is not valid: {cause}"))
        })?;
        checked(value).map(Self)
    }
}

/// The placeholders of the path, as text, each parsed by [`parse`].
pub(crate) struct Places<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Places<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let Path(value) = Path::<T>::from_request_parts(parts, state).await.map_err(|error| {
            Failure::new(ErrorCode::InvalidRequest, format!("the path is not valid: {error}"))
        })?;
        Ok(Self(value))
    }
}

/// A placeholder's value.
pub(crate) fn parse<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, Failure> {
    text.parse().map_err(|error: T::Err| Failure::new(ErrorCode::InvalidRequest, error.to_string()))
}

fn checked<T: Check>(value: T) -> Result<T, Failure> {
    match value.check() {
        Ok(()) => Ok(value),
        Err(refused) => Err(Failure::new(ErrorCode::InvalidRequest, refused.to_string())),
    }
}

#[cfg(test)]
mod test {
    use std::convert::Infallible;

    use super::*;

    const WITHIN: Duration = Duration::from_secs(60);

    fn hanging(first: &'static [u8]) -> Request {
        let first = stream::once(async move { Ok::<_, Infallible>(Bytes::from_static(first)) });
        Request::new(Body::from_stream(first.chain(stream::pending())))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_coming_is_given_up() {
        let failure = whole(hanging(b"{").into_body(), 10, WITHIN).await.unwrap_err();
        assert_eq!(failure.message, "the body did not arrive within 60 s");
        let mut chunks = upload(hanging(b"abc"));
        assert_eq!(chunks.next().await, Some(Ok(Bytes::from_static(b"abc"))));
        assert_eq!(chunks.next().await, Some(Err(UploadError::BrokenOff)));
    }

    #[test]
    fn what_was_sent_is_not_in_the_complaint() {
        let complain = |text: &str| {
            let parsed = serde_json::from_str::<crate::CreateSandbox>(text);
            without_texts(&parsed.unwrap_err().to_string())
        };
        let said = complain(r#"{"env": "a \"b\", expected c"}"#);
        assert_eq!(said, "invalid type: text, expected a map at line 1 column 29");
        assert!(complain(r#"{"env": 5}"#).starts_with("invalid type: integer `5`, expected a map"));
        assert!(complain(r#"{"name": 5, "#).contains("expected"));
    }

    #[tokio::test]
    async fn a_body_over_its_limit_is_refused() {
        let failure = whole(hanging(b"0123456789a").into_body(), 10, WITHIN).await.unwrap_err();
        assert_eq!(failure.code, ErrorCode::BodyTooLarge);
        let mut request = hanging(b"0123456789a");
        request.extensions_mut().insert(Limits { upload_bytes: 10, ..Limits::default() });
        assert_eq!(upload(request).next().await, Some(Err(UploadError::TooLarge)));
    }
}
