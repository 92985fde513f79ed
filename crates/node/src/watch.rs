//! What changes in a directory of a sandbox, as a stream of events.

use api_guest::{Change, ChangeKind, Watch};
use api_node::{ErrorCode, EventStream, Failure, WatchBody, WatchEvent, WatchQuery};
use futures_util::{StreamExt, stream};
use node_host::{GuestError, SandboxHandle, WatchReader};

use crate::agent::{self, Resumes};
use crate::exec::now_us;
use crate::files;

/// Watches a directory.
pub(crate) async fn watch(
    sandbox: SandboxHandle,
    query: WatchQuery,
) -> Result<EventStream<WatchEvent>, Failure> {
    let reader = open(&sandbox, &query).await?;
    let watching =
        Watching { sandbox, query, reader, seq: 0, resumes: Resumes::default(), over: false };
    Ok(stream::unfold(watching, Watching::next).boxed())
}

async fn open(sandbox: &SandboxHandle, query: &WatchQuery) -> Result<WatchReader, Failure> {
    let watch = Watch { path: query.path.clone(), recursive: query.recursive };
    let user = files::not_root(query.user.clone());
    agent::ask(sandbox, async |agent| agent.with_rights_of(user).await?.watch(watch).await).await
}

/// A watch, as a stream of events.
struct Watching {
    sandbox: SandboxHandle,
    query: WatchQuery,
    reader: WatchReader,
    /// Of the next event.
    seq: u64,
    resumes: Resumes,
    over: bool,
}

impl Watching {
    async fn next(mut self) -> Option<(WatchEvent, Self)> {
        if self.over {
            return None;
        }
        let (ts, body) = if self.seq == 0 {
            (now_us(), WatchBody::Started)
        } else {
            match self.reader.next().await {
                Ok(change) => {
                    self.resumes.came();
                    let ts = u64::try_from(change.at_ns / 1000).unwrap_or_default();
                    (ts, told(&self.query.path, change))
                }
                Err(error) => (now_us(), self.resume(error).await),
            }
        };
        let event = WatchEvent { seq: self.seq, ts, body };
        self.seq += 1;
        Some((event, self))
    }

    /// Watches again where the sandbox runs and only the connection is gone. What happened meanwhile was
    /// not noticed. Otherwise the last event.
    async fn resume(&mut self, error: GuestError) -> WatchBody {
        let opened = open(&self.sandbox, &self.query);
        let paused = || {
            Failure::new(ErrorCode::Conflict, "the sandbox was paused, which ended the watch")
                .with_hint("watch again, which resumes the sandbox")
        };
        match self.resumes.again(&self.sandbox, error, opened, paused).await {
            Ok(reader) => {
                self.reader = reader;
                WatchBody::Overflow
            }
            Err(failure) => {
                self.over = true;
                WatchBody::Error { failure }
            }
        }
    }
}

/// What the API says about a change in the directory at `root`.
fn told(root: &str, change: Change) -> WatchBody {
    let place = |below: &str| match below {
        "" => root.to_owned(),
        below => format!("{}/{below}", root.trim_end_matches('/')),
    };
    let path = place(&change.path);
    let kind = change.kind.map(files::kind);
    match (change.what, change.to) {
        (ChangeKind::Created, _) => WatchBody::Created { path, kind },
        (ChangeKind::Modified, _) => WatchBody::Modified { path, kind },
        (ChangeKind::Attributes, _) => WatchBody::Attributes { path, kind },
        (ChangeKind::Moved, Some(to)) => WatchBody::Moved { path, to: place(&to), kind },
        (ChangeKind::Removed | ChangeKind::Moved, _) => WatchBody::Removed { path, kind },
        (ChangeKind::Missed, _) => WatchBody::Overflow,
    }
}

#[cfg(test)]
mod test {
    use api_guest::FileKind as GuestKind;
    use api_node::FileKind;

    use super::*;

    #[test]
    fn paths_go_on_from_the_one_that_was_asked_for() {
        let change = |what, path: &str, to: Option<&str>| Change {
            at_ns: 0,
            what,
            path: path.to_owned(),
            to: to.map(str::to_owned),
            kind: Some(GuestKind::File),
        };
        let kind = Some(FileKind::File);
        for (root, path) in [("/a", "/a/b/c"), ("/a/", "/a/b/c"), ("/", "/b/c")] {
            let body = told(root, change(ChangeKind::Created, "b/c", None));
            assert_eq!(body, WatchBody::Created { path: path.to_owned(), kind });
        }
        let body = told("/a", change(ChangeKind::Moved, "b", Some("c")));
        let (path, to) = ("/a/b".to_owned(), "/a/c".to_owned());
        assert_eq!(body, WatchBody::Moved { path, to, kind });
        let body = told("/a", change(ChangeKind::Removed, "", None));
        assert_eq!(body, WatchBody::Removed { path: "/a".to_owned(), kind });
    }
}
