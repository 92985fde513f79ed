//! What a node may be reached by, decided before anything starts.

use std::net::SocketAddr;

use anyhow::{Result, bail};

/// How a node is reached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exposure {
    /// Where it listens.
    pub(crate) listen: SocketAddr,
    /// Whether it asks for keys.
    pub(crate) keys: bool,
    /// Whether it speaks TLS.
    pub(crate) tls: bool,
    /// Whether its user says that the network ends at this machine.
    pub(crate) trusted: bool,
}

impl Exposure {
    /// Refuses what would give the node, or the keys to it, to strangers.
    pub(crate) fn check(self) -> Result<()> {
        let Self { listen, keys, tls, trusted } = self;
        if listen.ip().is_loopback() {
            return Ok(());
        }
        if !keys {
            bail!(
                "--no-auth would give this node to everybody who reaches {listen}; leave it out, or \
                 listen on 127.0.0.1"
            );
        }
        if !tls && !trusted {
            bail!(
                "without TLS, keys could be read on their way to {listen}; give --tls-cert and \
                 --tls-key, or listen on 127.0.0.1 (or say --trust-network if nothing but this \
                 machine reaches that address)"
            );
        }
        Ok(())
    }

    /// Refuses what would show strangers what is said to databases, where connections to them are taken at `at`.
    pub(crate) fn check_databases(self, at: SocketAddr) -> Result<()> {
        let Self { tls, trusted, .. } = self;
        if !at.ip().is_loopback() && !tls && !trusted {
            bail!(
                "without TLS, what is said to databases could be read on its way to {at}; give --tls-cert \
                 and --tls-key, or listen on 127.0.0.1 (or say --trust-network if nothing but this \
                 machine reaches that address)"
            );
        }
        Ok(())
    }

    /// What its user should hear about it.
    pub(crate) fn warning(self) -> Option<String> {
        let Self { listen, keys, tls, .. } = self;
        if !keys {
            return Some(format!(
                "--no-auth: every program and user of this machine controls the node at {listen}"
            ));
        }
        (!listen.ip().is_loopback() && !tls)
            .then(|| format!("keys travel unencrypted to {listen}: only over a network you trust"))
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn beyond_loopback_a_node_wants_keys_and_tls() {
        let cases = [
            // listen, keys, tls, trusted; allowed, warned
            ("127.0.0.1:1", true, false, false, true, false),
            ("[::1]:1", false, false, false, true, true),
            ("0.0.0.0:1", true, true, false, true, false),
            ("0.0.0.0:1", true, false, false, false, true),
            ("0.0.0.0:1", false, true, false, false, true),
            ("0.0.0.0:1", false, true, true, false, true),
            ("10.0.2.15:7878", true, false, true, true, true),
            ("10.0.2.15:7878", false, false, true, false, true),
        ];
        for (listen, keys, tls, trusted, allowed, warned) in cases {
            let exposure = Exposure { listen: listen.parse().unwrap(), keys, tls, trusted };
            assert_eq!(exposure.check().is_ok(), allowed, "{exposure:?}");
            assert_eq!(exposure.warning().is_some(), warned, "{exposure:?}");
        }
    }

    #[test]
    fn databases_are_reached_from_elsewhere_by_tls_or_over_a_network_that_is_trusted() {
        let listen = "127.0.0.1:1".parse().unwrap();
        for (at, tls, trusted, allowed) in [
            ("127.0.0.1:5432", false, false, true),
            ("[::1]:5432", false, false, true),
            ("0.0.0.0:5432", false, false, false),
            ("0.0.0.0:5432", true, false, true),
            ("10.0.2.15:5432", false, true, true),
        ] {
            let exposure = Exposure { listen, keys: true, tls, trusted };
            let checked = exposure.check_databases(at.parse().unwrap());
            assert_eq!(checked.is_ok(), allowed, "{at} {exposure:?}");
        }
    }

    #[test]
    fn a_refusal_is_one_sentence_that_says_what_to_do() {
        let listen = "0.0.0.0:7878".parse().unwrap();
        for (keys, says) in [(false, "leave it out"), (true, "give --tls-cert and --tls-key")] {
            let refused = Exposure { listen, keys, tls: false, trusted: false }.check();
            let said = refused.unwrap_err().to_string();
            assert!(said.contains(says) && said.contains("0.0.0.0:7878"), "{said}");
            assert!(!said.contains('\n') && !said.ends_with('.'), "{said}");
        }
    }
}
