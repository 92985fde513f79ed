use std::sync::{Arc, Mutex};

use api_guest::{
    Answer, Decoder, Exec, FailCode, GENERATION_OF_BOUNDS, Healthy, Message, Process,
    ProcessBounds, Request,
};
use node_host::{GuestConnection, GuestError, spawn_within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::guest::Agent;

fn sleep() -> Exec {
    Exec {
        argv: vec!["sleep".to_owned(), "1000".to_owned()],
        env: Vec::new(),
        cwd: Some("/".to_owned()),
        user: Some("root".to_owned()),
        time_limit_ms: None,
        stdin: false,
        pty: None,
    }
}

#[tokio::test]
async fn an_agent_starts_as_many_as_the_node_allows() {
    let agent = Agent::start();
    let open = async || Ok::<_, ()>(agent.connect().await);
    let bounds = |processes| ProcessBounds { processes, ..ProcessBounds::PROTOCOL };
    let first = spawn_within(open, sleep(), bounds(1)).await.unwrap().unwrap();
    let refused = spawn_within(open, sleep(), bounds(1)).await.unwrap().unwrap_err();
    assert!(matches!(refused, GuestError::Failed { code: FailCode::Busy, .. }), "{refused}");
    let second = spawn_within(open, sleep(), bounds(2)).await.unwrap().unwrap();
    for process in [first, second] {
        agent.connect().await.signal(process.id, 9).await.unwrap();
    }
}

/// Answers one request as an agent of `generation` that knows no bounds; says what it was asked.
async fn answer_without_bounds(mut stream: UnixStream, generation: u16) -> Option<Request> {
    let mut decoder = Decoder::new();
    let mut buffer = [0; 1024];
    let request = loop {
        let count = stream.read(&mut buffer).await.unwrap();
        decoder.push(&buffer[..count]).unwrap();
        if let Some(request) = decoder.take::<Request>().unwrap() {
            break request;
        }
    };
    let answer = match &request {
        Request::Health => Answer::Healthy(Healthy {
            generation,
            agent_version: "0.0.1".to_owned(),
            uptime_ms: 1,
            boot_id: [0; 16],
            wall_clock_ns: 1,
        }),
        Request::Spawn(spawn) => Answer::Process(Process {
            id: 7,
            pid: Some(70),
            argv: spawn.exec.argv.clone(),
            user: "root".to_owned(),
            cwd: "/".to_owned(),
            pty: false,
            started_ns: 1,
            ended_ns: None,
            exited: None,
            last_seq: 0,
        }),
        // Nothing it knows: it closes.
        _ => return None,
    };
    stream.write_all(&answer.encode().unwrap()).await.unwrap();
    Some(request)
}

#[tokio::test]
async fn an_agent_that_knows_no_bounds_starts_a_process_once_with_its_own() {
    for (generation, starts) in [(GENERATION_OF_BOUNDS - 1, 1), (GENERATION_OF_BOUNDS, 0)] {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let open = async || {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let asked = Arc::clone(&asked);
            tokio::spawn(async move {
                let request = answer_without_bounds(theirs, generation).await;
                asked.lock().unwrap().extend(request);
            });
            Ok::<_, ()>(GuestConnection::over(ours))
        };
        let spawned = spawn_within(open, sleep(), ProcessBounds::PROTOCOL).await.unwrap();
        match starts {
            0 => assert!(matches!(spawned, Err(GuestError::Closed)), "{spawned:?}"),
            _ => assert_eq!(spawned.unwrap().id, 7),
        }
        let asked = asked.lock().unwrap();
        let started = asked.iter().filter(|one| matches!(one, Request::Spawn(_))).count();
        assert_eq!(started, starts, "{asked:?}");
    }
}
