//! Where the API is served, and where connections to databases come in.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::net::sockopt;
use tokio::net::TcpListener;

/// LIMIT: a connection on which nothing came for this long is asked whether its other end is there. A
/// stream that is open keeps its sandbox in use, so one whose caller vanished must end.
const ASK_AFTER: Duration = Duration::from_secs(60);
/// LIMIT: how often it is asked, and how long an answer may take; then it is gone.
const ASK_TIMES: u32 = 4;
const ASK_EVERY: Duration = Duration::from_secs(15);

/// Listens on `address`, which was given by `option`. Connections learn of callers that vanish without a word.
pub(crate) async fn listen(address: SocketAddr, option: &str) -> Result<TcpListener> {
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => bail!(
            "{address} is in use by another program, perhaps another node; stop it, or choose \
             another address with {option}"
        ),
        Err(error) => return Err(error).with_context(|| format!("listen on {address}")),
    };
    // Whatever is accepted has these as well.
    let set = || {
        sockopt::set_socket_keepalive(&listener, true)?;
        sockopt::set_tcp_keepidle(&listener, ASK_AFTER)?;
        sockopt::set_tcp_keepintvl(&listener, ASK_EVERY)?;
        sockopt::set_tcp_keepcnt(&listener, ASK_TIMES)
    };
    set().context("have connections watched for callers that vanish")?;
    Ok(listener)
}

#[cfg(test)]
mod test {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn a_connection_asks_whether_its_caller_is_still_there() {
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0)), "--listen").await.unwrap();
        let address = listener.local_addr().unwrap();
        let _caller = TcpStream::connect(address).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        assert!(sockopt::socket_keepalive(&accepted).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&accepted).unwrap(), ASK_AFTER);
        let refused = listen(address, "--listen").await.unwrap_err().to_string();
        assert!(refused.contains("in use by another program"), "{refused}");
    }
}
