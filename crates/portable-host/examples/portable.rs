//! The portable host for development:
//!
//! ```text
//! portable up    STATE IMAGES PORT [ARG...]       start it; ARGs go to /bin/sandflared
//! portable down  STATE
//! portable status STATE
//! portable run   STATE IMAGES FILE [ARG...]       run one program (copied to /bin/once) with images and data disks
//! portable shell STATE IMAGES                     a busybox shell on this terminal
//! ```

use std::error::Error;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use base_types::Chain;
use portable_host::{Config, End, Once, PortableHost, run_once};

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{}", Chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["up", state, images, port, args @ ..] => {
            let args = args.iter().map(|&arg| arg.to_owned()).collect();
            let config =
                Config::new(state.into(), std::path::absolute(images)?, port.parse()?, args);
            let start = PortableHost::start(&config, &|step| println!("{step}"))?;
            println!("{start:?}");
        }
        ["down", state] => println!("{:?}", PortableHost::at(Path::new(state)).stop()?),
        ["status", state] => println!("{:?}", PortableHost::at(Path::new(state)).status()),
        ["run", state, images, file, args @ ..] => {
            let mut once = once(state, images, "/bin/once")?;
            once.args = args.iter().map(|&arg| arg.to_owned()).collect();
            once.files = vec![("/bin/once".to_owned(), PathBuf::from(file))];
            return finish(&once);
        }
        ["shell", state, images] => {
            let mut once = once(state, images, "/bin/busybox")?;
            once.args = ["setsid", "-c", "sh"].map(str::to_owned).to_vec();
            once.env.insert("PATH".to_owned(), "/bin".to_owned());
            once.terminal = true;
            once.seconds_max = 24 * 3600;
            return finish(&once);
        }
        _ => {
            eprintln!("usage: portable up|down|status|run|shell STATE ...; see the source");
            return Ok(ExitCode::from(2));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn once(state: &str, images: &str, program: &str) -> Result<Once, Box<dyn Error>> {
    let mut once = Once::new(std::path::absolute(images)?, program);
    once.images_disk = Some(std::path::absolute(state)?);
    once.data_bytes = Some(8 << 30);
    Ok(once)
}

fn finish(once: &Once) -> Result<ExitCode, Box<dyn Error>> {
    let outcome = run_once(once, |output| {
        // Whoever reads this may have gone away; the run still ends.
        let _ = std::io::stdout().write_all(output);
    })?;
    Ok(match outcome.end {
        End::Exit(code) => ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)),
        End::Signal(signal) => ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX)),
    })
}
