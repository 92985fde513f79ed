use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::time::Instant;

use rustix::net::{AddressFamily, RecvAncillaryMessage, SocketFlags, SocketType};

use super::*;

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(50);

/// The VMM's end, speaking real packets.
struct Peer(OwnedFd);

fn connect() -> (Control, Peer) {
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    (Control::start(ours).unwrap(), Peer(theirs))
}

impl Peer {
    fn say(&self, message: &Message) {
        let packet = api_vmm::encode(message).unwrap();
        rustix::net::send(&self.0, &packet, SendFlags::empty()).unwrap();
    }

    fn hear(&self) -> (Request, Vec<OwnedFd>) {
        let mut buffer = vec![0; PACKET_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PACKET_FDS_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::net::recvmsg(
            &self.0,
            &mut [IoSliceMut::new(&mut buffer)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )
        .unwrap();
        let mut files = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                files.extend(rights);
            }
        }
        (api_vmm::decode(&buffer[..received.bytes]).unwrap(), files)
    }
}

#[tokio::test]
async fn pipelined_requests_find_their_own_replies() {
    let (control, peer) = connect();
    let first = control.send(Command::Pause, &[]).await.unwrap();
    let second = control.send(Command::Stats, &[]).await.unwrap();
    let (pause, _) = peer.hear();
    let (stats, _) = peer.hear();
    assert_eq!((pause.command, stats.command), (Command::Pause, Command::Stats));
    // Answered the wrong way round, to show that the number decides.
    peer.say(&Message::Reply { seq: stats.seq, result: Err("no counters".to_owned()) });
    peer.say(&Message::Reply { seq: pause.seq, result: Ok(Answer::Done) });
    assert_eq!(first.within(LONG).await.unwrap(), Answer::Done);
    assert_eq!(second.within(LONG).await.unwrap_err().to_string(), "no counters");
}

#[tokio::test]
async fn descriptors_arrive_in_order_and_work() {
    let (control, peer) = connect();
    let files: Vec<_> = (0..3).map(|_| tempfile::tempfile().unwrap()).collect();
    for (n, mut file) in files.iter().enumerate() {
        write!(file, "file {n}").unwrap();
    }
    let borrowed: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    let pending = control.send(Command::Connect { port: 1024 }, &borrowed).await.unwrap();
    let (_, received) = peer.hear();
    for (n, file) in received.into_iter().enumerate() {
        use std::io::Seek;
        let mut file = std::fs::File::from(file);
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, format!("file {n}"));
    }
    drop(pending);
}

#[tokio::test]
async fn more_descriptors_than_the_protocol_allows_are_refused_and_leave_nothing_pending() {
    let (control, _peer) = connect();
    let file = tempfile::tempfile().unwrap();
    let files = vec![file.as_fd(); PACKET_FDS_MAX + 1];
    let error = control.send(Command::Pause, &files).await.unwrap_err();
    assert!(matches!(error, ControlError::Send(_)), "{error}");
    assert!(control.shared.lock().replies.is_empty());
}

#[tokio::test]
async fn a_vmm_that_dies_fails_what_is_pending_and_what_comes_after() {
    let (control, peer) = connect();
    let pending = control.send(Command::Pause, &[]).await.unwrap();
    drop(peer);
    assert!(matches!(pending.within(LONG).await, Err(ControlError::Gone)));
    let mut state = control.state();
    let known = state.wait_for(|s| s.end.is_some()).await.unwrap().clone();
    assert_eq!(known.end, Some(MachineEnd::Silent));
    assert!(matches!(control.request(Command::Stats, &[], LONG).await, Err(ControlError::Gone)));
}

#[tokio::test]
async fn a_silent_vmm_is_late_not_waited_for_and_over_after_that() {
    let begun = Instant::now();
    let (control, _peer) = connect();
    assert!(matches!(control.hello(SHORT).await, Err(ControlError::Late(_))));
    let error = control.request(Command::Stats, &[], SHORT).await.unwrap_err();
    assert!(matches!(error, ControlError::Late(_)), "{error}");
    let mut state = control.state();
    let over = state.wait_for(|state| state.end.is_some()).await.unwrap().end.clone();
    let reason = "the VMM did not answer within 50 ms".to_owned();
    assert_eq!(over, Some(MachineEnd::Failed(reason)));
    assert!(matches!(control.request(Command::Stats, &[], LONG).await, Err(ControlError::Gone)));
    assert!(begun.elapsed() < LONG);
}

#[tokio::test]
async fn another_protocol_is_refused_with_both_numbers() {
    let (control, peer) = connect();
    peer.say(&Message::Hello { protocol: 99, progress: Progress::Empty });
    let error = control.hello(LONG).await.unwrap_err();
    assert!(error.to_string().contains("protocol 99"), "{error}");
}

#[tokio::test]
async fn a_hello_says_how_far_the_vmm_has_come() {
    let (control, peer) = connect();
    peer.say(&Message::Hello { protocol: api_vmm::PROTOCOL, progress: Progress::Paused });
    assert_eq!(control.hello(LONG).await.unwrap(), Progress::Paused);
}

#[tokio::test]
async fn noise_from_the_vmm_ends_the_connection() {
    for noise in [vec![0xff; 40], vec![0; PACKET_BYTES_MAX + 100]] {
        let (control, peer) = connect();
        rustix::net::send(&peer.0, &noise, SendFlags::empty()).unwrap();
        let mut state = control.state();
        let known = state.wait_for(|s| s.end.is_some()).await.unwrap().clone();
        assert!(matches!(known.end, Some(MachineEnd::Failed(_))), "{known:?}");
    }
    // A reply nobody asked for is noise too.
    let (control, peer) = connect();
    peer.say(&Message::Reply { seq: 7, result: Ok(Answer::Done) });
    let mut state = control.state();
    let known = state.wait_for(|s| s.end.is_some()).await.unwrap().clone();
    assert!(matches!(known.end, Some(MachineEnd::Failed(_))), "{known:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_reason_stands_and_broken_devices_are_kept_bounded() {
    let (control, peer) = connect();
    for n in 0..BROKEN_MAX + 5 {
        let device = format!("block\n{n}");
        peer.say(&Message::DeviceBroken { device, reason: "x".repeat(10_000) });
    }
    peer.say(&Message::Stopped(StopReason::KvmFailure("entry failed".to_owned())));
    drop(peer);
    let mut state = control.state();
    let known = state.wait_for(|s| s.end.is_some()).await.unwrap().clone();
    assert_eq!(known.end, Some(MachineEnd::Failed("entry failed".to_owned())));
    assert_eq!(known.broken.len(), BROKEN_MAX);
    assert_eq!(known.broken[0].0, "block 0");
    assert_eq!(known.broken[0].1.len(), TEXT_CHARS_MAX);
}

#[tokio::test]
async fn a_request_is_on_its_way_before_the_connection_is_said_to_be_open() {
    let (control, peer) = connect();
    let agent = crate::machine::connect_soon(&control).await.unwrap();
    let asking = tokio::spawn(agent.health(LONG));
    let hearing = tokio::task::spawn_blocking(move || (peer.hear(), peer));
    let ((asked, mut streams), peer) = hearing.await.unwrap();
    assert!(matches!(asked.command, Command::Connect { .. }), "{:?}", asked.command);
    // The request comes although nobody has answered yet.
    let mut stream = std::os::unix::net::UnixStream::from(streams.pop().unwrap());
    let reading = tokio::task::spawn_blocking(move || stream.read_exact(&mut [0; 5]));
    reading.await.unwrap().unwrap();
    let result = Err("1024 connections to the guest are open".to_owned());
    peer.say(&Message::Reply { seq: asked.seq, result });
    let error = asking.await.unwrap().unwrap_err();
    assert!(matches!(error, crate::guest::GuestError::Unopened(_)), "{error}");
    let text = base_types::Chain(&error).to_string();
    assert!(text.ends_with("1024 connections to the guest are open"), "{text}");
}
