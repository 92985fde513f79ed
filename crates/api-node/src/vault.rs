//! Secrets that never enter a sandbox: it holds a placeholder, and its network puts the value in
//! where a request goes to a host of the secret.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::check::{Check, Refused, refuse};
use crate::{DomainName, Rule, Target};

/// LIMIT: bytes of a secret's name; it is a word.
pub const SECRET_NAME_BYTES_MAX: usize = 64;
/// LIMIT: bytes of a value. Tokens that carry claims have some thousand, and servers take no longer
/// headers.
pub const SECRET_VALUE_BYTES_MAX: usize = 8 * 1024;
/// LIMIT: hosts of one secret; each request is held against all.
pub const SECRET_HOSTS_MAX: usize = 32;
/// LIMIT: secrets of one project; a list of them is one answer.
pub const SECRETS_MAX: usize = 256;
/// LIMIT: secrets of one sandbox; each request is searched for all of them.
pub const SANDBOX_SECRETS_MAX: usize = 32;

/// Ports of a host whose port was not said: those of HTTP and HTTPS.
const WEB_PORTS: [u16; 2] = [80, 443];
/// What every placeholder begins with.
const PLACEHOLDER_PREFIX: &str = "sfsecret_";
/// Random bytes of a placeholder. It guards nothing; it must only mean nothing else.
const PLACEHOLDER_BYTES: usize = 16;

/// Variables that programs find certificate authorities by; a sandbox with secrets has them, so none
/// of them can be a secret's.
pub const AUTHORITY_VARIABLES: [&str; 4] =
    ["CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"];

/// The name of a secret: 1 to 64 of `a-z A-Z 0-9 _ -`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretName(String);

/// A text that is no name of a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the name of a secret is 1 to 64 of a-z, A-Z, 0-9, `_` and `-`")]
pub struct ParseSecretNameError;

impl SecretName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SecretName {
    type Err = ParseSecretNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        let fits = (1..=SECRET_NAME_BYTES_MAX).contains(&text.len());
        if fits && text.bytes().all(legal) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseSecretNameError)
        }
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a secret says. Shown by nothing but [`Self::expose`], and by what writes it to a node.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(Arc<str>);

impl SecretValue {
    /// A value, whatever it is; [`SetSecret`] checks it.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The value itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(..)")
    }
}

impl Serialize for SecretValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SecretValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

/// Where a secret may go: `name` or `*.name`, then `[:port]`. Without a port it is those of HTTP and
/// HTTPS, 80 and 443. `*.name` is every name below it, but not itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SecretHost {
    name: DomainName,
    below: bool,
    port: Option<u16>,
}

/// A text that is no host of a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is no host of a secret; one is a domain or *.domain, and a :port where that is \
         neither 80 nor 443", .0.escape_debug())]
pub struct ParseSecretHostError(String);

impl SecretHost {
    /// Whether a secret may go to this name at this port.
    pub fn covers(&self, name: &DomainName, port: u16) -> bool {
        let named = if self.below { name.is_below(&self.name) } else { *name == self.name };
        named && self.port.map_or(WEB_PORTS.contains(&port), |only| only == port)
    }
}

impl FromStr for SecretHost {
    type Err = ParseSecretHostError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseSecretHostError(text.chars().take(64).collect());
        let rule: Rule = text.parse().map_err(|_| wrong())?;
        let (name, below) = match rule.target {
            Target::Domain(name) => (name, false),
            Target::Below(name) => (name, true),
            Target::Any | Target::Network(_) => return Err(wrong()),
        };
        let port = match rule.ports {
            None => None,
            Some(ports) => Some(ports.only().ok_or_else(wrong)?),
        };
        if rule.protocol.is_some() {
            return Err(wrong());
        }
        Ok(Self { name, below, port })
    }
}

impl fmt::Display for SecretHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = if self.below { "*." } else { "" };
        write!(f, "{star}{}", self.name)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// What a sandbox holds in a secret's place: `sfsecret_` and 32 hex digits. Worth nothing anywhere
/// else.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Placeholder(String);

/// A text that is no placeholder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no placeholder of a secret; one is `sfsecret_` and 32 digits 0-9 a-f")]
pub struct ParsePlaceholderError;

impl Placeholder {
    /// The placeholder made of these random bytes.
    pub fn from_random(bytes: [u8; PLACEHOLDER_BYTES]) -> Self {
        use fmt::Write as _;
        Self(bytes.iter().fold(PLACEHOLDER_PREFIX.to_owned(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        }))
    }

    /// The placeholder, as a sandbox has it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Placeholder {
    type Err = ParsePlaceholderError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix(PLACEHOLDER_PREFIX).ok_or(ParsePlaceholderError)?;
        let legal = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if digits.len() == 2 * PLACEHOLDER_BYTES && digits.bytes().all(legal) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParsePlaceholderError)
        }
    }
}

impl fmt::Display for Placeholder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! as_text {
    ($($name:ty),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

as_text!(SecretName, SecretHost, Placeholder);

/// That a sandbox may use a secret, as it is remembered with it. What is made of the sandbox has the
/// same: its processes hold the placeholder in their memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretGrant {
    /// The variable that holds the placeholder.
    pub variable: String,
    /// The secret.
    pub secret: SecretName,
    /// What stands for it.
    pub placeholder: Placeholder,
    /// Where the secret might go when it was granted: so that a request is known to want it when it is
    /// deleted.
    pub hosts: Vec<SecretHost>,
}

/// A secret to make, or another value of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SetSecret {
    /// What it says: 1 to 8192 bytes that may stand in a header, so no line breaks, and no space at
    /// either end. Never shown again.
    #[cfg_attr(feature = "server", schema(value_type = String, write_only))]
    pub value: SecretValue,
    /// Where it may go, 1 to 32 of `name` or `*.name`, then `[:port]`. Without a port it is 80 and 443.
    #[cfg_attr(feature = "server", schema(value_type = Vec<String>, example = json!(["api.openai.com"])))]
    pub hosts: Vec<SecretHost>,
}

impl Check for SetSecret {
    fn check(&self) -> Result<(), Refused> {
        let value = self.value.expose();
        // Whatever is said of it, it does not say it.
        if !(1..=SECRET_VALUE_BYTES_MAX).contains(&value.len()) {
            return refuse(format!(
                "`value` is {} bytes; 1 to {SECRET_VALUE_BYTES_MAX} are allowed",
                value.len()
            ));
        }
        if value.bytes().any(|b| (b < b' ' && b != b'\t') || b == 0x7f) {
            return refuse("`value` contains a line break or another byte no header can have");
        }
        if value.starts_with([' ', '\t']) || value.ends_with([' ', '\t']) {
            return refuse("`value` begins or ends with a space, which no header keeps");
        }
        if !(1..=SECRET_HOSTS_MAX).contains(&self.hosts.len()) {
            return refuse(format!(
                "`hosts` has {} entries; 1 to {SECRET_HOSTS_MAX} are allowed",
                self.hosts.len()
            ));
        }
        Ok(())
    }
}

/// A secret, as far as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct StoredSecret {
    /// Its name.
    #[cfg_attr(feature = "server", schema(value_type = String, example = "openai"))]
    pub name: SecretName,
    /// Where it may go.
    #[cfg_attr(feature = "server", schema(value_type = Vec<String>, example = json!(["api.openai.com"])))]
    pub hosts: Vec<SecretHost>,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_at_ms: u64,
    /// When it was set last, in milliseconds since the Unix epoch.
    pub updated_at_ms: u64,
}

/// The secrets of a project, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct SecretList {
    /// All of them.
    pub secrets: Vec<StoredSecret>,
}

/// The secrets a sandbox is to have, by variable.
pub(crate) fn wanted(
    secrets: &BTreeMap<String, SecretName>,
    env: &BTreeMap<String, String>,
) -> Result<(), Refused> {
    if secrets.len() > SANDBOX_SECRETS_MAX {
        return refuse(format!(
            "`secrets` has {} entries; at most {SANDBOX_SECRETS_MAX} are allowed",
            secrets.len()
        ));
    }
    for variable in secrets.keys() {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let fits = (1..=SECRET_NAME_BYTES_MAX).contains(&variable.len());
        if !fits || !variable.bytes().all(legal) {
            return refuse(format!(
                "`secrets` has a variable named {variable:?}; one is 1 to 64 of a-z, A-Z, 0-9 and `_`"
            ));
        }
        if AUTHORITY_VARIABLES.contains(&variable.as_str()) {
            return refuse(format!("`{variable}` is set in every sandbox with secrets"));
        }
        if env.contains_key(variable) {
            return refuse(format!("`{variable}` is in `env` and in `secrets`; leave one out"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod test {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_placeholder_survives_its_text(bytes: [u8; PLACEHOLDER_BYTES]) {
            let placeholder = Placeholder::from_random(bytes);
            prop_assert_eq!(placeholder.as_str().len(), 41);
            prop_assert_eq!(placeholder.as_str().parse(), Ok(placeholder.clone()));
        }

        #[test]
        fn what_is_taken_for_a_host_has_one_text(text in "[*a-z.:0-9]{0,12}") {
            if let Ok(host) = text.parse::<SecretHost>() {
                prop_assert_eq!(host.to_string().parse(), Ok(host));
            }
        }
    }

    #[test]
    fn a_secret_goes_to_its_hosts_and_nowhere_else() {
        let covers = |host: &str, name: &str, port| {
            host.parse::<SecretHost>().unwrap().covers(&name.parse().unwrap(), port)
        };
        assert!(covers("api.openai.com", "api.openai.com", 443));
        assert!(covers("API.openai.com", "Api.OpenAI.com", 80));
        assert!(!covers("api.openai.com", "api.openai.com", 8080));
        assert!(!covers("api.openai.com", "openai.com", 443));
        assert!(!covers("api.openai.com", "evil-api.openai.com", 443));
        assert!(!covers("api.openai.com", "x.api.openai.com", 443));
        assert!(covers("*.openai.com", "a.b.openai.com", 443));
        assert!(!covers("*.openai.com", "openai.com", 443));
        assert!(!covers("*.openai.com", "notopenai.com", 443));
        assert!(covers("local.test:8080", "local.test", 8080));
        assert!(!covers("local.test:8080", "local.test", 80));
    }

    #[test]
    fn what_is_no_host_or_name_is_refused() {
        for text in
            ["", "*", "10.0.0.1", "10.0.0.0/8", "a.b/tcp", "a.b:1-2", "a.b:0", "https://a.b"]
        {
            assert!(text.parse::<SecretHost>().is_err(), "{text}");
        }
        for text in ["", "a b", "a.b", "é", &"x".repeat(65)] {
            assert!(text.parse::<SecretName>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_value_that_no_header_can_have_is_refused_and_not_repeated() {
        let set = |value: &str, hosts: usize| SetSecret {
            value: SecretValue::new(value),
            hosts: vec!["a.example".parse().unwrap(); hosts],
        };
        assert_eq!(set("hunter2 \u{e9}\t!", 1).check(), Ok(()));
        let long = "hunter2".repeat(2000);
        for value in
            ["", "hunter2\n", "hunter2\r\nX: y", "hunter2\0", " hunter2", "hunter2\t", &long]
        {
            let error = set(value, 1).check().unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert!(set("hunter2", 0).check().is_err());
        assert!(set("hunter2", SECRET_HOSTS_MAX + 1).check().is_err());
    }

    #[test]
    fn a_value_is_shown_by_nothing_that_debugs() {
        let set = SetSecret { value: SecretValue::new("hunter2"), hosts: Vec::new() };
        assert!(!format!("{set:?} {:?}", set.value).contains("hunter2"));
    }

    #[test]
    fn variables_of_secrets_are_ones_a_shell_can_have_and_nobody_elses() {
        let wants = |variable: &str| {
            let secrets = BTreeMap::from([(variable.to_owned(), "x".parse().unwrap())]);
            wanted(&secrets, &BTreeMap::from([("TAKEN".to_owned(), "1".to_owned())]))
        };
        assert_eq!(wants("OPENAI_API_KEY"), Ok(()));
        for variable in ["", "A=B", "A B", "TAKEN", "SSL_CERT_FILE", &"x".repeat(65)] {
            assert!(wants(variable).is_err(), "{variable}");
        }
    }
}
