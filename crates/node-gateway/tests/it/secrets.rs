//! Secrets in HTTP.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api_node::Verdict;

use crate::site::{PLACEHOLDER, VALUE, Vault, connect, hear, say, site, with_key};
use crate::world::{Has, Resolver, SITE, Sandbox, World, echo_server, settings};

const OTHER: Ipv4Addr = Ipv4Addr::new(127, 77, 0, 3);

/// Three names, two of which share an address.
fn world() -> World {
    let resolver = Resolver::new(&[
        ("site.test", Has::Addresses(vec![SITE])),
        ("neighbour.test", Has::Addresses(vec![SITE])),
        ("other.test", Has::Addresses(vec![OTHER])),
    ]);
    World::with(settings(Some(resolver.address)))
}

/// A sandbox with a secret for `site.test` at this port.
fn trusted(world: &mut World, port: u16) -> (Sandbox, Arc<Vault>) {
    let vault = Vault::of(&[&format!("site.test:{port}")]);
    (world.trusted(vault.clone()), vault)
}

#[test]
fn a_value_is_put_in_for_its_host_and_the_guest_never_has_it() {
    let mut world = world();
    let (port, asked) = site(SITE);
    let (mut sandbox, _) = trusted(&mut world, port);
    sandbox.guest.watch();
    let handle = connect(&mut sandbox, "site.test", port);
    let request = format!(
        "POST /a?key={PLACEHOLDER} HTTP/1.1\r\nHost: site.test:{port}\r\nAuthorization: Bearer \
         {PLACEHOLDER}\r\nX-Other-Case: 1\r\nContent-Length: {}\r\n\r\n{PLACEHOLDER}",
        PLACEHOLDER.len()
    );
    let answer = say(&mut sandbox.guest, handle, &request);
    assert_eq!(answer, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nX-Kept-As-It-Is: 1\r\n\r\nok");
    let expected = request
        .replace(&format!("key={PLACEHOLDER}"), &format!("key={VALUE}"))
        .replace(&format!("Bearer {PLACEHOLDER}"), &format!("Bearer {VALUE}"));
    assert_eq!(asked.last(), expected, "heads are changed, bodies are not");
    let seen: Vec<u8> = sandbox.guest.seen().concat();
    assert!(!seen.windows(VALUE.len()).any(|window| window == VALUE.as_bytes()));
    let used = world.told.find("use", |flow| flow.reason == "secret key");
    assert_eq!((used.name.as_deref(), used.port), (Some("site.test"), Some(port)));
    assert!(!format!("{:?}", world.told.all()).contains(VALUE));
}

#[test]
fn no_other_host_gets_it_and_other_connections_are_not_touched() {
    let mut world = world();
    let (port, asked) = site(SITE);
    let (mut sandbox, _) = trusted(&mut world, port);
    // A host of its own address, which is not looked into at all.
    let (elsewhere, asked_there) = site(OTHER);
    let handle = connect(&mut sandbox, "other.test", elsewhere);
    let strange = format!("GET / HTTP/1.1\nhost:x\r\nX-Api-Key: {PLACEHOLDER}\r\n\r\n");
    say(&mut sandbox.guest, handle, &strange);
    assert_eq!(asked_there.last(), strange);
    // The secret's host at another port.
    let (beside, asked_beside) = site(SITE);
    let handle = connect(&mut sandbox, "site.test", beside);
    say(&mut sandbox.guest, handle, &with_key("/", "site.test"));
    assert!(asked_beside.last().contains(PLACEHOLDER));
    // Its address, without its name: nobody said that it is that host.
    let (mut nameless, _) = trusted(&mut world, port);
    let handle = nameless.guest.connect(SITE, port).unwrap();
    say(&mut nameless.guest, handle, &with_key("/", "site.test"));
    assert!(asked.last().contains(PLACEHOLDER));
    // A name that shares the address, on the same connection.
    crate::dns::ask(&mut sandbox, "neighbour.test", 1);
    let handle = connect(&mut sandbox, "site.test", port);
    say(&mut sandbox.guest, handle, &with_key("/", "neighbour.test"));
    assert!(asked.last().contains(PLACEHOLDER));
    say(&mut sandbox.guest, handle, &with_key("/", "site.test"));
    assert!(asked.last().contains(VALUE));
    // Another sandbox's placeholder, or a guess.
    let guess = PLACEHOLDER.replace('0', "1");
    let request = with_key("/", "site.test").replace(PLACEHOLDER, &guess);
    say(&mut sandbox.guest, handle, &request);
    assert!(asked.last().contains(&guess));
    // And a sandbox without secrets.
    let mut stranger = world.trusted(Arc::new(node_gateway::NoSecrets));
    let handle = connect(&mut stranger, "site.test", port);
    say(&mut stranger.guest, handle, &with_key("/", "site.test"));
    assert!(asked.last().contains(PLACEHOLDER));
}

#[test]
fn a_request_for_another_host_is_refused_in_one_sentence() {
    let mut world = world();
    let (port, asked) = site(SITE);
    let (mut sandbox, _) = trusted(&mut world, port);
    let handle = connect(&mut sandbox, "site.test", port);
    let answer = say(&mut sandbox.guest, handle, &with_key("/", "evil.test"));
    assert!(answer.starts_with("HTTP/1.1 421 "), "{answer}");
    let says = "sandflare: the request is for `evil.test`, but its connection goes to site.test\n";
    assert!(answer.ends_with(says), "{answer}");
    assert_eq!(sandbox.guest.read(handle, 1), b"", "it is closed");
    assert_eq!(asked.all(), Vec::<String>::new());
    world.told.denied("secrets: a request for another host");
}

#[test]
fn what_is_set_or_deleted_holds_for_the_next_request_of_a_connection() {
    let mut world = world();
    let (port, asked) = site(SITE);
    let (mut sandbox, vault) = trusted(&mut world, port);
    let handle = connect(&mut sandbox, "site.test", port);
    say(&mut sandbox.guest, handle, &with_key("/", "site.test"));
    assert!(asked.last().contains(VALUE));
    vault.set(Some("another"));
    say(&mut sandbox.guest, handle, &with_key("/", "site.test"));
    assert!(asked.last().contains("X-Api-Key: another\r\n"), "{}", asked.last());
    vault.set(None);
    let answer = say(&mut sandbox.guest, handle, &with_key("/", "site.test"));
    assert!(
        answer.starts_with("HTTP/1.1 502 ") && answer.contains("$API_KEY was deleted"),
        "{answer}"
    );
    assert_eq!(asked.all().len(), 2);
    world.told.denied("secret key: it was deleted");
    // What needs no secret goes on.
    let handle = connect(&mut sandbox, "site.test", port);
    say(&mut sandbox.guest, handle, "GET / HTTP/1.1\r\nHost: site.test\r\n\r\n");
    assert_eq!(asked.all().len(), 3);
}

#[test]
fn a_fork_has_its_originals_placeholder_and_it_works() {
    let mut world = world();
    let (port, asked) = site(SITE);
    let (original, vault) = trusted(&mut world, port);
    drop(original);
    // Another network, with what was granted to the original.
    let mut child = world.trusted(vault);
    let handle = connect(&mut child, "site.test", port);
    say(&mut child.guest, handle, &with_key("/", "site.test"));
    assert!(asked.last().contains(VALUE));
}

#[test]
fn one_request_of_a_guest_is_one_at_its_host() {
    let mut world = world();
    let host = "Host: site.test\r\n";
    let key = format!("X-Api-Key: {PLACEHOLDER}\r\n");
    let hidden = "GET /hidden HTTP/1.1\r\nHost: site.test\r\n\r\n";
    for (what, request) in [
        (
            "two lengths",
            format!(
                "POST / HTTP/1.1\r\n{host}Content-Length: 0\r\nContent-Length: 5\r\n\r\n{hidden}"
            ),
        ),
        (
            "a length and a list",
            format!("POST / HTTP/1.1\r\n{host}Content-Length: 0, 5\r\n\r\n{hidden}"),
        ),
        ("a signed length", format!("POST / HTTP/1.1\r\n{host}Content-Length: +5\r\n\r\n{hidden}")),
        (
            "chunks that are not last",
            format!(
                "POST / HTTP/1.1\r\n{host}Transfer-Encoding: chunked, x\r\n\r\n0\r\n\r\n{hidden}"
            ),
        ),
        (
            "chunks of HTTP/1.0",
            format!("POST / HTTP/1.0\r\n{host}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"),
        ),
        ("a folded line", format!("GET / HTTP/1.1\r\n{host}X: a\r\n b\r\n{key}\r\n{hidden}")),
        (
            "a space before the colon",
            format!("GET / HTTP/1.1\r\n{host}Content-Length : 5\r\n\r\n{hidden}"),
        ),
        ("a return in a value", format!("GET / HTTP/1.1\r\n{host}X: a\rb\r\n{key}\r\n{hidden}")),
        ("a zero in a value", format!("GET / HTTP/1.1\r\n{host}X: a\0b\r\n{key}\r\n{hidden}")),
        ("a space in the target", format!("GET /a b HTTP/1.1\r\n{host}{key}\r\n{hidden}")),
        ("another protocol", format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{hidden}")),
        ("no protocol", format!("GET /\r\n{host}\r\n{hidden}")),
        ("two hosts", format!("GET / HTTP/1.1\r\n{host}Host: evil.test\r\n{key}\r\n{hidden}")),
        ("no host", format!("GET / HTTP/1.1\r\n{key}\r\n{hidden}")),
        (
            "a host of its own in the target",
            format!("GET http://evil.test/ HTTP/1.1\r\n{host}{key}\r\n{hidden}"),
        ),
        ("a tunnel", format!("CONNECT evil.test:443 HTTP/1.1\r\n{host}{key}\r\n{hidden}")),
    ] {
        let (port, asked) = site(SITE);
        let (mut sandbox, _) = trusted(&mut world, port);
        let handle = connect(&mut sandbox, "site.test", port);
        let answer = say(&mut sandbox.guest, handle, &request);
        // What speaks another protocol hears nothing.
        let refused = answer.is_empty() || answer.starts_with("HTTP/1.1 4");
        assert!(refused, "{what}: {answer}");
        sandbox.guest.run_for(Duration::from_millis(50));
        assert_eq!(asked.all(), Vec::<String>::new(), "{what}");
    }
    // What can be read in one way only is written in one way.
    for (what, request, there) in [
        (
            "chunks and a length",
            format!(
                "POST / HTTP/1.1\r\n{host}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\n0\r\n\r\n"
            ),
            "transfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
        ),
        (
            "the same the other way round",
            format!(
                "POST / HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n2\r\nab\r\n0\r\n\r\n"
            ),
            "transfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
        ),
        ("bare line ends", format!("GET / HTTP/1.1\n{host}A: b\n\n"), "a: b\r\n\r\n"),
        (
            "one length twice",
            format!("POST / HTTP/1.1\r\n{host}Content-Length: 2\r\nContent-Length: 2\r\n\r\nab"),
            "content-length: 2\r\n\r\nab",
        ),
    ] {
        let (port, asked) = site(SITE);
        let (mut sandbox, _) = trusted(&mut world, port);
        let handle = connect(&mut sandbox, "site.test", port);
        let answer = say(&mut sandbox.guest, handle, &request);
        assert!(answer.starts_with("HTTP/1.1 200"), "{what}: {answer}");
        let [asked] = &asked.all()[..] else { panic!("{what}: {:?}", asked.all()) };
        let asked = asked.to_lowercase();
        assert!(asked.ends_with(there), "{what}: {asked}");
        let lengths = asked.matches("content-length").count();
        assert_eq!(
            lengths + asked.matches("transfer-encoding").count(),
            usize::from(what != "bare line ends"),
            "{what}"
        );
    }
}

#[test]
fn a_body_that_is_broken_ends_both_connections() {
    let mut world = world();
    for broken in [
        "zz\r\nab\r\n",
        "2\r\nabcd\r\n",
        "-1\r\n\r\n",
        "fffffffffffffffff\r\nab\r\n",
        "2\nab\n0\n\n",
    ] {
        let (port, asked) = site(SITE);
        let (mut sandbox, _) = trusted(&mut world, port);
        let handle = connect(&mut sandbox, "site.test", port);
        let head = "POST / HTTP/1.1\r\nHost: site.test\r\nTransfer-Encoding: chunked\r\n\r\n";
        let answer = say(&mut sandbox.guest, handle, &format!("{head}{broken}"));
        assert!(!answer.starts_with("HTTP/1.1 200"), "{broken:?}: {answer}");
        assert_eq!(asked.all(), Vec::<String>::new(), "{broken:?}");
    }
}

#[test]
fn a_head_has_bounds() {
    let mut world = world();
    let (port, asked) = site(SITE);
    let (mut sandbox, _) = trusted(&mut world, port);
    let filled = |bytes: usize| {
        format!("GET / HTTP/1.1\r\nHost: site.test\r\nX: {}\r\n\r\n", "x".repeat(bytes))
    };
    let handle = connect(&mut sandbox, "site.test", port);
    assert!(say(&mut sandbox.guest, handle, &filled(60_000)).starts_with("HTTP/1.1 200"));
    let handle = connect(&mut sandbox, "site.test", port);
    assert!(say(&mut sandbox.guest, handle, &filled(70_000)).starts_with("HTTP/1.1 431"));
    let handle = connect(&mut sandbox, "site.test", port);
    let lines = "A: b\r\n".repeat(300);
    let many = format!("GET / HTTP/1.1\r\nHost: site.test\r\n{lines}\r\n");
    assert!(say(&mut sandbox.guest, handle, &many).starts_with("HTTP/1.1 4"));
    // One that never ends is cut off long before it is much.
    let handle = connect(&mut sandbox, "site.test", port);
    sandbox.guest.tcp(handle).send_slice(b"GET / HTTP/1.1\r\nX: ").unwrap();
    sandbox.guest.until("its end", |guest| {
        let socket = guest.tcp(handle);
        let _ = socket.send_slice(&[b'x'; 4096]);
        (!socket.may_send() || socket.can_recv()).then_some(())
    });
    assert_eq!(asked.all().len(), 1);
}

#[test]
fn bodies_answers_and_upgrades_go_through_as_they_are() {
    let mut world = world();
    let (port, asked) = site(SITE);
    let (mut sandbox, _) = trusted(&mut world, port);
    let guest = &mut sandbox;
    // Requests that come together are answered in turn.
    let handle = connect(guest, "site.test", port);
    let guest = &mut sandbox.guest;
    let both = with_key("/1", "site.test") + &with_key("/2", "site.test");
    assert!(say(guest, handle, &both).ends_with("ok"));
    assert!(hear(guest, handle).ends_with("ok"));
    let targets: Vec<_> = asked.all().iter().map(|it| it[..6].to_owned()).collect();
    assert_eq!(targets, ["GET /1", "GET /2"]);
    // A body in chunks, and an answer in chunks.
    let chunked = "POST /chunks HTTP/1.1\r\nHost: site.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    guest.write(handle, format!("{chunked}4\r\nbody\r\n0\r\n\r\n").as_bytes());
    let head = hear(guest, handle);
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
    let body = guest.read(handle, "3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n".len());
    let body = String::from_utf8(body).unwrap().replace("3\r\none\r\n3\r\ntwo", "6\r\nonetwo");
    assert!(body.contains("onetwo"), "{body}");
    assert!(asked.last().contains("4\r\nbody\r\n"));
    // An answer that ends with its connection.
    let closing = "GET /last HTTP/1.1\r\nHost: site.test\r\n\r\n";
    assert!(say(guest, handle, closing).starts_with("HTTP/1.1 200"));
    let rest = String::from_utf8(guest.read(handle, 100)).unwrap();
    assert!(rest.contains("until the end"), "{rest}");
    // What is no HTTP any more.
    let handle = connect(&mut sandbox, "site.test", port);
    let guest = &mut sandbox.guest;
    let upgrade = format!(
        "GET /upgrade HTTP/1.1\r\nHost: site.test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\
         X-Api-Key: {PLACEHOLDER}\r\n\r\n"
    );
    assert!(say(guest, handle, &upgrade).starts_with("HTTP/1.1 101"));
    assert!(asked.last().contains(VALUE));
    for word in ["hello", "world"] {
        guest.write(handle, word.as_bytes());
        assert_eq!(guest.read(handle, 5), word.as_bytes());
    }
    guest.write(handle, &PLACEHOLDER.as_bytes()[..5]);
    assert_eq!(guest.read(handle, 5), PLACEHOLDER.as_bytes()[..5]);
}

#[test]
fn a_host_that_hangs_up_is_said_and_the_next_connection_is_new() {
    let mut world = world();
    let port = crate::world::serve(SITE, |mut stream| {
        use std::io::Read;
        let _ = stream.read(&mut [0; 10]);
    });
    let (mut sandbox, _) = trusted(&mut world, port);
    let handle = connect(&mut sandbox, "site.test", port);
    let answer = say(&mut sandbox.guest, handle, &with_key("/", "site.test"));
    assert!(answer.starts_with("HTTP/1.1 502") && answer.contains("site.test closed"), "{answer}");
    assert!(!answer.contains(VALUE));
    // One that listens to nobody is refused as without secrets.
    let closed = crate::world::closed_port(SITE);
    let vault = Vault::of(&[&format!("site.test:{closed}")]);
    let mut sandbox = world.trusted(vault);
    crate::dns::ask(&mut sandbox, "site.test", 1);
    assert_eq!(sandbox.guest.connect(SITE, closed), None);
}

#[test]
fn a_policy_that_changes_cuts_what_is_looked_into_and_a_connection_takes_its_work_along() {
    let mut world = world();
    let (port, _) = site(SITE);
    let (mut sandbox, _) = trusted(&mut world, port);
    let handle = connect(&mut sandbox, "site.test", port);
    say(&mut sandbox.guest, handle, &with_key("/", "site.test"));
    sandbox.policy.send_replace(Arc::new(crate::world::policy("none", &[], &[])));
    sandbox.guest.until("a reset", |guest| (!guest.tcp(handle).is_open()).then_some(()));
    let flow = world.told.find("end", |flow| flow.verdict == Verdict::Denied);
    assert_eq!(flow.reason, "base none");
}

#[test]
fn what_is_no_http_and_no_secrets_concern_passes() {
    let mut world = world();
    // The secret is for the ports of the web, and this is neither.
    let mut sandbox = world.trusted(Vault::of(&["site.test"]));
    let port = echo_server(SITE);
    let handle = connect(&mut sandbox, "site.test", port);
    sandbox.guest.write(handle, PLACEHOLDER.as_bytes());
    assert_eq!(sandbox.guest.read(handle, PLACEHOLDER.len()), PLACEHOLDER.as_bytes());
}

/// Everything that is logged, at every level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_value_is_in_no_log_line_and_no_flow() {
    let log = Log::default();
    let writer = log.clone();
    // Of the whole process: other tests of it may log too, and may not log values either.
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _ = tracing::subscriber::set_global_default(subscriber);
    let mut world = world();
    let (port, asked) = site(SITE);
    let (mut sandbox, vault) = trusted(&mut world, port);
    let handle = connect(&mut sandbox, "site.test", port);
    tracing::info!("this is logged");
    say(&mut sandbox.guest, handle, &with_key(&format!("/?k={PLACEHOLDER}"), "site.test"));
    assert!(asked.last().contains(VALUE));
    world.told.find("use", |flow| flow.reason == "secret key");
    let granted = node_gateway::Secrets::granted(vault.as_ref());
    assert!(!format!("{granted:?} {:?}", world.told.all()).contains(VALUE));
    let logged = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(logged.contains("this is logged") && !logged.contains(VALUE), "{logged}");
}
