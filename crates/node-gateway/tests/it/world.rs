//! A gateway, what it tells, and servers on loopback for which the operator vouches.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use api_node::{Flow, Policy, Verdict};
use base_types::SandboxId;
use futures_util::future::BoxFuture;
use node_gateway::{Flows, Gateway, GatewaySettings, Links, Network, NoSecrets, Secrets, Stream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::guest::Guest;

/// Where servers of tests are.
pub(crate) const SITE: Ipv4Addr = Ipv4Addr::new(127, 77, 0, 2);

pub(crate) struct World {
    pub(crate) runtime: Runtime,
    pub(crate) gateway: Gateway,
    pub(crate) told: Arc<Told>,
    next: u64,
}

/// One sandbox's end.
pub(crate) struct Sandbox {
    pub(crate) guest: Guest,
    pub(crate) policy: watch::Sender<Arc<Policy>>,
    pub(crate) network: Network,
}

#[derive(Default)]
pub(crate) struct Told(Mutex<Vec<(SandboxId, Flow)>>);

impl Flows for Told {
    fn flow(&self, sandbox: SandboxId, flow: Flow) {
        self.0.lock().unwrap().push((sandbox, flow));
    }
}

impl Told {
    pub(crate) fn all(&self) -> Vec<Flow> {
        self.0.lock().unwrap().iter().map(|(_, flow)| flow.clone()).collect()
    }

    /// The first flow like that; waits for it.
    #[track_caller]
    pub(crate) fn find(&self, what: &str, like: impl Fn(&Flow) -> bool) -> Flow {
        let begun = Instant::now();
        loop {
            if let Some(flow) = self.all().into_iter().find(&like) {
                return flow;
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "no {what} in {:#?}", self.all());
            thread::sleep(Duration::from_millis(10));
        }
    }

    #[track_caller]
    pub(crate) fn denied(&self, reason: &str) -> Flow {
        self.find(reason, |flow| flow.verdict == Verdict::Denied && flow.reason.contains(reason))
    }
}

pub(crate) struct NoLinks;

impl Links for NoLinks {
    fn resolve(&self, _: &str) -> Option<Ipv4Addr> {
        None
    }

    fn connect(
        &self,
        _: Ipv4Addr,
        _: u16,
    ) -> Option<BoxFuture<'static, std::io::Result<Box<dyn Stream>>>> {
        None
    }
}

/// Settings under which servers of tests are reached, and the whole internet is `resolver`.
pub(crate) fn settings(resolver: Option<SocketAddr>) -> GatewaySettings {
    GatewaySettings {
        allowance: vec!["127.77.0.0/16".parse().unwrap()],
        resolvers: Some(resolver.into_iter().collect()),
        ..GatewaySettings::default()
    }
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(settings(None))
    }

    pub(crate) fn with(settings: GatewaySettings) -> Self {
        let told = Arc::new(Told::default());
        let gateway = Gateway::new(settings, told.clone()).unwrap();
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
        Self { runtime, gateway, told, next: 0 }
    }

    pub(crate) fn sandbox(&mut self, policy: Policy) -> Sandbox {
        self.linked(policy, Arc::new(NoLinks))
    }

    pub(crate) fn linked(&mut self, policy: Policy, links: Arc<dyn Links>) -> Sandbox {
        self.with_all(policy, links, Arc::new(NoSecrets))
    }

    /// One that was granted secrets, and may go anywhere.
    pub(crate) fn trusted(&mut self, secrets: Arc<dyn Secrets>) -> Sandbox {
        self.with_all(policy("default", &[], &[]), Arc::new(NoLinks), secrets)
    }

    fn with_all(
        &mut self,
        policy: Policy,
        links: Arc<dyn Links>,
        secrets: Arc<dyn Secrets>,
    ) -> Sandbox {
        self.next += 1;
        let id = SandboxId::from_bits(self.next);
        let (policy, seen) = watch::channel(Arc::new(policy));
        let _inside = self.runtime.enter();
        let (frames, network) = self.gateway.open(id, seen, links, secrets).unwrap();
        Sandbox { guest: Guest::new(frames), policy, network }
    }
}

/// A policy with rules as people write them.
pub(crate) fn policy(base: &str, allow: &[&str], deny: &[&str]) -> Policy {
    let rules = |rules: &[&str]| rules.iter().map(|rule| rule.parse().unwrap()).collect();
    let base = match base {
        "none" => api_node::Base::None,
        _ => api_node::Base::Default,
    };
    Policy { base, allow: rules(allow), deny: rules(deny) }
}

/// A server that does the same for each connection. Its port.
pub(crate) fn serve(address: Ipv4Addr, each: impl Fn(TcpStream) + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let each = Arc::new(each);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let each = each.clone();
            thread::spawn(move || each(stream.unwrap()));
        }
    });
    port
}

/// A server that says what it hears.
pub(crate) fn echo_server(address: Ipv4Addr) -> u16 {
    serve(address, |mut stream| {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count) = stream.read(&mut buffer) {
            if count == 0 || stream.write_all(&buffer[..count]).is_err() {
                return;
            }
        }
    })
}

/// A port at which nobody listens.
pub(crate) fn closed_port(address: Ipv4Addr) -> u16 {
    TcpListener::bind((address, 0)).unwrap().local_addr().unwrap().port()
}

/// The same port of TCP and UDP.
pub(crate) fn both(address: Ipv4Addr) -> (TcpListener, UdpSocket) {
    loop {
        // Somebody else may have the other one.
        let listener = TcpListener::bind((address, 0)).unwrap();
        if let Ok(socket) = UdpSocket::bind(listener.local_addr().unwrap()) {
            return (listener, socket);
        }
    }
}

/// A resolver that knows a few names, and which it was asked for.
pub(crate) struct Resolver {
    pub(crate) address: SocketAddr,
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
}

/// What a name has.
#[derive(Clone)]
pub(crate) enum Has {
    Addresses(Vec<Ipv4Addr>),
    Alias(&'static str, Ipv4Addr),
    Text(String),
    /// Over TCP only.
    Much(usize),
}

impl Resolver {
    pub(crate) fn new(names: &[(&str, Has)]) -> Self {
        let names: HashMap<_, _> =
            names.iter().map(|(name, has)| ((*name).to_owned(), has.clone())).collect();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (listener, socket) = both(Ipv4Addr::LOCALHOST);
        let address = socket.local_addr().unwrap();
        let (names, heard) = (Arc::new(names), asked.clone());
        let over_tcp = (names.clone(), heard.clone());
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((count, from)) = socket.recv_from(&mut buffer) {
                let mut answer = answer(&buffer[..count], &names, &heard);
                if answer.len() > 512 {
                    answer.truncate(512);
                    answer[2] |= 2;
                }
                // Somebody else's guess comes first, and is not taken for the answer.
                let mut guess = answer.clone();
                guess[0] ^= 1;
                let _ = socket.send_to(&guess, from);
                let _ = socket.send_to(&answer, from);
            }
        });
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                let mut question = vec![0; u16::from_be_bytes(length).into()];
                stream.read_exact(&mut question).unwrap();
                let answer = answer(&question, &over_tcp.0, &over_tcp.1);
                stream.write_all(&(answer.len() as u16).to_be_bytes()).unwrap();
                stream.write_all(&answer).unwrap();
            }
        });
        assert!(matches!(address.ip(), IpAddr::V4(_)));
        Self { address, asked }
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// A question of DNS.
pub(crate) fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    message.extend(wire(name));
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&[0, 1]);
    message
}

fn wire(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

fn answer(message: &[u8], names: &HashMap<String, Has>, asked: &Mutex<Vec<String>>) -> Vec<u8> {
    let (mut at, mut labels) = (12, Vec::new());
    while message[at] != 0 {
        let end = at + 1 + usize::from(message[at]);
        labels.push(String::from_utf8_lossy(&message[at + 1..end]).into_owned());
        at = end;
    }
    let name = labels.join(".").to_lowercase();
    asked.lock().unwrap().push(name.clone());
    let kind = u16::from_be_bytes([message[at + 1], message[at + 2]]);
    let mut records = Vec::new();
    let mut record = |owner: Vec<u8>, kind: u16, data: &[u8]| {
        let mut record = owner;
        record.extend_from_slice(&kind.to_be_bytes());
        record.extend_from_slice(&[0, 1, 0, 0, 0, 60]);
        record.extend_from_slice(&(data.len() as u16).to_be_bytes());
        record.extend_from_slice(data);
        records.push(record);
    };
    let owner = vec![0xc0, 12];
    match (names.get(&name), kind) {
        (Some(Has::Addresses(addresses)), 1) => {
            for address in addresses {
                record(owner.clone(), 1, &address.octets());
            }
        }
        (Some(Has::Alias(alias, address)), 1) => {
            record(owner, 5, &wire(alias));
            record(wire(alias), 1, &address.octets());
            record(wire("somebody.else.test"), 1, &[203, 0, 113, 99]);
        }
        (Some(Has::Text(text)), 16) => {
            let mut data = vec![text.len() as u8];
            data.extend_from_slice(text.as_bytes());
            record(owner, 16, &data);
        }
        (Some(Has::Much(count)), 16) => {
            for _ in 0..*count {
                record(owner.clone(), 16, &[1, b'x']);
            }
        }
        _ => {}
    }
    let mut answer = message[..12].to_vec();
    answer[2] |= 0x80;
    answer[3] = if names.contains_key(&name) { 0x80 } else { 0x83 };
    answer[6..8].copy_from_slice(&(records.len() as u16).to_be_bytes());
    answer[10..12].fill(0);
    answer.extend_from_slice(&message[12..at + 5]);
    records.iter().for_each(|record| answer.extend_from_slice(record));
    answer
}
