//! Whole directories of a guest: as tar streams, and what changes in them.

use api_guest::{Answer, As, Change, FileStat, Pack, Request, Unpack, Watch};

use crate::guest::{
    ANSWER_WITHIN, Answers, FileReader, FileWriter, GuestConnection, GuestError, Inputs,
};

impl GuestConnection {
    /// Has the request that follows carried out with this user's rights to files, if there is one. Of an
    /// agent of before [`GENERATION_OF_ACTS`](api_guest::GENERATION_OF_ACTS): to read, list, stat, pack or
    /// watch.
    pub async fn with_rights_of(mut self, user: Option<String>) -> Result<Self, GuestError> {
        if let Some(user) = user {
            self.inputs.send(&Request::As(As { user })).await?;
        }
        Ok(self)
    }

    /// Opens a directory, to read all that is in it as a tar stream.
    pub async fn pack(mut self, pack: Pack) -> Result<(FileStat, FileReader), GuestError> {
        match self.ask(Request::Pack(pack), ANSWER_WITHIN).await? {
            Answer::FileHead(head) => {
                Ok((head.stat, FileReader { answers: self.answers, _inputs: self.inputs }))
            }
            _ => Err(GuestError::Unexpected),
        }
    }

    /// Begins to unpack a tar stream into a directory. What was made of it stays if it breaks off.
    pub async fn unpack(mut self, unpack: Unpack) -> Result<FileWriter, GuestError> {
        self.inputs.send(&Request::Unpack(unpack)).await?;
        Ok(FileWriter { answers: self.answers, inputs: self.inputs })
    }

    /// Watches a directory, from the moment this returns.
    pub async fn watch(mut self, watch: Watch) -> Result<WatchReader, GuestError> {
        match self.ask(Request::Watch(watch), ANSWER_WITHIN).await? {
            Answer::StatAnswer(_) => {
                Ok(WatchReader { answers: self.answers, _inputs: self.inputs })
            }
            _ => Err(GuestError::Unexpected),
        }
    }
}

/// The changes of a directory. Dropping it ends the watch.
#[derive(Debug)]
pub struct WatchReader {
    answers: Answers,
    // Closing this direction would withdraw the request.
    _inputs: Inputs,
}

impl WatchReader {
    /// The next change, waited for as long as it takes. It ends with an error of the guest's.
    pub async fn next(&mut self) -> Result<Change, GuestError> {
        match self.answers.next().await? {
            Answer::Change(change) => Ok(change),
            _ => Err(GuestError::Unexpected),
        }
    }
}
