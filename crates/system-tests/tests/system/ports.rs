//! Programs in sandboxes, reached from outside through the node's one port.

use std::time::{Duration, Instant};

use api_node::{CreateSandbox, OnTimeout, Port, SandboxState, SetPort, SpawnRequest};
use base_types::SandboxId;
use client::Client;
use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::{RequestBuilder, StatusCode};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::host::{Host, PATIENCE, shared};
use crate::random_bytes;

/// Answers a POST with its own body, a GET with the headers it came with.
const MIRROR: &str = r#"
import http.server, tempfile, shutil
class Mirror(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        left = int(self.headers["content-length"])
        with tempfile.TemporaryFile(dir="/home/agent") as kept:
            while left:
                piece = self.rfile.read(min(left, 65536))
                left -= len(piece)
                kept.write(piece)
            self.begin(kept.tell())
            kept.seek(0)
            shutil.copyfileobj(kept, self.wfile)
    def do_GET(self):
        text = str(self.headers).encode()
        self.begin(len(text))
        self.wfile.write(text)
    def begin(self, length):
        self.send_response(200)
        self.send_header("content-length", str(length))
        self.end_headers()
http.server.ThreadingHTTPServer(("127.0.0.1", 8001), Mirror).serve_forever()
"#;

/// A WebSocket that says every short message back; to the message `wait` it says `waited`, seconds later.
const ECHO: &str = r#"
import base64, hashlib, socketserver, time
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        key = ""
        while (line := self.rfile.readline().strip()):
            if line.lower().startswith(b"sec-websocket-key:"):
                key = line.split(b":", 1)[1].strip()
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        self.wfile.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n")
        while len(head := self.rfile.read(2)) == 2:
            mask = self.rfile.read(4)
            data = bytes(b ^ mask[i % 4] for i, b in enumerate(self.rfile.read(head[1] & 127)))
            if data == b"wait":
                time.sleep(6)
                data = b"waited"
            self.wfile.write(bytes([head[0], len(data)]) + data)
socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer(("0.0.0.0", 8002), Echo).serve_forever()
"#;

async fn spawn(client: &Client, id: SandboxId, words: &[&str]) {
    let request = SpawnRequest {
        argv: words.iter().map(|&word| word.to_owned()).collect(),
        env: Default::default(),
        cwd: None,
        user: None,
        time_limit_ms: None,
        stdin: false,
        pty: None,
    };
    client.process_spawn(id, &request).await.unwrap();
}

/// Between two questions: who asks without a pause takes the processors of the program that starts.
const PAUSE: Duration = Duration::from_millis(200);

/// Asks until a program listens, which those that were just started do soon.
async fn answered(ask: impl Fn() -> RequestBuilder) -> reqwest::Response {
    let asking = async {
        loop {
            let response = ask().send().await.unwrap();
            if response.status() != StatusCode::BAD_GATEWAY {
                return response;
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    timeout(PATIENCE, asking).await.unwrap()
}

fn host_name(port: &Port) -> &str {
    port.url.strip_prefix("http://").unwrap()
}

async fn socket(host: &Host, port: &Port) -> WebSocketStream<TcpStream> {
    let mut ask = format!("ws://{}/line", host_name(port)).into_client_request().unwrap();
    ask.headers_mut().insert("x-sandflare-token", port.token.parse().unwrap());
    let opening = async {
        loop {
            let stream = TcpStream::connect(("127.0.0.1", host.port())).await.unwrap();
            if let Ok((socket, _)) = tokio_tungstenite::client_async(ask.clone(), stream).await {
                return socket;
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    timeout(PATIENCE, opening).await.unwrap()
}

async fn said(socket: &mut WebSocketStream<TcpStream>, text: &str) -> String {
    socket.send(Message::text(text)).await.unwrap();
    let message = timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap();
    message.into_text().unwrap().to_string()
}

#[tokio::test]
async fn a_web_server_in_a_sandbox_is_reached_each_way_by_those_who_may() {
    let host = shared().await;
    let sandbox = host.sandbox("agent").await;
    let (client, id) = (&sandbox.client, sandbox.id());
    sandbox.text("mkdir www && echo from inside > www/file").await;
    let port = client.port_get(id, 8000).await.unwrap();
    let http = reqwest::Client::new();
    let url = host.url();
    let ways: [Box<dyn Fn() -> RequestBuilder>; 3] = [
        Box::new(|| http.get(format!("{}file", port.path_url))),
        Box::new(|| http.get(format!("{url}/file")).header("host", host_name(&port))),
        Box::new(|| {
            let ask = http.get(format!("{url}/file"));
            ask.header("x-sandflare-sandbox", id.to_string()).header("x-sandflare-port", "8000")
        }),
    ];
    let nobody = ways[0]().header("x-sandflare-token", &port.token).send().await.unwrap();
    assert_eq!(nobody.status(), StatusCode::BAD_GATEWAY);
    let text = nobody.text().await.unwrap();
    assert!(text.contains("port_unreachable") && text.contains("port 8000"), "{text}");

    spawn(client, id, &["python3", "-m", "http.server", "8000", "--directory", "www"]).await;
    for (number, way) in ways.iter().enumerate() {
        let response = answered(|| way().header("x-sandflare-token", &port.token)).await;
        assert_eq!(response.status(), StatusCode::OK, "{number}");
        assert_eq!(response.text().await.unwrap(), "from inside\n", "{number}");
        assert_eq!(way().send().await.unwrap().status(), StatusCode::UNAUTHORIZED, "{number}");
    }
    // A child has the server, and another token.
    let forked = client.sandbox_fork(id, &api_node::Fork::of(1)).await.unwrap();
    let child = forked.sandboxes[0].id;
    let of_child = client.port_get(child, 8000).await.unwrap();
    let ask = |token: &str| {
        http.get(format!("{}file", of_child.path_url)).header("x-sandflare-token", token)
    };
    assert_eq!(ask(&port.token).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(answered(|| ask(&of_child.token)).await.text().await.unwrap(), "from inside\n");
    client.sandbox_kill(child).await.unwrap();

    // A touch resumes it; public, it takes nothing but the address.
    client.port_set(id, 8000, SetPort { public: true }).await.unwrap();
    client.sandbox_pause(id).await.unwrap();
    let began = Instant::now();
    let response = timeout(PATIENCE, ways[1]().send()).await.unwrap().unwrap();
    assert_eq!(response.text().await.unwrap(), "from inside\n");
    eprintln!("a paused sandbox answered on its port after {:?}", began.elapsed());
    assert_eq!(client.sandbox_get(id).await.unwrap().state, SandboxState::Running);
    let said = host.sandflare(&["url", &id.to_string(), "8000"]).await;
    assert_eq!(said.succeeded().trim_end(), format!("{}/", port.url));
}

#[tokio::test]
async fn megabytes_go_in_and_come_out_of_a_port_exactly() {
    let host = shared().await;
    let sandbox = host.sandbox("agent").await;
    let port = sandbox.client.port_get(sandbox.id(), 8001).await.unwrap();
    spawn(&sandbox.client, sandbox.id(), &["python3", "-c", MIRROR]).await;
    let http = reqwest::Client::new();
    let ask = || http.get(&port.path_url).header("x-sandflare-token", &port.token);
    let lines = answered(|| ask().header("cookie", "a=b")).await.text().await.unwrap();
    let lines = lines.to_lowercase();
    assert!(
        lines.contains("host: localhost:8001") && lines.contains("x-forwarded-for: "),
        "{lines}"
    );
    assert!(!lines.contains("sft_") && !lines.contains("cookie"), "{lines}");

    let content = random_bytes(12_000_000);
    let began = Instant::now();
    let sending = http.post(&port.path_url).header("x-sandflare-token", &port.token);
    let back = async { sending.body(content.clone()).send().await.unwrap().bytes().await.unwrap() };
    let back = timeout(PATIENCE, back).await.unwrap();
    eprintln!("12 MB in and out of a port in {:?}", began.elapsed());
    assert!(back == content, "{} bytes came back", back.len());
}

#[tokio::test]
async fn a_web_socket_is_carried_and_keeps_its_sandbox_in_use() {
    let host = shared().await;
    let create = CreateSandbox {
        template: "agent".parse().unwrap(),
        idle_timeout_s: 3,
        on_timeout: OnTimeout::Pause,
        timeout_s: 0,
        ..CreateSandbox::default()
    };
    let sandbox = host.sandbox_of(&create).await;
    let (client, id) = (&sandbox.client, sandbox.id());
    let port = client.port_get(id, 8002).await.unwrap();
    spawn(client, id, &["python3", "-c", ECHO]).await;
    let mut open = socket(&host, &port).await;
    for text in ["hello", "", "again"] {
        assert_eq!(said(&mut open, text).await, text);
    }
    // Twice its idle time: it is not idle.
    assert_eq!(said(&mut open, "wait").await, "waited");
    assert_eq!(client.sandbox_get(id).await.unwrap().state, SandboxState::Running);
    open.close(None).await.unwrap();
    drop(open);
    let paused = async {
        while client.sandbox_get(id).await.unwrap().state != SandboxState::Paused {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, paused).await.unwrap();
    // And the server is there again for the next one.
    assert_eq!(said(&mut socket(&host, &port).await, "back").await, "back");
}
