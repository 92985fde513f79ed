//! The gateway's resolver, the only one a sandbox reaches.
//!
//! A question is answered from what is wired to the sandbox, or judged by its name and only then asked
//! of the host's resolvers. So names that are not allowed carry nothing out. Addresses that are never
//! reached are taken out of answers; the others count as the name's from before the guest hears them.

pub(crate) mod message;
pub(crate) mod upstream;

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api_node::{DomainName, FlowProtocol, Policy, Verdict as Shown};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use self::message::{ADDRESSES_MAX, QUERY_BYTES_MAX, Query, Rcode, kind};
use self::upstream::Upstream;
use crate::Links;
use crate::bucket::Bucket;
use crate::host::Host;
use crate::judge::{Reason, Verdict, judge_name};
use crate::ledger::{Ledger, Note};
use crate::names::Names;
use crate::settings::GatewaySettings;

/// LIMIT: questions on one connection.
const SESSION_QUESTIONS_MAX: usize = 100;
/// How long a connection may be silent.
const SESSION_IDLE: Duration = Duration::from_secs(10);
/// For how long a database's address may be remembered: it may be wired to another next.
const LINK_TTL_S: u32 = 5;
/// Names that mean something here only, and all below them.
const LOCAL: [&str; 4] = ["internal", "local", "localhost", "home.arpa"];
/// Types of records that are handed on as they are.
const HANDED_ON: [u16; 12] = [
    kind::NS,
    kind::CNAME,
    kind::SOA,
    kind::PTR,
    kind::MX,
    kind::TXT,
    kind::SRV,
    kind::NAPTR,
    kind::DS,
    kind::DNSKEY,
    kind::TLSA,
    kind::CAA,
];

/// The resolver of one sandbox.
pub(crate) struct Resolver {
    settings: Arc<GatewaySettings>,
    host: Arc<Host>,
    upstream: Arc<Upstream>,
    policy: watch::Receiver<Arc<Policy>>,
    links: Arc<dyn Links>,
    ledger: Arc<Ledger>,
    names: Mutex<Names>,
    rate: Mutex<Bucket>,
}

impl Resolver {
    pub(crate) fn new(
        settings: Arc<GatewaySettings>,
        host: Arc<Host>,
        upstream: Arc<Upstream>,
        policy: watch::Receiver<Arc<Policy>>,
        links: Arc<dyn Links>,
        ledger: Arc<Ledger>,
    ) -> Self {
        let rate = Bucket::new(settings.questions_per_second, 4.0, Instant::now());
        let (names, rate) = (Mutex::default(), Mutex::new(rate));
        Self { settings, host, upstream, policy, links, ledger, names, rate }
    }

    /// The names whose answers gave an address.
    pub(crate) fn names_of(&self, address: Ipv4Addr) -> Vec<DomainName> {
        lock(&self.names).of(address, Instant::now())
    }

    /// The answer to a message, if it gets one.
    pub(crate) async fn answer(&self, message: &[u8]) -> Option<Vec<u8>> {
        if !lock(&self.rate).take(Instant::now()) {
            self.note(None, Shown::Denied, &Reason::Limit("questions in a second"));
            return None;
        }
        match Query::parse(message) {
            Ok(query) => Some(self.answer_query(&query).await),
            Err(answer) => answer.map(|(id, rcode)| message::failure(id, rcode)),
        }
    }

    async fn answer_query(&self, query: &Query) -> Vec<u8> {
        let name = &query.name;
        if let Some(address) = self.links.resolve(name.as_str()) {
            let addresses: &[_] =
                if query.kind == kind::A { &[(address, LINK_TTL_S)] } else { &[] };
            return query.addresses(addresses);
        }
        if is_local(name) {
            return query.answer(Rcode::NxDomain);
        }
        let policy = self.policy.borrow().clone();
        let reason = match judge_name(&policy, name) {
            Verdict::Allowed(reason) => reason,
            Verdict::Denied(reason) => {
                self.note(Some(name), Shown::Denied, &reason);
                return query.answer(Rcode::NxDomain);
            }
        };
        if let Some(what) = reversed(name).and_then(|address| self.host.never(address)) {
            self.note(Some(name), Shown::Denied, &Reason::Never(what));
            return query.answer(Rcode::NxDomain);
        }
        match query.kind {
            kind::A => {
                self.note(Some(name), Shown::Allowed, &reason);
                self.answer_addresses(query).await
            }
            // There is no IPv6 here, and no hints about where else HTTPS is.
            kind::AAAA | kind::HTTPS | kind::SVCB => query.answer(Rcode::NoError),
            kind if HANDED_ON.contains(&kind) => {
                self.note(Some(name), Shown::Allowed, &reason);
                let answer = self.upstream.ask(query).await.ok();
                let answer = answer.and_then(|answer| query.hand_on(&answer));
                answer.unwrap_or_else(|| query.answer(Rcode::ServFail))
            }
            _ => query.answer(Rcode::Refused),
        }
    }

    async fn answer_addresses(&self, query: &Query) -> Vec<u8> {
        let Ok(answer) = self.upstream.ask(query).await else {
            return query.answer(Rcode::ServFail);
        };
        if message::is_nx_domain(&answer) {
            return query.answer(Rcode::NxDomain);
        }
        if message::is_failure(&answer) {
            return query.answer(Rcode::ServFail);
        }
        let Some(mut addresses) = message::addresses_of(&query.name, &answer) else {
            return query.answer(Rcode::ServFail);
        };
        let now = Instant::now();
        let ttl_max_s = self.settings.name_ttl_max.as_secs().try_into().unwrap_or(u32::MAX);
        addresses.retain_mut(|(address, ttl_s)| {
            *ttl_s = (*ttl_s).min(ttl_max_s);
            match self.host.never(*address) {
                None => true,
                Some(what) => {
                    self.note(Some(&query.name), Shown::Denied, &Reason::Never(what));
                    false
                }
            }
        });
        addresses.truncate(ADDRESSES_MAX);
        let grace = self.settings.name_grace.max(Duration::from_secs(5));
        let mut names = lock(&self.names);
        for (address, ttl_s) in &addresses {
            let until = now + Duration::from_secs((*ttl_s).into()) + grace;
            names.bind(&query.name, *address, until, now);
        }
        query.addresses(&addresses)
    }

    /// Answers what comes over a connection, until it ends.
    pub(crate) async fn serve(self: Arc<Self>, mut stream: DuplexStream) {
        for _ in 0..SESSION_QUESTIONS_MAX {
            let served = timeout(SESSION_IDLE, self.serve_one(&mut stream)).await;
            if !matches!(served, Ok(Some(()))) {
                return;
            }
        }
    }

    async fn serve_one(&self, stream: &mut DuplexStream) -> Option<()> {
        let bytes = usize::from(stream.read_u16().await.ok()?);
        if bytes > QUERY_BYTES_MAX {
            return None;
        }
        let mut message = vec![0; bytes];
        stream.read_exact(&mut message).await.ok()?;
        let answer = self.answer(&message).await?;
        stream.write_u16(answer.len().try_into().ok()?).await.ok()?;
        stream.write_all(&answer).await.ok()
    }

    fn note(&self, name: Option<&DomainName>, verdict: Shown, reason: &Reason) {
        self.ledger.note(Note {
            name: name.map(|name| name.as_str().to_owned()),
            address: None,
            port: None,
            protocol: FlowProtocol::Dns,
            verdict,
            reason: reason.to_string(),
        });
    }
}

/// Whether nobody outside could know the name: it is one of this node's, or of no domain at all.
fn is_local(name: &DomainName) -> bool {
    let name = name.as_str();
    !name.contains('.')
        || LOCAL.iter().any(|local| {
            let rest = name.strip_suffix(local);
            rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        })
}

/// The address whose name is asked for.
fn reversed(name: &DomainName) -> Option<Ipv4Addr> {
    let digits = name.as_str().strip_suffix(".in-addr.arpa")?;
    let mut octets = [0; 4];
    let mut parts = digits.rsplit('.');
    for octet in &mut octets {
        // Fewer parts are a network, which is judged by its first address.
        *octet = match parts.next() {
            Some(part) => part.parse().ok()?,
            None => 0,
        };
    }
    Some(Ipv4Addr::from(octets))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
