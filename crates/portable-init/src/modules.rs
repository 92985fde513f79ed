//! Loading the kernel modules the initrd carries.

use std::ffi::CString;
use std::fs::{self, File};

use anyhow::{Context as _, Result};
use rustix::io::Errno;

/// Parameters that matter where the processor itself is emulated.
///
/// - No nesting below: guests of guests are not offered, and the machinery costs memory.
/// - No halt polling: a waiting vCPU would burn the emulator's time that the other vCPU needs.
fn parameters(module: &str) -> &'static str {
    match module {
        "kvm.ko" => "halt_poll_ns=0",
        "kvm_amd.ko" => "nested=0",
        _ => "",
    }
}

/// Loads the modules named in `/modules/order`, in that order.
pub(crate) fn load_all() -> Result<()> {
    let order = fs::read_to_string("/modules/order").context("the initrd lists no modules")?;
    for name in order.lines() {
        let path = format!("/modules/{name}");
        let file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        let parameters = CString::new(parameters(name))?;
        match rustix::system::finit_module(&file, &parameters, 0) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error).with_context(|| format!("cannot load module {name}")),
        }
    }
    Ok(())
}
