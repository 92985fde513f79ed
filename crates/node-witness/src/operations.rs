use std::collections::BTreeMap;

use axum::http::Method;

/// Name of what is no operation.
pub(crate) const NO_OPERATION: &str = "none";

/// What an operation means for the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weight {
    /// Nothing changes: no line.
    Reads,
    /// It changes something: a line, and not done when there can be none.
    Changes,
    /// It changes who may do what: the line is on disk before the answer.
    ChangesAccess,
    /// It only gives something back: a line, and done even when there can be none.
    GivesBack,
}

/// A request for a program in a sandbox. It has no line in the audit log: there may be thousands a
/// second, they are between the program and its users, and their paths are theirs. That a port is
/// made public has one, and so has whoever is not let in.
pub(crate) const PORT_REQUEST: Operation<'_> =
    Operation { name: "port_request", weight: Weight::Reads };

/// Operations by which a process that was started (and noted) is used. There may be thousands a
/// second, and what they carry is the caller's own.
const OF_A_PROCESS: [&str; 2] = ["process_stdin", "process_resize"];
/// Operations that are asked for with GET and still change something.
const ACTING_READS: [&str; 1] = ["process_socket"];
/// Operations that free what is used.
const GIVING_BACK: [&str; 5] =
    ["sandbox_kill", "snapshot_delete", "file_remove", "node_stop", "process_signal"];
/// What the names of operations on keys and projects begin with.
const ACCESS: [&str; 2] = ["key_", "project_"];

/// An operation, as it is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Operation<'a> {
    pub(crate) name: &'a str,
    pub(crate) weight: Weight,
}

/// The operations of the API by method and route.
#[derive(Debug)]
pub(crate) struct Operations(BTreeMap<(String, String), String>);

impl Operations {
    /// Those of a document.
    pub(crate) fn of(document: &impl serde::Serialize) -> Self {
        let document = serde_json::to_value(document).unwrap_or_default();
        let mut operations = BTreeMap::new();
        for (path, methods) in document["paths"].as_object().into_iter().flatten() {
            for (method, operation) in methods.as_object().into_iter().flatten() {
                if let Some(name) = operation["operationId"].as_str() {
                    let route = (method.to_ascii_uppercase(), path.clone());
                    operations.insert(route, name.to_owned());
                }
            }
        }
        Self(operations)
    }

    /// The operation at a route; the route is the pattern, not the path.
    pub(crate) fn find(&self, method: &Method, route: Option<&str>) -> Operation<'_> {
        let name = route.and_then(|route| self.0.get(&(method.to_string(), route.to_owned())));
        match name {
            Some(name) => Operation { name, weight: weight(method, name) },
            None => Operation { name: NO_OPERATION, weight: Weight::Reads },
        }
    }
}

fn weight(method: &Method, name: &str) -> Weight {
    if OF_A_PROCESS.contains(&name) {
        Weight::Reads
    } else if GIVING_BACK.contains(&name) {
        Weight::GivesBack
    } else if method.is_safe() && !ACTING_READS.contains(&name) {
        Weight::Reads
    } else if ACCESS.iter().any(|access| name.starts_with(access)) {
        Weight::ChangesAccess
    } else {
        Weight::Changes
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn an_operation_that_is_not_a_read_has_a_line_whatever_it_is_called() {
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
            assert_eq!(weight(&method, "something_new"), Weight::Changes, "{method}");
        }
        assert_eq!(weight(&Method::GET, "something_new"), Weight::Reads);
        assert_eq!(weight(&Method::POST, "key_create"), Weight::ChangesAccess);
        assert_eq!(weight(&Method::GET, "key_list"), Weight::Reads);
        assert_eq!(weight(&Method::DELETE, "sandbox_kill"), Weight::GivesBack);
    }

    #[test]
    fn operations_are_found_by_their_route() {
        let operations = Operations::of(&api_node::openapi());
        let find = |method, route| operations.find(&method, Some(route)).name;
        assert_eq!(find(Method::POST, "/v1/sandboxes"), "sandbox_create");
        assert_eq!(find(Method::DELETE, "/v1/sandboxes/{id}"), "sandbox_kill");
        assert_eq!(find(Method::DELETE, "/v1/health"), NO_OPERATION);
        assert_eq!(operations.find(&Method::GET, None).name, NO_OPERATION);
    }
}
