//! Addresses of databases, as programs take them.

use std::fmt::{self, Write as _};

/// Where somebody gets in, and as whom.
#[derive(Clone, Copy)]
pub struct Address<'a> {
    /// Name of the role.
    pub user: &'a str,
    /// Its password, as it is.
    pub password: &'a str,
    /// Host name, or IPv4 address.
    pub host: &'a str,
    /// TCP port.
    pub port: u16,
    /// Name of the database.
    pub database: &'a str,
}

impl fmt::Debug for Address<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Address")
            .field("user", &self.user)
            .field("host", &self.host)
            .field("port", &self.port)
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

impl Address<'_> {
    /// All of it as one `postgresql://` address.
    pub fn url(&self) -> String {
        let (user, password) = (encode(self.user), encode(self.password));
        let (host, database) = (encode(self.host), encode(self.database));
        format!("postgresql://{user}:{password}@{host}:{}/{database}", self.port)
    }
}

/// `text` with everything percent-encoded that means something in an address, or is not ASCII.
pub fn encode(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut encoded, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            // Writing to a String cannot fail.
            other => drop(write!(encoded, "%{other:02X}")),
        }
        encoded
    })
}

#[cfg(test)]
mod test {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_means_something_in_an_address_is_encoded() {
        assert_eq!(encode("Secret#42"), "Secret%2342");
        assert_eq!(encode("a:b@c/d?e%f é"), "a%3Ab%40c%2Fd%3Fe%25f%20%C3%A9");
    }

    proptest! {
        /// As libpq and every driver on tokio-postgres read it.
        #[test]
        fn what_is_put_into_an_address_comes_out_of_it(
            user in "[^\0]{1,20}",
            password in "[^\0]{1,80}",
            database in "[^\0]{1,20}",
            port in 1..=u16::MAX,
        ) {
            let address = Address {
                user: &user,
                password: &password,
                host: "h.db.internal",
                port,
                database: &database,
            };
            let read: tokio_postgres::Config = address.url().parse().unwrap();
            prop_assert_eq!(read.get_user(), Some(user.as_str()));
            prop_assert_eq!(read.get_password(), Some(password.as_bytes()));
            prop_assert_eq!(read.get_dbname(), Some(database.as_str()));
            prop_assert_eq!(read.get_ports(), &[port]);
        }
    }
}
