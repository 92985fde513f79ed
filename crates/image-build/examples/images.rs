//! Makes images for development: `images IMAGES_DIR BIN_DIR [TEMPLATE...]`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use base_types::{Chain, TemplateName};
use image_build::{Inputs, Outcome, PortableInputs, Progress};

struct Lines(Instant);

impl Progress for Lines {
    fn begin(&self, _step: &str) {}
    fn advance(&self, step: &str, fraction: f64) {
        println!("{:6.1} s  {step} {:.0} %", self.0.elapsed().as_secs_f64(), fraction * 100.0);
    }
    fn end(&self, step: &str, outcome: Outcome) {
        println!("{:6.1} s  {step}: {outcome:?}", self.0.elapsed().as_secs_f64());
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(images), Some(bins)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: images IMAGES_DIR BIN_DIR [TEMPLATE...]");
        return ExitCode::from(2);
    };
    let bins = PathBuf::from(bins);
    let templates: Result<Vec<TemplateName>, _> = arguments.map(|name| name.parse()).collect();
    let templates = match templates {
        Ok(templates) => templates,
        Err(error) => {
            eprintln!("{}", Chain(&error));
            return ExitCode::from(2);
        }
    };
    let busybox = PathBuf::from("/bin/busybox");
    let extra = if busybox.exists() { vec![("busybox".to_owned(), busybox)] } else { Vec::new() };
    let inputs = Inputs {
        agent: bins.join("sandflare-agent"),
        portable: Some(PortableInputs {
            init: bins.join("sandflare-portable-init"),
            sandflared: bins.join("sandflared"),
            vmm: bins.join("sandflare-vmm"),
            extra,
        }),
        templates,
    };
    match image_build::ensure(&PathBuf::from(images), &inputs, &Lines(Instant::now())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", Chain(&error));
            ExitCode::FAILURE
        }
    }
}
