//! What a request is for: the API, or a port of a sandbox, and which way it came there.

use std::fmt;
use std::str::FromStr;

use axum::http::header::HOST;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use base_types::SandboxId;

use crate::{ErrorCode, Failure, PORT_HEADER, PORT_SANDBOX_HEADER};

/// LIMIT: a host name; a label of 63, a dot and this are what DNS takes.
const DOMAIN_BYTES_MAX: usize = 253 - 64;
/// Headers that name a sandbox and a port: each kind of client its own pair.
pub(crate) const ROUTING_HEADERS: [(HeaderName, HeaderName); 1] =
    [(HeaderName::from_static(PORT_SANDBOX_HEADER), HeaderName::from_static(PORT_HEADER))];

/// The domain under which every port of every sandbox has a host name, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain(String);

impl Default for Domain {
    /// `localhost`, whose names browsers look for on their own machine.
    fn default() -> Self {
        Self("localhost".to_owned())
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is no domain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a domain; give one such as sandboxes.example.com, without a port")]
pub struct ParseDomainError(String);

impl FromStr for Domain {
    type Err = ParseDomainError;

    fn from_str(text: &str) -> Result<Self, ParseDomainError> {
        let label = |label: &str| {
            let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
            (1..=63).contains(&label.len())
                && label.bytes().all(inner)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        // The last label of an address is a number; that of a domain is not.
        let last = text.rsplit('.').next().unwrap_or_default();
        let is_address = last.bytes().all(|b| b.is_ascii_digit());
        if text.len() > DOMAIN_BYTES_MAX || is_address || !text.split('.').all(label) {
            return Err(ParseDomainError(text.chars().take(DOMAIN_BYTES_MAX).collect()));
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

/// Which way a request came to a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// By a host name that is this port's alone, and so is its origin in a browser.
    Host,
    /// Below the API's own address.
    Path,
    /// By headers, on the API's own address.
    Headers,
}

/// A port a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) sandbox: SandboxId,
    pub(crate) port: u16,
    pub(crate) way: Way,
    /// What the request calls this server: host, and port unless it is the usual one.
    pub(crate) host: String,
    /// Bytes at the beginning of the path that are ours and not the program's.
    pub(crate) prefix: usize,
}

/// What a request is for.
#[derive(Clone, Debug)]
pub(crate) enum Aim {
    Api,
    Port(Place),
    /// Neither: it contradicts itself, or names a port in a way that none is named.
    Nothing(Failure),
}

/// What a request with this head is for.
pub(crate) fn aim(method: &Method, uri: &Uri, headers: &HeaderMap, domain: &Domain) -> Aim {
    let host = match host(method, uri, headers) {
        Ok(host) => host,
        Err(failure) => return Aim::Nothing(failure),
    };
    let named = match by_name(&host, domain) {
        Some(named) => Some(named.map(|(sandbox, port)| (sandbox, port, Way::Host, 0))),
        None => by_headers(headers)
            .map(|named| named.map(|(sandbox, port)| (sandbox, port, Way::Headers, 0)))
            .or_else(|| {
                by_path(uri.path())
                    .map(|(sandbox, port, prefix)| Ok((sandbox, port, Way::Path, prefix)))
            }),
    };
    match named {
        None => Aim::Api,
        Some(Err(failure)) => Aim::Nothing(failure),
        Some(Ok((sandbox, port, way, prefix))) => {
            Aim::Port(Place { sandbox, port, way, host, prefix })
        }
    }
}

/// The one host a request names, empty if it names none. One that is named twice differently could
/// be one thing to whoever stands before this server and another here.
fn host(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<String, Failure> {
    let refused = |what| Failure::new(ErrorCode::InvalidRequest, what);
    if method == Method::CONNECT {
        return Err(refused("this server is no proxy: it takes no CONNECT"));
    }
    let mut lines = headers.get_all(HOST).iter();
    let line = lines.next().map(HeaderValue::to_str).transpose();
    let line = line.map_err(|_| refused("the header `host` is not a host name"))?;
    if lines.next().is_some() {
        return Err(refused("the header `host` is there twice"));
    }
    match (line, uri.authority().map(Authority::as_str)) {
        (Some(line), Some(target)) if !line.eq_ignore_ascii_case(target) => {
            Err(refused("the request is for one host, and its header `host` names another"))
        }
        (line, target) => Ok(line.or(target).unwrap_or_default().to_owned()),
    }
}

/// A port named by its host: `<port>-<sandbox>.<domain>`, the sandbox without or with its `sbx_`, in
/// any case. Whatever under the domain begins like one is never the API's.
fn by_name(host: &str, domain: &Domain) -> Option<Result<(SandboxId, u16), Failure>> {
    let name = name_of(host).to_ascii_lowercase();
    let name = name.strip_suffix('.').unwrap_or(&name);
    let label = name.strip_suffix(&domain.0)?.strip_suffix('.')?;
    if !begins_like_a_port(label) {
        return None;
    }
    let found = label.split_once('-').and_then(|(port, sandbox)| {
        let digits = sandbox.strip_prefix("sbx_").or_else(|| sandbox.strip_prefix("sbx-"));
        let digits = digits.unwrap_or(sandbox);
        Some((format!("sbx_{digits}").parse().ok()?, number(port)?))
    });
    Some(found.ok_or_else(|| {
        Failure::new(ErrorCode::NotFound, "no port of a sandbox has this host name")
            .with_hint(format!("one is 8000-0123456789abcdef.{domain}"))
    }))
}

/// Whether a host name is one that pages of sandboxes have, whatever the domain.
pub(crate) fn begins_like_a_port(host: &str) -> bool {
    let digits = host.bytes().take_while(u8::is_ascii_digit).count();
    digits > 0 && host.as_bytes().get(digits) == Some(&b'-')
}

/// The host of a host and port.
fn name_of(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

/// The port of a host and port, as it is written, with its colon.
pub(crate) fn port_of(host: &str) -> &str {
    host.get(name_of(host).len()..).unwrap_or_default()
}

fn by_headers(headers: &HeaderMap) -> Option<Result<(SandboxId, u16), Failure>> {
    ROUTING_HEADERS.iter().find_map(|(sandbox, port)| {
        let given = |name| headers.get_all(name).iter().collect::<Vec<_>>();
        let (sandboxes, ports) = (given(sandbox), given(port));
        if sandboxes.is_empty() && ports.is_empty() {
            return None;
        }
        let one = |values: &[&HeaderValue]| match values {
            [value] => value.to_str().ok().map(str::to_owned),
            _ => None,
        };
        let found = one(&sandboxes).and_then(|id| id.parse().ok());
        let found = found.zip(one(&ports).as_deref().and_then(number));
        Some(found.ok_or_else(|| {
            let message = format!("`{sandbox}` and `{port}` must each be there once, and be right");
            Failure::new(ErrorCode::InvalidRequest, message)
                .with_hint(format!("send `{sandbox}: sbx_…` and `{port}: 8000`"))
        }))
    })
}

/// `/v1/sandboxes/{id}/ports/{port}/…`; what has no slash after the port is an operation of the API.
/// A path written any other way is not taken apart here, and no operation of the API either.
fn by_path(path: &str) -> Option<(SandboxId, u16, usize)> {
    let (sandbox, rest) = path.strip_prefix("/v1/sandboxes/")?.split_once('/')?;
    let (port, rest) = rest.strip_prefix("ports/")?.split_once('/')?;
    let prefix = path.len() - rest.len() - 1;
    Some((sandbox.parse().ok()?, number(port)?, prefix))
}

/// A port, written the one way it is written.
pub(crate) fn number(text: &str) -> Option<u16> {
    let canonical = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| canonical)
}

#[cfg(test)]
mod test;
