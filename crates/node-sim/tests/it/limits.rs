//! What one caller may take of a node's connections and time, and that others are served meanwhile.

use std::time::Duration;

use api_node::{COMMAND_BYTES_MAX, Limits, Quota};
use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, interval, timeout};

use crate::world::World;

const SECOND: Duration = Duration::from_secs(1);
/// LIMIT: nothing a test waits for takes this long unless it never comes.
const LONG: Duration = Duration::from_secs(60);
const SANDBOXES: &str = "/v1/sandboxes";

/// A connection on which bytes are written as they are, and all that came back.
struct Wire(TcpStream, Vec<u8>);

impl Wire {
    async fn new(world: &World) -> Self {
        let address = world.served.url.strip_prefix("http://").unwrap();
        Self(TcpStream::connect(address).await.unwrap(), Vec::new())
    }

    async fn with(world: &World, bytes: &[u8]) -> Self {
        let mut wire = Self::new(world).await;
        wire.0.write_all(bytes).await.unwrap();
        wire
    }

    /// What came, once `end` is in it or the other side closed.
    async fn until(&mut self, end: &str) -> String {
        let reading = async {
            while !String::from_utf8_lossy(&self.1).contains(end) {
                if !matches!(self.0.read_buf(&mut self.1).await, Ok(1..)) {
                    break;
                }
            }
        };
        timeout(LONG, reading).await.unwrap();
        String::from_utf8_lossy(&self.1).into_owned()
    }

    /// What came until the other side closed.
    async fn until_closed(&mut self) -> String {
        self.until("\0").await
    }
}

/// A world with two tenants, each with a key and a sandbox.
struct Tenants {
    world: World,
    keys: [String; 2],
    sandboxes: [String; 2],
}

impl Tenants {
    async fn within(limits: Limits) -> Self {
        let world = World::within(limits).await;
        let mut keys = Vec::new();
        let mut sandboxes = Vec::new();
        for name in ["one", "two"] {
            let key = world.key(&world.project(name, Quota::default()).await).await.secret;
            let made = world.ask(Some(&key), &Method::POST, SANDBOXES, Some(&json!({}))).await;
            assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
            sandboxes.push(format!("{SANDBOXES}/{}", made.body["id"].as_str().unwrap()));
            keys.push(key);
        }
        Self { world, keys: keys.try_into().unwrap(), sandboxes: sandboxes.try_into().unwrap() }
    }

    /// A request by hand.
    fn head(&self, tenant: usize, method: &str, path: &str, more: &str) -> String {
        let (key, sandbox) = (&self.keys[tenant], &self.sandboxes[tenant]);
        format!("{method} {sandbox}{path} HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\n{more}\r\n")
    }

    /// Runs a program, and has the head of the answer and its first event.
    async fn exec(&self, tenant: usize, argv: &[&str]) -> (Wire, String) {
        let body = json!({ "argv": argv }).to_string();
        let more = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        let head = self.head(tenant, "POST", "/exec", &more);
        let mut wire = Wire::with(&self.world, (head + &body).as_bytes()).await;
        // A refusal ends with its request's id.
        let said = wire.until("\r\n\r\n").await;
        (wire, said)
    }

    async fn list(&self, tenant: usize) -> StatusCode {
        self.world.ask(Some(&self.keys[tenant]), &Method::GET, SANDBOXES, None).await.status
    }

    /// Asks until it is let in.
    async fn is_let_in(&self, tenant: usize) {
        let asking = async { while self.list(tenant).await != StatusCode::OK {} };
        timeout(LONG, asking).await.unwrap();
    }
}

#[tokio::test]
async fn a_head_that_never_ends_is_cut_off_however_it_drips() {
    let world = World::within(Limits { head_within: SECOND, ..Limits::default() }).await;
    let began = Instant::now();
    let mut silent = Wire::new(&world).await;
    let mut half = Wire::with(&world, b"GET /v1/health HTTP/1.1\r\nHost:").await;
    let mut dripping = Wire::with(&world, b"GET /v1/health HTTP/1.1\r\n").await;
    let drip = async {
        let mut tick = interval(Duration::from_millis(50));
        loop {
            tick.tick().await;
            let mut byte = [0];
            let gone = dripping.0.try_read(&mut byte).is_ok_and(|count| count == 0);
            if gone || dripping.0.write_all(b"x").await.is_err() {
                break;
            }
        }
    };
    let (first, second, ()) = tokio::join!(silent.until_closed(), half.until_closed(), async {
        timeout(LONG, drip).await.unwrap();
    });
    assert!(began.elapsed() >= SECOND / 2);
    for said in [first, second] {
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 408"), "{said}");
    }
}

#[tokio::test]
async fn connections_that_say_nothing_keep_nobody_out() {
    let world = World::within(Limits { connections: 4, ..Limits::default() }).await;
    let mut first = Wire::new(&world).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(Wire::new(&world).await);
        let said = world.ask(Some(&world.admin), &Method::GET, SANDBOXES, None).await;
        assert_eq!(said.status, StatusCode::OK, "{said:?}");
    }
    assert_eq!(first.until_closed().await, "");
    // The last that came is still there.
    let mut last = silent.pop().unwrap();
    let ask = b"GET /v1/health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    last.0.write_all(ask).await.unwrap();
    assert!(last.until_closed().await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_tenant_that_holds_all_it_can_leaves_the_other_served() {
    let limits = Limits { connections: 6, requests_per_project: 3, ..Limits::default() };
    let tenants = Tenants::within(limits).await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        let (wire, said) = tenants.exec(0, &["wait"]).await;
        assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
        streams.push(wire);
    }
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(Wire::new(&tenants.world).await);
        let (_, said) = tenants.exec(0, &["wait"]).await;
        assert!(said.starts_with("HTTP/1.1 429 "), "{said}");
        assert_eq!(tenants.list(1).await, StatusCode::OK);
    }
    let said =
        tenants.world.ask(Some(&tenants.keys[0]), &Method::GET, &tenants.sandboxes[0], None).await;
    assert_eq!(said.code(), "quota_exceeded");
    let message = "the project has 3 requests under way, as many as it may have at once";
    assert_eq!(said.body["message"], message);
    // Whoever is at the bound can still end what took it there.
    let kill = Method::DELETE;
    let said = tenants.world.ask(Some(&tenants.keys[0]), &kill, &tenants.sandboxes[0], None).await;
    assert_eq!(said.status, StatusCode::NO_CONTENT, "{said:?}");
    drop(streams);
    tenants.is_let_in(0).await;
}

#[tokio::test]
async fn a_place_comes_back_when_a_stream_ends_by_itself_or_by_its_caller() {
    let tenants = Tenants::within(Limits { requests_per_project: 1, ..Limits::default() }).await;
    let (mut ended, _) = tenants.exec(0, &["echo", "a"]).await;
    ended.until("0\r\n\r\n").await;
    assert_eq!(tenants.list(0).await, StatusCode::OK);
    let (left, _) = tenants.exec(0, &["wait"]).await;
    assert_eq!(tenants.list(0).await, StatusCode::TOO_MANY_REQUESTS);
    drop(left);
    tenants.is_let_in(0).await;
}

#[tokio::test]
async fn a_sandbox_takes_so_many_requests_and_others_of_its_project_still_theirs() {
    let tenants = Tenants::within(Limits { requests_per_sandbox: 2, ..Limits::default() }).await;
    let _streams = [tenants.exec(0, &["wait"]).await.0, tenants.exec(0, &["wait"]).await.0];
    let (_, said) = tenants.exec(0, &["echo"]).await;
    assert!(said.starts_with("HTTP/1.1 429 "), "{said}");
    // What does not go into it is answered.
    let path = &tenants.sandboxes[0];
    let get = tenants.world.ask(Some(&tenants.keys[0]), &Method::GET, path, None).await;
    assert_eq!(get.status, StatusCode::OK, "{get:?}");
    let (_, said) = tenants.exec(1, &["echo"]).await;
    assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
}

#[tokio::test]
async fn strangers_at_a_public_port_do_not_keep_its_owner_out() {
    only_some_strangers(Limits { requests_per_sandbox: 4, ..Limits::default() }, 3).await;
}

#[tokio::test]
async fn strangers_at_public_ports_do_not_take_the_last_connections() {
    only_some_strangers(Limits { connections: 8, ..Limits::default() }, 5).await;
}

/// So many strangers are let to a port at once, and its owner to the API beside them.
async fn only_some_strangers(limits: Limits, count: usize) {
    let tenants = Tenants::within(limits).await;
    let (key, sandbox) = (Some(tenants.keys[0].as_str()), &tenants.sandboxes[0]);
    let program = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let id = sandbox.rsplit('/').next().unwrap().parse().unwrap();
    tenants.world.node.listen(id, 8000, program.local_addr().unwrap());
    let path = format!("{sandbox}/ports/8000");
    let public = json!({"public": true});
    let set = tenants.world.ask(key, &Method::PUT, &path, Some(&public)).await;
    assert_eq!(set.status, StatusCode::OK, "{set:?}");
    let ask = format!("GET {path}/ HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut strangers = Vec::new();
    for _ in 0..count {
        let stranger = Wire::with(&tenants.world, ask.as_bytes()).await;
        // The program took it, and never answers.
        strangers.push((stranger, program.accept().await.unwrap()));
    }
    let said = Wire::with(&tenants.world, ask.as_bytes()).await.until("request_id").await;
    assert!(said.starts_with("HTTP/1.1 429 "), "{said}");
    let (_, said) = tenants.exec(0, &["echo"]).await;
    assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
}

#[tokio::test]
async fn a_web_socket_keeps_its_place_until_it_closes() {
    let limits = Limits { requests_per_project: 1, ..Limits::default() };
    let tenants = Tenants::within(limits).await;
    let body = json!({"argv": ["wait"]});
    let path = format!("{}/processes", tenants.sandboxes[0]);
    let key = Some(tenants.keys[0].as_str());
    let made = tenants.world.ask(key, &Method::POST, &path, Some(&body)).await;
    let path = format!("/processes/{}/socket", made.body["id"]);
    let more = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    let mut socket =
        Wire::with(&tenants.world, tenants.head(0, "GET", &path, more).as_bytes()).await;
    let said = socket.until("\r\n\r\n").await;
    assert!(said.starts_with("HTTP/1.1 101 "), "{said}");
    assert_eq!(tenants.list(0).await, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(tenants.list(1).await, StatusCode::OK);
    drop(socket);
    tenants.is_let_in(0).await;
}

#[tokio::test]
async fn a_body_that_stalls_is_given_up_and_the_old_file_stays() {
    let limits = Limits { body_within: SECOND, requests_per_project: 2, ..Limits::default() };
    let tenants = Tenants::within(limits).await;
    let path = format!("{}/files?path=/a", tenants.sandboxes[0]);
    let url = format!("{}{path}", tenants.world.served.url);
    let http = reqwest::Client::new();
    let put = http.put(&url).bearer_auth(&tenants.keys[0]).body("old").send().await.unwrap();
    assert_eq!(put.status(), StatusCode::OK);
    let json = "Content-Type: application/json\r\nContent-Length: 100\r\n";
    let exec = tenants.head(0, "POST", "/exec", json) + "{\"argv\":";
    let mut exec = Wire::with(&tenants.world, exec.as_bytes()).await;
    let upload = tenants.head(0, "PUT", "/files?path=/a", "Content-Length: 100\r\n") + "new";
    let mut upload = Wire::with(&tenants.world, upload.as_bytes()).await;
    let (exec, upload) = tokio::join!(exec.until("request_id"), upload.until("request_id"));
    assert!(exec.contains("the body did not arrive within 1 s"), "{exec}");
    assert!(upload.starts_with("HTTP/1.1 400 "), "{upload}");
    tenants.is_let_in(0).await;
    let got = http.get(&url).bearer_auth(&tenants.keys[0]).send().await.unwrap();
    assert_eq!(got.bytes().await.unwrap(), "old");
}

#[tokio::test]
async fn a_caller_that_takes_nothing_of_an_answer_loses_it() {
    let limits = Limits { stall_within: SECOND, requests_per_project: 1, ..Limits::default() };
    let tenants = Tenants::within(limits).await;
    // More than the kernel keeps for both ends of a connection.
    let (stuck, said) = tenants.exec(0, &["bytes", "100000000"]).await;
    assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
    assert_eq!(tenants.list(0).await, StatusCode::TOO_MANY_REQUESTS);
    tenants.is_let_in(0).await;
    drop(stuck);
}

#[tokio::test]
async fn a_request_that_takes_longer_than_any_may_breaks_off() {
    let tenants = Tenants::within(Limits { request_within: SECOND, ..Limits::default() }).await;
    let (mut stream, said) = tenants.exec(0, &["wait"]).await;
    assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
    let rest = stream.until_closed().await;
    assert!(!rest.contains("exit") && !rest.ends_with("0\r\n\r\n"), "{rest}");
    timeout(LONG, tenants.world.node.abandoned_reaches(1)).await.unwrap();
}

#[tokio::test]
async fn heads_and_uploads_have_the_bounds_that_were_set() {
    let limits = Limits { head_bytes: 8192, head_lines: 20, upload_bytes: 10, ..Limits::default() };
    let tenants = Tenants::within(limits).await;
    let long = format!("X: {}\r\n", "x".repeat(9000));
    let many = (0..21).map(|n| format!("X{n}: x\r\n")).collect::<String>();
    for more in [long, many] {
        let head = tenants.head(0, "GET", "", &more);
        let said = Wire::with(&tenants.world, head.as_bytes()).await.until_closed().await;
        assert!(said.starts_with("HTTP/1.1 431 "), "{said}");
    }
    let upload = tenants.head(0, "PUT", "/files?path=/a", "Content-Length: 11\r\n") + "01234567890";
    let said = Wire::with(&tenants.world, upload.as_bytes()).await.until("request_id").await;
    assert!(said.starts_with("HTTP/1.1 413 "), "{said}");
}

#[tokio::test]
async fn a_command_is_as_large_as_a_guest_takes_and_one_byte_more_is_refused_with_the_figures() {
    let world = World::new().await;
    let env = json!({"env": {"OWN": "x".repeat(50_000)}});
    let made = world.ask(Some(&world.admin), &Method::POST, "/v1/sandboxes", Some(&env)).await;
    let path = format!("/v1/sandboxes/{}", made.body["id"].as_str().unwrap());
    let given = 20_000 + "ADDED".len() + 2;
    let own = 50_000 + "OWN".len() + 2;
    let rest = COMMAND_BYTES_MAX - own - given - "true".len() - 1;
    for verb in ["exec", "processes"] {
        let ask = async |argument: usize| {
            let body = json!({
                "argv": ["true", "y".repeat(argument)],
                "env": {"ADDED": "z".repeat(20_000)},
            });
            let path = format!("{path}/{verb}");
            world.ask(Some(&world.admin), &Method::POST, &path, Some(&body)).await
        };
        let fits = ask(rest - 1).await;
        assert!(fits.status.is_success(), "{verb}: {fits:?}");
        let over = ask(rest).await;
        assert_eq!((over.status, over.code()), (StatusCode::BAD_REQUEST, "invalid_request"));
        let message = over.body["message"].as_str().unwrap();
        for figure in [rest + "true".len() + 2, own + given, COMMAND_BYTES_MAX] {
            assert!(message.contains(&figure.to_string()), "{verb}: {message}");
        }
    }
}
