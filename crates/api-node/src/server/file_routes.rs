//! Operations on the files of a sandbox.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header::{IF_RANGE, RANGE};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::Response;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::server::api::NodeApi;
use crate::server::extract::{JsonBody, Params, Places, parse, upload};
use crate::server::reply::{archive, file, ndjson};
use crate::server::routes::Answer;
use crate::{
    ByteRange, DirectoryList, Failure, FileEntry, FileQuery, FileWriteQuery, MakeDirectory,
    MoveFile, RemoveQuery, UnpackQuery, WatchEvent, WatchQuery,
};

/// Read a file
///
/// A `Range` of bytes is honoured: the answer is a part (206), or says that the file ends before (416).
/// Several ranges at once, and what is no range, are answered with the whole file, and so is what has no
/// size, such as the files of `/proc`. There is nothing for `If-Range` to compare, so with it the whole
/// file is sent too.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/files", tag = "files",
    params(("id" = String, Path), FileQuery,
        ("Range" = Option<String>, Header, description = "One range, such as `bytes=0-99`")),
    responses(
        (status = 200, description = "Its bytes", body = Vec<u8>,
            content_type = "application/octet-stream"),
        (status = 206, description = "The bytes asked for", body = Vec<u8>,
            content_type = "application/octet-stream"),
        Failure))]
async fn file_read<A: NodeApi>(
    State(api): State<Arc<A>>,
    Places(id): Places<String>,
    Params(query): Params<FileQuery>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let range = headers.get(RANGE).and_then(|value| ByteRange::parse(value.to_str().ok()?));
    // A range is a matter of GET only.
    let range = range.filter(|_| method == Method::GET && !headers.contains_key(IF_RANGE));
    api.file_read(parse(&id)?, query, range).await.map(file)
}

/// Write a file
///
/// The old content stays whole until the upload has ended well.
#[utoipa::path(put, path = "/v1/sandboxes/{id}/files", tag = "files",
    params(("id" = String, Path), FileWriteQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, description = "The file", body = FileEntry), Failure))]
async fn file_write<A: NodeApi>(
    State(api): State<Arc<A>>,
    Places(id): Places<String>,
    Params(query): Params<FileWriteQuery>,
    request: Request,
) -> Answer<FileEntry> {
    api.file_write(parse(&id)?, query, upload(request)).await.map(Json)
}

/// Remove a file or directory
#[utoipa::path(delete, path = "/v1/sandboxes/{id}/files", tag = "files",
    params(("id" = String, Path), RemoveQuery),
    responses((status = 204, description = "Removed"), Failure))]
async fn file_remove<A: NodeApi>(
    State(api): State<Arc<A>>,
    Places(id): Places<String>,
    Params(query): Params<RemoveQuery>,
) -> Result<StatusCode, Failure> {
    api.file_remove(parse(&id)?, query).await.map(|()| StatusCode::NO_CONTENT)
}

/// List a directory
#[utoipa::path(get, path = "/v1/sandboxes/{id}/files/list", tag = "files",
    params(("id" = String, Path), FileQuery),
    responses((status = 200, description = "Its entries", body = DirectoryList), Failure))]
async fn file_list<A: NodeApi>(
    State(api): State<Arc<A>>,
    Places(id): Places<String>,
    Params(query): Params<FileQuery>,
) -> Answer<DirectoryList> {
    api.file_list(parse(&id)?, query).await.map(Json)
}

/// One file or directory
///
/// A symbolic link is not followed.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/files/stat", tag = "files",
    params(("id" = String, Path), FileQuery),
    responses((status = 200, description = "It", body = FileEntry), Failure))]
async fn file_stat<A: NodeApi>(
    State(api): State<Arc<A>>,
    Places(id): Places<String>,
    Params(query): Params<FileQuery>,
) -> Answer<FileEntry> {
    api.file_stat(parse(&id)?, query).await.map(Json)
}

/// Make a directory
#[utoipa::path(post, path = "/v1/sandboxes/{id}/files/make", tag = "files",
    params(("id" = String, Path)), request_body = MakeDirectory,
    responses((status = 200, description = "The directory", body = FileEntry), Failure))]
async fn file_make<A: NodeApi>(
    State(api): State<Arc<A>>,
    Places(id): Places<String>,
    JsonBody(request): JsonBody<MakeDirectory>,
) -> Answer<FileEntry> {
    api.file_make(parse(&id)?, request).await.map(Json)
}

/// Move a file or directory
#[utoipa::path(post, path = "/v1/sandboxes/{id}/files/move", tag = "files",
    params(("id" = String, Path)), request_body = MoveFile,
    responses((status = 200, description = "Where it is now", body = FileEntry), Failure))]
async fn file_move<A: NodeApi>(
    State(api): State<Arc<A>>,
    Places(id): Places<String>,
    JsonBody(request): JsonBody<MoveFile>,
) -> Answer<FileEntry> {
    api.file_move(parse(&id)?, request).await.map(Json)
}

/// A directory as a tar archive
///
/// With all that is in it; names in the archive start below the directory. Links are kept as they are.
/// Hard links become files of their own and holes become zeros. Sockets, FIFOs and devices are left out,
/// and of other file systems in it only the directory they are mounted on is there. A file that changes
/// meanwhile has the length it had when its turn came. An archive that broke off is an answer that broke
/// off: it never ends as if it were whole.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/files/archive", tag = "files",
    params(("id" = String, Path), FileQuery),
    responses((status = 200, description = "The archive", body = Vec<u8>,
        content_type = "application/x-tar"), Failure))]
async fn file_pack<A: NodeApi>(
    State(api): State<Arc<A>>,
    Places(id): Places<String>,
    Params(query): Params<FileQuery>,
) -> Result<Response, Failure> {
    api.file_pack(parse(&id)?, query).await.map(archive)
}

/// Unpack a tar archive into a directory
///
/// Files, directories and links are made with the permission bits of the archive, and belong to `user`.
/// What stands where a file or link goes is replaced, unless it is a directory. Nothing is made outside of
/// the directory: an entry that leads out of it, by its name or through a link, is refused, and so are
/// devices and FIFOs. What was unpacked until then stays.
#[utoipa::path(put, path = "/v1/sandboxes/{id}/files/archive", tag = "files",
    params(("id" = String, Path), UnpackQuery),
    request_body(content = Vec<u8>, content_type = "application/x-tar"),
    responses((status = 200, description = "The directory", body = FileEntry), Failure))]
async fn file_unpack<A: NodeApi>(
    State(api): State<Arc<A>>,
    Places(id): Places<String>,
    Params(query): Params<UnpackQuery>,
    request: Request,
) -> Answer<FileEntry> {
    api.file_unpack(parse(&id)?, query, upload(request)).await.map(Json)
}

/// Watch a directory
///
/// Answers with a stream of events: what is created, modified, removed and moved in it, and with
/// `recursive` in all directories below it, at most 8192. What could not be noticed in time is told as an
/// `overflow`. The watch ends when the caller closes the connection, or with `error` when the directory
/// is gone or the sandbox is paused; an open watch keeps its sandbox in use.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/files/watch", tag = "files",
    params(("id" = String, Path), WatchQuery),
    responses((status = 200, description = "What happens, one event per line", body = WatchEvent,
        content_type = "application/x-ndjson"), Failure))]
async fn file_watch<A: NodeApi>(
    State(api): State<Arc<A>>,
    Places(id): Places<String>,
    Params(query): Params<WatchQuery>,
) -> Result<Response, Failure> {
    api.file_watch(parse(&id)?, query).await.map(ndjson)
}

pub(super) fn file_routes<A: NodeApi>() -> OpenApiRouter<Arc<A>> {
    OpenApiRouter::new()
        .routes(routes!(file_read, file_write, file_remove))
        .routes(routes!(file_list))
        .routes(routes!(file_stat))
        .routes(routes!(file_make))
        .routes(routes!(file_move))
        .routes(routes!(file_pack, file_unpack))
        .routes(routes!(file_watch))
}
