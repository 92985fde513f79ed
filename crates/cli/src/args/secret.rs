//! `secret`: values that sandboxes use and never have.

use std::path::PathBuf;

use api_node::{SecretHost, SecretName};
use clap::{Args as ClapArgs, Subcommand};

use super::Format;

/// `sandflare secret`
#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    /// Make a secret, or give it another value; it holds for the next request.
    Set(SetSecretArgs),
    /// List secrets, without what they say.
    #[command(after_help = "\
Example:
  sandflare secret ls -o json")]
    Ls(Format),
    /// Delete secrets; requests of sandboxes that want one are refused from then on.
    #[command(after_help = "\
Example:
  sandflare secret rm openai")]
    Rm(RemoveSecret),
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  sandflare secret set openai --host api.openai.com < key
  sandflare secret set crm --host '*.crm.example' --value-file token.txt
  sandflare create --secret OPENAI_API_KEY=openai

The value is never an argument: those are seen by everybody on a machine. A sandbox that is made with the
secret has a placeholder in its variable; the node puts the value in where a request goes to a host.")]
pub(crate) struct SetSecretArgs {
    /// Its name, of a-z, A-Z, 0-9, `_` and `-`.
    pub(crate) name: SecretName,
    /// Where it may go, such as api.openai.com, '*.example.com' or local.test:8080. May be repeated.
    #[arg(long, value_name = "HOST", required = true)]
    pub(crate) host: Vec<SecretHost>,
    /// The value is in this file, without the end of its last line; `-` is standard input.
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub(crate) value_file: PathBuf,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RemoveSecret {
    /// The secrets.
    #[arg(required = true)]
    pub(crate) names: Vec<SecretName>,
}

/// `NAME=SECRET`: the variable of a sandbox, and the secret it stands for.
pub(crate) fn parse_secret(text: &str) -> Result<(String, SecretName), String> {
    let (variable, secret) = text.split_once('=').ok_or("say NAME=SECRET")?;
    let secret =
        secret.parse().map_err(|error: api_node::ParseSecretNameError| error.to_string())?;
    Ok((variable.to_owned(), secret))
}
