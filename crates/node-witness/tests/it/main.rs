//! What is seen of the requests of a node, over HTTP.

mod unwritable;
mod verified;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use base_audit::verify_log;
use node_sim::{Served, SimNode};
use serde_json::{Value, json};
use tracing_subscriber::fmt::MakeWriter;

/// An answer, read to its end.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("a JSON body")
    }

    fn request_id(&self) -> &str {
        let line = self.head.lines().find_map(|line| line.strip_prefix("x-request-id: "));
        line.expect("every answer names its request")
    }
}

/// Sends one request on a connection of its own. `headers` are whole lines.
fn ask(url: &str, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Answer {
    let address = url.strip_prefix("http://").expect("a URL of a test");
    let mut stream = TcpStream::connect(address).expect("a node that serves");
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    for header in headers {
        head += &format!("{header}\r\n");
    }
    head += &format!("content-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).expect("send the head");
    stream.write_all(body).expect("send the body");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Answer {
        status: status.expect("a status"),
        head: head.to_lowercase(),
        body: dechunked(head, body),
    }
}

/// Bodies of unknown length come in chunks; here each is text.
fn dechunked(head: &str, body: &str) -> String {
    if !head.to_lowercase().contains("transfer-encoding: chunked") {
        return body.to_owned();
    }
    let (mut rest, mut whole) = (body, String::new());
    while let Some((length, after)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).expect("a chunk's length");
        whole += &after[..length];
        rest = after[length..].trim_start_matches("\r\n");
    }
    whole
}

const JSON: &str = "content-type: application/json";

fn post(url: &str, path: &str, body: &Value) -> Answer {
    ask(url, "POST", path, &[JSON], body.to_string().as_bytes())
}

fn get(url: &str, path: &str) -> Answer {
    ask(url, "GET", path, &[], b"")
}

/// A node, and a runtime that keeps it served.
async fn served() -> Served {
    logged();
    SimNode::new().serve().await
}

fn entries(url: &str) -> Vec<Value> {
    let list = get(url, "/v1/audit?limit=1000").json();
    list["entries"].as_array().expect("a list").clone()
}

/// Everything this process logs, at every level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no test panics in here").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

fn logged() -> &'static Log {
    static LOG: OnceLock<Log> = OnceLock::new();
    LOG.get_or_init(|| {
        let log = Log::default();
        let everything = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE);
        everything.with_writer(log.clone()).init();
        log
    })
}

fn everything_logged() -> String {
    let bytes = logged().0.lock().expect("no test panics in there");
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_something_has_a_line_and_what_reads_has_none() {
    let node = served().await;
    let url = &node.url;
    let made = post(url, "/v1/sandboxes", &json!({ "name": "charts" }));
    assert_eq!(made.status, 201, "{}", made.body);
    let id = made.json()["id"].as_str().unwrap().to_owned();
    let sandbox = format!("/v1/sandboxes/{id}");
    let run = post(url, &format!("{sandbox}/exec"), &json!({ "argv": ["echo", "hello"] }));
    assert!(run.body.contains("exit"), "{}", run.body);
    let file = ask(url, "PUT", &format!("{sandbox}/files?path=/a"), &[], b"content");
    assert_eq!(file.status, 200, "{}", file.body);
    get(url, &sandbox);
    get(url, "/v1/sandboxes");
    let missing = ask(url, "DELETE", "/v1/sandboxes/sbx_00000000000000ff", &[], b"");
    assert_eq!(missing.status, 404);
    let killed = ask(url, "DELETE", &sandbox, &[], b"");
    assert_eq!(killed.status, 204);

    let lines = entries(url);
    let shown: Vec<_> = lines
        .iter()
        .skip(1)
        .map(|line| [&line["action"], &line["object"], &line["result"], &line["detail"]])
        .collect();
    let (ok, none) = (json!("ok"), Value::Null);
    let id = json!(id);
    assert_eq!(
        shown,
        [
            [&json!("sandbox_create"), &id, &ok, &none],
            [&json!("process_exec"), &id, &ok, &json!("program echo")],
            [&json!("file_write"), &id, &ok, &json!("path /a")],
            [&json!("sandbox_kill"), &json!("sbx_00000000000000ff"), &json!("not_found"), &none],
            [&json!("sandbox_kill"), &id, &ok, &none],
        ]
    );
    for (line, answer) in lines.iter().skip(1).zip([&made, &run, &file, &missing, &killed]) {
        assert_eq!(line["request"], answer.request_id());
        assert_eq!(line["actor"], "local");
        assert!(line["source"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    }
    assert_eq!(verify_log(&node.audit_dir(), None).unwrap().entries, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_sandbox_may_reach_has_a_line_that_sums_it_up() {
    let node = served().await;
    let url = &node.url;
    let made = post(url, "/v1/sandboxes", &json!({}));
    let sandbox = format!("/v1/sandboxes/{}", made.json()["id"].as_str().unwrap());
    let policy = json!({ "base": "none", "allow": ["pypi.org", "*:443"], "deny": ["*:25"] });
    let body = policy.to_string();
    let set = ask(url, "PUT", &format!("{sandbox}/policy"), &[JSON], body.as_bytes());
    assert_eq!((set.status, set.json()), (200, policy));
    get(url, &format!("{sandbox}/policy"));
    get(url, &format!("{sandbox}/flows"));
    let lines = entries(url);
    let last = lines.last().unwrap();
    assert_eq!((&last["action"], &last["result"]), (&json!("policy_set"), &json!("ok")));
    assert_eq!(last["object"], made.json()["id"]);
    assert_eq!(last["detail"], "base none, 2 allowed, 1 denied");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_did_it_is_the_key_and_who_was_not_let_in_is_seen() {
    logged();
    let (node, secret) = SimNode::new().serve_with_keys().await;
    let url = &node.url;
    let bearer = format!("authorization: Bearer {}", secret.text());
    let stolen = "authorization: Bearer sfk_0123456789012345678901234567890123456789";
    assert_eq!(get(url, "/v1/sandboxes").status, 401);
    assert_eq!(ask(url, "POST", "/v1/sandboxes", &[JSON, stolen], b"{}").status, 401);
    let made = ask(url, "POST", "/v1/sandboxes", &[JSON, &bearer], b"{}");
    assert_eq!(made.status, 201, "{}", made.body);
    let body = json!({ "project": "prj_0000000000000000", "name": "ci", "role": "user" });
    let key = ask(url, "POST", "/v1/keys", &[JSON, &bearer], body.to_string().as_bytes());
    assert_eq!(key.status, 201, "{}", key.body);
    let user = format!("x-api-key: {}", key.json()["key"].as_str().unwrap());
    assert_eq!(ask(url, "GET", "/v1/audit", &[&user], b"").status, 403);

    let list = ask(url, "GET", "/v1/audit", &[&bearer], b"").json();
    let lines = list["entries"].as_array().unwrap();
    let shown: Vec<_> =
        lines.iter().skip(1).map(|line| (&line["action"], &line["result"])).collect();
    let expected = [
        ("sandbox_list", "unauthenticated"),
        ("sandbox_create", "unauthenticated"),
        ("sandbox_create", "ok"),
        ("key_create", "ok"),
        ("audit_list", "permission_denied"),
    ]
    .map(|(action, result)| (json!(action), json!(result)));
    assert_eq!(shown, expected.iter().map(|(a, r)| (a, r)).collect::<Vec<_>>());
    assert_eq!(lines[1]["actor"], "unknown");
    assert!(lines[3]["actor"].as_str().unwrap().starts_with("key_"), "{}", lines[3]);
    assert_eq!(lines[4]["object"], key.json()["id"]);
    assert_eq!(lines[5]["actor"], key.json()["id"]);
    assert_eq!(lines[5]["project"], "prj_0000000000000000");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_was_answered_before_is_not_taken_for_another() {
    let node = served().await;
    let once = ["idempotency-key: 7", JSON];
    let create = || ask(&node.url, "POST", "/v1/sandboxes", &once, b"{}");
    let (first, second) = (create(), create());
    assert_eq!(first.body, second.body);
    let lines = entries(&node.url);
    assert_eq!(lines[1]["object"], first.json()["id"]);
    let detail = lines[2]["detail"].as_str().unwrap();
    assert!(detail.starts_with("nothing was done"), "{detail}");
    let metrics = get(&node.url, "/metrics").body;
    assert!(
        metrics.contains(r#"create_seconds_count{from="template",template="agent",size="nano"} 1"#)
    );
}

/// Where a secret can be put.
const SECRETS: [&str; 7] = [
    "secret-of-env",
    "secret-of-sandbox-env",
    "secret-of-argv",
    "secret-of-stdin",
    "secret-of-file",
    "secret-of-metadata",
    "sfk_5ec7e70000000000000000000000000000000000000000000000000000005ec7",
];

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_reaches_a_log() {
    let node = served().await;
    let url = &node.url;
    let [env, sandbox_env, argv, stdin, file, metadata, key] = SECRETS;
    let (bearer, api_key) = (format!("authorization: Bearer {key}"), format!("x-api-key: {key}"));
    let body = json!({ "env": { "TOKEN": sandbox_env }, "metadata": { "m": metadata } });
    let body = body.to_string();
    let made = ask(url, "POST", "/v1/sandboxes", &[JSON, &bearer], body.as_bytes());
    let sandbox = format!("/v1/sandboxes/{}", made.json()["id"].as_str().unwrap());
    for argv in [json!(["echo", argv]), json!(["not-there", argv]), json!([argv])] {
        let body = json!({ "argv": argv, "env": { "TOKEN": env } });
        post(url, &format!("{sandbox}/exec"), &body);
        post(url, &format!("{sandbox}/processes"), &body);
    }
    let stdin_path = format!("{sandbox}/processes/1/stdin");
    ask(url, "POST", &stdin_path, &[&api_key], stdin.as_bytes());
    ask(url, "PUT", &format!("{sandbox}/files?path=/a"), &[&api_key], file.as_bytes());
    // What is refused is logged with its reason, which must not repeat what was sent.
    for body in [
        format!(r#"{{"argv":["x"],"env":{{"T":"{env}\u0000"}}}}"#),
        format!(r#"{{"argv":["x"],"env":{{"T":["{env}"]}}}}"#),
        format!(r#"{{"argv":["x"],"stdin":"{stdin}"}}"#),
        format!(r#"{{"argv":["x"],"time_limit_ms":"{env}"}}"#),
        format!(r#"{{"argv":["x","{argv}\u0000"]}}"#),
    ] {
        let refused =
            ask(url, "POST", &format!("{sandbox}/exec"), &[JSON, &bearer], body.as_bytes());
        assert_eq!(refused.status, 400, "{}", refused.body);
    }

    let log = everything_logged();
    assert!(log.contains(made.request_id()), "the log knows the request");
    let audit = everything_in(&node.audit_dir());
    assert!(audit.contains(made.request_id()), "the audit log knows the request");
    for secret in SECRETS {
        // A program's own name is no secret place: it is what the line names.
        let audit = audit.replace(&format!("program {argv}"), "");
        assert!(!audit.contains(secret), "{secret} is in the audit log");
        let at = log.find(secret);
        assert!(at.is_none(), "{secret} is in the log: {:?}", at.map(|at| &log[at - 300..at]));
    }
}

fn everything_in(dir: &Path) -> String {
    let files = std::fs::read_dir(dir).expect("a directory").flatten();
    files.map(|file| std::fs::read_to_string(file.path()).expect("a text")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_are_counted_by_operation_phase_and_code() {
    let node = served().await;
    let url = &node.url;
    for _ in 0..3 {
        assert_eq!(post(url, "/v1/sandboxes", &json!({})).status, 201);
    }
    post(url, "/v1/sandboxes", &json!({ "template": "nope" }));
    let id = get(url, "/v1/sandboxes?limit=1").json()["sandboxes"][0]["id"].clone();
    let exec = format!("/v1/sandboxes/{}/exec", id.as_str().unwrap());
    post(url, &exec, &json!({ "argv": ["echo", "hello"] }));
    let fork = format!("/v1/sandboxes/{}/fork", id.as_str().unwrap());
    assert_eq!(post(url, &fork, &json!({ "count": 2 })).status, 201);
    assert_eq!(post(url, "/v1/databases", &json!({ "name": "memory" })).status, 201);
    // Paths nobody serves make no series of their own.
    for number in 0..50 {
        get(url, &format!("/v1/nowhere/{number}"));
    }
    let answer = get(url, "/metrics");
    assert!(answer.head.contains("content-type: application/openmetrics-text"), "{}", answer.head);
    for line in [
        r#"sandflare_requests_total{operation="sandbox_create",status="201"} 3"#,
        r#"sandflare_requests_total{operation="sandbox_create",status="404"} 1"#,
        r#"sandflare_requests_total{operation="none",status="404"} 50"#,
        r#"sandflare_errors_total{code="template_unknown"} 1"#,
        r#"create_phase_seconds_count{from="template",phase="reseed",template="agent",size="nano"} 3"#,
        r#"sandflare_create_seconds_count{from="template",template="agent",size="nano"} 3"#,
        r#"sandflare_create_seconds_count{from="fork",template="agent",size="nano"} 2"#,
        r#"create_phase_seconds_count{from="fork",phase="claim",template="agent",size="nano"} 2"#,
        r#"sandflare_create_recent_seconds{quantile="0.5"} 0.0154"#,
        r#"sandflare_create_recent_seconds{quantile="1"} 0.0154"#,
        "sandflare_exec_first_output_seconds_count 1",
        r#"sandflare_sandboxes{state="running"} 5"#,
        r#"sandflare_databases{status="running"} 1"#,
        r#"sandflare_databases{status="paused"} 0"#,
        "# EOF",
    ] {
        assert!(answer.body.contains(line), "{line} is not in\n{}", answer.body);
    }
}
