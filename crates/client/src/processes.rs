//! Processes that live on their own.

use api_node::{
    EventsQuery, ExecEvent, Process, ProcessId, ProcessList, PtySize, SocketRequest, SpawnRequest,
};
use base_types::SandboxId;
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use reqwest::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use reqwest::{Method, StatusCode, Upgraded};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};

use crate::decode::DecodeError;
use crate::error::ClientError;
use crate::events::Events;
use crate::operations::Client;

/// LIMIT: one message. The node sends output in pieces of 64 KiB at most, and small events.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// What comes over a process's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketEvent {
    /// Output, of both streams where there are two.
    Output(Bytes),
    /// Anything else that happens.
    Event(ExecEvent),
}

/// What a process's socket brings. Dropping this and its [`SocketWriter`] closes the connection.
#[derive(Debug)]
pub struct SocketReader {
    url: String,
    messages: SplitStream<WebSocketStream<Upgraded>>,
}

/// The way to a process over its socket.
#[derive(Debug)]
pub struct SocketWriter {
    url: String,
    messages: SplitSink<WebSocketStream<Upgraded>, Message>,
}

/// Asks; every method fails with a [`ClientError`] when the node is not there, refuses, or answers
/// something this build does not know.
#[expect(clippy::missing_errors_doc, reason = "said once, above")]
impl Client {
    /// One process that lives on its own.
    pub async fn process_get(
        &self,
        id: SandboxId,
        process: ProcessId,
    ) -> Result<Process, ClientError> {
        self.answer(self.of(id, Method::GET, &format!("/processes/{process}"))).await
    }

    /// Starts a process that lives on its own.
    pub async fn process_spawn(
        &self,
        id: SandboxId,
        request: &SpawnRequest,
    ) -> Result<Process, ClientError> {
        self.answer(self.of(id, Method::POST, "/processes").json(request)).await
    }

    /// The processes of a sandbox that live on their own, and those that did until lately.
    pub async fn process_list(&self, id: SandboxId) -> Result<ProcessList, ClientError> {
        self.answer(self.of(id, Method::GET, "/processes")).await
    }

    /// Follows a process. Dropping the stream leaves it as it is; what came until then can be left out
    /// the next time.
    pub async fn process_events(
        &self,
        id: SandboxId,
        process: ProcessId,
        query: EventsQuery,
    ) -> Result<Events<ExecEvent>, ClientError> {
        let ask = self.of(id, Method::GET, &format!("/processes/{process}/events"));
        self.events(ask.query(&query)).await
    }

    /// Gives a process's terminal another size.
    pub async fn process_resize(
        &self,
        id: SandboxId,
        process: ProcessId,
        size: PtySize,
    ) -> Result<(), ClientError> {
        let ask = self.of(id, Method::POST, &format!("/processes/{process}/resize"));
        self.done(ask.json(&size)).await
    }

    /// Follows a process and writes to it over one connection.
    pub async fn process_socket(
        &self,
        id: SandboxId,
        process: ProcessId,
        query: EventsQuery,
    ) -> Result<(SocketWriter, SocketReader), ClientError> {
        let key = generate_key();
        let ask = self
            .of(id, Method::GET, &format!("/processes/{process}/socket"))
            .query(&query)
            .header(CONNECTION, "upgrade")
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_VERSION, "13")
            .header(SEC_WEBSOCKET_KEY, &key);
        let response = self.send(ask).await?;
        let url = self.url().to_owned();
        let status = response.status();
        let accepted = response.headers().get(SEC_WEBSOCKET_ACCEPT);
        let ours = accepted.is_some_and(|key_back| *key_back == *derive_accept_key(key.as_bytes()));
        if status != StatusCode::SWITCHING_PROTOCOLS || !ours {
            return Err(ClientError::NotANode { url, status: status.as_u16() });
        }
        let upgraded = response.upgrade().await;
        let upgraded =
            upgraded.map_err(|source| ClientError::Broken { url: url.clone(), source })?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        let socket = WebSocketStream::from_raw_socket(upgraded, Role::Client, Some(config)).await;
        let (out, incoming) = socket.split();
        let writer = SocketWriter { url: url.clone(), messages: out };
        Ok((writer, SocketReader { url, messages: incoming }))
    }
}

impl SocketReader {
    /// What comes next; `None` when the node has closed. May be called again after being cancelled.
    ///
    /// # Errors
    ///
    /// The connection broke, or what came is no event.
    pub async fn next(&mut self) -> Result<Option<SocketEvent>, ClientError> {
        loop {
            match self.messages.next().await {
                Some(Ok(Message::Binary(data))) => return Ok(Some(SocketEvent::Output(data))),
                Some(Ok(Message::Text(text))) => {
                    let event = serde_json::from_str(&text).map_err(|source| {
                        let source = DecodeError::Malformed(source);
                        ClientError::BadEvent { url: self.url.clone(), source }
                    })?;
                    return Ok(Some(SocketEvent::Event(event)));
                }
                // Answered by the library.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_))) | None => return Ok(None),
                Some(Err(source)) => return Err(broken(&self.url, source)),
            }
        }
    }

    /// The error for a socket that was closed without the event that should have been its last.
    pub fn cut_short(&self) -> ClientError {
        ClientError::CutShort { url: self.url.clone() }
    }
}

impl SocketWriter {
    /// Sends standard input, at most [`api_node::SOCKET_MESSAGE_BYTES_MAX`] at once; returns when the
    /// connection has taken it.
    ///
    /// # Errors
    ///
    /// The connection is closed, or broke.
    pub async fn input(&mut self, data: Bytes) -> Result<(), ClientError> {
        let sent = self.messages.send(Message::Binary(data)).await;
        sent.map_err(|source| broken(&self.url, source))
    }

    /// Asks for something else, such as another size of the terminal.
    ///
    /// # Errors
    ///
    /// The connection is closed, or broke.
    pub async fn request(&mut self, request: &SocketRequest) -> Result<(), ClientError> {
        let text = serde_json::to_string(request).expect("a request has only string keys");
        let sent = self.messages.send(Message::Text(text.into())).await;
        sent.map_err(|source| broken(&self.url, source))
    }
}

fn broken(url: &str, source: SocketError) -> ClientError {
    ClientError::Socket { url: url.to_owned(), source: Box::new(source) }
}
