//! How fast bytes go through the gateway, with a guest that is nothing but a stack: the gateway's own
//! part of what a sandbox gets.
//!
//! `cargo run --release -p node-gateway --example throughput [MiB] [buffer KiB]`
#![expect(clippy::unwrap_used, reason = "whoever measures sees what failed")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use api_node::{Flow, Policy};
use base_types::SandboxId;
use futures_util::future::BoxFuture;
use node_gateway::{Flows, Gateway, GatewaySettings, Links, NoSecrets, Stream};
use tokio::sync::watch;

#[path = "../tests/it/guest.rs"]
#[expect(dead_code, reason = "it can do more than is measured")]
mod guest;

struct Nobody;

impl Flows for Nobody {
    fn flow(&self, _: SandboxId, flow: Flow) {
        let Flow { bytes_up, bytes_down, duration_ms, .. } = flow;
        println!("  flow: {bytes_up} bytes up, {bytes_down} down, {duration_ms} ms");
    }
}

impl Links for Nobody {
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

fn main() {
    let mut arguments = std::env::args().skip(1).map(|it| it.parse::<usize>().unwrap());
    let bytes = arguments.next().unwrap_or(512) * 1024 * 1024;
    let mut settings = GatewaySettings {
        allowance: vec!["127.0.0.0/8".parse().unwrap()],
        ..GatewaySettings::default()
    };
    if let Some(kib) = arguments.next() {
        settings.buffer_bytes = kib * 1024;
    }
    let gateway = Gateway::new(settings, Arc::new(Nobody)).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (_policy, policy) = watch::channel(Arc::new(Policy::default()));
    let (frames, _network) = {
        let _inside = runtime.enter();
        gateway
            .open(SandboxId::from_bits(1), policy, Arc::new(Nobody), Arc::new(NoSecrets))
            .unwrap()
    };
    let mut guest = guest::Guest::new(frames);

    let sink = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let source = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let echo = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let (to_sink, to_source, to_echo) = (port(&sink), port(&source), port(&echo));
    thread::spawn(move || {
        let (mut stream, _) = sink.accept().unwrap();
        let (mut buffer, mut heard) = (vec![0; 256 * 1024], 0);
        while heard < bytes {
            heard += stream.read(&mut buffer).unwrap();
        }
        stream.write_all(b"!").unwrap();
    });
    thread::spawn(move || {
        let (mut stream, _) = source.accept().unwrap();
        let chunk = vec![7; 256 * 1024];
        for _ in 0..bytes / chunk.len() {
            stream.write_all(&chunk).unwrap();
        }
    });
    thread::spawn(move || {
        let (mut stream, _) = echo.accept().unwrap();
        let mut byte = [0];
        while stream.read_exact(&mut byte).is_ok() {
            stream.write_all(&byte).unwrap();
        }
    });

    let chunk = vec![7; 128 * 1024];
    let handle = guest.connect(Ipv4Addr::LOCALHOST, to_sink).unwrap();
    let (begun, mut sent) = (Instant::now(), 0);
    guest.until("the end", |guest| {
        let socket = guest.tcp(handle);
        while sent < bytes && socket.can_send() {
            sent += socket.send_slice(&chunk[..chunk.len().min(bytes - sent)]).unwrap();
        }
        socket.can_recv().then_some(())
    });
    show("guest to host", bytes, begun.elapsed());
    guest.tcp(handle).abort();

    let handle = guest.connect(Ipv4Addr::LOCALHOST, to_source).unwrap();
    let (begun, mut heard) = (Instant::now(), 0);
    guest.until("the end", |guest| {
        let socket = guest.tcp(handle);
        while socket.can_recv() {
            heard += socket.recv(|data| (data.len(), data.len())).unwrap();
        }
        (heard >= bytes / chunk.len() * chunk.len()).then_some(())
    });
    show("host to guest", heard, begun.elapsed());
    guest.tcp(handle).abort();

    let handle = guest.connect(Ipv4Addr::LOCALHOST, to_echo).unwrap();
    let begun = Instant::now();
    for _ in 0..2000 {
        guest.write(handle, b"?");
        guest.read(handle, 1);
    }
    println!("round trip: {} us", begun.elapsed().as_micros() / 2000);
}

fn show(way: &str, bytes: usize, took: Duration) {
    println!("{way}: {:.0} MiB/s", bytes as f64 / 1024.0 / 1024.0 / took.as_secs_f64());
}
