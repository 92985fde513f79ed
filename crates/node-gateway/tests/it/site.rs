//! A web server that keeps what it was asked, and a guest's side of asking.

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use api_node::{SecretName, SecretValue};
use node_gateway::{Granted, Secrets};
use smoltcp::iface::SocketHandle;

use crate::dns::ask;
use crate::guest::Guest;
use crate::world::{Sandbox, serve};

/// What a sandbox has in a value's place.
pub(crate) const PLACEHOLDER: &str = "sfsecret_0123456789abcdef0123456789abcdef";
pub(crate) const VALUE: &str = "hunter2-the-real-value";

/// Secrets that tests set.
#[derive(Default)]
pub(crate) struct Vault(Mutex<Vec<Granted>>);

impl Secrets for Vault {
    fn granted(&self) -> Vec<Granted> {
        self.0.lock().unwrap().clone()
    }
}

impl Vault {
    /// One secret for these hosts.
    pub(crate) fn of(hosts: &[&str]) -> Arc<Self> {
        let vault = Self::default();
        let name: SecretName = "key".parse().unwrap();
        vault.0.lock().unwrap().push(Granted {
            variable: "API_KEY".to_owned(),
            name,
            placeholder: PLACEHOLDER.parse().unwrap(),
            hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
            value: Some(SecretValue::new(VALUE)),
        });
        Arc::new(vault)
    }

    /// It says something else from now on, or nothing.
    pub(crate) fn set(&self, value: Option<&str>) {
        self.0.lock().unwrap()[0].value = value.map(SecretValue::new);
    }
}

/// Everything a server was asked, as it came.
#[derive(Clone, Default)]
pub(crate) struct Asked(Arc<Mutex<Vec<String>>>);

impl Asked {
    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    #[track_caller]
    pub(crate) fn last(&self) -> String {
        self.all().pop().expect("nobody asked")
    }
}

/// A server that keeps what it is asked, and says `ok`. Its port.
pub(crate) fn site(address: Ipv4Addr) -> (u16, Asked) {
    let asked = Asked::default();
    let kept = asked.clone();
    (serve(address, move |stream| answer(stream, &kept)), asked)
}

/// Answers requests of one connection until it ends. One for `/upgrade` ends HTTP.
pub(crate) fn answer(mut stream: impl Read + Write, asked: &Asked) {
    while let Some(request) = request(&mut stream) {
        asked.0.lock().unwrap().push(request.clone());
        let said = if request.contains(" /upgrade ") {
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n"
        } else if request.contains(" /last ") {
            "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nuntil the end"
        } else if request.contains(" /chunks ") {
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
        } else {
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nX-Kept-As-It-Is: 1\r\n\r\nok"
        };
        if stream.write_all(said.as_bytes()).is_err() || request.contains(" /last ") {
            return;
        }
        stream.flush().unwrap();
        while request.contains(" /upgrade ") {
            let mut word = [0; 5];
            if stream.read_exact(&mut word).is_err() {
                return;
            }
            stream.write_all(&word).unwrap();
            stream.flush().unwrap();
        }
    }
}

/// One whole request. A server that believes what is written in it.
fn request(stream: &mut impl Read) -> Option<String> {
    let mut text = String::new();
    let mut until = |text: &mut String, end: &str, more: usize| {
        let from = text.len();
        let is_over = |text: &str| match end {
            "" => text.len() - from >= more,
            end => text[from..].ends_with(end),
        };
        while !is_over(text) {
            let mut byte = [0];
            stream.read_exact(&mut byte).ok()?;
            text.push(char::from(byte[0]));
        }
        Some(())
    };
    until(&mut text, "\r\n\r\n", 0)?;
    let head = text.to_lowercase();
    if head.contains("transfer-encoding: chunked") {
        until(&mut text, "0\r\n\r\n", 0)?;
    } else if let Some((_, length)) = head.split_once("content-length: ") {
        until(&mut text, "", length.split_once("\r\n")?.0.parse().ok()?)?;
    }
    Some(text)
}

/// A connection to where a name leads.
#[track_caller]
pub(crate) fn connect(sandbox: &mut Sandbox, name: &str, port: u16) -> SocketHandle {
    let answer = ask(sandbox, name, 1);
    sandbox.guest.connect(answer.addresses[0], port).expect("it refuses")
}

/// Says it, and hears one whole answer with its length.
#[track_caller]
pub(crate) fn say(guest: &mut Guest, handle: SocketHandle, text: &str) -> String {
    guest.write(handle, text.as_bytes());
    hear(guest, handle)
}

/// One whole answer with its length, or what there is of one.
#[track_caller]
pub(crate) fn hear(guest: &mut Guest, handle: SocketHandle) -> String {
    let mut heard = Vec::new();
    while !heard.ends_with(b"\r\n\r\n") {
        match guest.read(handle, 1).first() {
            Some(byte) => heard.push(*byte),
            None => return String::from_utf8(heard).unwrap(),
        }
    }
    let head = String::from_utf8(heard).unwrap();
    let length = head.to_lowercase();
    let length = length
        .split_once("content-length: ")
        .map_or(0, |(_, rest)| rest.split_once("\r\n").unwrap().0.parse().unwrap());
    let body = guest.read(handle, length);
    head + &String::from_utf8(body).unwrap()
}

/// A request with the placeholder in a header.
pub(crate) fn with_key(target: &str, host: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nX-Api-Key: {PLACEHOLDER}\r\n\r\n")
}
