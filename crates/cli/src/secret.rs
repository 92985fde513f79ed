//! Values that sandboxes use and never have.

use anyhow::Result;
use api_node::{SECRET_VALUE_BYTES_MAX, SecretName, SecretValue, SetSecret, StoredSecret};
use client::Client;

use crate::args::{RemoveSecret, SecretCommand, SetSecretArgs};
use crate::audit::utc;
use crate::complaint::End;
use crate::db::line_of;
use crate::remove;
use crate::table::{columns, print, print_json};

/// `sandflare secret`
pub(crate) async fn secret(client: &Client, command: SecretCommand) -> Result<End> {
    match command {
        SecretCommand::Set(SetSecretArgs { name, host, value_file, format }) => {
            let value = line_of(&value_file, "value", SECRET_VALUE_BYTES_MAX)?;
            let request = SetSecret { value: SecretValue::new(value), hosts: host };
            let set = client.secret_set(&name, &request).await?;
            if format.is_json() {
                print_json(&set)?;
            } else {
                print(&format!("{}\n", set.name))?;
            }
        }
        SecretCommand::Ls(format) => {
            let list = client.secret_list().await?;
            if format.is_json() {
                print_json(&list)?;
            } else {
                print(&table(&list.secrets))?;
            }
        }
        SecretCommand::Rm(RemoveSecret { names, format }) => {
            let delete = async |name: &SecretName| Ok(client.secret_delete(name).await?);
            return remove::each(&names, format, delete).await;
        }
    }
    Ok(End::Done)
}

fn table(secrets: &[StoredSecret]) -> String {
    let rows: Vec<_> = secrets
        .iter()
        .map(|secret| {
            let hosts: Vec<_> = secret.hosts.iter().map(ToString::to_string).collect();
            [secret.name.to_string(), hosts.join(" "), utc(secret.updated_at_ms)]
        })
        .collect();
    columns(["NAME", "HOSTS", "SET (UTC)"], &rows)
}
