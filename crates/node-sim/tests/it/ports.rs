//! Programs in sandboxes, reached through the node, and by nobody who may not.

use std::net::SocketAddr;

use api_node::{AuditList, Limits, Port, PortList, Quota, Sandbox};
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use futures_util::{StreamExt, stream};
use reqwest::redirect::Policy;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::world::World;

const PORT: u16 = 8000;

/// A node where one tenant has a sandbox with a program in it.
struct House {
    world: World,
    key: String,
    sandbox: Sandbox,
    http: reqwest::Client,
}

/// Which way a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Host,
    Path,
    Headers,
}

const WAYS: [Way; 3] = [Way::Host, Way::Path, Way::Headers];

impl House {
    async fn new() -> Self {
        Self::in_world(World::new().await).await
    }

    async fn in_world(world: World) -> Self {
        let key = world.key(&world.project("tenant", Quota::default()).await).await.secret;
        let sandbox = sandbox_of(&world, &key).await;
        let http = reqwest::Client::builder().redirect(Policy::none()).build().unwrap();
        world.node.listen(sandbox.id, PORT, mirror().await);
        Self { world, key, sandbox, http }
    }

    fn host(&self) -> String {
        let port = self.world.served.url.rsplit_once(':').unwrap().1;
        format!("{PORT}-{:016x}.localhost:{port}", self.sandbox.id.bits())
    }

    /// A request for `path` of the program, without credentials.
    fn ask(&self, way: Way, method: Method, path: &str) -> RequestBuilder {
        let (url, id) = (&self.world.served.url, self.sandbox.id);
        match way {
            Way::Host => {
                self.http.request(method, format!("{url}{path}")).header("host", self.host())
            }
            Way::Path => {
                let below = format!("{url}/v1/sandboxes/{id}/ports/{PORT}");
                self.http.request(method, format!("{below}{path}"))
            }
            Way::Headers => {
                let ask = self.http.request(method, format!("{url}{path}"));
                let id = id.to_string();
                ask.header("x-sandflare-sandbox", id).header("x-sandflare-port", PORT)
            }
        }
    }

    fn get(&self, way: Way, path: &str) -> RequestBuilder {
        self.ask(way, Method::GET, path)
    }

    async fn port(&self) -> Port {
        let path = format!("/v1/sandboxes/{}/ports/{PORT}", self.sandbox.id);
        let said = self.world.ask(Some(&self.key), &Method::GET, &path, None).await;
        assert_eq!(said.status, StatusCode::OK, "{said:?}");
        said.decoded()
    }

    async fn set_public(&self, public: bool) -> Port {
        let path = format!("/v1/sandboxes/{}/ports/{PORT}", self.sandbox.id);
        let body = json!({ "public": public });
        let said = self.world.ask(Some(&self.key), &Method::PUT, &path, Some(&body)).await;
        assert_eq!(said.status, StatusCode::OK, "{said:?}");
        said.decoded()
    }

    /// A request by hand, and all that came back.
    async fn raw(&self, bytes: &[u8]) -> String {
        let address = self.world.served.url.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        String::from_utf8_lossy(&all).into_owned()
    }
}

async fn sandbox_of(world: &World, key: &str) -> Sandbox {
    world.ask(Some(key), &Method::POST, "/v1/sandboxes", Some(&json!({}))).await.decoded()
}

/// A program that answers with what it was asked.
async fn mirror() -> SocketAddr {
    let answer = async |request: Request| {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let lines: Vec<_> = parts
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        let said = json!({
            "method": parts.method.as_str(),
            "uri": parts.uri.to_string(),
            "lines": lines,
            "bytes": body.len(),
        });
        let lines = [
            ("set-cookie", "theirs=1; Domain=localhost; Path=/"),
            ("www-authenticate", "Basic realm=\"theirs\""),
            ("x-program", "mirror"),
        ];
        (lines, said.to_string())
    };
    serve(Router::new().fallback(answer)).await
}

async fn serve(program: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, program).await });
    address
}

/// A program that answers every connection with these bytes once it has read a head.
async fn answering(bytes: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.unwrap_or(0) > 0
            {
            }
            let _ = stream.write_all(bytes).await;
        }
    });
    address
}

/// What the mirror was asked.
async fn seen(response: Response) -> Value {
    assert_eq!(response.status(), StatusCode::OK, "{response:?}");
    let text = response.text().await.unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Status, code and message of a refusal, without what names the request.
async fn refused(response: Response) -> (StatusCode, String, String) {
    let status = response.status();
    let text = response.text().await.unwrap();
    let body: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status}: {text}"));
    let text = |name: &str| body[name].as_str().unwrap().to_owned();
    (status, text("code"), text("message"))
}

#[tokio::test]
async fn a_program_is_reached_each_way_and_sees_nothing_of_what_let_the_caller_in() {
    let house = House::new().await;
    let token = house.port().await.token;
    for way in WAYS {
        let asks = [
            house.ask(way, Method::POST, "/a//b%20c?d=e").header("x-sandflare-token", &token),
            house.ask(way, Method::POST, "/a//b%20c?d=e").header("x-api-key", &house.key),
            house.ask(way, Method::POST, &format!("/a//b%20c?d=e&sandflare_token={token}")),
        ];
        for ask in asks {
            let ask = ask.header("x-forwarded-for", "6.6.6.6").header("authorization", "Basic app");
            let response = ask.body("hello").send().await.unwrap();
            assert_eq!(response.headers()["x-program"], "mirror");
            assert!(response.headers().contains_key("x-request-id"));
            let own = (way == Way::Host).then_some("theirs=1; Path=/");
            let cookie = response.headers().get("set-cookie");
            assert_eq!(cookie.map(|cookie| cookie.to_str().unwrap()), own, "{way:?}");
            let challenge = response.headers().contains_key("www-authenticate");
            let policy = response.headers().contains_key("content-security-policy");
            assert_eq!((challenge, policy), (way == Way::Host, way != Way::Host), "{way:?}");
            let seen = seen(response).await;
            assert_eq!(seen["method"], "POST");
            assert_eq!(seen["uri"], "/a//b%20c?d=e", "{way:?}");
            assert_eq!(seen["bytes"], 5);
            let text = seen.to_string();
            assert!(!text.contains("sft_") && !text.contains("sfk_"), "{way:?}: {text}");
            assert!(!text.contains("x-sandflare") && !text.contains("6.6.6.6"), "{way:?}: {text}");
            let mut lines = vec![
                "authorization: Basic app".to_owned(),
                "x-forwarded-for: 127.0.0.1".to_owned(),
                "x-forwarded-proto: http".to_owned(),
            ];
            match way {
                Way::Host => lines.push(format!("host: {}", house.host())),
                Way::Path => {
                    lines.push("host: localhost:8000".to_owned());
                    let id = house.sandbox.id;
                    lines.push(format!("x-forwarded-prefix: /v1/sandboxes/{id}/ports/{PORT}"));
                }
                Way::Headers => lines.push("host: localhost:8000".to_owned()),
            }
            for line in lines {
                let all = seen["lines"].as_array().unwrap();
                assert!(all.contains(&json!(line)), "{way:?}: no `{line}` in {all:?}");
            }
        }
    }
    // A key in `Authorization` is for the node's own address.
    for (way, status) in [(Way::Path, 200), (Way::Headers, 200), (Way::Host, 401)] {
        let response = house.get(way, "/").bearer_auth(&house.key).send().await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{way:?}");
        if status == 200 {
            assert!(!seen(response).await.to_string().contains("sfk_"), "{way:?}");
        }
    }
}

#[tokio::test]
async fn who_may_not_learns_nothing_from_a_refusal() {
    let house = House::new().await;
    let token = house.port().await.token;
    let stranger = house.world.project("stranger", Quota::default()).await;
    let stranger = house.world.key(&stranger).await.secret;
    let theirs = sandbox_of(&house.world, &stranger).await;
    let path = format!("/v1/sandboxes/{}/ports/1", theirs.id);
    let other: Port = house.world.ask(Some(&stranger), &Method::GET, &path, None).await.decoded();
    assert_ne!(other.token, token);
    let cookie = format!("sandflare_token={token}");
    let never = House {
        sandbox: Sandbox { id: "sbx_00000000deadbeef".parse().unwrap(), ..house.sandbox.clone() },
        http: house.http.clone(),
        key: String::new(),
        world: World::new().await,
    };
    for way in WAYS {
        let mut tries: Vec<(&str, String)> = vec![
            ("x-nothing", String::new()),
            ("x-sandflare-token", other.token.clone()),
            ("x-sandflare-token", token[..35].to_owned()),
            ("x-sandflare-token", token.to_uppercase()),
            ("x-api-key", "sfk_wrong".to_owned()),
            ("x-api-key", format!("sfk_{}", "0".repeat(64))),
        ];
        if way != Way::Host {
            // Pages of all sandboxes have this origin: what one sets, the others would send.
            tries.push(("cookie", cookie.clone()));
        }
        for (name, value) in tries {
            let ours = house.get(way, "/").header(name, &value).send().await.unwrap();
            let ours = refused(ours).await;
            assert_eq!((ours.0.as_u16(), &*ours.1), (401, "unauthenticated"), "{way:?} {name}");
            let unknown = never.get(way, "/").header(name, &value).send().await.unwrap();
            assert_eq!(ours, refused(unknown).await, "{way:?} {name}");
        }
        // Whoever has a good key gets what the API says of a sandbox that is not there.
        let ours = house.get(way, "/").header("x-api-key", &stranger).send().await.unwrap();
        let ours = refused(ours).await;
        assert_eq!((ours.0.as_u16(), &*ours.1), (404, "not_found"), "{way:?}");
        assert_eq!(ours.2, format!("there is no sandbox {}", house.sandbox.id));
        let admin = house.get(way, "/").header("x-api-key", &house.world.admin).send().await;
        assert_eq!(admin.unwrap().status(), StatusCode::OK, "{way:?}");
    }
    let good = house.get(Way::Host, "/").header("cookie", cookie).send().await.unwrap();
    assert!(!seen(good).await.to_string().contains("sft_"));
}

#[tokio::test]
async fn a_host_name_of_a_port_never_leads_to_the_api() {
    let house = House::new().await;
    let (admin, host) = (&house.world.admin, house.host());
    for path in ["/v1/keys", "/v1/health", "/metrics", "/docs", "/"] {
        let ask = house.get(Way::Host, path);
        let without = ask.bearer_auth(admin).send().await.unwrap();
        assert_eq!(without.status(), StatusCode::UNAUTHORIZED, "{path}");
        let with = house.get(Way::Host, path).header("x-api-key", admin).send().await.unwrap();
        assert_eq!(seen(with).await["uri"], path);
    }
    // The API's own words, where a host name is nearly one of a port.
    let id = host.split_once('.').unwrap().0;
    for host in [format!("0{host}"), host.replacen('-', "-x", 1), format!("{id}0.localhost")] {
        let head = format!("GET /v1/health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let said = house.raw(head.as_bytes()).await;
        assert!(said.starts_with("HTTP/1.1 404 "), "{host}: {said}");
        assert!(!said.contains("\"ready\""), "{host}: {said}");
    }
    // Two hosts in one request.
    for head in [
        format!("GET /v1/health HTTP/1.1\r\nHost: {host}\r\nHost: 127.0.0.1\r\n"),
        format!("GET /v1/health HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: {host}\r\n"),
        format!("GET http://127.0.0.1/v1/health HTTP/1.1\r\nHost: {host}\r\n"),
        format!("GET http://{host}/v1/health HTTP/1.1\r\nHost: 127.0.0.1\r\n"),
        format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n"),
    ] {
        let said = house.raw(format!("{head}Connection: close\r\n\r\n").as_bytes()).await;
        assert!(said.starts_with("HTTP/1.1 400 "), "{head}: {said}");
    }
    // A page of a sandbox asks the API.
    let origin = format!("http://{host}");
    let url = format!("{}/v1/sandboxes", house.world.served.url);
    let ask = house.http.get(url).bearer_auth(&house.key).header("origin", origin);
    assert_eq!(ask.send().await.unwrap().status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_token_in_an_address_becomes_a_cookie_of_that_host_name() {
    let house = House::new().await;
    let token = house.port().await.token;
    for (asked, wanted) in [
        (format!("/?sandflare_token={token}"), "/"),
        (format!("/a/b?x=1&sandflare_token={token}&y=2"), "/a/b?x=1&y=2"),
        (format!("//evil.example/?sandflare_token={token}"), "//evil.example/"),
    ] {
        let response = house.get(Way::Host, &asked).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::SEE_OTHER);
        let header = |name: &str| response.headers()[name].to_str().unwrap();
        assert_eq!(header("location"), format!("http://{}{wanted}", house.host()));
        let cookie = format!("sandflare_token={token}; Path=/; HttpOnly; SameSite=Lax");
        assert_eq!(header("set-cookie"), cookie);
        assert_eq!(
            (header("cache-control"), header("referrer-policy")),
            ("no-store", "no-referrer")
        );
    }
    let wrong = house.get(Way::Host, "/?sandflare_token=sft_0").send().await.unwrap();
    assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED);
    assert!(!wrong.headers().contains_key("set-cookie"));
    let cookie = format!("a=b; sandflare_token={token}");
    let with = house.get(Way::Host, "/").header("cookie", &cookie).send().await.unwrap();
    assert!(seen(with).await["lines"].as_array().unwrap().contains(&json!("cookie: a=b")));
    // Another sandbox's page has the browser send it.
    let other = house.get(Way::Host, "/").header("cookie", &cookie);
    let other = other.header("origin", "http://8000-ffffffffffffffff.localhost:1").send().await;
    assert_eq!(other.unwrap().status(), StatusCode::UNAUTHORIZED);
    // Below the API's address there is no cookie, and so nothing to become one.
    let below = house.get(Way::Path, &format!("/?sandflare_token={token}")).send().await.unwrap();
    assert_eq!(seen(below).await["uri"], "/");
}

#[tokio::test]
async fn a_public_port_is_everybodys_until_it_is_private_again() {
    let house = House::new().await;
    let list = async || {
        let path = format!("/v1/sandboxes/{}/ports", house.sandbox.id);
        let list: PortList =
            house.world.ask(Some(&house.key), &Method::GET, &path, None).await.decoded();
        list.ports
    };
    let private = house.port().await;
    assert!(!private.public && list().await.is_empty());
    let public = house.set_public(true).await;
    assert_eq!(public, Port { public: true, ..private.clone() });
    assert_eq!(public.url, format!("http://{}", house.host()));
    assert_eq!(list().await, std::slice::from_ref(&public));
    for way in WAYS {
        seen(house.get(way, "/").send().await.unwrap()).await;
        // Its neighbour is not.
        let host = house.host().replacen("8000", "8001", 1);
        let next = house.http.get(&house.world.served.url).header("host", host).send().await;
        assert_eq!(next.unwrap().status(), StatusCode::UNAUTHORIZED);
    }
    // The program hears its visitors' own keys even then, and ours never.
    let ask = house.get(Way::Host, "/").header("x-api-key", "theirs").header("cookie", "a=b");
    let said = seen(ask.bearer_auth(&house.key).send().await.unwrap()).await.to_string();
    assert!(said.contains("x-api-key: theirs") && !said.contains("sfk_"), "{said}");

    // Nothing of it is inherited.
    let fork = format!("/v1/sandboxes/{}/fork", house.sandbox.id);
    let forked = json!({"count": 1});
    let forked = house.world.ask(Some(&house.key), &Method::POST, &fork, Some(&forked)).await;
    let child = forked.body["sandboxes"][0]["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/sandboxes/{child}/ports/{PORT}");
    let of_child: Port =
        house.world.ask(Some(&house.key), &Method::GET, &path, None).await.decoded();
    assert!(!of_child.public && of_child.token != public.token, "{of_child:?}");

    assert_eq!(house.set_public(false).await, private);
    let gone = house.get(Way::Host, "/").send().await.unwrap();
    assert_eq!(gone.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn making_a_port_public_is_written_down_and_reaching_it_is_not() {
    let house = House::new().await;
    house.set_public(true).await;
    for _ in 0..3 {
        seen(house.get(Way::Path, "/v1/../x?path=private-path").send().await.unwrap()).await;
    }
    house.set_public(false).await;
    let wrong = house.get(Way::Host, "/?path=private-path").send().await.unwrap();
    assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED);
    // A program that refuses its users is no business of the log's.
    house.set_public(true).await;
    let refusing = answering(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n").await;
    house.world.node.listen(house.sandbox.id, PORT, refusing);
    let theirs = house.get(Way::Host, "/").send().await.unwrap();
    assert_eq!(theirs.status(), StatusCode::UNAUTHORIZED);

    let audit = house.world.ask(Some(&house.world.admin), &Method::GET, "/v1/audit", None).await;
    assert!(!audit.body.to_string().contains("private-path"));
    assert!(!audit.body.to_string().contains("sft_"));
    let audit: AuditList = audit.decoded();
    let object = format!("{}/{PORT}", house.sandbox.id);
    let lines: Vec<_> = audit
        .entries
        .iter()
        .filter(|entry| entry.object.as_ref() == Some(&object))
        .map(|entry| (&*entry.action, &*entry.result, entry.detail.as_deref().unwrap_or_default()))
        .collect();
    let expected = [
        ("port_set", "ok", "public"),
        ("port_set", "ok", "private"),
        ("port_request", "unauthenticated", ""),
        ("port_set", "ok", "public"),
    ];
    assert_eq!(lines, expected);
    let metrics = house.http.get(format!("{}/metrics", house.world.served.url));
    let metrics = metrics.bearer_auth(&house.world.admin).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    assert!(metrics.contains(r#"operation="port_request",status="200"} 3"#), "{metrics}");
    assert!(metrics.contains(r#"operation="port_request",status="400"} 1"#), "{metrics}");
}

#[tokio::test]
async fn what_a_program_does_wrong_has_its_own_words() {
    let house = House::new().await;
    house.set_public(true).await;
    let with = async |program: Option<SocketAddr>| {
        let closed = SocketAddr::from(([127, 0, 0, 1], 1));
        house.world.node.listen(house.sandbox.id, PORT, program.unwrap_or(closed));
        refused(house.get(Way::Host, "/").send().await.unwrap()).await
    };
    let (status, code, message) = with(None).await;
    let unreachable = (502, "port_unreachable", "nothing listens on port 8000");
    assert_eq!((status.as_u16(), &*code, &*message), unreachable);
    let large = format!("HTTP/1.1 200 OK\r\nX-Long: {}\r\n\r\n", "x".repeat(200_000));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(200));
    for (answer, says) in [
        (&b"SSH-2.0-OpenSSH_9.2\r\n"[..], "not HTTP"),
        (b"", "closed the connection"),
        (b"HTTP/1.1 200 OK\r\nContent-", "closed the connection"),
        (b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", "8000"),
        (large.leak().as_bytes(), "too large a head"),
        (many.leak().as_bytes(), "too large a head"),
    ] {
        let (status, code, message) = with(Some(answering(answer).await)).await;
        assert_eq!((status.as_u16(), &*code), (502, "port_broken"), "{message}");
        assert!(message.contains(says), "{message}");
    }
    // A body that does not come whole does not seem to.
    let short = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort").await;
    house.world.node.listen(house.sandbox.id, PORT, short);
    let response = house.get(Way::Host, "/").send().await.unwrap();
    assert!(response.bytes().await.is_err());
}

#[tokio::test]
async fn bodies_flow_both_ways_while_they_are_made() {
    let house = House::new().await;
    house.set_public(true).await;
    // Sends back each piece as it comes.
    let echo = async |request: Request| Body::from_stream(request.into_body().into_data_stream());
    house.world.node.listen(house.sandbox.id, PORT, serve(Router::new().fallback(echo)).await);
    for way in WAYS {
        let (pieces, received) = tokio::sync::mpsc::channel::<Vec<u8>>(1);
        let body = stream::unfold(received, |mut received| async move {
            Some((Ok::<_, std::io::Error>(received.recv().await?), received))
        });
        let ask = house.ask(way, Method::POST, "/").body(reqwest::Body::wrap_stream(body));
        pieces.send(b"first".to_vec()).await.unwrap();
        let mut answer = ask.send().await.unwrap().bytes_stream();
        // The rest is made only after the beginning has come back.
        assert_eq!(&answer.next().await.unwrap().unwrap()[..], b"first", "{way:?}");
        let sending = tokio::spawn(async move {
            for number in 0..200_u8 {
                pieces.send(vec![number; 100_000]).await.unwrap();
            }
        });
        let (mut total, mut sum) = (0, 0_u64);
        while let Some(piece) = answer.next().await {
            let piece = piece.unwrap();
            total += piece.len();
            sum += piece.iter().map(|&byte| u64::from(byte)).sum::<u64>();
        }
        sending.await.unwrap();
        assert_eq!((total, sum), (20_000_000, (0..200).sum::<u64>() * 100_000), "{way:?}");
    }
}

#[tokio::test]
async fn an_upgraded_connection_is_carried_until_one_side_leaves() {
    let house = House::new().await;
    let token = house.port().await.token;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    house.world.node.listen(house.sandbox.id, PORT, listener.local_addr().unwrap());
    let address = house.world.served.url.strip_prefix("http://").unwrap();
    let mut caller = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "GET /line HTTP/1.1\r\nHost: {}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: echo\r\n\
         X-Sandflare-Token: {token}\r\n\r\nearly",
        house.host()
    );
    caller.write_all(head.as_bytes()).await.unwrap();
    let (mut program, _) = listener.accept().await.unwrap();
    let mut asked = Vec::new();
    while !asked.windows(4).any(|end| end == b"\r\n\r\n") {
        program.read_buf(&mut asked).await.unwrap();
    }
    let asked = String::from_utf8(asked).unwrap().to_lowercase();
    assert!(asked.contains("upgrade: echo\r\n") && asked.contains("connection: upgrade\r\n"));
    assert!(!asked.contains("sft_"));
    let answer =
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nhi";
    program.write_all(answer).await.unwrap();
    let mut said = Vec::new();
    while !said.ends_with(b"\r\n\r\nhi") {
        assert_ne!(caller.read_buf(&mut said).await.unwrap(), 0, "{said:?}");
    }
    let mut early = [0; 5];
    program.read_exact(&mut early).await.unwrap();
    assert_eq!(&early, b"early");
    caller.write_all(b"more").await.unwrap();
    let mut more = [0; 4];
    program.read_exact(&mut more).await.unwrap();
    drop(caller);
    assert_eq!(program.read(&mut more).await.unwrap(), 0);
}

#[tokio::test]
async fn a_caller_that_leaves_takes_its_connection_to_the_program_along() {
    let house = House::new().await;
    house.set_public(true).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    house.world.node.listen(house.sandbox.id, PORT, listener.local_addr().unwrap());
    let asking = house.get(Way::Path, "/never").send();
    let asking = tokio::spawn(asking);
    let (mut program, _) = listener.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        program.read_buf(&mut head).await.unwrap();
    }
    asking.abort();
    assert_eq!(program.read(&mut [0]).await.unwrap(), 0);
    // And in the middle of an answer.
    let asking = tokio::spawn(house.get(Way::Host, "/long").send());
    let (mut program, _) = listener.accept().await.unwrap();
    program.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nbegun").await.unwrap();
    drop(asking.await.unwrap().unwrap());
    let mut rest = Vec::new();
    // However its socket ended: it did.
    let _ = program.read_to_end(&mut rest).await;
}

#[tokio::test]
async fn one_request_here_is_one_request_there() {
    let house = House::new().await;
    house.set_public(true).await;
    let host = house.host();
    // Lengths that could be read two ways, and the beginning of another request behind them.
    let smuggled = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for lines in [
        format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", smuggled.len()),
        format!("Transfer-Encoding: chunked\r\nContent-Length: {}\r\n", smuggled.len()),
        "Transfer-Encoding: chunked\r\nConnection: transfer-encoding\r\n".to_owned(),
        "Content-Length: 5\r\nContent-Length: 9\r\n".to_owned(),
        "Transfer-Encoding: chunked, identity\r\n".to_owned(),
        "Transfer-Encoding : chunked\r\n".to_owned(),
    ] {
        let head = format!("POST /a HTTP/1.1\r\nHost: {host}\r\n{lines}Connection: close\r\n\r\n");
        let said = house.raw(format!("{head}{smuggled}").as_bytes()).await;
        assert!(
            !said.contains("/smuggled") || said.matches("HTTP/1.1").count() == 1,
            "{lines}: {said}"
        );
        if said.starts_with("HTTP/1.1 200") {
            assert!(
                said.contains(r#""uri":"/a""#) && said.contains(r#""bytes":0"#),
                "{lines}: {said}"
            );
        }
    }
    // A head that is too large is refused before anybody is asked.
    let long = "x".repeat(200_000);
    for head in [
        format!("GET /{long} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: {host}\r\nX: {long}\r\nConnection: close\r\n\r\n"),
        format!(
            "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{}\r\n",
            "A: b\r\n".repeat(200)
        ),
    ] {
        let said = house.raw(head.as_bytes()).await;
        assert!(
            said.is_empty() || said.starts_with("HTTP/1.1 4"),
            "{}",
            &said[..said.len().min(99)]
        );
    }
}

#[tokio::test]
async fn a_paused_sandbox_is_resumed_by_whoever_is_let_to_a_port_of_it() {
    let house = House::new().await;
    let token = house.port().await.token;
    let (pause, get) = (
        format!("/v1/sandboxes/{}/pause", house.sandbox.id),
        format!("/v1/sandboxes/{}", house.sandbox.id),
    );
    house.world.ask(Some(&house.key), &Method::POST, &pause, None).await;
    let state = async || {
        let said = house.world.ask(Some(&house.key), &Method::GET, &get, None).await;
        said.body["state"].as_str().unwrap().to_owned()
    };
    house.get(Way::Host, "/").send().await.unwrap();
    house.port().await;
    assert_eq!(state().await, "paused");
    seen(house.get(Way::Host, "/").header("x-sandflare-token", token).send().await.unwrap()).await;
    assert_eq!(state().await, "running");
}

#[tokio::test]
async fn requests_for_ports_are_among_those_of_their_sandbox() {
    let limits = Limits { requests_per_sandbox: 2, ..Limits::default() };
    let house = House::in_world(World::within(limits).await).await;
    house.set_public(true).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    house.world.node.listen(house.sandbox.id, PORT, listener.local_addr().unwrap());
    let mut held = Vec::new();
    for _ in 0..2 {
        let asking = tokio::spawn(house.get(Way::Host, "/").send());
        held.push((asking, listener.accept().await.unwrap()));
    }
    let (status, code, _) = refused(house.get(Way::Path, "/").send().await.unwrap()).await;
    assert_eq!((status.as_u16(), &*code), (429, "quota_exceeded"));
}

#[tokio::test]
async fn on_a_node_without_keys_only_host_names_want_a_token() {
    let node = node_sim::SimNode::new();
    let served = node.serve().await;
    let http = reqwest::Client::new();
    let made = http.post(format!("{}/v1/sandboxes", served.url)).json(&json!({})).send().await;
    let sandbox: Sandbox = made.unwrap().json().await.unwrap();
    node.listen(sandbox.id, PORT, mirror().await);
    let below = format!("{}/v1/sandboxes/{}/ports/{PORT}/", served.url, sandbox.id);
    let status = async |ask: RequestBuilder| ask.send().await.unwrap().status().as_u16();
    assert_eq!(status(http.get(&below)).await, 200);
    // What a page of another origin, or of a name somebody pointed here, has a browser send.
    for (name, value) in [
        ("origin", "https://evil.example"),
        ("origin", "http://203.0.113.5"),
        ("origin", "null"),
        ("origin", "http://8000-0123456789abcdef.localhost:7878"),
        ("sec-fetch-site", "cross-site"),
        ("host", "evil.example"),
    ] {
        assert_eq!(status(http.get(&below).header(name, value)).await, 401, "{name}: {value}");
    }
    let port = served.url.rsplit_once(':').unwrap().1;
    let host = format!("{PORT}-{:016x}.localhost:{port}", sandbox.id.bits());
    assert_eq!(status(http.get(&served.url).header("host", &host)).await, 401);
    let shown = http.get(below.trim_end_matches('/')).send().await.unwrap();
    let shown: Port = shown.json().await.unwrap();
    assert_eq!(shown.path_url, below);
    let ask = http.get(&served.url).header("host", &host).header("x-sandflare-token", shown.token);
    assert_eq!(status(ask).await, 200);
}
