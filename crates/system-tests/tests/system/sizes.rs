//! Sizes: what is promised is what the guest has.

use api_node::{CreateSandbox, ErrorCode};
use base_types::Size;
use client::ClientError;
use tokio::time::timeout;

use crate::host::{PATIENCE, shared};

fn base(size: Size) -> CreateSandbox {
    CreateSandbox { template: "base".parse().unwrap(), size, ..CreateSandbox::default() }
}

#[tokio::test]
async fn a_guest_has_the_processors_and_memory_of_its_size() {
    let host = shared().await;
    for size in [Size::Nano, Size::Micro, Size::Small] {
        let sandbox = host.sandbox_of(&base(size)).await;
        assert_eq!(sandbox.text("nproc").await, size.vcpus().to_string());
        let total =
            sandbox.text("sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo").await;
        let (total_mib, mib) = (total.parse::<u32>().unwrap() / 1024, size.memory_mib());
        // The kernel keeps its own part out of the total.
        assert!((mib * 85 / 100..=mib).contains(&total_mib), "{size}: {total_mib} MiB");
        if size.vcpus() > 1 {
            let both = "for c in 0 1; do taskset -c $c sh -c 'echo $((6*7))'; done";
            assert_eq!(sandbox.text(both).await, "42\n42");
        }
    }
}

#[tokio::test]
async fn a_size_the_host_has_no_memory_for_is_refused_in_one_sentence_at_once() {
    let host = shared().await;
    let total_mib = host.client().node_get().await.unwrap().memory.total_mib;
    for size in [Size::Medium, Size::Large] {
        assert!(u64::from(size.memory_mib()) > total_mib);
        let create = host.client();
        let create = timeout(PATIENCE, create.sandbox_create(&base(size))).await.unwrap();
        match create.unwrap_err() {
            ClientError::Refused(failure) => {
                assert_eq!(failure.code, ErrorCode::NoCapacity, "{failure}");
                assert_eq!(failure.message.lines().count(), 1, "{failure}");
                assert!(failure.message.contains("memory"), "{failure}");
            }
            other => panic!("{size}: {other}"),
        }
        let size = size.to_string();
        let said =
            host.sandflare(&["run", "--template", "base", "--size", &size, "--", "true"]).await;
        assert_eq!(said.code, Some(125), "{said:?}");
        assert!(said.stderr().contains("memory"), "{said:?}");
    }
}
