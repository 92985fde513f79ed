use std::sync::Arc;

use hyper::Request;
use proptest::prelude::*;

use super::*;

const KEY: &str = "sfsecret_00000000000000000000000000000001";
const OTHER: &str = "sfsecret_00000000000000000000000000000002";
const GONE: &str = "sfsecret_00000000000000000000000000000003";

fn granted(placeholder: &str, name: &str, host: &str, value: Option<&str>) -> Granted {
    Granted {
        variable: name.to_uppercase(),
        name: name.parse().unwrap(),
        placeholder: placeholder.parse().unwrap(),
        hosts: Arc::new([host.parse().unwrap()]),
        value: value.map(SecretValue::new),
    }
}

fn all() -> Vec<Granted> {
    vec![
        granted(KEY, "key", "api.example", Some("hunter2")),
        granted(OTHER, "other", "other.example", Some("swordfish")),
        granted(GONE, "gone", "api.example", None),
    ]
}

fn place(names: &[&str], port: u16) -> Place {
    let names = names.iter().map(|name| name.parse().unwrap()).collect();
    Place { names, port, usual_port: 80 }
}

fn head(target: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::get(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn replaced(target: &str, headers: &[(&str, &str)]) -> Result<(Parts, Used), Refusal> {
    let mut head = head(target, headers);
    let used = replace(&mut head, &place(&["api.example"], 80), &all())?;
    Ok((head, used))
}

#[test]
fn values_are_put_in_wherever_a_head_has_room_for_them() {
    let basic = |text: &str| format!("Basic {}", BASE64_STANDARD.encode(text));
    for (name, before, after) in [
        ("authorization", format!("Bearer {KEY}"), "Bearer hunter2".to_owned()),
        ("x-api-key", KEY.to_owned(), "hunter2".to_owned()),
        ("cookie", format!("a={KEY}; b={KEY}"), "a=hunter2; b=hunter2".to_owned()),
        ("authorization", basic(&format!("me:{KEY}")), basic("me:hunter2")),
        (
            "authorization",
            basic(&format!("{KEY}:")).replace("Basic", "basic"),
            basic("hunter2:").replace("Basic", "basic"),
        ),
        // Nothing to replace, and nothing touched.
        ("authorization", "Basic !!!".to_owned(), "Basic !!!".to_owned()),
        ("authorization", "Bas".to_owned(), "Bas".to_owned()),
        ("x-api-key", KEY[..40].to_owned(), KEY[..40].to_owned()),
        // Of another host.
        ("x-api-key", OTHER.to_owned(), OTHER.to_owned()),
    ] {
        let (head, used) = replaced("/", &[("host", "api.example"), (name, &before)]).unwrap();
        assert_eq!(head.headers[name], after, "{before}");
        assert_eq!(!used.secrets.is_empty(), before != after, "{before}");
    }
    let (head, used) =
        replaced(&format!("/{KEY}/x?key={KEY}&x=1"), &[("host", "API.example:80")]).unwrap();
    assert_eq!(head.uri, "/hunter2/x?key=hunter2&x=1");
    assert_eq!((used.host.as_str(), used.secrets), ("api.example", vec!["key".parse().unwrap()]));
}

#[test]
fn a_value_in_a_target_means_nothing_but_itself() {
    let mut head = head(&format!("/?key={KEY}"), &[("host", "api.example")]);
    let value = "a b&c=d#e%2f\u{e9}";
    let granted = [granted(KEY, "key", "api.example", Some(value))];
    replace(&mut head, &place(&["api.example"], 80), &granted).unwrap();
    assert_eq!(head.uri, "/?key=a%20b%26c%3Dd%23e%252f%C3%A9");
}

#[test]
fn only_a_request_for_the_host_it_is_connected_to_goes_out() {
    let key = ("x-api-key", KEY);
    for host in ["evil.example", "api.example:81", "api.example.evil", "me@api.example", "1.2.3.4"]
    {
        let refusal = replaced("/", &[("host", host), key]).unwrap_err();
        assert!(matches!(&refusal, Refusal::OtherHost { .. }), "{host}: {refusal}");
        assert_eq!(refusal.status(), 421);
    }
    for headers in [&[key][..], &[("host", "api.example"), ("host", "evil.example"), key]] {
        assert_eq!(replaced("/", headers).unwrap_err(), Refusal::NoHost);
    }
    for target in ["http://evil.example/", "http://api.example:81/", "http://me@api.example/"] {
        let refusal = replaced(target, &[("host", "api.example"), key]).unwrap_err();
        assert!(matches!(refusal, Refusal::OtherHost { .. }), "{target}");
    }
    let (head, _) = replaced("http://api.example/x", &[("host", "api.example"), key]).unwrap();
    assert_eq!(head.uri, "/x");
}

#[test]
fn a_name_that_shares_an_address_gets_no_others_secret() {
    let mut head = head("/", &[("host", "neighbour.example"), ("x-api-key", KEY)]);
    let place = place(&["api.example", "neighbour.example"], 80);
    let used = replace(&mut head, &place, &all()).unwrap();
    assert_eq!(
        (&head.headers["x-api-key"], used.secrets),
        (&HeaderValue::from_static(KEY), vec![])
    );
}

#[test]
fn a_deleted_secret_is_named_by_its_variable() {
    let refusal = replaced("/", &[("host", "api.example"), ("x", GONE)]).unwrap_err();
    assert_eq!(refusal.status(), 502);
    let shown = refusal.to_string();
    assert!(shown.contains("`gone` of $GONE was deleted"), "{shown}");
}

#[test]
fn a_head_grows_by_so_much_and_no_more() {
    let many = |count: usize| KEY.repeat(count);
    let most = many(PLACEHOLDERS_MAX);
    replaced("/", &[("host", "api.example"), ("x", &most)]).unwrap();
    let refusal = replaced("/", &[("host", "api.example"), ("x", &most), ("y", KEY)]).unwrap_err();
    assert_eq!(refusal.status(), 431);
}

#[test]
fn a_value_in_a_head_is_shown_by_nothing_that_debugs() {
    let (head, used) = replaced("/", &[("host", "api.example"), ("x", KEY)]).unwrap();
    assert!(!format!("{:?} {used:?}", head.headers).contains("hunter2"));
}

proptest! {
    #[test]
    fn no_text_is_too_strange_and_only_placeholders_change(text in "[ -~]{0,80}", at in 0..80_usize) {
        let at = at.min(text.len());
        let with = format!("x{}{KEY}{}x", &text[..at], &text[at..]);
        let (head, _) = replaced("/", &[("host", "api.example"), ("x", &with)]).unwrap();
        prop_assert_eq!(head.headers["x"].to_str().unwrap(), with.replace(KEY, "hunter2"));
    }
}
