//! Which block device a directory's file system is on.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

/// Where the kernel lists block devices by number.
const DEVICES: &str = "/sys/dev/block";

/// `major:minor` of the whole block device under `dir`, as the I/O controller wants it: of a partition
/// its disk, of a mapped or loop device that device. Fails where nothing of the kind is below, as with a
/// file system in memory or on a network.
pub(crate) fn under(dir: &Path) -> io::Result<String> {
    let number = fs::metadata(dir)?.dev();
    let number = format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number));
    let devices = Path::new(DEVICES);
    if devices.join(&number).exists() {
        return whole(devices, &number);
    }
    // Some file systems have a number of their own, and name their device where they are mounted.
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let source = source_of(&mounts, &number)
        .ok_or_else(|| io::Error::other(format!("nothing is mounted with number {number}")))?;
    let found = fs::metadata(source)?;
    if !found.file_type().is_block_device() {
        return Err(io::Error::other(format!("{source} is no block device")));
    }
    let number = format!("{}:{}", rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev()));
    whole(devices, &number)
}

/// The device that `number` is a partition of, or itself.
fn whole(devices: &Path, number: &str) -> io::Result<String> {
    let device = fs::canonicalize(devices.join(number))?;
    if !device.join("partition").exists() {
        return Ok(number.to_owned());
    }
    let disk = device.parent().unwrap_or(&device);
    Ok(fs::read_to_string(disk.join("dev"))?.trim().to_owned())
}

/// What the file system with this number was mounted from.
fn source_of<'m>(mounts: &'m str, number: &str) -> Option<&'m str> {
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let found = before.split(' ').nth(2)?;
        (found == number).then(|| after.split(' ').nth(1)).flatten()
    })
}

#[cfg(test)]
mod test {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_partition_is_limited_by_its_disk_and_any_other_device_by_itself() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("devices/vda");
        fs::create_dir_all(disk.join("vda1")).unwrap();
        fs::create_dir_all(dir.path().join("devices/dm-0")).unwrap();
        fs::write(disk.join("dev"), "254:0\n").unwrap();
        fs::write(disk.join("vda1/partition"), "1\n").unwrap();
        for (number, device) in [("254:0", "vda"), ("254:1", "vda/vda1"), ("252:0", "dm-0")] {
            symlink(dir.path().join("devices").join(device), dir.path().join(number)).unwrap();
        }
        assert_eq!(whole(dir.path(), "254:1").unwrap(), "254:0");
        assert_eq!(whole(dir.path(), "254:0").unwrap(), "254:0");
        assert_eq!(whole(dir.path(), "252:0").unwrap(), "252:0");
        assert!(whole(dir.path(), "9:9").is_err());
    }

    #[test]
    fn a_file_system_with_a_number_of_its_own_is_found_by_where_it_is_mounted() {
        let mounts = "22 27 0:21 / /proc rw,relatime - proc proc rw\n\
                      30 27 0:40 /@ / rw shared:1 master:2 - btrfs /dev/sda2 rw\n";
        assert_eq!(source_of(mounts, "0:40"), Some("/dev/sda2"));
        assert_eq!(source_of(mounts, "0:41"), None);
        assert_eq!(source_of("nonsense\n", "0:41"), None);
    }

    #[test]
    fn a_file_system_in_memory_is_on_no_device() {
        assert!(under(Path::new("/proc")).is_err());
    }
}
