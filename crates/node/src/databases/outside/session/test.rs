//! Sessions over real sockets, with databases that send back what they are sent.

use std::net::IpAddr;
use std::sync::Mutex;

use api_node::ErrorCode;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::io::DuplexStream;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::*;

/// LIMIT: far more than anything here takes; what runs into it hangs.
const PATIENCE: Duration = Duration::from_secs(60);
const USER: &str = "u000000000007";
const ELSEWHERE: [u8; 4] = [10, 1, 2, 3];

/// One database, of [`USER`], and what was asked of it.
#[derive(Clone)]
struct Mirror(Arc<Kept>);

struct Kept {
    rule: watch::Sender<Outside>,
    places: Arc<Semaphore>,
    ports: Mutex<Vec<u16>>,
    denied: Mutex<Vec<String>>,
}

impl Mirror {
    fn open_to(rule: &str) -> Self {
        Self(Arc::new(Kept {
            rule: watch::Sender::new(rule.parse().unwrap()),
            places: Arc::new(Semaphore::new(2)),
            ports: Mutex::default(),
            denied: Mutex::default(),
        }))
    }

    fn ports(&self) -> Vec<u16> {
        self.0.ports.lock().unwrap().clone()
    }

    fn denied(&self) -> Vec<String> {
        self.0.denied.lock().unwrap().clone()
    }
}

impl Inside for Mirror {
    type Server = DuplexStream;

    fn way(&self, user: &str) -> Option<Way> {
        let (rule, places) = (self.0.rule.subscribe(), self.0.places.clone());
        (user == USER).then(|| Way { id: DatabaseId::from_bits(7), rule, places })
    }

    async fn connect(&self, _: DatabaseId, port: u16) -> Result<DuplexStream, Failure> {
        self.0.ports.lock().unwrap().push(port);
        let (server, ours) = tokio::io::duplex(1 << 16);
        tokio::spawn(async move {
            let (mut heard, mut said) = tokio::io::split(server);
            tokio::io::copy(&mut heard, &mut said).await
        });
        Ok(ours)
    }

    fn denied(&self, id: DatabaseId, from: SocketAddr, rule: &Outside) {
        let line = format!("{id} {} {rule}", from.ip());
        self.0.denied.lock().unwrap().push(line);
    }
}

fn packet(code: u32, rest: &[u8]) -> Vec<u8> {
    let length = u32::try_from(rest.len() + 8).unwrap();
    [&length.to_be_bytes()[..], &code.to_be_bytes(), rest].concat()
}

fn startup(user: &str) -> Vec<u8> {
    packet(196_608, format!("user\0{user}\0database\0main\0\0").as_bytes())
}

fn ask_tls() -> Vec<u8> {
    packet(80_877_103, b"")
}

fn ask_gssapi() -> Vec<u8> {
    packet(80_877_104, b"")
}

/// A certificate, for whoever serves with it, and for whoever knows it.
struct Identity {
    acceptor: TlsAcceptor,
    config: ClientConfig,
}

impl Identity {
    fn new() -> Self {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        server.alpn_protocols = vec![TLS_PROTOCOL.to_vec()];
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { acceptor: TlsAcceptor::from(Arc::new(server)), config }
    }

    /// A handshake over `stream`, which names `protocols`.
    async fn connect(
        &self,
        stream: TcpStream,
        protocols: &[&[u8]],
    ) -> io::Result<TlsStream<TcpStream>> {
        let mut config = self.config.clone();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }
}

/// A client, and the session that carries it.
struct Client {
    stream: TcpStream,
    session: JoinHandle<io::Result<()>>,
}

impl Client {
    /// One that comes from `ip`, as far as the session knows.
    async fn from(ip: impl Into<IpAddr>, inside: &Mirror, tls: Option<&Identity>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let from = SocketAddr::new(ip.into(), 4711);
        let tls = tls.map(|identity| identity.acceptor.clone());
        let session = Session { inside: inside.clone(), from, tls };
        Self { stream, session: tokio::spawn(session.carry(accepted)) }
    }

    async fn local(inside: &Mirror, tls: Option<&Identity>) -> Self {
        Self::from([127, 0, 0, 1], inside, tls).await
    }

    async fn say(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// What is said until nothing more is.
    async fn rest(self) -> Vec<u8> {
        rest(self.stream).await
    }

    async fn ended(self) {
        // Whether well or not.
        let _ = timeout(PATIENCE, self.session).await.unwrap().unwrap();
    }
}

async fn hear<S: AsyncRead + Unpin>(stream: &mut S, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    timeout(PATIENCE, stream.read_exact(&mut bytes)).await.unwrap().unwrap();
    bytes
}

async fn rest<S: AsyncRead + Unpin>(mut stream: S) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Reset counts as its end.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.unwrap();
    bytes
}

/// Whether it is a session with the database.
async fn serves<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    stream.write_all(&[&startup(USER)[..], b"early"].concat()).await.unwrap();
    let said = hear(stream, startup(USER).len() + 5).await;
    assert_eq!(said, [&startup(USER)[..], b"early"].concat());
    stream.write_all(b"later").await.unwrap();
    assert_eq!(hear(stream, 5).await, b"later");
}

fn is_refusal(said: &[u8], code: &str) -> bool {
    said.first() == Some(&b'E') && String::from_utf8_lossy(said).contains(code)
}

#[tokio::test]
async fn a_session_goes_to_its_users_database_and_by_the_pool_unless_it_says_otherwise() {
    let mirror = Mirror::open_to("loopback");
    for asks in [vec![], vec![ask_tls()], vec![ask_gssapi(), ask_tls()]] {
        let mut client = Client::local(&mirror, None).await;
        for ask in asks {
            client.say(&ask).await;
            assert_eq!(hear(&mut client.stream, 1).await, NO_ENCRYPTION);
        }
        serves(&mut client.stream).await;
    }
    let mut direct = Client::local(&mirror, None).await;
    direct.say(&startup("u000000000007.direct")).await;
    assert_eq!(hear(&mut direct.stream, startup(USER).len()).await, startup(USER));
    assert_eq!(mirror.ports(), [POOLED_PORT, POOLED_PORT, POOLED_PORT, DIRECT_PORT]);
    drop(direct.stream);
    timeout(PATIENCE, direct.session).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn whom_the_rule_does_not_allow_hears_what_a_stranger_hears_and_nothing_is_touched() {
    let mirror = Mirror::open_to("10.0.0.0/8");
    let mut stranger = Client::local(&mirror, None).await;
    stranger.say(&startup("u000000000008")).await;
    let to_stranger = stranger.rest().await;
    assert!(is_refusal(&to_stranger, "28P01"), "{to_stranger:?}");
    for ip in ["127.0.0.1", "::1", "11.0.0.1", "::ffff:11.0.0.1"] {
        let mut denied = Client::from(ip.parse::<IpAddr>().unwrap(), &mirror, None).await;
        denied.say(&startup(USER)).await;
        let said = String::from_utf8(denied.rest().await).unwrap();
        let to_stranger = String::from_utf8(to_stranger.clone()).unwrap();
        assert_eq!(said, to_stranger.replace("u000000000008", USER), "{ip}");
    }
    assert!(mirror.ports().is_empty());
    assert_eq!(mirror.denied().len(), 4);
    assert_eq!(mirror.denied()[0], "db_0000000000000007 127.0.0.1 10.0.0.0/8");
    // One of them that comes as IPv6, and one that does not.
    for ip in ["10.1.2.3", "::ffff:10.1.2.3"] {
        let mut allowed = Client::from(ip.parse::<IpAddr>().unwrap(), &mirror, None).await;
        serves(&mut allowed.stream).await;
    }
}

#[tokio::test]
async fn another_rule_ends_the_sessions_it_does_not_allow_and_no_other() {
    let mirror = Mirror::open_to("127.0.0.0/8,10.0.0.0/8");
    let mut near = Client::local(&mirror, None).await;
    let mut far = Client::from(ELSEWHERE, &mirror, None).await;
    for client in [&mut near, &mut far] {
        serves(&mut client.stream).await;
    }
    mirror.0.rule.send_replace(Outside::Loopback);
    assert_eq!(rest(&mut far.stream).await, b"");
    far.ended().await;
    near.say(b"still").await;
    assert_eq!(hear(&mut near.stream, 5).await, b"still");
    mirror.0.rule.send_replace(Outside::Off);
    assert_eq!(rest(&mut near.stream).await, b"");
    near.ended().await;
}

#[tokio::test]
async fn a_database_has_so_many_places_and_one_that_is_left_is_free() {
    let mirror = Mirror::open_to("loopback");
    let mut first = Client::local(&mirror, None).await;
    let mut second = Client::local(&mirror, None).await;
    for client in [&mut first, &mut second] {
        serves(&mut client.stream).await;
    }
    let mut third = Client::local(&mirror, None).await;
    third.say(&startup(USER)).await;
    let said = third.rest().await;
    assert!(is_refusal(&said, "53300"), "{said:?}");
    assert_eq!(mirror.ports().len(), 2);
    drop(second.stream);
    timeout(PATIENCE, second.session).await.unwrap().unwrap().unwrap();
    let mut fourth = Client::local(&mirror, None).await;
    serves(&mut fourth.stream).await;
}

#[tokio::test]
async fn what_is_no_session_is_closed_and_nothing_is_touched() {
    let mirror = Mirror::open_to("loopback");
    let identity = Identity::new();
    for tls in [None, Some(&identity)] {
        let mut wrong = Client::local(&mirror, tls).await;
        wrong.say(b"GET / HTTP/1.1\r\n\r\n").await;
        let said = wrong.rest().await;
        assert!(is_refusal(&said, "08P01"), "{said:?}");
        let mut cancel = Client::local(&mirror, tls).await;
        cancel.say(&packet(80_877_102, &[0; 8])).await;
        assert_eq!(cancel.rest().await, b"");
        // What came before it was encrypted must not be taken for what came after.
        for ask in [ask_tls(), ask_gssapi()] {
            let mut injected = Client::local(&mirror, tls).await;
            injected.say(&[ask, startup(USER)].concat()).await;
            assert_eq!(injected.rest().await, b"");
        }
    }
    assert!(mirror.ports().is_empty());
}

#[tokio::test]
async fn tls_begins_when_it_is_asked_for_and_without_asking_by_postgres_name() {
    let (mirror, identity) = (Mirror::open_to("10.0.0.0/8"), Identity::new());
    for protocols in [&[][..], &[TLS_PROTOCOL]] {
        let mut client = Client::from(ELSEWHERE, &mirror, Some(&identity)).await;
        client.say(&ask_gssapi()).await;
        assert_eq!(hear(&mut client.stream, 1).await, NO_ENCRYPTION);
        client.say(&ask_tls()).await;
        assert_eq!(hear(&mut client.stream, 1).await, TLS_BEGINS);
        serves(&mut identity.connect(client.stream, protocols).await.unwrap()).await;
    }
    let client = Client::from(ELSEWHERE, &mirror, Some(&identity)).await;
    serves(&mut identity.connect(client.stream, &[TLS_PROTOCOL]).await.unwrap()).await;
    assert_eq!(mirror.ports().len(), 3);

    // Who says nothing of Postgres may mean something else.
    let client = Client::from(ELSEWHERE, &mirror, Some(&identity)).await;
    let mut nameless = identity.connect(client.stream, &[]).await.unwrap();
    // It may be closed already.
    let _ = nameless.write_all(&startup(USER)).await;
    assert_eq!(rest(nameless).await, b"");
    let client = Client::from(ELSEWHERE, &mirror, Some(&identity)).await;
    assert!(identity.connect(client.stream, &[b"http/1.1"]).await.is_err());
    // Within it, nothing is left to ask for.
    for ask in [ask_tls(), ask_gssapi()] {
        let client = Client::from(ELSEWHERE, &mirror, Some(&identity)).await;
        let mut twice = identity.connect(client.stream, &[TLS_PROTOCOL]).await.unwrap();
        twice.write_all(&ask).await.unwrap();
        assert_eq!(rest(twice).await, b"");
    }
    assert_eq!(mirror.ports().len(), 3);
}

#[tokio::test]
async fn where_there_is_tls_only_this_machine_may_do_without() {
    let identity = Identity::new();
    let mirror = Mirror::open_to("10.0.0.0/8,127.0.0.1");
    let mut far = Client::from(ELSEWHERE, &mirror, Some(&identity)).await;
    far.say(&startup(USER)).await;
    let said = far.rest().await;
    assert!(is_refusal(&said, "28000"), "{said:?}");
    assert!(mirror.ports().is_empty());
    let mut near = Client::local(&mirror, Some(&identity)).await;
    serves(&mut near.stream).await;
}

#[tokio::test]
async fn bytes_that_were_there_before_a_handshake_are_no_part_of_it() {
    let (mirror, identity) = (Mirror::open_to("loopback"), Identity::new());
    let mut client = Client::local(&mirror, Some(&identity)).await;
    client.say(&ask_tls()).await;
    assert_eq!(hear(&mut client.stream, 1).await, TLS_BEGINS);
    // Whoever is in the middle says something of its own, and then lets the client go on.
    client.say(&startup(USER)).await;
    assert!(identity.connect(client.stream, &[]).await.is_err());
    assert!(mirror.ports().is_empty());
}

#[tokio::test]
async fn a_database_that_does_not_wake_says_why() {
    let mirror = Mirror::open_to("loopback");
    let inside = Asleep(mirror);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, from) = listener.accept().await.unwrap();
    let session = Session { inside, from, tls: None };
    let carrying = tokio::spawn(session.carry(accepted));
    stream.write_all(&startup(USER)).await.unwrap();
    let said = rest(stream).await;
    assert!(is_refusal(&said, "57P03") && is_refusal(&said, "it does not wake"), "{said:?}");
    timeout(PATIENCE, carrying).await.unwrap().unwrap().unwrap();
}

/// A database that cannot be reached.
struct Asleep(Mirror);

impl Inside for Asleep {
    type Server = DuplexStream;

    fn way(&self, user: &str) -> Option<Way> {
        self.0.way(user)
    }

    async fn connect(&self, _: DatabaseId, _: u16) -> Result<DuplexStream, Failure> {
        Err(Failure::new(ErrorCode::AgentSilent, "it does not wake"))
    }

    fn denied(&self, _: DatabaseId, _: SocketAddr, _: &Outside) {}
}
