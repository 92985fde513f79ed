//! What this machine can do, what is missing, and what to do about it.
//!
//! [`look`] probes and judges nothing; [`judge`] judges and touches nothing.

mod judge;
mod look;
mod render;

use anyhow::Result;

pub(crate) use crate::doctor::look::{KvmVerdict, probe_kvm};

use crate::args::Format;
use crate::complaint::End;
use crate::doctor::judge::judge;
use crate::doctor::look::look;
use crate::place::Place;
use crate::table::{print, print_json};

/// `sandflare doctor`
pub(crate) async fn doctor(place: &Place, format: Format) -> Result<End> {
    let report = judge(&look(place).await?);
    if format.is_json() {
        print_json(&report)?;
    } else {
        print(&render::text(&report))?;
    }
    Ok(if report.ready { End::Done } else { End::No })
}
