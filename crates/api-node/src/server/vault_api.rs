use std::future::Future;

use crate::server::nobody::Nobody;
use crate::{Caller, Failure, SecretList, SecretName, SetSecret, StoredSecret};

/// The operations of a node on secrets of the caller's project. What is said of [`crate::NodeApi`]
/// holds here too.
pub trait SecretsApi: Send + Sync + 'static {
    /// The secrets of the project, by name, without what they say.
    fn secret_list(
        &self,
        caller: &Caller,
    ) -> impl Future<Output = Result<SecretList, Failure>> + Send;

    /// Makes a secret or gives it another value and hosts; returns when that is remembered and holds
    /// for the next request of every sandbox that was granted it. The flag says whether it was made.
    fn secret_set(
        &self,
        caller: &Caller,
        name: SecretName,
        request: SetSecret,
    ) -> impl Future<Output = Result<(StoredSecret, bool), Failure>> + Send;

    /// Deletes a secret. Requests that want it are refused from then on.
    fn secret_delete(
        &self,
        caller: &Caller,
        name: SecretName,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
}

impl SecretsApi for Nobody {
    async fn secret_list(&self, _: &Caller) -> Result<SecretList, Failure> {
        match *self {}
    }

    async fn secret_set(
        &self,
        _: &Caller,
        _: SecretName,
        _: SetSecret,
    ) -> Result<(StoredSecret, bool), Failure> {
        match *self {}
    }

    async fn secret_delete(&self, _: &Caller, _: SecretName) -> Result<(), Failure> {
        match *self {}
    }
}
