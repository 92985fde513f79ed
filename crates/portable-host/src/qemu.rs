//! QEMU's command line. Pure: from a description to arguments.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The program and the Debian package it comes from.
pub(crate) const PROGRAM: &str = "qemu-system-x86_64";
pub(crate) const PACKAGE: &str = "qemu-system-x86";

/// - `quiet loglevel=3`: the serial port is dear, each byte on it a trap into the emulator.
/// - `panic=-1`: a dead kernel ends QEMU at once (with `-no-reboot`).
/// - `mitigations=off`: the processor is emulated, translated code does not speculate on the guest's behalf.
/// - `net.ifnames=0`: the one interface is eth0.
const COMMAND_LINE: &str = "console=ttyS0 quiet loglevel=3 panic=-1 reboot=t mitigations=off init_on_alloc=0 net.ifnames=0 printk.devkmsg=on";

/// LIMIT: the most QEMU uses of it. It has no more than 1 GiB by itself; see decision 26.
const TRANSLATIONS_MIB_MAX: u64 = 2048;
/// LIMIT: what a buffer for translated code is at least worth having; a booted portable host fills a quarter of 1 GiB.
const TRANSLATIONS_MIB_MIN: u64 = 256;

/// How much translated code QEMU may keep on a machine with that much memory: an eighth of it, which is QEMU's own
/// choice where memory is small. It takes the memory only as the buffer fills.
pub(crate) fn translations_mib(machine_memory_mib: u64) -> u64 {
    (machine_memory_mib / 8).clamp(TRANSLATIONS_MIB_MIN, TRANSLATIONS_MIB_MAX)
}

/// Where the first console of the portable host goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Console {
    /// To a file.
    File(PathBuf),
    /// To QEMU's own standard streams.
    Standard,
}

/// Where the second console goes, over which launcher and PID 1 talk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Control {
    /// A Unix socket that takes commands.
    Socket(PathBuf),
    /// A file that keeps the last word.
    File(PathBuf),
}

/// A disk by the serial PID 1 looks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) serial: &'static str,
    pub(crate) file: PathBuf,
    pub(crate) read_only: bool,
}

/// Everything QEMU must know.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: PathBuf,
    pub(crate) memory_mib: u32,
    /// Those programs run on; QEMU gets the reserved ones beside them.
    pub(crate) vcpus: u32,
    /// Room for translated code. When it is full, QEMU throws all of it away and stops every processor for that.
    pub(crate) translations_mib: u64,
    pub(crate) disks: Vec<Disk>,
    /// (port on 127.0.0.1, port inside)
    pub(crate) forward: Option<(u16, u16)>,
    pub(crate) kernel_log: PathBuf,
    pub(crate) console: Console,
    pub(crate) control: Control,
    pub(crate) qmp: Option<PathBuf>,
    /// Where a QEMU that goes to the background leaves its process id.
    pub(crate) background: Option<PathBuf>,
}

impl Machine {
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let mut arguments = Arguments::default();
        arguments.words(&["-name", "sandflare-portable-host", "-no-user-config", "-nodefaults"]);
        arguments.words(&["-machine", "q35,usb=off,sata=off,smbus=off"]);
        let accelerator = format!("tcg,thread=multi,tb-size={}", self.translations_mib);
        arguments.words(&["-accel", &accelerator]);
        // No 57-bit addresses: a fifth level would make every page walk of the emulated MMU longer.
        // No fast string operations: with them Linux clears and copies memory by `rep stosb`, which
        // the translator runs byte by byte, ten times slower than the loop Linux uses without.
        arguments.words(&["-cpu", "max,la57=off,erms=off,fsrm=off"]);
        let processors = self.vcpus + portable_init::RESERVED_PROCESSORS;
        arguments.words(&["-smp", &processors.to_string(), "-m", &self.memory_mib.to_string()]);
        arguments.words(&["-display", "none", "-no-reboot"]);
        // Going to the background needs the very calls the strict filter denies: fork and setsid.
        let strict = ",elevateprivileges=deny,spawn=deny,resourcecontrol=deny";
        let more = if self.background.is_some() { "" } else { strict };
        arguments.words(&["-sandbox", &format!("on,obsolete=deny{more}")]);
        arguments.option("-kernel", "", &self.kernel, "");
        arguments.option("-initrd", "", &self.initrd, "");
        arguments.words(&["-append", COMMAND_LINE]);
        arguments.list("-chardev", "file,id=kernel,path=", &self.kernel_log, "");
        arguments.words(&["-serial", "chardev:kernel"]);
        // One console port each; the order is the numbering inside.
        arguments.words(&["-device", "virtio-serial-pci"]);
        match &self.console {
            Console::File(path) => arguments.list("-chardev", "file,id=console,path=", path, ""),
            Console::Standard => arguments.words(&["-chardev", "stdio,id=console,signal=off"]),
        }
        arguments.words(&["-device", "virtconsole,chardev=console"]);
        match &self.control {
            Control::Socket(path) => {
                arguments.list("-chardev", "socket,id=control,path=", path, ",server=on,wait=off");
            }
            Control::File(path) => arguments.list("-chardev", "file,id=control,path=", path, ""),
        }
        arguments.words(&["-device", "virtconsole,chardev=control"]);
        for Disk { serial, file, read_only } in &self.disks {
            // werror=report: on a full disk the guest gets its error; QEMU's own choice is to freeze the machine.
            let rest = format!(
                ",if=none,id={serial},format=raw,discard=unmap,werror=report,rerror=report,read-only={}",
                if *read_only { "on" } else { "off" }
            );
            arguments.list("-drive", "file=", file, &rest);
            arguments
                .words(&["-device", &format!("virtio-blk-pci,drive={serial},serial={serial}")]);
        }
        if let Some((outside, inside)) = self.forward {
            let address = portable_init::ADDRESS;
            arguments.words(&[
                "-netdev",
                &format!("user,id=net,ipv6=off,hostfwd=tcp:127.0.0.1:{outside}-{address}:{inside}"),
                "-device",
                "virtio-net-pci,netdev=net,romfile=",
            ]);
        }
        match &self.qmp {
            Some(path) => arguments.list("-qmp", "unix:", path, ",server=on,wait=off"),
            None => arguments.words(&["-monitor", "none"]),
        }
        if let Some(pid) = &self.background {
            arguments.words(&["-daemonize"]);
            arguments.option("-pidfile", "", pid, "");
        }
        arguments.0
    }
}

#[derive(Default)]
struct Arguments(Vec<OsString>);

impl Arguments {
    fn words(&mut self, words: &[&str]) {
        self.0.extend(words.iter().map(OsString::from));
    }

    /// An option whose value is a plain path.
    fn option(&mut self, name: &str, before: &str, path: &Path, after: &str) {
        self.words(&[name]);
        let mut value = OsString::from(before);
        value.push(path);
        value.push(after);
        self.0.push(value);
    }

    /// An option whose value is a comma-separated list: a comma in a path is written twice.
    fn list(&mut self, name: &str, before: &str, path: &Path, after: &str) {
        let escaped = path.to_string_lossy().replace(',', ",,");
        self.option(name, before, Path::new(&escaped), after);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            kernel: "/i/vmlinux".into(),
            initrd: "/s/initrd".into(),
            memory_mib: 2560,
            vcpus: 2,
            translations_mib: translations_mib(16 << 10),
            disks: vec![
                Disk { serial: "data", file: "/a,b/data.ext4".into(), read_only: false },
                Disk { serial: "images", file: "/s/images.ext4".into(), read_only: true },
            ],
            forward: Some((7878, 80)),
            kernel_log: "/s/kernel.log".into(),
            console: Console::File("/s/console.log".into()),
            control: Control::Socket("/s/control".into()),
            qmp: Some("/s/qmp".into()),
            background: Some("/s/pid".into()),
        }
    }

    fn line(machine: &Machine) -> String {
        let words: Vec<String> =
            machine.arguments().iter().map(|word| word.to_string_lossy().into_owned()).collect();
        words.join(" ")
    }

    #[test]
    fn a_background_machine_forwards_its_port_and_leaves_its_pid() {
        let line = line(&machine());
        assert!(line.contains("hostfwd=tcp:127.0.0.1:7878-10.0.2.15:80"), "{line}");
        assert!(line.contains("-daemonize -pidfile /s/pid"), "{line}");
        assert!(line.contains("-qmp unix:/s/qmp,server=on,wait=off"), "{line}");
    }

    #[test]
    fn a_comma_in_a_path_cannot_add_options() {
        assert!(line(&machine()).contains("-drive file=/a,,b/data.ext4,if=none"));
    }

    #[test]
    fn disks_are_told_apart_by_serial_and_keep_their_mode() {
        let line = line(&machine());
        assert!(line.contains(
            "id=data,format=raw,discard=unmap,werror=report,rerror=report,read-only=off"
        ));
        assert!(line.contains(
            "id=images,format=raw,discard=unmap,werror=report,rerror=report,read-only=on"
        ));
        assert!(line.contains("virtio-blk-pci,drive=images,serial=images"));
    }

    #[test]
    fn the_reserved_processor_is_none_of_the_promised_ones() {
        assert!(line(&machine()).contains("-smp 3 -m 2560"));
    }

    #[test]
    fn translated_code_gets_an_eighth_of_the_memory_and_never_more_than_qemu_can_use() {
        for (memory, room) in [(0, 256), (4 << 10, 512), (16 << 10, 2048), (256 << 10, 2048)] {
            assert_eq!(translations_mib(memory), room, "of {memory} MiB");
        }
        assert!(line(&machine()).contains("-accel tcg,thread=multi,tb-size=2048 "));
    }

    #[test]
    fn consoles_come_in_the_order_the_inside_expects() {
        let line = line(&machine());
        let console = line.find("virtconsole,chardev=console").unwrap();
        assert!(console < line.find("virtconsole,chardev=control").unwrap());
    }

    #[test]
    fn a_machine_in_the_foreground_has_no_network_and_no_monitor() {
        let machine = Machine {
            forward: None,
            qmp: None,
            background: None,
            console: Console::Standard,
            control: Control::File("/s/end".into()),
            ..machine()
        };
        let line = line(&machine);
        assert!(line.ends_with("-monitor none"), "{line}");
        assert!(!line.contains("-netdev"), "{line}");
    }
}
