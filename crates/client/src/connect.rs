//! Which address a node has, and how to reach it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;

use crate::error::ClientError;

/// A node is near; one that does not take a connection in this time is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The HTTP client and the checked address, without a slash at its end.
pub(crate) fn connector(url: &str) -> Result<(reqwest::Client, String), ClientError> {
    let bad = |reason| ClientError::BadUrl { url: url.chars().take(200).collect(), reason };
    let parsed = reqwest::Url::parse(url).map_err(|_| bad("it is not a URL"))?;
    if parsed.scheme() != "http" {
        return Err(bad("it does not start with http://"));
    }
    match parsed.host_str() {
        Some("localhost") => {}
        Some(host) if host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok() => {}
        _ => return Err(bad("its host is neither an IP address nor localhost")),
    }
    if !matches!(parsed.path(), "" | "/") || parsed.query().is_some() {
        return Err(bad("it has a path"));
    }
    let http = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .dns_resolver(Arc::new(OnlyLocalhost))
        // A node is on this machine or beside it: a proxy named in the environment is for others.
        .no_proxy()
        .redirect(Policy::none())
        .build()
        .map_err(|_| bad("no HTTP client could be made for it"))?;
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
        for url in ["http://127.0.0.1:7878", "http://localhost:1/", "http://[::1]:80"] {
            assert!(connector(url).is_ok(), "{url}");
        }
        for url in
            ["", "127.0.0.1:7878", "https://127.0.0.1", "http://node.example", "http://1.2.3.4/x"]
        {
            assert!(matches!(connector(url), Err(ClientError::BadUrl { .. })), "{url}");
        }
    }
}
