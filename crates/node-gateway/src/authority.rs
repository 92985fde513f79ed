//! Who vouches for hosts to guests: an authority of this node's own, trusted by nobody but sandboxes
//! with secrets. Its key never leaves the node.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{error, fmt};

use api_node::DomainName;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use tokio::time::Instant;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

/// What is spoken over TLS that is ended here.
pub(crate) const ALPN: &[u8] = b"http/1.1";
/// LIMIT: hosts whose certificates are kept. Secrets have few, but a guest may ask for any name below
/// one with a `*`.
const KEPT_MAX: usize = 256;
/// How long one is good for, and how long it is given out. A guest's clock may be a little off.
const GOOD_FOR: Duration = Duration::from_secs(90 * DAY_S);
const KEPT_FOR: Duration = Duration::from_secs(30 * DAY_S);
const DAY_S: u64 = 24 * 60 * 60;
/// How long the authority itself is.
const YEARS: u64 = 20;

const CERTIFICATE: &str = "gateway-ca.pem";
const KEY: &str = "gateway-ca.key";

/// The authority of a node.
pub struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
    /// That of every host.
    key: KeyPair,
    kept: Mutex<HashMap<DomainName, (Instant, Arc<ServerConfig>)>>,
}

impl Authority {
    /// The authority in `dir`, which is made when there is none.
    ///
    /// # Errors
    ///
    /// When the files cannot be read, written, or understood.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let (certificate, key) = (dir.join(CERTIFICATE), dir.join(KEY));
        let found = match fs::read_to_string(&key) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            read => Some(read.and_then(|key| KeyPair::from_pem(&key).map_err(io::Error::other))?),
        };
        let has_key = found.is_some();
        let signer = match found {
            Some(signer) => signer,
            None => KeyPair::generate().map_err(io::Error::other)?,
        };
        let params = params(&signer)?;
        let pem = match fs::read_to_string(&certificate) {
            Ok(pem) if has_key => pem,
            Err(error) if has_key && error.kind() != io::ErrorKind::NotFound => return Err(error),
            // Guests trust a certificate by its key: another one for that does no harm.
            _ => {
                let pem = params.self_signed(&signer).map_err(io::Error::other)?.pem();
                write(&key, &signer.serialize_pem(), 0o600)?;
                write(&certificate, &pem, 0o644)?;
                File::open(dir)?.sync_all()?;
                pem
            }
        };
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let issuer = Issuer::new(params, signer);
        Ok(Self { pem, issuer, key, kept: Mutex::default() })
    }

    /// What guests have to trust, as PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// How to be `host` to a guest.
    pub(crate) fn server(
        &self,
        host: &DomainName,
    ) -> Result<Arc<ServerConfig>, Box<dyn error::Error + Send + Sync>> {
        let now = Instant::now();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, (since, _)| now.saturating_duration_since(*since) < KEPT_FOR);
        if let Some((_, config)) = kept.get(host) {
            return Ok(config.clone());
        }
        if kept.len() >= KEPT_MAX
            && let Some(oldest) = kept.iter().min_by_key(|(_, (since, _))| *since)
        {
            let oldest = oldest.0.clone();
            kept.remove(&oldest);
        }
        let mut params = CertificateParams::new(vec![host.as_str().to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, "Sandflare gateway");
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let epoch = date_time_ymd(1970, 1, 1);
        params.not_before = epoch + since.saturating_sub(Duration::from_secs(DAY_S));
        params.not_after = epoch + since + GOOD_FOR;
        let certificate = params.signed_by(&self.key, &self.issuer)?.der().clone();
        let key = PrivatePkcs8KeyDer::from(self.key.serialize_der()).into();
        let config = ServerConfig::builder_with_provider(provider());
        let config = config.with_safe_default_protocol_versions()?.with_no_client_auth();
        let mut config = config.with_single_cert(vec![certificate], key)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        let config = Arc::new(config);
        kept.insert(host.clone(), (now, config.clone()));
        Ok(config)
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority")
    }
}

/// The cryptography of all TLS here.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn params(signer: &KeyPair) -> io::Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new()).map_err(io::Error::other)?;
    // Nodes are told apart, as a trust store may have several.
    let tail_of_key = tail(signer.public_key_raw());
    params.distinguished_name.push(DnType::OrganizationName, "Sandflare");
    params.distinguished_name.push(DnType::CommonName, format!("Sandflare node {tail_of_key}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = date_time_ymd(2025, 1, 1);
    params.not_after = params.not_before + Duration::from_secs(YEARS * 365 * DAY_S);
    Ok(params)
}

fn tail(bytes: &[u8]) -> String {
    bytes.iter().rev().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// A file, whole or not at all, flushed.
fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let partial = path.with_extension("part");
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options().write(true).create_new(true).mode(mode).open(&partial)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&partial, path)
}

#[cfg(test)]
mod test {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn an_authority_is_the_same_when_it_is_opened_again_and_its_key_is_its_owners() {
        let dir = tempfile::tempdir().unwrap();
        let first = Authority::open(dir.path()).unwrap();
        let again = Authority::open(dir.path()).unwrap();
        assert_eq!(first.pem(), again.pem());
        assert_eq!(first.issuer.key().public_key_raw(), again.issuer.key().public_key_raw());
        let mode = fs::metadata(dir.path().join(KEY)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!first.pem().contains("PRIVATE"));
        // A certificate that was lost is made again, for the same key.
        fs::remove_file(dir.path().join(CERTIFICATE)).unwrap();
        let again = Authority::open(dir.path()).unwrap();
        assert_eq!(first.issuer.key().public_key_raw(), again.issuer.key().public_key_raw());
        fs::write(dir.path().join(KEY), "no key").unwrap();
        Authority::open(dir.path()).unwrap_err();
    }

    #[test]
    fn a_host_has_one_certificate_and_only_so_many_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path()).unwrap();
        let name = |index: usize| format!("n{index}.example").parse().unwrap();
        let first = authority.server(&name(0)).unwrap();
        assert!(Arc::ptr_eq(&first, &authority.server(&name(0)).unwrap()));
        for index in 1..=KEPT_MAX {
            authority.server(&name(index)).unwrap();
        }
        assert_eq!(authority.kept.lock().unwrap().len(), KEPT_MAX);
    }
}
