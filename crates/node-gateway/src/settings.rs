use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api_node::Cidr;
use tokio_rustls::rustls::pki_types::CertificateDer;

use crate::authority::Authority;

/// What one sandbox may use of the gateway, and what the gateway uses of the host. The same for every
/// sandbox of a node; what they may reach is each one's policy.
#[derive(Clone, Debug)]
pub struct GatewaySettings {
    /// Addresses that are reached though they are among those that never are, if the policy says so:
    /// what the operator of the node vouches for. Default: none.
    pub allowance: Vec<Cidr>,
    /// Who is asked for names. Default: `None`, which is whoever `/etc/resolv.conf` of the host names.
    pub resolvers: Option<Vec<SocketAddr>>,
    /// Who vouches to guests for hosts of their secrets, so that TLS to these can be ended here.
    /// Default: nobody, and TLS is left alone.
    pub authority: Option<Arc<Authority>>,
    /// Authorities by which hosts of secrets may be themselves, beside those browsers trust. Default:
    /// none.
    pub roots: Vec<CertificateDer<'static>>,
    /// LIMIT: TCP connections of a sandbox. A busy machine has dozens; each may hold two buffers and a
    /// descriptor of the daemon's. Default: 256.
    pub connections_max: usize,
    /// LIMIT: connections of a sandbox that are being made. Whoever scans has many of these, and each
    /// is a host's time for [`Self::connect_timeout`]. Default: 64.
    pub connecting_max: usize,
    /// LIMIT: exchanges of UDP and ICMP of a sandbox, with a descriptor each; the one that was silent
    /// for longest makes room for another. Default: 256.
    pub exchanges_max: usize,
    /// LIMIT: flows a sandbox begins in a second, denied ones too; twice as many at once. Beyond, their
    /// first packets are lost, which a guest's TCP mends by itself. Default: 200.
    pub flows_per_second: u32,
    /// LIMIT: frames taken from a sandbox in a second. Beyond, its network card waits. Twice what a
    /// connection as fast as one processor needs. Default: 200,000.
    pub frames_per_second: u32,
    /// LIMIT: bytes that go to and from a sandbox in a second, together. Default: `None`, which is
    /// what the host can.
    pub bytes_per_second: Option<u32>,
    /// Bytes buffered in each direction of a connection. What a guest has under way fits in, so this
    /// is what a full trip takes of time times speed. Default: 256 KiB.
    pub buffer_bytes: usize,
    /// The same of connections a sandbox makes when it has [`Self::crowded_from`] already, so that it
    /// holds at most some dozens of MiB. Default: 64 KiB.
    pub buffer_bytes_crowded: usize,
    /// Connections from which a sandbox has many. Default: 32.
    pub crowded_from: usize,
    /// How long a connection may take to be made. Default: 10 seconds.
    pub connect_timeout: Duration,
    /// How long an exchange of UDP or ICMP is kept without a packet. Default: 60 seconds.
    pub exchange_idle: Duration,
    /// LIMIT: questions of a sandbox that are not answered yet. Default: 64.
    pub questions_max: usize,
    /// LIMIT: questions of a sandbox in a second, four times as many at once: enough for any program,
    /// and little for whoever would talk in questions. Default: 50.
    pub questions_per_second: u32,
    /// How long after an answer has expired its addresses still count as the name's, for whoever asked
    /// in time and connects late. At least 5 seconds. Default: 30 seconds.
    pub name_grace: Duration,
    /// LIMIT: the longest an answer is good for, whatever it says of itself. Default: an hour.
    pub name_ttl_max: Duration,
}

impl Default for GatewaySettings {
    fn default() -> Self {
        Self {
            allowance: Vec::new(),
            resolvers: None,
            authority: None,
            roots: Vec::new(),
            connections_max: 256,
            connecting_max: 64,
            exchanges_max: 256,
            flows_per_second: 200,
            frames_per_second: 200_000,
            bytes_per_second: None,
            buffer_bytes: 256 * 1024,
            buffer_bytes_crowded: 64 * 1024,
            crowded_from: 32,
            connect_timeout: Duration::from_secs(10),
            exchange_idle: Duration::from_secs(60),
            questions_max: 64,
            questions_per_second: 50,
            name_grace: Duration::from_secs(30),
            name_ttl_max: Duration::from_secs(60 * 60),
        }
    }
}
