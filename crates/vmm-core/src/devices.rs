//! The four virtio devices of every machine, in window order: root disk, vsock, entropy, network.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use api_vmm::{NET_MAC, NET_MTU};
use serde::{Deserialize, Serialize};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::Epoll;
use vmm_virtio::block::{Disk, DiskError, FrozenBlock};
use vmm_virtio::net::{FrozenNet, NetHost, NetSettings};
use vmm_virtio::vsock::FrozenVsock;
use vmm_virtio::{
    Block, Device, Events, Freeze, FrozenTransport, Lines, MmioDevice, MmioTransport, Net,
    Registrar, Rng, TransportHost, Vsock,
};

/// Name the guest finds the root disk by.
const ROOT_DISK: &str = "root";
const BLOCK: u32 = 0;
const VSOCK: u32 = 1;
const RNG: u32 = 2;
const NET: u32 = 3;

/// Why the devices could not be made or brought to rest.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The disk chain is not usable.
    #[error("open the root disk")]
    Disk(#[source] DiskError),
    /// A device could not be set up.
    #[error("set up the {device} device")]
    Setup {
        /// Which.
        device: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Frozen state was refused.
    #[error("continue the {device} device")]
    Thaw {
        /// Which.
        device: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The shell has other devices than this build.
    #[error("the shell was built for other devices")]
    Lines,
}

/// State of all devices, as plain data.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FrozenDevices {
    block: FrozenTransport<FrozenBlock>,
    vsock: FrozenTransport<FrozenVsock>,
    rng: FrozenTransport<<Rng as Freeze>::Frozen>,
    net: FrozenTransport<FrozenNet>,
}

/// See the module.
pub(crate) struct Devices {
    block: Arc<MmioTransport<Block>>,
    vsock: Arc<MmioTransport<Vsock>>,
    rng: Arc<MmioTransport<Rng>>,
    net: Arc<MmioTransport<Net>>,
}

/// What the devices work on, as the node passed it.
#[derive(Debug)]
pub(crate) struct DeviceFiles {
    /// Base image and overlays of the root disk.
    pub(crate) disk: Vec<File>,
    /// The frame socket.
    pub(crate) frames: OwnedFd,
}

impl std::fmt::Debug for Devices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Devices").finish_non_exhaustive()
    }
}

/// What the transports share.
struct Around<'a> {
    memory: &'a Arc<GuestMemoryMmap<()>>,
    epoll: &'a Arc<Epoll>,
}

impl Around<'_> {
    fn host(&self, index: u32, lines: Lines) -> TransportHost {
        TransportHost { memory: Arc::clone(self.memory), lines, registrar: self.registrar(index) }
    }

    fn registrar(&self, index: u32) -> Registrar {
        Registrar::new(Arc::clone(self.epoll), index)
    }

    fn net(&self, socket: OwnedFd) -> NetHost {
        let settings = NetSettings { mac: NET_MAC, mtu: NET_MTU };
        NetHost { settings, socket, registrar: self.registrar(NET) }
    }
}

fn setup(device: &'static str) -> impl Fn(io::Error) -> DeviceError {
    move |source| DeviceError::Setup { device, source }
}

fn thawed<E: std::error::Error + Send + Sync + 'static>(
    device: &'static str,
) -> impl Fn(E) -> DeviceError {
    move |error| DeviceError::Thaw { device, source: Box::new(error) }
}

fn each(lines: Vec<Lines>) -> Result<[Lines; 4], DeviceError> {
    lines.try_into().map_err(|_| DeviceError::Lines)
}

impl Devices {
    /// Queues of each device, for building shells.
    pub(crate) const QUEUES: [usize; 4] = [
        Block::QUEUE_SIZES.len(),
        Vsock::QUEUE_SIZES.len(),
        Rng::QUEUE_SIZES.len(),
        Net::QUEUE_SIZES.len(),
    ];

    /// Devices as after power-on.
    pub(crate) fn new(
        files: DeviceFiles,
        memory: &Arc<GuestMemoryMmap<()>>,
        lines: Vec<Lines>,
        epoll: &Arc<Epoll>,
    ) -> Result<Self, DeviceError> {
        let around = Around { memory, epoll };
        let [block_lines, vsock_lines, rng_lines, net_lines] = each(lines)?;
        let mut disk = Disk::new(files.disk).map_err(DeviceError::Disk)?;
        disk.open().map_err(DeviceError::Disk)?;
        let block =
            MmioTransport::new(Block::new(disk, ROOT_DISK), around.host(BLOCK, block_lines))
                .map_err(setup("block"))?;
        let vsock = MmioTransport::new(
            Vsock::new(around.registrar(VSOCK)),
            around.host(VSOCK, vsock_lines),
        )
        .map_err(setup("vsock"))?;
        let rng =
            MmioTransport::new(Rng::new(), around.host(RNG, rng_lines)).map_err(setup("rng"))?;
        let net = Net::new(around.net(files.frames)).map_err(setup("net"))?;
        let net = MmioTransport::new(net, around.host(NET, net_lines)).map_err(setup("net"))?;
        Ok(Self {
            block: Arc::new(block),
            vsock: Arc::new(vsock),
            rng: Arc::new(rng),
            net: Arc::new(net),
        })
    }

    /// Devices as they were frozen. The disk is opened on the guest's first request.
    pub(crate) fn thaw(
        frozen: FrozenDevices,
        files: DeviceFiles,
        memory: &Arc<GuestMemoryMmap<()>>,
        lines: Vec<Lines>,
        epoll: &Arc<Epoll>,
    ) -> Result<Self, DeviceError> {
        let around = Around { memory, epoll };
        let [block_lines, vsock_lines, rng_lines, net_lines] = each(lines)?;
        let disk = Disk::new(files.disk).map_err(DeviceError::Disk)?;
        let block = MmioTransport::thaw(frozen.block, (around.host(BLOCK, block_lines), disk))
            .map_err(thawed("block"))?;
        let vsock = MmioTransport::thaw(
            frozen.vsock,
            (around.host(VSOCK, vsock_lines), around.registrar(VSOCK)),
        )
        .map_err(thawed("vsock"))?;
        let rng = MmioTransport::thaw(frozen.rng, (around.host(RNG, rng_lines), ()))
            .map_err(thawed("rng"))?;
        let net = around.net(files.frames);
        let net = MmioTransport::thaw(frozen.net, (around.host(NET, net_lines), net))
            .map_err(thawed("net"))?;
        Ok(Self {
            block: Arc::new(block),
            vsock: Arc::new(vsock),
            rng: Arc::new(rng),
            net: Arc::new(net),
        })
    }

    /// The register windows, in order.
    pub(crate) fn windows(&self) -> Vec<Arc<dyn MmioDevice>> {
        vec![
            Arc::clone(&self.block) as Arc<dyn MmioDevice>,
            Arc::clone(&self.vsock) as Arc<dyn MmioDevice>,
            Arc::clone(&self.rng) as Arc<dyn MmioDevice>,
            Arc::clone(&self.net) as Arc<dyn MmioDevice>,
        ]
    }

    fn by_index(&self, index: u32) -> Option<&dyn MmioDevice> {
        match index {
            BLOCK => Some(self.block.as_ref()),
            VSOCK => Some(self.vsock.as_ref()),
            RNG => Some(self.rng.as_ref()),
            NET => Some(self.net.as_ref()),
            _ => None,
        }
    }

    /// Serves one event; what went wrong in a device comes back as `(name, reason)`.
    pub(crate) fn event(
        &self,
        index: u32,
        sub_token: u32,
        events: Events,
    ) -> Vec<(String, String)> {
        let Some(device) = self.by_index(index) else { return Vec::new() };
        device.event(sub_token, events);
        [device.take_broken(), device.take_host_failure()]
            .into_iter()
            .flatten()
            .map(|reason| (device.name().to_owned(), reason))
            .collect()
    }

    /// After a thaw: every queue is processed once and every interrupt raised once.
    pub(crate) fn kick(&self) {
        self.block.kick();
        self.vsock.kick();
        self.rng.kick();
        self.net.kick();
    }

    /// With the vCPUs held: finishes what the guest has begun, down to stable storage.
    pub(crate) fn settle(&self) -> Result<(), DeviceError> {
        self.block.drain_and_flush().map_err(DeviceError::Disk)?;
        self.vsock.drain();
        self.rng.drain();
        self.net.drain();
        Ok(())
    }

    /// State of all devices, after [`Self::settle`].
    pub(crate) fn freeze(&self) -> FrozenDevices {
        FrozenDevices {
            block: self.block.freeze(),
            vsock: self.vsock.freeze(),
            rng: self.rng.freeze(),
            net: self.net.freeze(),
        }
    }

    /// Leaves the files of the disk as they are; it goes on over `disk`, of the same content.
    pub(crate) fn go_on_over(&self, disk: Vec<File>) -> Result<(), DeviceError> {
        self.block.go_on_over(disk).map_err(DeviceError::Disk)
    }

    /// Splices `stream` onto a new connection to `port` of the guest.
    pub(crate) fn connect(&self, port: u32, stream: OwnedFd) -> io::Result<()> {
        self.vsock.connect(port, UnixStream::from(stream)).map_err(io::Error::other)
    }

    /// From now on frames of the guest's go to and come from `frames`.
    pub(crate) fn use_frames(&self, frames: OwnedFd) -> io::Result<()> {
        self.net.use_socket(frames)
    }

    /// Bytes the guest wrote to its disk.
    pub(crate) fn disk_written_bytes(&self) -> u64 {
        self.block.with(|block, _| block.stats().written_bytes)
    }
}
