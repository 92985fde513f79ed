//! Secrets of real guests: what a server outside gets, and what is inside.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;

use api_node::{
    CreateSandbox, CreateSnapshot, FlowQuery, Fork, SecretName, SecretValue, SetSecret,
};
use base_types::Size;
use client::Client;

use crate::host::{OUTSIDE_DOMAIN, shared};
use crate::sandbox::Sandbox;

const VALUE: &str = "hunter2-outside-of-every-guest";

/// A web server that keeps the heads it is asked with, and its port.
fn site() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let kept = asked.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, kept) = (stream.unwrap(), kept.clone());
            thread::spawn(move || {
                let (mut head, mut byte) = (Vec::new(), [0]);
                while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
                    head.push(byte[0]);
                }
                kept.lock().unwrap().push(String::from_utf8_lossy(&head).into_owned());
                let answer =
                    "HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\nheard\n";
                let _ = stream.write_all(answer.as_bytes());
            });
        }
    });
    (port, asked)
}

async fn set(client: &Client, name: &SecretName, value: &str, host: &str) {
    let secret = SetSecret { value: SecretValue::new(value), hosts: vec![host.parse().unwrap()] };
    client.secret_set(name, &secret).await.unwrap();
}

/// Asks the site with what is in the variable, and returns the head that came there.
async fn ask(sandbox: &Sandbox<'_>, host: &str, asked: &Mutex<Vec<String>>) -> String {
    let curl = format!("curl -sS -H \"X-Api-Key: $API_KEY\" http://{host}/");
    assert_eq!(sandbox.text(&curl).await, "heard");
    asked.lock().unwrap().last().unwrap().clone()
}

#[tokio::test]
async fn a_secret_goes_to_its_host_and_is_in_no_guest_snapshot_fork_or_log() {
    let host = shared().await;
    host.snapshot("agent", Size::Nano).await;
    let client = host.client();
    let ((port, asked), (beside, asked_beside)) = (site(), site());
    let there = format!("site.{OUTSIDE_DOMAIN}:{port}");
    let name: SecretName = format!("system-{port}").parse().unwrap();
    set(&client, &name, VALUE, &there).await;
    let request = CreateSandbox {
        secrets: BTreeMap::from([("API_KEY".to_owned(), name.clone())]),
        ..CreateSandbox::default()
    };
    let sandbox = host.sandbox_of(&request).await;
    let with_value = format!("X-Api-Key: {VALUE}\r\n");
    assert!(ask(&sandbox, &there, &asked).await.contains(&with_value));
    // Another port is another host.
    let other = ask(&sandbox, &format!("site.{OUTSIDE_DOMAIN}:{beside}"), &asked_beside).await;
    let placeholder = sandbox.text("echo $API_KEY").await;
    assert!(placeholder.starts_with("sfsecret_") && other.contains(&placeholder), "{other}");
    // What is inside: looked for by its two halves, so that the search does not find itself.
    let (first, last) = VALUE.split_at(10);
    let search = format!(
        "grep -rlsa -e \"$(printf %s%s {first} {last})\" /proc/[0-9]*/environ /etc /home /root /run /tmp \
         /var/log /var/tmp || true"
    );
    assert_eq!(sandbox.root(&search).await, "");
    assert!(!sandbox.text("env").await.contains(VALUE));
    // Guests trust who vouches for the host: it is the host's own certificate that is missed.
    let secure = sandbox.text(&format!("curl -sS https://{there}/")).await;
    assert!(secure.contains("no secure connection to site.sandflare.test: "), "{secure}");
    let python = format!(
        "python3 -c \"import urllib.request, urllib.error\ntry: urllib.request.urlopen('https://{there}/')\n\
         except urllib.error.HTTPError as error: print(error.code)\""
    );
    assert_eq!(sandbox.text(&python).await, "502");
    // Another value holds for the next request, also of children, which have the same placeholder.
    set(&client, &name, "another-value", &there).await;
    assert!(ask(&sandbox, &there, &asked).await.contains("X-Api-Key: another-value\r\n"));
    let forked = client.sandbox_fork(sandbox.id(), &Fork::of(1)).await.unwrap();
    let child = Sandbox::new(&host, forked.sandboxes[0].clone());
    assert_eq!(child.text("echo $API_KEY").await, placeholder);
    assert!(ask(&child, &there, &asked).await.contains("another-value"));
    let kept = client.snapshot_create(sandbox.id(), &CreateSnapshot { name: None }).await.unwrap();
    let again = CreateSandbox { snapshot: Some(kept.id), ..CreateSandbox::default() };
    let again = host.sandbox_of(&again).await;
    assert!(ask(&again, &there, &asked).await.contains("another-value"));
    client.sandbox_pause(again.id()).await.unwrap();
    assert!(ask(&again, &there, &asked).await.contains("another-value"));
    client.snapshot_delete(kept.id).await.unwrap();
    // What is deleted is missed by its variable.
    client.secret_delete(&name).await.unwrap();
    let refused =
        sandbox.text(&format!("curl -sS -H \"X-Api-Key: $API_KEY\" http://{there}/")).await;
    assert!(refused.contains("of $API_KEY was deleted"), "{refused}");
    // What was told of it is its name.
    let flows = client.flow_list(sandbox.id(), &FlowQuery::default()).await.unwrap().flows;
    let used = format!("secret {name}");
    assert!(flows.iter().any(|entry| entry.flow.reason == used), "{flows:#?}");
    assert!(!format!("{flows:?}").contains(VALUE) && !host.last_words().contains(VALUE));
    for one in [&sandbox, &child, &again] {
        one.kill().await.unwrap();
    }
}
