//! A node with two projects, and requests to it.

use api_node::{CreateKey, CreateProject, CreatedKey, Limits, Project, Quota, Role};
use node_sim::{Served, SimNode};
use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// What a node answered.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: StatusCode,
    pub(crate) replayed: bool,
    pub(crate) body: Value,
}

impl Said {
    pub(crate) fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    #[track_caller]
    pub(crate) fn decoded<T: DeserializeOwned>(&self) -> T {
        let decoded = serde_json::from_value(self.body.clone());
        decoded.unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A node that asks for keys.
pub(crate) struct World {
    pub(crate) node: SimNode,
    pub(crate) served: Served,
    /// An administrator's.
    pub(crate) admin: String,
    http: reqwest::Client,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::within(Limits::default()).await
    }

    /// One with other bounds.
    pub(crate) async fn within(limits: Limits) -> Self {
        let node = SimNode::new();
        let (served, admin) = node.serve_within(limits).await;
        Self { node, served, admin: admin.text(), http: reqwest::Client::new() }
    }

    /// Asks with `key` in the way clients do, or without any.
    pub(crate) async fn ask(
        &self,
        key: Option<&str>,
        method: &Method,
        path: &str,
        body: Option<&Value>,
    ) -> Said {
        self.ask_as(key, method, path, body, None).await
    }

    /// As [`Self::ask`], with an idempotency key.
    pub(crate) async fn ask_as(
        &self,
        key: Option<&str>,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        idempotency: Option<&str>,
    ) -> Said {
        let mut ask = self.http.request(method.clone(), format!("{}{path}", self.served.url));
        if let Some(key) = key {
            ask = ask.bearer_auth(key);
        }
        if let Some(value) = idempotency {
            ask = ask.header(api_node::IDEMPOTENCY_KEY_HEADER, value);
        }
        if let Some(body) = body {
            ask = ask.json(body);
        }
        let mut response = ask.send().await.unwrap();
        let status = response.status();
        let replayed = response.headers().contains_key("idempotency-replayed");
        let streams = response
            .headers()
            .get("content-type")
            .is_some_and(|kind| kind.as_bytes().starts_with(api_node::NDJSON.as_bytes()));
        // A stream may never end; that there is one is all that is asked.
        let body = if streams { response.chunk().await.unwrap() } else { None };
        let body = match body {
            Some(first) => first.to_vec(),
            None if streams => Vec::new(),
            None => response.bytes().await.unwrap().to_vec(),
        };
        Said { status, replayed, body: serde_json::from_slice(&body).unwrap_or(Value::Null) }
    }

    pub(crate) async fn make<T: DeserializeOwned>(&self, path: &str, body: impl Serialize) -> T {
        let body = serde_json::to_value(body).unwrap();
        let said = self.ask(Some(&self.admin), &Method::POST, path, Some(&body)).await;
        assert_eq!(said.status, StatusCode::CREATED, "{said:?}");
        said.decoded()
    }

    pub(crate) async fn project(&self, name: &str, quota: Quota) -> Project {
        self.make("/v1/projects", CreateProject { name: name.into(), quota }).await
    }

    /// A key for users of a project.
    pub(crate) async fn key(&self, project: &Project) -> CreatedKey {
        let request = CreateKey {
            project: Some(project.id),
            name: "k".into(),
            role: Role::User,
            expires_at_ms: None,
        };
        self.make("/v1/keys", request).await
    }
}
