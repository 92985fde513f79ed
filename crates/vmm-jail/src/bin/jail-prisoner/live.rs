//! What threads of a healthy VMM do all day, through the standard library.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::eventfd;
use rustix::event::{EventfdFlags, PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::ioctl_fionbio;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    socket_with,
};
use rustix::process::{Uid, getuid};
use rustix::thread::Timespec;
use vmm_jail::{Thread, install};

/// Descriptors that must exist before a filter does.
#[derive(Debug)]
pub(crate) struct Belongings {
    file: File,
    streams: (UnixStream, UnixStream),
    /// A socket to listen on, and a connection that waits there.
    keeper: (OwnedFd, OwnedFd),
    uid: Uid,
    userfaultfd: OwnedFd,
    pagemap: File,
}

impl Belongings {
    pub(crate) fn new(userfaultfd: OwnedFd, pagemap: File) -> io::Result<Self> {
        let file = memfd_create("life", MemfdFlags::CLOEXEC)?.into();
        Ok(Self {
            file,
            streams: UnixStream::pair()?,
            keeper: keeper()?,
            uid: getuid(),
            userfaultfd,
            pagemap,
        })
    }
}

fn keeper() -> io::Result<(OwnedFd, OwnedFd)> {
    let socket = || {
        let flags = SocketFlags::CLOEXEC;
        socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
    };
    let (keeper, node) = (socket()?, socket()?);
    let address = SocketAddrUnix::new_abstract_name(b"keeper")?;
    bind(&keeper, &address)?;
    listen(&keeper, 1)?;
    connect(&node, &address)?;
    Ok((keeper, node))
}

/// Goes through the life of a process whose control thread already has [`Thread::Control`]'s
/// filter. Fails, or is killed, if anything is denied.
pub(crate) fn live(belongings: &Belongings) -> io::Result<()> {
    any_thread(belongings);
    let counter = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;

    let mut threads = Vec::new();
    // As many as the largest machine has: the allocator behaves differently with many threads.
    let kinds = [[Thread::Vcpu; 8].as_slice(), &[Thread::Fault]].concat();
    for kind in kinds {
        let (start, started) = mpsc::channel::<()>();
        let file = belongings.file.try_clone()?;
        let counter = counter.try_clone()?;
        let builder = thread::Builder::new().name(format!("{kind:?}")).stack_size(128 * 1024);
        let thread = builder.spawn(move || -> io::Result<()> {
            install(kind).map_err(io::Error::other)?;
            drop(vec![1_u8; 1 << 16]);
            // The sender is gone, which is what it waits for.
            let _ = started.recv();
            rustix::io::write(&counter, &1_u64.to_ne_bytes())?;
            file.read_at(&mut [0; 8], 0)?;
            let mut descriptors = [PollFd::new(&counter, PollFlags::IN)];
            poll(&mut descriptors, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
            eprintln!("a thread may complain");
            Ok(())
        })?;
        threads.push((start, thread));
    }

    install(Thread::Sealed).map_err(io::Error::other)?;
    any_thread(belongings);
    for (start, thread) in threads {
        drop(start);
        thread.join().map_err(|_| io::Error::other("a thread panicked"))??;
    }
    files(&belongings.file)?;
    streams(&belongings.streams)?;
    next_node(&belongings.keeper.0, belongings.uid)?;
    let mut entry = [0; 8];
    belongings.pagemap.read_exact_at(&mut entry, 0)?;
    poll(&mut [PollFd::new(&belongings.userfaultfd, PollFlags::IN)], Some(&Timespec::default()))?;
    Ok(())
}

/// Memory, locks, time, chance.
fn any_thread(_: &Belongings) {
    let mut block = vec![1_u8; 1 << 22];
    block.resize(1 << 24, 2);
    block.shrink_to(1 << 20);
    let table: HashMap<usize, String> = (0..100).map(|n| (n, n.to_string())).collect();
    assert_eq!(table.len(), 100);
    let (send, receive) = mpsc::channel();
    send.send(block.len()).unwrap();
    receive.recv().unwrap();
    // Nobody sends any more but the sender is there: waits on a futex until the time is over.
    let timeout = receive.recv_timeout(Duration::from_millis(1));
    assert_eq!(timeout, Err(mpsc::RecvTimeoutError::Timeout));
    assert!(Instant::now().elapsed() < Duration::from_secs(60));
}

fn files(file: &File) -> io::Result<()> {
    file.set_len(1 << 20)?;
    file.write_all_at(b"sector", 4096)?;
    let mut text = [0; 6];
    file.read_exact_at(&mut text, 4096)?;
    assert_eq!(&text, b"sector");
    assert_eq!(file.metadata()?.len(), 1 << 20);
    file.sync_all()?;
    file.sync_data()?;
    drop(file.try_clone()?);
    Ok(())
}

fn next_node(keeper: &OwnedFd, uid: Uid) -> io::Result<()> {
    ioctl_fionbio(keeper, true)?;
    listen(keeper, 1)?;
    let node = accept_with(keeper, SocketFlags::CLOEXEC)?;
    assert_eq!(socket_peercred(&node)?.uid, uid);
    Ok(())
}

fn streams((ours, theirs): &(UnixStream, UnixStream)) -> io::Result<()> {
    ours.set_nonblocking(true)?;
    (&mut &*theirs).write_all(b"hello")?;
    let mut text = [0; 5];
    (&mut &*ours).read_exact(&mut text)?;
    assert_eq!(&text, b"hello");
    ours.shutdown(Shutdown::Write)
}
