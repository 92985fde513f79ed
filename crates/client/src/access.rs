//! Keys and projects.

use api_node::{
    ChangeProject, CreateKey, CreateProject, CreatedKey, KeyList, Project, ProjectList, Usage,
};
use base_types::{KeyId, ProjectId};
use reqwest::Method;

use crate::error::ClientError;
use crate::operations::{Client, whole_pages};

#[expect(clippy::missing_errors_doc, reason = "said once, where the client is")]
impl Client {
    /// Makes a project.
    pub async fn project_create(&self, request: &CreateProject) -> Result<Project, ClientError> {
        self.answer(self.ask(Method::POST, "/projects").json(request)).await
    }

    /// All projects, oldest first, in as many pages as it takes.
    pub async fn project_list(&self) -> Result<ProjectList, ClientError> {
        let (mut projects, mut query) = (Vec::new(), whole_pages());
        loop {
            let page = self.ask(Method::GET, "/projects").query(&query);
            let page: ProjectList = self.answer(page).await?;
            projects.extend(page.projects);
            match page.next_cursor {
                Some(cursor) => query.cursor = Some(cursor),
                None => return Ok(ProjectList { projects, next_cursor: None }),
            }
        }
    }

    /// Changes what a project may use.
    pub async fn project_change(
        &self,
        id: ProjectId,
        request: &ChangeProject,
    ) -> Result<Project, ClientError> {
        self.answer(self.ask(Method::PATCH, &format!("/projects/{id}")).json(request)).await
    }

    /// Deletes a project that has no sandboxes, with its keys.
    pub async fn project_delete(&self, id: ProjectId) -> Result<(), ClientError> {
        self.done(self.ask(Method::DELETE, &format!("/projects/{id}"))).await
    }

    /// Makes a key. Its text is in the answer and nowhere else.
    pub async fn key_create(&self, request: &CreateKey) -> Result<CreatedKey, ClientError> {
        self.answer(self.ask(Method::POST, "/keys").json(request)).await
    }

    /// All keys, oldest first, in as many pages as it takes.
    pub async fn key_list(&self) -> Result<KeyList, ClientError> {
        let (mut keys, mut query) = (Vec::new(), whole_pages());
        loop {
            let page: KeyList = self.answer(self.ask(Method::GET, "/keys").query(&query)).await?;
            keys.extend(page.keys);
            match page.next_cursor {
                Some(cursor) => query.cursor = Some(cursor),
                None => return Ok(KeyList { keys, next_cursor: None }),
            }
        }
    }

    /// Revokes a key.
    pub async fn key_delete(&self, id: KeyId) -> Result<(), ClientError> {
        self.done(self.ask(Method::DELETE, &format!("/keys/{id}"))).await
    }

    /// What the project of this client's key may use, and uses.
    pub async fn usage(&self) -> Result<Usage, ClientError> {
        self.answer(self.ask(Method::GET, "/usage")).await
    }
}
