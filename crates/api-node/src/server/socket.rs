//! A process's line as a WebSocket.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{sleep_until, timeout};

use crate::server::api::{EventStream, ProcessInput, ProcessLine};
use crate::server::shares::Held;
use crate::{Check, ExecBody, ExecEvent, HEARTBEAT_SECS, SocketRequest};

/// LIMIT: how long a caller may take for its half of the goodbye.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// Carries both directions until the process is over, the caller is gone, or its time for requests is up.
pub(crate) async fn serve(socket: WebSocket, line: ProcessLine, held: Held) {
    let (mut out, mut incoming) = socket.split();
    let ProcessLine { events, input } = line;
    let told = tokio::select! {
        told = tell(&mut out, events) => told,
        refused = listen(&mut incoming, input) => match refused {
            // Gone: there is nobody to say goodbye to.
            None => return,
            Some(reason) => Ok((close_code::UNSUPPORTED, reason)),
        },
        () = sleep_until(held.until()) => Ok((close_code::AWAY, held.too_long().message)),
    };
    let Ok((code, reason)) = told else { return };
    let goodbye = CloseFrame { code, reason: Utf8Bytes::from(reason) };
    let closing = async {
        if out.send(Message::Close(Some(goodbye))).await.is_ok() {
            while let Some(Ok(_)) = incoming.next().await {}
        }
    };
    // Without an answer the connection is closed all the same.
    let _ = timeout(CLOSE_WITHIN, closing).await;
}

/// Sends events up to the last, with a ping in every long silence.
async fn tell(
    out: &mut SplitSink<WebSocket, Message>,
    mut events: EventStream<ExecEvent>,
) -> Result<(u16, String), axum::Error> {
    loop {
        let silence = Duration::from_secs(HEARTBEAT_SECS);
        let message = match timeout(silence, events.next()).await {
            Ok(None) => return Ok((close_code::NORMAL, String::new())),
            Err(_) => Message::Ping(Vec::new().into()),
            Ok(Some(ExecEvent { body: ExecBody::Stdout { data }, .. }))
            | Ok(Some(ExecEvent { body: ExecBody::Stderr { data }, .. })) => {
                Message::Binary(data.into())
            }
            Ok(Some(event)) => {
                let text = serde_json::to_string(&event).expect("events have only string keys");
                Message::Text(text.into())
            }
        };
        out.send(message).await?;
    }
}

/// Passes on what the caller sends. Returns when it is gone, or with what was wrong with a message.
async fn listen(
    incoming: &mut SplitStream<WebSocket>,
    input: mpsc::Sender<ProcessInput>,
) -> Option<String> {
    while let Some(Ok(message)) = incoming.next().await {
        let inputs = match message {
            Message::Binary(data) => vec![ProcessInput::Stdin(data)],
            Message::Text(text) => match requests(&text) {
                Ok(inputs) => inputs,
                Err(reason) => return Some(reason),
            },
            Message::Ping(_) | Message::Pong(_) => Vec::new(),
            Message::Close(_) => return None,
        };
        for one in inputs {
            if input.send(one).await.is_err() {
                // It is over; the other direction says so.
                std::future::pending::<()>().await;
            }
        }
    }
    None
}

/// What a text message asks for, or why it cannot be told; short enough for a goodbye.
fn requests(text: &str) -> Result<Vec<ProcessInput>, String> {
    let no_request = || "a text message is an object with `resize`, `signal` or `close_stdin`";
    // serde would also fill a struct from an array, by position.
    if !text.trim_ascii_start().starts_with('{') {
        return Err(no_request().to_owned());
    }
    let request: SocketRequest = serde_json::from_str(text).map_err(|_| no_request().to_owned())?;
    request.check().map_err(|refused| refused.to_string())?;
    let resize = request.resize.map(ProcessInput::Resize);
    let signal = request.signal.map(ProcessInput::Signal);
    let close = request.close_stdin.then_some(ProcessInput::CloseStdin);
    Ok([resize, signal, close].into_iter().flatten().collect())
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::PtySize;

    #[test]
    fn a_text_message_is_a_request_or_refused_in_words_that_fit_a_goodbye() {
        let size = PtySize { rows: 3, cols: 4 };
        assert_eq!(
            requests(r#"{"resize":{"rows":3,"cols":4},"signal":2,"close_stdin":true}"#),
            Ok(
                vec![ProcessInput::Resize(size), ProcessInput::Signal(2), ProcessInput::CloseStdin,]
            )
        );
        assert_eq!(requests("{}"), Ok(Vec::new()));
        for text in ["", "[]", "hello", r#"{"resize":{"rows":0,"cols":4}}"#, r#"{"signal":65}"#] {
            let reason = requests(text).unwrap_err();
            // A close frame has room for 123 bytes of reason.
            assert!(!reason.is_empty() && reason.len() <= 123, "{text}: {reason}");
        }
    }
}
