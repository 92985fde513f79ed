//! Which header lines pass between a caller and a program.

use std::net::IpAddr;

use axum::http::header::{
    ALT_SVC, CONNECTION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, EXPECT, Entry, FORWARDED, HOST,
    PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE, STRICT_TRANSPORT_SECURITY, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE, WWW_AUTHENTICATE,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::server::port::place::{Place, ROUTING_HEADERS, Way};

/// Lines about one connection, not about what it carries (RFC 9110, 7.6.1). Lengths are worked out
/// anew from what the body turns out to be, so that both sides mean the same.
const OF_A_CONNECTION: [HeaderName; 11] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    CONTENT_LENGTH,
    EXPECT,
];
/// What only this server knows; a caller's own word for it would be believed by programs.
const SAID_BY_US: [HeaderName; 8] = [
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-forwarded-prefix"),
    HeaderName::from_static("x-forwarded-server"),
    HeaderName::from_static("x-real-ip"),
    FORWARDED,
];
/// What a program must not set for an origin it shares with the API and with other sandboxes. Challenges
/// too: a browser would ask for a password in the node's name, and send it with every request there.
const OF_AN_ORIGIN: [HeaderName; 8] = [
    SET_COOKIE,
    WWW_AUTHENTICATE,
    STRICT_TRANSPORT_SECURITY,
    HeaderName::from_static("clear-site-data"),
    HeaderName::from_static("service-worker-allowed"),
    HeaderName::from_static("report-to"),
    HeaderName::from_static("reporting-endpoints"),
    HeaderName::from_static("nel"),
];
/// A page of a program, opened below the API's address, is no part of the API's origin: it cannot read
/// what the API answers, and its scripts have no storage there.
const SANDBOX_POLICY: HeaderValue = HeaderValue::from_static("sandbox allow-scripts allow-forms");

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Came {
    pub(crate) from: Option<IpAddr>,
    pub(crate) secure: bool,
}

/// Makes a caller's headers, without its credentials, those of the request to the program. Returns
/// the protocol it wants to go on with.
pub(crate) fn to_program(
    headers: &mut HeaderMap,
    place: &Place,
    prefix: &str,
    came: Came,
) -> Option<HeaderValue> {
    let upgrade = upgrade(headers);
    remove_of_the_connection(headers);
    for (sandbox, port) in &ROUTING_HEADERS {
        headers.remove(sandbox);
        headers.remove(port);
    }
    for name in &SAID_BY_US {
        headers.remove(name);
    }
    let mut say = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value)
            && !value.is_empty()
        {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    let from = came.from.map(|ip| ip.to_canonical().to_string()).unwrap_or_default();
    say("x-forwarded-for", &from);
    say("x-forwarded-host", &place.host);
    say("x-forwarded-proto", if came.secure { "https" } else { "http" });
    say("x-forwarded-prefix", prefix);
    // By its own name a program compares origins; another's name would tell it nothing.
    let host = match place.way {
        Way::Host => HeaderValue::from_str(&place.host).ok(),
        Way::Path | Way::Headers => None,
    };
    let local = || HeaderValue::from_str(&format!("localhost:{}", place.port)).ok();
    if let Some(host) = host.or_else(local) {
        headers.insert(HOST, host);
    }
    match &upgrade {
        Some(protocol) => {
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, protocol.clone());
        }
        // One request on each connection: the next finds the sandbox as it is then.
        None => drop(headers.insert(CONNECTION, HeaderValue::from_static("close"))),
    }
    upgrade
}

/// Makes a program's headers those of the answer to the caller. Returns the protocol it goes on with.
pub(crate) fn from_program(headers: &mut HeaderMap, way: Way) -> Option<HeaderValue> {
    let upgrade = upgrade(headers);
    let framed = headers.contains_key(TRANSFER_ENCODING);
    let length = headers.get(CONTENT_LENGTH).cloned();
    remove_of_the_connection(headers);
    // The answer to a HEAD has no body to work it out from. Beside another framing it would be a lie.
    if let Some(length) = length.filter(|_| !framed) {
        headers.insert(CONTENT_LENGTH, length);
    }
    // Where else this origin is served is not for a program to say.
    headers.remove(ALT_SVC);
    if way != Way::Host {
        for name in &OF_AN_ORIGIN {
            headers.remove(name);
        }
        // Beside its own, if it has one: browsers keep to all of them.
        headers.append(CONTENT_SECURITY_POLICY, SANDBOX_POLICY);
    } else if let Entry::Occupied(mut cookies) = headers.entry(SET_COOKIE) {
        for cookie in cookies.iter_mut() {
            *cookie = of_one_host(cookie);
        }
    }
    upgrade
}

/// A cookie without its `Domain`: with it, browsers would send it to every sandbox under that domain.
fn of_one_host(cookie: &HeaderValue) -> HeaderValue {
    let is_domain = |part: &[u8]| {
        let name = part.split(|&byte| byte == b'=').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(b"domain")
    };
    let parts = cookie.as_bytes().split(|&byte| byte == b';').enumerate();
    // The first is the cookie itself, whatever it is called.
    let kept = parts.filter(|(at, part)| *at == 0 || !is_domain(part)).map(|(_, part)| part);
    let kept = kept.collect::<Vec<_>>().join(&b';');
    // What could be in no header line sets nothing.
    HeaderValue::from_bytes(&kept).unwrap_or(HeaderValue::from_static(""))
}

/// The protocol that one side wants to go on with. Not HTTP/2: its requests would pass unseen, with
/// whatever their caller says in our name.
fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let asked = tokens(headers).any(|token| token.eq_ignore_ascii_case("upgrade"));
    let mut lines = headers.get_all(UPGRADE).iter();
    let protocol = lines.next().filter(|_| asked && lines.next().is_none())?;
    let http = |name: &str| {
        let name = name.trim().to_ascii_lowercase();
        name.starts_with("h2") || name.starts_with("http")
    };
    (!protocol.to_str().ok()?.split(',').any(http)).then(|| protocol.clone())
}

/// What `Connection` names.
fn tokens(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(CONNECTION).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim)
}

fn remove_of_the_connection(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = tokens(headers).filter_map(|name| name.parse().ok()).collect();
    for name in named.iter().chain(&OF_A_CONNECTION) {
        headers.remove(name);
    }
}

#[cfg(test)]
mod test {
    use base_types::SandboxId;

    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn place(way: Way) -> Place {
        let host = "8000-0000000000000007.localhost:7878".to_owned();
        Place { sandbox: SandboxId::from_bits(7), port: 8000, way, host, prefix: 0 }
    }

    fn came() -> Came {
        Came { from: Some("::ffff:10.1.2.3".parse().unwrap()), secure: false }
    }

    #[test]
    fn a_program_hears_from_us_where_a_request_came_from_and_nobody_can_say_otherwise() {
        let lies = [
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-host", "evil.example"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-prefix", "/evil"),
            ("x-real-ip", "6.6.6.6"),
            ("forwarded", "for=6.6.6.6"),
            ("host", "evil.example"),
            ("x-sandflare-sandbox", "sbx_0000000000000007"),
            ("x-sandflare-port", "8000"),
            // As if it were ours to remove after it was set.
            ("connection", "x-forwarded-for, x-forwarded-host, close"),
            ("accept", "*/*"),
        ];
        let (own, other) = ("8000-0000000000000007.localhost:7878", "localhost:8000");
        for (way, host) in [(Way::Host, own), (Way::Path, other), (Way::Headers, other)] {
            let mut sent = headers(&lies);
            assert_eq!(to_program(&mut sent, &place(way), "/p", came()), None);
            let expected = headers(&[
                ("accept", "*/*"),
                ("x-forwarded-for", "10.1.2.3"),
                ("x-forwarded-host", own),
                ("x-forwarded-proto", "http"),
                ("x-forwarded-prefix", "/p"),
                ("host", host),
                ("connection", "close"),
            ]);
            assert_eq!(sent, expected, "{way:?}");
        }
    }

    #[test]
    fn what_is_about_a_connection_stays_on_it_except_an_upgrade_that_is_asked_for() {
        let lines = [
            ("connection", "Upgrade, x-mine"),
            ("upgrade", "websocket"),
            ("x-mine", "1"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("content-length", "5"),
            ("proxy-authorization", "Basic x"),
            ("keep-alive", "timeout=5"),
            ("expect", "100-continue"),
        ];
        let mut sent = headers(&lines);
        let upgrade = to_program(&mut sent, &place(Way::Host), "", came());
        assert_eq!(upgrade.as_ref().map(|value| value.as_bytes()), Some(&b"websocket"[..]));
        let mut left: Vec<_> = sent.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        let said = ["x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"];
        assert_eq!(left, [&["connection", "host", "upgrade"][..], &said].concat());
        // Without being named, the line asks for nothing; and other HTTP is passed on by nobody.
        for lines in [
            &[("upgrade", "websocket")][..],
            &[("connection", "upgrade, http2-settings"), ("upgrade", "h2c")],
            &[("connection", "upgrade"), ("upgrade", "websocket, H2C")],
            &[("connection", "upgrade"), ("upgrade", "HTTP/2.0")],
            &[("connection", "upgrade"), ("upgrade", "websocket"), ("upgrade", "h2c")],
        ] {
            let mut sent = headers(lines);
            assert_eq!(to_program(&mut sent, &place(Way::Host), "", came()), None, "{lines:?}");
            assert_eq!(sent.get("upgrade"), None, "{lines:?}");
        }
    }

    #[test]
    fn a_length_that_the_body_does_not_have_is_not_passed_on() {
        for (lines, kept) in [
            (&[("content-length", "5")][..], true),
            (&[("content-length", "5"), ("transfer-encoding", "chunked")], false),
        ] {
            let mut answer = headers(lines);
            from_program(&mut answer, Way::Host);
            assert_eq!(answer.contains_key("content-length"), kept, "{lines:?}");
            assert!(!answer.contains_key("transfer-encoding"), "{lines:?}");
        }
    }

    #[test]
    fn a_program_sets_nothing_for_an_origin_it_shares() {
        let lines = [
            ("set-cookie", "a=b"),
            ("www-authenticate", "Basic realm=\"node\""),
            ("proxy-authenticate", "Basic realm=\"node\""),
            ("clear-site-data", "*"),
            ("service-worker-allowed", "/"),
            ("content-security-policy", "default-src 'self'"),
            ("alt-svc", "h3=\":443\""),
            ("connection", "keep-alive"),
            ("content-length", "5"),
        ];
        let mut own = headers(&lines);
        assert_eq!(from_program(&mut own, Way::Host), None);
        for name in ["alt-svc", "connection", "proxy-authenticate"] {
            assert_eq!(own.get(name), None, "{name}");
        }
        assert_eq!((own.len(), &own["set-cookie"]), (6, &HeaderValue::from_static("a=b")));
        for way in [Way::Path, Way::Headers] {
            let mut shared = headers(&lines);
            from_program(&mut shared, way);
            let expected = headers(&[
                ("content-security-policy", "default-src 'self'"),
                ("content-security-policy", "sandbox allow-scripts allow-forms"),
                ("content-length", "5"),
            ]);
            assert_eq!(shared, expected, "{way:?}");
        }
    }

    #[test]
    fn a_cookie_of_a_program_is_for_its_host_name_alone() {
        let cookies: [(&[u8], &[u8]); 7] = [
            (b"a=b", b"a=b"),
            (b"a=b; Path=/; Domain=example.com; Secure", b"a=b; Path=/; Secure"),
            (b"a=b;dOMAIN=.localhost;HttpOnly", b"a=b;HttpOnly"),
            (b"a=b; Domain=a;\tdomain\t = b; Domain; Domain=", b"a=b"),
            (b"domain=c; Max-Age=1", b"domain=c; Max-Age=1"),
            (b";Domain=example.com", b""),
            (b"a=\xe9\xff; domain=\xe9; x-domain=1", b"a=\xe9\xff; x-domain=1"),
        ];
        let mut answer = HeaderMap::new();
        for (said, _) in cookies {
            answer.append(SET_COOKIE, HeaderValue::from_bytes(said).unwrap());
        }
        from_program(&mut answer, Way::Host);
        let set: Vec<_> = answer.get_all(SET_COOKIE).iter().map(HeaderValue::as_bytes).collect();
        assert_eq!(set, cookies.map(|(_, kept)| kept));
    }
}
