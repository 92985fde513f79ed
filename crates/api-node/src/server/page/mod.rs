//! The document and a page to read it: made once from the document itself, without scripts and
//! without anything from elsewhere.

mod html;
mod render;

use std::sync::OnceLock;

use axum::Router;
use axum::http::HeaderValue;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::server::routes::openapi;

const STYLE: &str = include_str!("style.css");
/// What a browser may load for the page: its style, from here. Nothing runs in it.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src data:; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

/// `/`, `/docs`, `/docs/style.css` and `/v1/openapi.json`.
pub(crate) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route("/", get(page))
        .route("/docs", get(page))
        .route("/docs/style.css", get(style))
        .route("/v1/openapi.json", get(document))
}

/// A text that never changes while the node runs.
fn fixed(content_type: &'static str, text: &'static str) -> Response {
    let headers: [(HeaderName, HeaderValue); 5] = [
        (CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, text).into_response()
}

async fn page() -> Response {
    static PAGE: OnceLock<String> = OnceLock::new();
    let page = PAGE.get_or_init(|| {
        render::page(&serde_json::to_value(openapi()).expect("the document has only string keys"))
    });
    fixed("text/html; charset=utf-8", page)
}

async fn style() -> Response {
    fixed("text/css; charset=utf-8", STYLE)
}

async fn document() -> Response {
    static DOCUMENT: OnceLock<String> = OnceLock::new();
    let document = DOCUMENT
        .get_or_init(|| openapi().to_pretty_json().expect("the document has only string keys"));
    fixed("application/json", document)
}
