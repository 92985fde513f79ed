//! An empty root in place of the host's.

use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, mount_move, unmount,
};
use rustix::process::{chdir, chroot, pivot_root};

use crate::enter::{During, JailError};

/// Any directory that is there serves to mount the new root on; this one must be, as the page map
/// is opened through it.
const MOUNT_POINT: &str = "/proc";
/// LIMIT: the root directory itself is all there will ever be.
const EMPTY: &std::ffi::CStr = c"size=4k,nr_inodes=1,mode=0555";

/// Makes an empty, read-only, tiny tmpfs the root and working directory.
///
/// To be called in a mount namespace of one's own.
pub(crate) fn replace_with_nothing() -> Result<(), JailError> {
    // Otherwise what is mounted here appears in the host's namespace too.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).during("make mounts private")?;

    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("none", MOUNT_POINT, "tmpfs", flags, EMPTY).during("mount an empty root")?;
    chdir(MOUNT_POINT).during("go to the empty root")?;

    // Old and new root in one place: the old one ends up on top of the new one, where the
    // working directory still finds it.
    match pivot_root(".", ".") {
        Ok(()) => {
            unmount(".", UnmountFlags::DETACH).during("detach the host's root")?;
        }
        // The initial ramfs cannot be pivoted away from. Covering it does as much here: there is
        // no way under a mount for a process with no capability and no descriptor of it.
        Err(Errno::INVAL) => {
            mount_move(".", "/").during("cover the host's root")?;
            chroot(".").during("change to the empty root")?;
        }
        Err(error) => return Err(error).during("pivot to the empty root"),
    }
    chdir("/").during("go to the new root")
}
