//! Secrets that sandboxes have placeholders of.

use api_node::{SecretList, SecretName, SetSecret, StoredSecret};
use reqwest::Method;

use crate::error::ClientError;
use crate::operations::Client;

/// Asks; every method fails with a [`ClientError`] when the node is not there, refuses, or answers
/// something this build does not know.
#[expect(clippy::missing_errors_doc, reason = "said once, above")]
impl Client {
    /// The secrets of the key's project, without what they say.
    pub async fn secret_list(&self) -> Result<SecretList, ClientError> {
        self.answer(self.ask(Method::GET, "/secrets")).await
    }

    /// Makes a secret, or gives it another value and hosts; holds when this returns.
    pub async fn secret_set(
        &self,
        name: &SecretName,
        secret: &SetSecret,
    ) -> Result<StoredSecret, ClientError> {
        let path = format!("/secrets/{name}");
        self.answer(self.ask(Method::PUT, &path).json(secret)).await
    }

    /// Deletes a secret.
    pub async fn secret_delete(&self, name: &SecretName) -> Result<(), ClientError> {
        self.done(self.ask(Method::DELETE, &format!("/secrets/{name}"))).await
    }
}
