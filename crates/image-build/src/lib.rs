//! Makes every image Sandflare boots: the kernel, the guest's initrd, the portable host's initrd, and the
//! root images of templates. Everything comes from signed Debian packages and our own programs.
//!
//! The one entry is [`ensure`]: it makes what is missing or out of date and leaves the rest alone. The
//! layout it fills is described at [`ensure`]; [`Progress`] tells how far it is.

mod bzimage;
mod cache;
mod command;
mod debian;
mod elf;
mod ensure;
mod error;
mod initrd;
mod kernel;
mod modules;
mod progress;
mod template;

pub use bzimage::ExtractError;
pub use cache::hash_file;
pub use debian::SUITE;
pub use elf::ElfError;
pub use ensure::{Inputs, KernelManifest, PortableInputs, ensure};
pub use error::{BuildError, ModuleError};
pub use modules::OrderError;
pub use progress::{Outcome, Progress, Silent};
pub use template::{Package, ServiceManifest, TemplateManifest};
