//! TLS from certificate files.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// LIMIT: a chain is the node's own certificate and a few above it.
const CHAIN_MAX: usize = 16;

/// TLS with the certificate chain in `cert` and its key in `key`, both PEM files.
pub(crate) fn acceptor(cert: &Path, key: &Path) -> Result<TlsAcceptor> {
    let bad_cert = || format!("read the certificates in `{}`", cert.display());
    let chain = CertificateDer::pem_file_iter(cert).with_context(bad_cert)?;
    let chain: Vec<_> =
        chain.take(CHAIN_MAX + 1).collect::<Result<_, _>>().with_context(bad_cert)?;
    if chain.is_empty() {
        bail!("`{}` contains no certificate; give a PEM file with the chain", cert.display());
    }
    if chain.len() > CHAIN_MAX {
        bail!("`{}` contains more than {CHAIN_MAX} certificates", cert.display());
    }
    let private = PrivateKeyDer::from_pem_file(key)
        .with_context(|| format!("read the private key in `{}`", key.display()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .context("choose versions of TLS")?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .with_context(|| format!("use `{}` with the key in `{}`", cert.display(), key.display()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

#[cfg(test)]
mod test {
    use std::fs;
    use std::path::PathBuf;

    use client::{Client, Credentials};
    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;

    use super::*;

    struct Files {
        dir: tempfile::TempDir,
    }

    impl Files {
        fn new() -> Self {
            let names = vec!["127.0.0.1".to_owned()];
            let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).unwrap();
            let dir = tempfile::tempdir().unwrap();
            let files = Self { dir };
            fs::write(files.path("cert.pem"), cert.pem()).unwrap();
            fs::write(files.path("key.pem"), signing_key.serialize_pem()).unwrap();
            files
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }
    }

    #[tokio::test]
    async fn a_client_that_knows_the_certificate_is_served_and_others_are_not() {
        let files = Files::new();
        let tls = acceptor(&files.path("cert.pem"), &files.path("key.pem")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let health = r#"{"ready":true,"version":"1"}"#;
        let router = axum::Router::new()
            .route("/v1/health", axum::routing::get(move || async move { health }));
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let serving = tokio::spawn(api_node::serve(listener, router, Some(tls), stopped));

        let url = format!("https://{address}");
        let ca = Some(fs::read(files.path("cert.pem")).unwrap());
        let knowing = Client::with(&url, &Credentials { ca, ..Credentials::default() }).unwrap();
        assert!(knowing.health().await.unwrap().ready);
        assert!(Client::new(&url).unwrap().health().await.is_err());
        assert!(Client::new(&format!("http://{address}")).unwrap().health().await.is_err());
        stop.cancel();
        serving.await.unwrap();
    }

    #[test]
    fn a_bad_file_is_named_with_its_fault() {
        let (files, others) = (Files::new(), Files::new());
        fs::write(files.path("empty"), "").unwrap();
        fs::write(files.path("torn"), "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----")
            .unwrap();
        let (cert, key) = (files.path("cert.pem"), files.path("key.pem"));
        let cases = [
            (files.path("missing"), key.clone(), "missing"),
            (files.path("empty"), key.clone(), "contains no certificate"),
            (files.path("torn"), key, "torn"),
            (cert.clone(), files.path("empty"), "private key"),
            (cert.clone(), cert.clone(), "private key"),
            (cert, others.path("key.pem"), "with the key in"),
        ];
        for (cert, key, says) in cases {
            let Err(error) = acceptor(&cert, &key) else { panic!("{says}") };
            assert!(format!("{error:#}").contains(says), "{error:#}");
        }
    }
}
