//! Which address a node has, and how to reach it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use api_node::Secret;
use reqwest::Certificate;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::redirect::Policy;

use crate::error::ClientError;

/// A node is near; one that does not take a connection in this time is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// LIMIT: well under the time after which a node closes a connection nobody uses, so that no request
/// meets that.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// What a node needs to be asked, besides its address.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// The API key, if the node wants one.
    pub key: Option<Secret>,
    /// Certificates, in PEM, that the node's is accepted by; besides those the web accepts.
    pub ca: Option<Vec<u8>>,
}

/// The HTTP client and the checked address, without a slash at its end.
pub(crate) fn connector(
    url: &str,
    credentials: &Credentials,
) -> Result<(reqwest::Client, String), ClientError> {
    let bad = |reason| ClientError::BadUrl { url: url.chars().take(200).collect(), reason };
    let parsed = reqwest::Url::parse(url).map_err(|_| bad("it is not a URL"))?;
    if !matches!(parsed.scheme(), "http" | "https") {
        return Err(bad("it does not start with http:// or https://"));
    }
    match parsed.host_str() {
        Some("localhost") => {}
        Some(host) if host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok() => {}
        _ => return Err(bad("its host is neither an IP address nor localhost")),
    }
    if !matches!(parsed.path(), "" | "/") || parsed.query().is_some() {
        return Err(bad("it has a path"));
    }
    let mut http = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .dns_resolver(Arc::new(OnlyLocalhost))
        // A node is on this machine or beside it: a proxy named in the environment is for others.
        .no_proxy()
        .redirect(Policy::none());
    if let Some(key) = &credentials.key {
        let value = HeaderValue::from_str(&format!("Bearer {}", key.text()));
        let mut value = value.map_err(|_| bad("its key cannot be sent"))?;
        value.set_sensitive(true);
        http = http.default_headers(HeaderMap::from_iter([(AUTHORIZATION, value)]));
    }
    if let Some(pem) = &credentials.ca {
        let certificates = Certificate::from_pem_bundle(pem).map_err(ClientError::BadCa)?;
        if certificates.is_empty() {
            return Err(ClientError::NoCa);
        }
        for certificate in certificates {
            http = http.add_root_certificate(certificate);
        }
    }
    let http = http.build().map_err(|_| bad("no HTTP client could be made for it"))?;
    Ok((http, url.trim_end_matches('/').to_owned()))
}

/// Names besides `localhost` would need the C library's resolver, which a static program lacks.
struct OnlyLocalhost;

impl Resolve for OnlyLocalhost {
    fn resolve(&self, name: Name) -> Resolving {
        let local = name.as_str().eq_ignore_ascii_case("localhost");
        Box::pin(async move {
            if local {
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
                let addresses: Addrs = Box::new(std::iter::once(address));
                Ok(addresses)
            } else {
                Err("only IP addresses and localhost can be reached".into())
            }
        })
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn an_address_that_cannot_be_a_node_is_refused_with_its_reason() {
        let none = Credentials::default();
        for url in ["http://127.0.0.1:7878", "http://localhost:1/", "https://[::1]:80"] {
            assert!(connector(url, &none).is_ok(), "{url}");
        }
        for url in
            ["", "127.0.0.1:7878", "ftp://127.0.0.1", "http://node.example", "http://1.2.3.4/x"]
        {
            assert!(matches!(connector(url, &none), Err(ClientError::BadUrl { .. })), "{url}");
        }
    }

    #[test]
    fn certificates_that_are_none_are_refused() {
        for ca in ["", "-----BEGIN CERTIFICATE-----\nnot base64\n-----END CERTIFICATE-----\n"] {
            let credentials = Credentials { ca: Some(ca.into()), ..Credentials::default() };
            assert!(connector("https://127.0.0.1", &credentials).is_err(), "{ca}");
        }
    }
}
