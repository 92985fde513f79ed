//! TLS from certificate files.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// How HTTP is called in a handshake.
pub(crate) const HTTP: &[u8] = b"http/1.1";
/// LIMIT: a chain is the node's own certificate and a few above it.
const CHAIN_MAX: usize = 16;

/// TLS with the certificate chain in `cert` and its key in `key`, both PEM files, for a protocol of this name.
pub(crate) fn acceptor(cert: &Path, key: &Path, protocol: &[u8]) -> Result<TlsAcceptor> {
    let chain = certificates(cert)?;
    let private = PrivateKeyDer::from_pem_file(key)
        .with_context(|| format!("read the private key in `{}`", key.display()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .context("choose versions of TLS")?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .with_context(|| format!("use `{}` with the key in `{}`", cert.display(), key.display()))?;
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The certificates in a PEM file.
pub(crate) fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let bad_file = || format!("read the certificates in `{}`", file.display());
    let all = CertificateDer::pem_file_iter(file).with_context(bad_file)?;
    let all: Vec<_> = all.take(CHAIN_MAX + 1).collect::<Result<_, _>>().with_context(bad_file)?;
    if all.is_empty() {
        bail!("`{}` contains no certificate; give a PEM file with the chain", file.display());
    }
    if all.len() > CHAIN_MAX {
        bail!("`{}` contains more than {CHAIN_MAX} certificates", file.display());
    }
    Ok(all)
}

#[cfg(test)]
mod test {
    use std::fs;
    use std::net::SocketAddr;
    use std::path::PathBuf;
    use std::time::Duration;

    use api_node::Limits;
    use client::{Client, Credentials};
    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::JoinHandle;
    use tokio::time::timeout;
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

    /// A node that says that it serves, over TLS.
    struct Served {
        files: Files,
        address: SocketAddr,
        stop: CancellationToken,
        serving: JoinHandle<()>,
    }

    impl Served {
        async fn within(limits: Limits) -> Self {
            let files = Files::new();
            let tls = acceptor(&files.path("cert.pem"), &files.path("key.pem"), HTTP).unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let health = r#"{"ready":true,"version":"1"}"#;
            let router = axum::Router::new()
                .route("/v1/health", axum::routing::get(move || async move { health }));
            let stop = CancellationToken::new();
            let stopped = stop.clone().cancelled_owned();
            let serving = api_node::serve(listener, router, Some(tls), limits, stopped);
            Self { files, address, stop, serving: tokio::spawn(serving) }
        }

        /// A client that knows its certificate.
        fn client(&self) -> Client {
            let ca = Some(fs::read(self.files.path("cert.pem")).unwrap());
            let credentials = Credentials { ca, ..Credentials::default() };
            Client::with(&format!("https://{}", self.address), &credentials).unwrap()
        }

        async fn end(self) {
            self.stop.cancel();
            self.serving.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_client_that_knows_the_certificate_is_served_and_others_are_not() {
        let served = Served::within(Limits::default()).await;
        assert!(served.client().health().await.unwrap().ready);
        for scheme in ["https", "http"] {
            let stranger = Client::new(&format!("{scheme}://{}", served.address)).unwrap();
            assert!(stranger.health().await.is_err(), "{scheme}");
        }
        served.end().await;
    }

    #[tokio::test]
    async fn handshakes_that_never_end_are_given_up_and_keep_nobody_out() {
        let handshake_within = Duration::from_secs(1);
        let limits = Limits { connections: 4, handshake_within, ..Limits::default() };
        let served = Served::within(limits).await;
        let mut silent = Vec::new();
        for _ in 0..10 {
            let mut one = TcpStream::connect(served.address).await.unwrap();
            // The beginning of a hello.
            one.write_all(&[22, 3, 1]).await.unwrap();
            silent.push(one);
            assert!(served.client().health().await.unwrap().ready);
        }
        let mut rest = Vec::new();
        for mut one in silent {
            // Closed or reset; either way it is over.
            let ended = timeout(Duration::from_secs(60), one.read_to_end(&mut rest)).await;
            assert!(ended.is_ok() && rest.is_empty(), "{rest:?}");
        }
        served.end().await;
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
            let Err(error) = acceptor(&cert, &key, HTTP) else { panic!("{says}") };
            assert!(format!("{error:#}").contains(says), "{error:#}");
        }
    }
}
