//! Where a port of a sandbox is reached.

use anyhow::Result;
use api_node::{PORT_TOKEN_NAME, Port, SetPort};
use client::Client;

use crate::args::Url;
use crate::complaint::End;
use crate::table::{print, print_json};

/// `sandflare url SANDBOX PORT`
pub(crate) async fn url(client: &Client, args: &Url) -> Result<End> {
    let Url { id, port, public, private, path, format } = *args;
    let found = match (public, private) {
        (true, _) => client.port_set(id, port, SetPort { public: true }).await?,
        (_, true) => client.port_set(id, port, SetPort { public: false }).await?,
        _ => client.port_get(id, port).await?,
    };
    if format.is_json() {
        print_json(&found)?;
    } else {
        print(&format!("{}\n", address(&found, path)))?;
    }
    Ok(End::Done)
}

/// What may be opened as it is: a private port's with its token.
fn address(port: &Port, path: bool) -> String {
    let base = match path {
        true => port.path_url.clone(),
        false => format!("{}/", port.url),
    };
    match port.public {
        true => base,
        false => format!("{base}?{PORT_TOKEN_NAME}={}", port.token),
    }
}
