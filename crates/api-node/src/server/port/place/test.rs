use proptest::prelude::*;

use super::*;

const ID: &str = "0123456789abcdef";

fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

/// What a request is for, in a few words.
fn aimed(uri: &str, lines: &[(&'static str, &str)]) -> String {
    let domain = "Sandboxes.Example".parse().unwrap();
    match aim(&Method::GET, &uri.parse().unwrap(), &headers(lines), &domain) {
        Aim::Api => "api".to_owned(),
        Aim::Nothing(failure) => failure.code.as_str().to_owned(),
        Aim::Port(place) => {
            let Place { sandbox, port, way, prefix, .. } = place;
            format!("{way:?} {sandbox} {port} {}", &uri[prefix..])
        }
    }
}

#[test]
fn a_host_name_is_one_ports_in_whatever_case_and_with_whatever_port() {
    let wanted = format!("Host sbx_{ID} 8000 /v1/keys");
    for label in [format!("8000-{ID}"), format!("8000-sbx-{ID}"), format!("8000-SBX_{ID}")] {
        for end in [".sandboxes.example", ".SANDBOXES.example:7878", ".sandboxes.example.:1"] {
            let host = format!("{}{end}", label.replace('a', "A"));
            assert_eq!(aimed("/v1/keys", &[("host", &host)]), wanted, "{host}");
        }
    }
    // A path that looks like another way's, or headers, do not lead away from there.
    let host = format!("8000-{ID}.sandboxes.example");
    let path = format!("/v1/sandboxes/sbx_{}/ports/9/", ID.replace('0', "1"));
    let lines =
        [("host", &*host), (PORT_SANDBOX_HEADER, "sbx_1111111111111111"), (PORT_HEADER, "9")];
    assert_eq!(aimed(&path, &lines), format!("Host sbx_{ID} 8000 {path}"));
}

#[test]
fn a_host_name_that_begins_like_a_ports_is_never_the_apis() {
    for label in [
        "8000-".to_owned(),
        "8000-x".to_owned(),
        format!("8000-{ID}0"),
        format!("0-{ID}"),
        format!("080-{ID}"),
        format!("65536-{ID}"),
        format!("8000-prj_{ID}"),
        format!("8000-{ID}.8000-{ID}"),
    ] {
        let host = format!("{label}.sandboxes.example");
        assert_eq!(aimed("/v1/keys", &[("host", &host)]), "not_found", "{host}");
    }
    for host in [
        "sandboxes.example".to_owned(),
        "api.sandboxes.example".to_owned(),
        "127.0.0.1:7878".to_owned(),
        "[::1]:7878".to_owned(),
        format!("8000-{ID}.localhost"),
        format!("8000-{ID}.evilsandboxes.example"),
        format!("8000-{ID}.sandboxes.example.evil"),
        format!("a.8000-{ID}.sandboxes.example"),
        String::new(),
    ] {
        assert_eq!(aimed("/v1/keys", &[("host", &host)]), "api", "{host}");
    }
    assert_eq!(aimed("/v1/keys", &[]), "api");
}

#[test]
fn a_request_that_names_two_hosts_is_nobodys() {
    let own = format!("8000-{ID}.sandboxes.example");
    let refused = "invalid_request";
    assert_eq!(aimed("/", &[("host", "127.0.0.1"), ("host", &own)]), refused);
    assert_eq!(aimed("/", &[("host", &own), ("host", &own)]), refused);
    assert_eq!(aimed(&format!("http://{own}/"), &[("host", "127.0.0.1")]), refused);
    assert_eq!(aimed("http://127.0.0.1/v1/keys", &[("host", &own)]), refused);
    let whole = aim(
        &Method::GET,
        &format!("http://{own}/").parse().unwrap(),
        &headers(&[("host", &own.to_uppercase())]),
        &"sandboxes.example".parse().unwrap(),
    );
    assert!(matches!(whole, Aim::Port(_)), "{whole:?}");
    let tunnel =
        aim(&Method::CONNECT, &"a:80".parse().unwrap(), &HeaderMap::new(), &Domain::default());
    assert!(matches!(tunnel, Aim::Nothing(_)), "{tunnel:?}");
}

#[test]
fn headers_name_a_port_together_or_not_at_all() {
    let id = format!("sbx_{ID}");
    let by = |lines: &[(&'static str, &str)]| aimed("/v1/keys", lines);
    let wanted = format!("Headers sbx_{ID} 8000 /v1/keys");
    assert_eq!(by(&[(PORT_SANDBOX_HEADER, &id), (PORT_HEADER, "8000")]), wanted);
    for wrong in [
        &[(PORT_SANDBOX_HEADER, &*id)][..],
        &[(PORT_HEADER, "8000")],
        &[(PORT_SANDBOX_HEADER, &id), (PORT_HEADER, "0")],
        &[(PORT_SANDBOX_HEADER, &id), (PORT_HEADER, "+80")],
        &[(PORT_SANDBOX_HEADER, ID), (PORT_HEADER, "80")],
        &[(PORT_SANDBOX_HEADER, &id), (PORT_SANDBOX_HEADER, &id), (PORT_HEADER, "80")],
        &[(PORT_SANDBOX_HEADER, &id), (PORT_HEADER, "80"), (PORT_HEADER, "81")],
    ] {
        assert_eq!(by(wrong), "invalid_request", "{wrong:?}");
    }
}

#[test]
fn a_path_names_a_port_only_when_it_goes_on_after_it() {
    let base = format!("/v1/sandboxes/sbx_{ID}/ports/8000");
    for (rest, wanted) in
        [("/", "/"), ("/a/b?c=d", "/a/b?c=d"), ("//x", "//x"), ("/../..", "/../..")]
    {
        assert_eq!(aimed(&format!("{base}{rest}"), &[]), format!("Path sbx_{ID} 8000 {wanted}"));
    }
    for path in [
        base.clone(),
        format!("{base}?a=/"),
        format!("/v1/sandboxes/sbx_{ID}/ports/08000/"),
        format!("/v1/sandboxes/sbx%5F{ID}/ports/8000/"),
        format!("/v1/sandboxes//sbx_{ID}/ports/8000/"),
        format!("/v1/snapshots/sbx_{ID}/ports/8000/"),
        format!("/v1/sandboxes/sbx_{ID}/ports/99999/"),
    ] {
        assert_eq!(aimed(&path, &[]), "api", "{path}");
    }
}

#[test]
fn only_names_are_domains() {
    for good in ["localhost", "sandboxes.example.com", "a-b.c", "XN--X.example"] {
        assert!(good.parse::<Domain>().is_ok(), "{good}");
    }
    let long = format!("{}.com", "a.".repeat(100));
    for bad in ["", ".", "a..b", "-a.b", "a-.b", "a_b.c", "10.0.2.15", "a:80", "a b", &long] {
        assert!(bad.parse::<Domain>().is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn no_head_makes_the_parser_fail(host in "[ -~]{0,80}", path in "/[!-~]{0,80}", value in "[ -~]{0,40}") {
        let mut lines = HeaderMap::new();
        for (name, value) in [(HOST, &host), (ROUTING_HEADERS[0].0.clone(), &value)] {
            if let Ok(value) = HeaderValue::from_str(value) {
                lines.append(name, value);
            }
        }
        if let Ok(uri) = path.parse::<Uri>()
            && let Aim::Port(place) = aim(&Method::GET, &uri, &lines, &Domain::default())
        {
            prop_assert!(uri.path()[place.prefix..].starts_with('/'));
        }
    }
}
