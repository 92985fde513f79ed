//! Secrets in HTTPS.

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::sync::Arc;

use node_gateway::Authority;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use smoltcp::iface::SocketHandle;
use tempfile::TempDir;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
};

use crate::guest::Guest;
use crate::site::{Asked, PLACEHOLDER, VALUE, Vault, answer, connect, with_key};
use crate::world::{Has, Resolver, SITE, World, serve, settings};

/// An authority of the world, a gateway that trusts it, and one of its own.
struct Ends {
    world: World,
    issuer: CertifiedIssuer<'static, KeyPair>,
    authority: Arc<Authority>,
    _dir: TempDir,
}

impl Ends {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let resolver = Resolver::new(&[
            ("site.test", Has::Addresses(vec![SITE])),
            ("neighbour.test", Has::Addresses(vec![SITE])),
        ]);
        let dir = tempfile::tempdir().unwrap();
        let authority = Arc::new(Authority::open(dir.path()).unwrap());
        let mut settings = settings(Some(resolver.address));
        settings.authority = Some(authority.clone());
        settings.roots = vec![issuer.der().clone()];
        Self { world: World::with(settings), issuer, authority, _dir: dir }
    }

    /// A server that is these names, if the world believes it.
    fn site(&self, address: Ipv4Addr, names: &[&str]) -> (u16, Asked) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let params = CertificateParams::new(names).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let mut config = config.with_single_cert(vec![certificate], key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let (config, asked) = (Arc::new(config), Asked::default());
        let kept = asked.clone();
        let port = serve(address, move |stream| {
            let session = ServerConnection::new(config.clone()).unwrap();
            answer(StreamOwned::new(session, stream), &kept);
        });
        (port, asked)
    }

    /// What a guest trusts: the node's authority, or the world's.
    fn trusting(&self, node: bool) -> Arc<ClientConfig> {
        let node_root = CertificateDer::from_pem_slice(self.authority.pem().as_bytes()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(if node { node_root } else { self.issuer.der().clone() }).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap();
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

/// A guest's connection as a stream that waits.
struct Wire<'a>(&'a mut Guest, SocketHandle);

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let Self(guest, handle) = self;
        Ok(guest.until("bytes", |guest| {
            let socket = guest.tcp(*handle);
            match socket.can_recv() {
                true => Some(socket.recv_slice(buffer).unwrap()),
                false => (!socket.may_recv()).then_some(0),
            }
        }))
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(self.1, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

type Session<'a> = StreamOwned<ClientConnection, Wire<'a>>;

/// A session as a guest begins one.
fn session<'a>(
    guest: &'a mut Guest,
    handle: SocketHandle,
    trusting: &Arc<ClientConfig>,
    name: &str,
) -> Session<'a> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let client = ClientConnection::new(trusting.clone(), name).unwrap();
    StreamOwned::new(client, Wire(guest, handle))
}

/// Says it, and hears an answer with its length, or until the end.
fn say(session: &mut Session<'_>, text: &str) -> std::io::Result<String> {
    session.write_all(text.as_bytes())?;
    session.flush()?;
    let (mut heard, mut byte) = (String::new(), [0]);
    while !(heard.ends_with("\r\n\r\nok") || heard.ends_with(".\n")) {
        if session.read(&mut byte)? == 0 {
            break;
        }
        heard.push(char::from(byte[0]));
    }
    Ok(heard)
}

#[test]
fn a_value_is_put_in_for_a_host_that_proves_itself() {
    let mut ends = Ends::new();
    let (port, asked) = ends.site(SITE, &["site.test"]);
    let trusting = ends.trusting(true);
    let vault = Vault::of(&[&format!("site.test:{port}")]);
    let mut sandbox = ends.world.trusted(vault.clone());
    let handle = connect(&mut sandbox, "site.test", port);
    let mut guest = session(&mut sandbox.guest, handle, &trusting, "site.test");
    let host = format!("site.test:{port}");
    assert!(say(&mut guest, &with_key("/", &host)).unwrap().ends_with("ok"));
    assert_eq!(asked.last(), with_key("/", &host).replace(PLACEHOLDER, VALUE));
    assert_eq!(guest.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    vault.set(Some("another"));
    assert!(say(&mut guest, &with_key("/", &host)).unwrap().ends_with("ok"));
    assert!(asked.last().contains("X-Api-Key: another\r\n"));
    // The connection is that host's, whatever a request says.
    let answer = say(&mut guest, &with_key("/", "neighbour.test")).unwrap();
    assert!(answer.starts_with("HTTP/1.1 421 "), "{answer}");
    assert_eq!(asked.all().len(), 2);
    ends.world.told.find("use", |flow| flow.reason == "secret key");
}

#[test]
fn a_host_that_does_not_prove_itself_gets_nothing() {
    let mut ends = Ends::new();
    // Its certificate is another's.
    let (port, asked) = ends.site(SITE, &["neighbour.test"]);
    let trusting = ends.trusting(true);
    let mut sandbox = ends.world.trusted(Vault::of(&[&format!("site.test:{port}")]));
    let handle = connect(&mut sandbox, "site.test", port);
    let mut guest = session(&mut sandbox.guest, handle, &trusting, "site.test");
    let answer = say(&mut guest, &with_key("/", "site.test")).unwrap();
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert!(answer.contains("no secure connection to site.test: "), "{answer}");
    // And one that speaks no TLS at all.
    let plain = Asked::default();
    let kept = plain.clone();
    let port = serve(SITE, move |stream| answer_plain(stream, &kept));
    let mut sandbox = ends.world.trusted(Vault::of(&[&format!("site.test:{port}")]));
    let handle = connect(&mut sandbox, "site.test", port);
    let mut guest = session(&mut sandbox.guest, handle, &trusting, "site.test");
    let answer = say(&mut guest, &with_key("/", "site.test")).unwrap();
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert_eq!((asked.all(), plain.all()), (Vec::new(), Vec::new()));
}

fn answer_plain(mut stream: std::net::TcpStream, asked: &Asked) {
    let _ = stream.write_all(b"220 hello\r\n");
    answer(stream, asked);
}

#[test]
fn tls_to_any_other_host_is_the_guests_own() {
    let mut ends = Ends::new();
    let (port, asked) = ends.site(SITE, &["site.test", "neighbour.test"]);
    let (world_root, node_root) = (ends.trusting(false), ends.trusting(true));
    // The address is a secret's host's, the name is not.
    let mut sandbox = ends.world.trusted(Vault::of(&[&format!("site.test:{port}")]));
    connect(&mut sandbox, "site.test", port);
    let handle = connect(&mut sandbox, "neighbour.test", port);
    let mut guest = session(&mut sandbox.guest, handle, &world_root, "neighbour.test");
    // It may speak of the other host there, and gets nothing for it.
    guest.write_all(with_key("/", "site.test").as_bytes()).unwrap();
    guest.flush().unwrap();
    let mut byte = [0; 8];
    guest.read_exact(&mut byte).unwrap();
    assert_eq!(guest.conn.alpn_protocol(), Some(&b"h2"[..]));
    assert!(asked.last().contains(PLACEHOLDER));
    // Nobody else's name is answered for by the node.
    let handle = connect(&mut sandbox, "neighbour.test", port);
    let mut guest = session(&mut sandbox.guest, handle, &node_root, "neighbour.test");
    say(&mut guest, "GET / HTTP/1.1\r\n\r\n").unwrap_err();
    // And a name it was told nothing about leads past the gateway too.
    let mut nameless = ends.world.trusted(Vault::of(&[&format!("site.test:{port}")]));
    let handle = nameless.guest.connect(SITE, port).unwrap();
    let mut guest = session(&mut nameless.guest, handle, &node_root, "site.test");
    say(&mut guest, &with_key("/", "site.test")).unwrap_err();
    assert!(!asked.all().concat().contains(VALUE));
}

#[test]
fn words_that_are_no_tls_after_all_pass_untouched() {
    let mut ends = Ends::new();
    let port = crate::world::echo_server(SITE);
    let mut sandbox = ends.world.trusted(Vault::of(&[&format!("site.test:{port}")]));
    for words in [&b"\x16\x03\x01\x00\x05hello and more"[..], b"\x16", b"\x16\x03\x01\xff\xff"] {
        let handle = connect(&mut sandbox, "site.test", port);
        sandbox.guest.write(handle, words);
        sandbox.guest.tcp(handle).close();
        assert_eq!(sandbox.guest.read(handle, 100), words, "{words:?}");
    }
}
