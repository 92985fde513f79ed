//! Values in place of placeholders, in the head of one request. Pure.

use std::fmt;

use api_node::{DomainName, SecretName, SecretValue};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::http::uri::{Authority, PathAndQuery};
use hyper::{Method, StatusCode, Uri};

use crate::secrets::Granted;

/// LIMIT: placeholders in one request. One has a key, or a user and a password; each may grow to the
/// length of a value.
const PLACEHOLDERS_MAX: usize = 32;

/// Where the connection of a request goes.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Names a request may be for: those that gave its address, or the one TLS was begun with.
    pub(super) names: Vec<DomainName>,
    pub(super) port: u16,
    /// The port a host has whose port is not said.
    pub(super) usual_port: u16,
}

/// What a request used.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Used {
    /// Where it goes.
    pub(super) host: DomainName,
    /// Secrets whose values are in it now.
    pub(super) secrets: Vec<SecretName>,
}

/// Why a request does not go out. Says nothing of values.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    NoHost,
    OtherHost { asked: String, names: Vec<DomainName> },
    Deleted { variable: String, secret: SecretName, host: DomainName },
    TooMany,
    Unwritable,
}

impl Refusal {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::NoHost | Self::Unwritable => StatusCode::BAD_REQUEST,
            Self::OtherHost { .. } => StatusCode::MISDIRECTED_REQUEST,
            Self::Deleted { .. } => StatusCode::BAD_GATEWAY,
            Self::TooMany => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHost => f.write_str(
                "the request has no host, or more than one; a connection of a sandbox to a host of \
                 its secrets needs one `Host` header",
            ),
            Self::OtherHost { asked, names } => {
                let names: Vec<_> = names.iter().map(DomainName::as_str).collect();
                let (asked, names) = (asked.escape_debug(), names.join(", "));
                write!(f, "the request is for `{asked}`, but its connection goes to {names}")
            }
            Self::Deleted { variable, secret, host } => write!(
                f,
                "the secret `{secret}` of ${variable} was deleted, so nothing was sent to {host}; set \
                 it again, or take the variable out of the request"
            ),
            Self::TooMany => {
                write!(f, "the request has more than {PLACEHOLDERS_MAX} placeholders of secrets")
            }
            Self::Unwritable => f.write_str("the request's target is none"),
        }
    }
}

/// Replaces the placeholders of `granted` in a request's head, as far as they may go to its host; all
/// others stay as they are.
pub(super) fn replace(
    head: &mut Parts,
    place: &Place,
    granted: &[Granted],
) -> Result<Used, Refusal> {
    let host = host(head, place)?;
    let here: Vec<&Granted> = granted.iter().filter(|it| it.goes_to(&host, place.port)).collect();
    let mut work = Work { here: &here, host: &host, secrets: Vec::new(), left: PLACEHOLDERS_MAX };
    let path = head.uri.path_and_query().map_or("", PathAndQuery::as_str);
    if let Some(path) = work.bytes(path.as_bytes(), &escaped)? {
        let path = PathAndQuery::try_from(path).map_err(|_| Refusal::Unwritable)?;
        let mut parts = std::mem::take(&mut head.uri).into_parts();
        parts.path_and_query = Some(path);
        head.uri = Uri::from_parts(parts).map_err(|_| Refusal::Unwritable)?;
    }
    for (name, value) in &mut head.headers {
        let plain = work.bytes(value.as_bytes(), &plain)?;
        let basic = match (plain.is_none(), name == AUTHORIZATION) {
            (true, true) => work.basic(value.as_bytes())?,
            _ => None,
        };
        if let Some(bytes) = plain.or(basic) {
            *value = HeaderValue::from_bytes(&bytes).map_err(|_| Refusal::Unwritable)?;
            value.set_sensitive(true);
        }
    }
    let secrets = work.secrets;
    // One server is one origin: it knows itself by its `Host`.
    if head.method != Method::CONNECT && head.uri.authority().is_some() {
        let path = head.uri.path_and_query().cloned();
        let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
        head.uri = Uri::from(path);
    }
    Ok(Used { host, secrets })
}

/// The host a request is for, which is one of those its connection goes to.
fn host(head: &Parts, place: &Place) -> Result<DomainName, Refusal> {
    let said = one_host(&head.headers)?;
    let said: Authority = said.parse().map_err(|_| Refusal::NoHost)?;
    let other = |asked: &Authority| Refusal::OtherHost {
        asked: asked.as_str().chars().take(256).collect(),
        names: place.names.clone(),
    };
    let port = |of: &Authority| of.port_u16().unwrap_or(place.usual_port);
    let is_here = |of: &Authority| {
        // A port that is left out is forgiven, as many do that.
        let port_fits = of.port().is_none() || port(of) == place.port;
        let has_user = of.as_str().contains('@');
        let name = of.host().parse::<DomainName>().ok();
        name.filter(|name| port_fits && !has_user && place.names.contains(name))
    };
    let host = is_here(&said).ok_or_else(|| other(&said))?;
    // A request that names another host in its target would be for that.
    if let Some(target) = head.uri.authority()
        && is_here(target).is_none_or(|target| target != host)
    {
        return Err(other(target));
    }
    Ok(host)
}

fn one_host(headers: &HeaderMap) -> Result<&str, Refusal> {
    let mut all = headers.get_all(HOST).into_iter();
    match (all.next(), all.next()) {
        (Some(host), None) => host.to_str().map_err(|_| Refusal::NoHost),
        _ => Err(Refusal::NoHost),
    }
}

struct Work<'a> {
    here: &'a [&'a Granted],
    host: &'a DomainName,
    secrets: Vec<SecretName>,
    left: usize,
}

impl Work<'_> {
    /// `text` with the values in it, as `write` writes them. `None` when it has no placeholder.
    fn bytes(
        &mut self,
        text: &[u8],
        write: &dyn Fn(&SecretValue) -> Vec<u8>,
    ) -> Result<Option<Vec<u8>>, Refusal> {
        let mut written: Option<Vec<u8>> = None;
        for granted in self.here {
            let from = granted.placeholder.as_str().as_bytes();
            let before = written.as_deref().unwrap_or(text);
            let Some(first) = find(before, from) else { continue };
            let Some(value) = &granted.value else {
                return Err(Refusal::Deleted {
                    variable: granted.variable.clone(),
                    secret: granted.name.clone(),
                    host: self.host.clone(),
                });
            };
            let to = write(value);
            let (mut after, mut rest, mut next) = (Vec::new(), before, Some(first));
            while let Some(at) = next {
                self.left = self.left.checked_sub(1).ok_or(Refusal::TooMany)?;
                after.extend_from_slice(rest.get(..at).unwrap_or_default());
                after.extend_from_slice(&to);
                rest = rest.get(at + from.len()..).unwrap_or_default();
                next = find(rest, from);
            }
            after.extend_from_slice(rest);
            written = Some(after);
            if !self.secrets.contains(&granted.name) {
                self.secrets.push(granted.name.clone());
            }
        }
        Ok(written)
    }

    /// The same in a user and a password as `Authorization` has them.
    fn basic(&mut self, value: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
        let scheme = value.get(..6).filter(|it| it.eq_ignore_ascii_case(b"basic "));
        let Some(scheme) = scheme else { return Ok(None) };
        let encoded = value.get(6..).unwrap_or_default().trim_ascii();
        let Ok(decoded) = BASE64_STANDARD.decode(encoded) else { return Ok(None) };
        let replaced = self.bytes(&decoded, &plain)?;
        Ok(replaced.map(|bytes| [scheme, BASE64_STANDARD.encode(bytes).as_bytes()].concat()))
    }
}

fn plain(value: &SecretValue) -> Vec<u8> {
    value.expose().as_bytes().to_vec()
}

/// As a target has it: what means nothing in one as it is, all else by its number.
fn escaped(value: &SecretValue) -> Vec<u8> {
    let mut text = Vec::new();
    for byte in value.expose().bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(byte);
        } else {
            text.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    text
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod test;
