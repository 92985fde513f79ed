//! How flows of a sandbox begin: judged, counted, and connected to what is behind them.

use std::net::{Ipv4Addr, SocketAddrV4};

use api_guest::network::{DATABASES, DATABASES_PREFIX_BITS, GATEWAY_ADDRESS, netmask};
use api_node::{DomainName, FlowProtocol, Protocol, Verdict as Shown};
use tokio::time::{Instant, timeout};

use super::{DNS_PORT, Parts, Sandbox, port_of, tuple_of};
use crate::connection::Connection;
use crate::exchange::Exchange;
use crate::far::{Connecting, Far};
use crate::frame::{Segment, Tuple};
use crate::judge::{Destination, Reason, Verdict, judge};
use crate::ledger::Note;
use crate::tap::Tap;
use crate::wake::Key;

/// LIMIT: bytes between a connection to the resolver and the resolver.
const RESOLVER_PIPE_BYTES: usize = 4096;

impl Sandbox {
    /// Begins a connection. `None` when it is denied.
    pub(super) fn begin(&mut self, segment: &Segment<'_>) -> Option<()> {
        let Tuple { address, port, .. } = segment.tuple;
        let key = Key::Tcp(segment.tuple);
        let settings = &self.parts.settings;
        let connecting = self.connections.values().filter(|it| it.is_connecting()).count();
        if self.connections.len() >= settings.connections_max {
            self.note(key, &[], Shown::Denied, &Reason::Limit("connections"));
            return None;
        }
        if connecting >= settings.connecting_max {
            self.note(key, &[], Shown::Denied, &Reason::Limit("connections being made"));
            return None;
        }
        let names = self.parts.resolver.names_of(address);
        let (far, reason, is_judged) = match self.far(address, port, &names) {
            Ok(begun) => begun,
            Err(reason) => {
                self.note(key, &names, Shown::Denied, &reason);
                return None;
            }
        };
        let connection =
            Connection::new(segment, far, names, reason.to_string(), is_judged, &self.woken);
        connection.wake();
        self.connections.insert(segment.tuple, connection);
        Some(())
    }

    /// Where a connection goes, because of what, and whether a policy said so.
    fn far(
        &mut self,
        address: Ipv4Addr,
        port: u16,
        names: &[DomainName],
    ) -> Result<(Connecting, Reason, bool), Reason> {
        if address == GATEWAY_ADDRESS {
            if port != DNS_PORT {
                return Err(Reason::Gateway("only names are served here"));
            }
            if self.sessions.len() >= self.parts.settings.questions_max {
                return Err(Reason::Limit("questions"));
            }
            let (near, far) = tokio::io::duplex(RESOLVER_PIPE_BYTES);
            self.sessions.push(Box::pin(self.parts.resolver.clone().serve(far)));
            let near = Box::pin(async { Ok(Far::Other(Box::new(near))) });
            return Ok((near, Reason::Gateway("names"), false));
        }
        if is_database(address) {
            let Some(stream) = self.parts.links.connect(address, port) else {
                return Err(Reason::Gateway("no database is wired here"));
            };
            let patience = self.parts.settings.connect_timeout;
            let far = async move { Ok(Far::Other(timeout(patience, stream).await??)) };
            return Ok((Box::pin(far), Reason::Gateway("a database"), false));
        }
        match self.parts.judge(address, Some((Protocol::Tcp, port)), names) {
            Verdict::Denied(reason) => Err(reason),
            Verdict::Allowed(reason) => {
                let to = SocketAddrV4::new(address, port);
                let patience = self.parts.settings.connect_timeout;
                let secrets = &self.parts.secrets;
                if !Tap::wants(secrets.as_ref(), names, port) {
                    return Ok((Far::connect(to, patience), reason, true));
                }
                let tap = Tap {
                    secrets: secrets.clone(),
                    authority: self.parts.settings.authority.clone(),
                    client: self.parts.client.clone(),
                    ledger: self.parts.ledger.clone(),
                    address,
                    port,
                    names: names.to_vec(),
                };
                let (end, connected, work) = tap.open();
                self.taps.push(work);
                Ok((Far::tapped(to, patience, end, connected), reason, true))
            }
        }
    }

    /// The exchange a datagram belongs to, begun if there is none. `None` when it is denied, or the
    /// host does not let it happen.
    pub(super) fn exchange(&mut self, key: Key, now: Instant) -> Option<&mut Exchange> {
        if !self.exchanges.contains_key(&key) {
            if !self.flows.take(now) {
                self.note(key, &[], Shown::Denied, &Reason::Limit("new flows in a second"));
                return None;
            }
            let address = tuple_of(key).address;
            let names = self.parts.resolver.names_of(address);
            let verdict = if address == GATEWAY_ADDRESS || is_database(address) {
                Verdict::Denied(Reason::Gateway("nothing is served here"))
            } else {
                self.parts.judge(address, port_of(key), &names)
            };
            let reason = match verdict {
                Verdict::Allowed(reason) => reason.to_string(),
                Verdict::Denied(reason) => {
                    self.note(key, &names, Shown::Denied, &reason);
                    return None;
                }
            };
            if self.exchanges.len() >= self.parts.settings.exchanges_max {
                let silent = self.exchanges.values().min_by_key(|exchange| exchange.last);
                if let Some(silent) = silent.map(|exchange| exchange.key)
                    && let Some(exchange) = self.exchanges.remove(&silent)
                {
                    self.parts.ledger.tell(exchange.flow(None));
                }
            }
            let exchange = Exchange::new(key, names, reason, &self.woken).ok()?;
            self.exchanges.insert(key, exchange);
        }
        self.exchanges.get_mut(&key)
    }

    pub(super) fn note(&self, key: Key, names: &[DomainName], verdict: Shown, reason: &Reason) {
        let tuple = tuple_of(key);
        self.parts.ledger.note(Note {
            name: names.first().map(|name| name.as_str().to_owned()),
            address: Some(tuple.address),
            port: port_of(key).map(|(_, port)| port),
            protocol: match key {
                Key::Tcp(_) => FlowProtocol::Tcp,
                Key::Udp(_) => FlowProtocol::Udp,
                Key::Echo(_) => FlowProtocol::Icmp,
            },
            verdict,
            reason: reason.to_string(),
        });
    }
}

impl Parts {
    pub(super) fn judge(
        &self,
        address: Ipv4Addr,
        port: Option<(Protocol, u16)>,
        names: &[DomainName],
    ) -> Verdict {
        let to = Destination { address, port, is_host: self.host.has(address) };
        // As it is now: whoever changed it and then sees a flow, sees it judged by that.
        let policy = self.policy.borrow().clone();
        judge(&policy, self.host.allowance(), &to, names)
    }
}

fn is_database(address: Ipv4Addr) -> bool {
    let mask = netmask(DATABASES_PREFIX_BITS).to_bits();
    address.to_bits() & mask == DATABASES.to_bits() & mask
}
