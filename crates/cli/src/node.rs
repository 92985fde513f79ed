//! The node, for people.

use std::fmt::Write;
use std::time::Duration;

use anyhow::Result;
use api_node::{CreateTimes, Node};
use client::Client;

use crate::args::Format;
use crate::complaint::End;
use crate::duration::shown;
use crate::table::{bytes, print, print_json};

/// `sandflare status`
pub(crate) async fn status(client: &Client, format: Format) -> Result<End> {
    let node = client.node_get().await?;
    if format.is_json() {
        print_json(&node)?;
    } else {
        print(&text(client.url(), &node))?;
    }
    Ok(End::Done)
}

fn text(url: &str, node: &Node) -> String {
    let Node {
        version,
        kernel_release,
        uptime_ms,
        cpus,
        kvm,
        sandboxes,
        pool,
        creates,
        memory,
        data,
    } = node;
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<10} {value}");
    };
    line("node", format!("{url}, version {version}"));
    line("up for", shown(Duration::from_millis(*uptime_ms)));
    line("machine", format!("{cpus} CPUs, Linux {kernel_release}"));
    line("kvm", format!("{}: {}", if kvm.usable { "usable" } else { "not usable" }, kvm.reason));
    line("sandboxes", sandboxes.to_string());
    line("shells", format!("{} of {} ready", pool.ready, pool.target));
    if creates.count > 0 {
        let ms = |us: u64| format!("{:.1} ms", us as f64 / 1000.0);
        let CreateTimes { count, p50_us, p99_us, max_us } = *creates;
        let (p50, p99, max) = (ms(p50_us), ms(p99_us), ms(max_us));
        line("creates", format!("p50 {p50}, p99 {p99}, slowest {max} (last {count})"));
    }
    let mib = |mib: u64| bytes(mib << 20);
    line("memory", format!("{} of {} free", mib(memory.available_mib), mib(memory.total_mib)));
    line(
        "data",
        format!(
            "templates {}, sandboxes {}, {} free",
            bytes(data.templates_bytes),
            bytes(data.sandboxes_bytes),
            bytes(data.free_bytes),
        ),
    );
    text
}
