//! The host's resolvers, which are asked on behalf of guests.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout};

use super::message::{ANSWER_BYTES_MAX, Query, is_failure, is_truncated};

/// Where a host says who resolves its names.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How long what was read there is taken for true. Networks change under a laptop.
const RESOLV_CONF_AGE: Duration = Duration::from_secs(5);
/// LIMIT: of that file; it has a few lines.
const RESOLV_CONF_BYTES_MAX: usize = 64 * 1024;
/// LIMIT: resolvers that are asked one after the other; as many as the C library takes.
const SERVERS_MAX: usize = 3;
/// LIMIT: how often all of them are asked.
const ROUNDS: usize = 2;
/// How long one is waited for. All of it stays below what programs wait for.
const PATIENCE: Duration = Duration::from_millis(1500);
/// LIMIT: datagrams of a resolver that are not the answer and are read past; somebody is guessing.
const STRANGE_MAX: usize = 64;

/// Who is asked. One for the node.
#[derive(Debug)]
pub(crate) struct Upstream {
    fixed: Option<Vec<SocketAddr>>,
    read: Mutex<Option<(Instant, Vec<SocketAddr>)>>,
}

impl Upstream {
    /// These, or those the host uses.
    pub(crate) fn new(fixed: Option<Vec<SocketAddr>>) -> Self {
        Self { fixed, read: Mutex::new(None) }
    }

    /// A resolver's answer to a question.
    pub(crate) async fn ask(&self, query: &Query) -> io::Result<Vec<u8>> {
        let servers = self.servers();
        let mut last = None;
        for server in servers.iter().take(SERVERS_MAX).cycle().take(ROUNDS * servers.len()) {
            match timeout(PATIENCE, exchange(*server, query)).await {
                Ok(Ok(answer)) if !is_failure(&answer) => return Ok(answer),
                Ok(Ok(answer)) => last = Some(answer),
                Ok(Err(_)) | Err(_) => {}
            }
        }
        last.ok_or_else(|| io::ErrorKind::TimedOut.into())
    }

    fn servers(&self) -> Vec<SocketAddr> {
        if let Some(fixed) = &self.fixed {
            return fixed.iter().take(SERVERS_MAX).copied().collect();
        }
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        match &*read {
            Some((at, servers)) if at.elapsed() < RESOLV_CONF_AGE => servers.clone(),
            _ => {
                let text = std::fs::read(RESOLV_CONF).unwrap_or_default();
                let servers = parse(text.get(..RESOLV_CONF_BYTES_MAX).unwrap_or(&text));
                *read = Some((Instant::now(), servers.clone()));
                servers
            }
        }
    }
}

/// The resolvers a file names; this host when it names none.
fn parse(text: &[u8]) -> Vec<SocketAddr> {
    let text = String::from_utf8_lossy(text);
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and(words.next())?;
        address.parse::<IpAddr>().ok()
    });
    let servers: Vec<_> = servers.take(SERVERS_MAX).map(|ip| SocketAddr::new(ip, 53)).collect();
    if servers.is_empty() { vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 53))] } else { servers }
}

async fn exchange(server: SocketAddr, query: &Query) -> io::Result<Vec<u8>> {
    // The port is the kernel's choice, and as random as the number: an answer is hard to make up.
    let local: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(server).await?;
    let id = random_id();
    socket.send(&query.forward(id)).await?;
    let mut buffer = [0; 4096];
    for _ in 0..STRANGE_MAX {
        let bytes = socket.recv(&mut buffer).await?;
        let Some(answer) = buffer.get(..bytes).filter(|it| query.is_answered_by(id, it)) else {
            continue;
        };
        if is_truncated(answer) {
            return exchange_tcp(server, query).await;
        }
        return Ok(answer.to_vec());
    }
    Err(io::ErrorKind::InvalidData.into())
}

async fn exchange_tcp(server: SocketAddr, query: &Query) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let id = random_id();
    let question = query.forward(id);
    let mut message = (question.len() as u16).to_be_bytes().to_vec();
    message.extend_from_slice(&question);
    stream.write_all(&message).await?;
    let bytes = usize::from(stream.read_u16().await?);
    if bytes > ANSWER_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut answer = vec![0; bytes];
    stream.read_exact(&mut answer).await?;
    let is_answer = query.is_answered_by(id, &answer) && !is_truncated(&answer);
    if is_answer { Ok(answer) } else { Err(io::ErrorKind::InvalidData.into()) }
}

fn random_id() -> u16 {
    let bits = getrandom::u32().expect("the kernel's generator is up long before this program");
    (bits >> 16) as u16
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn resolvers_are_found_where_hosts_name_them() {
        let shown = |text: &str| {
            parse(text.as_bytes()).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(shown("nameserver 192.0.2.1\n"), "192.0.2.1:53");
        assert_eq!(shown("# x\nsearch a.b\n nameserver\t::1 \nnameserver"), "[::1]:53");
        assert_eq!(shown("nameserver fe80::1%eth0\noptions edns0"), "127.0.0.1:53");
        assert_eq!(shown("nameserver 1.1.1.1\n".repeat(9).as_str()).split(' ').count(), 3);
        assert_eq!(shown("\u{fffd}"), "127.0.0.1:53");
    }
}
