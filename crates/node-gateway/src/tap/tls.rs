//! TLS that is ended here, with a certificate of the node's own, and begun anew to the host.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use api_node::DomainName;
use tokio::io::DuplexStream;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::server::Acceptor;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::ahead::Ahead;
use super::relay::{refuse, relay};
use super::replace::Place;
use super::{HTTPS_PORT, Tap};
use crate::authority::{ALPN, provider};

/// LIMIT: bytes in which a client says whom it wants to speak to. Those with the keys of the next
/// decade take some thousand.
const HELLO_BYTES_MAX: usize = 32 * 1024;
/// How long a handshake may take, and the first word of it.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(20);

/// What a client wants.
pub(super) enum Opened {
    /// A host of the sandbox's secrets, as which it is answered.
    Here(DomainName, Arc<ServerConfig>),
    /// Anything else.
    Elsewhere,
}

/// How hosts are known to be themselves: by the authorities browsers trust, and `more`.
pub(crate) fn client_config(more: &[CertificateDer<'static>]) -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    for certificate in more {
        roots.add(certificate.clone()).map_err(io::Error::other)?;
    }
    let config = ClientConfig::builder_with_provider(provider());
    let config = config.with_safe_default_protocol_versions().map_err(io::Error::other)?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A session is a sandbox's own; this is shared.
    config.resumption = tokio_rustls::rustls::client::Resumption::disabled();
    Ok(config)
}

/// Reads whom a client wants to speak to; what it read stays to be read.
pub(super) async fn open(tap: &Tap, near: &mut Ahead<DuplexStream>) -> io::Result<Opened> {
    let Some(authority) = &tap.authority else { return Ok(Opened::Elsewhere) };
    let named = timeout(HANDSHAKE_WITHIN, server_name(near)).await??;
    let name = named.and_then(|name| name.parse::<DomainName>().ok());
    let Some(name) = name.filter(|name| tap.names.contains(name)) else {
        return Ok(Opened::Elsewhere);
    };
    if !Tap::wants(tap.secrets.as_ref(), std::slice::from_ref(&name), tap.port) {
        return Ok(Opened::Elsewhere);
    }
    let config = authority.server(&name).map_err(io::Error::other)?;
    Ok(Opened::Here(name, config))
}

/// The name in a client's first words; `None` when it gives none, or it is no TLS.
async fn server_name(near: &mut Ahead<DuplexStream>) -> io::Result<Option<String>> {
    let mut acceptor = Acceptor::default();
    let mut words = near.seen().to_vec();
    loop {
        let mut rest = words.as_slice();
        while !rest.is_empty() {
            if acceptor.read_tls(&mut rest)? == 0 {
                return Ok(None);
            }
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                return Ok(accepted.client_hello().server_name().map(str::to_owned));
            }
            Ok(None) if near.seen().len() < HELLO_BYTES_MAX => {}
            Ok(None) | Err(_) => return Ok(None),
        }
        words = near.look().await?.to_vec();
        if words.is_empty() {
            return Ok(None);
        }
    }
}

/// Speaks as `name` to the guest, and to the host that is.
pub(super) async fn serve(
    tap: &Tap,
    name: DomainName,
    config: Arc<ServerConfig>,
    near: Ahead<DuplexStream>,
    far: TcpStream,
) {
    let Ok(server_name) = ServerName::try_from(name.as_str().to_owned()) else { return };
    let near = timeout(HANDSHAKE_WITHIN, TlsAcceptor::from(config).accept(near));
    let connector = TlsConnector::from(tap.client.clone());
    let far = timeout(HANDSHAKE_WITHIN, connector.connect(server_name, far));
    let (near, far) = tokio::join!(near, far);
    // The guest did not trust us, or left.
    let Ok(Ok(near)) = near else { return };
    let place = Place { names: vec![name], port: tap.port, usual_port: HTTPS_PORT };
    let why = match far {
        Ok(Ok(far)) => {
            // An error is one of the two ends', which the guest sees as the end.
            let _ = Box::pin(relay(tap, &place, near, far)).await;
            return;
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it did not answer in time".to_owned(),
    };
    let host = &place.names[..];
    let host = host.first().map_or("the host", DomainName::as_str);
    let why = format!("no secure connection to {host}: {why}");
    let _ = Box::pin(refuse(tap, &place, near, why)).await;
}
