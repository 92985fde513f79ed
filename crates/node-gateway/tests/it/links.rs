use std::net::Ipv4Addr;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use node_gateway::{Links, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::dns::ask;
use crate::world::{Resolver, World, policy, settings};

const DATABASE: Ipv4Addr = Ipv4Addr::new(10, 107, 1, 7);
const PORT: u16 = 5432;

/// One database, which says hello and then what it hears.
struct OneDatabase;

impl Links for OneDatabase {
    fn resolve(&self, name: &str) -> Option<Ipv4Addr> {
        (name == "memory.db.internal").then_some(DATABASE)
    }

    fn connect(
        &self,
        address: Ipv4Addr,
        port: u16,
    ) -> Option<BoxFuture<'static, std::io::Result<Box<dyn Stream>>>> {
        if (address, port) == (DATABASE, 1) {
            return Some(Box::pin(async { Err(std::io::Error::other("it is gone")) }));
        }
        if (address, port) != (DATABASE, PORT) {
            return None;
        }
        let (near, mut far) = tokio::io::duplex(1024);
        tokio::spawn(async move {
            far.write_all(b"hello").await.unwrap();
            let mut heard = vec![0; 100_000];
            far.read_exact(&mut heard).await.unwrap();
            far.write_all(&heard).await.unwrap();
        });
        Some(Box::pin(async { Ok(Box::new(near) as Box<dyn Stream>) }))
    }
}

#[test]
fn a_wired_database_is_reached_by_its_name_whatever_the_policy_says() {
    let resolver = Resolver::new(&[]);
    let mut world = World::with(settings(Some(resolver.address)));
    let mut sandbox = world.linked(policy("none", &[], &["*"]), Arc::new(OneDatabase));
    assert_eq!(ask(&mut sandbox, "Memory.db.internal", 1).addresses, [DATABASE]);
    let guest = &mut sandbox.guest;
    let handle = guest.connect(DATABASE, PORT).unwrap();
    assert_eq!(guest.read(handle, 5), b"hello");
    let query: Vec<u8> = (0..100_000_u32).map(|index| index as u8).collect();
    guest.write(handle, &query);
    assert_eq!(guest.read(handle, query.len() + 1), query);
    guest.tcp(handle).close();
    guest.until("the end", |guest| (!guest.tcp(handle).is_active()).then_some(()));
    assert_eq!(world.told.find("flow", |it| it.port == Some(PORT)).reason, "gateway: a database");
    assert_eq!(resolver.asked(), Vec::<String>::new());
}

#[test]
fn nothing_else_is_there() {
    let mut world = World::new();
    // Not even for whoever may go anywhere.
    let open = policy("default", &["10.0.0.0/8", "*"], &[]);
    let mut sandbox = world.linked(open.clone(), Arc::new(OneDatabase));
    assert_eq!(sandbox.guest.connect(DATABASE, PORT + 1), None);
    assert_eq!(sandbox.guest.connect(DATABASE, 1), None);
    assert_eq!(sandbox.guest.connect(Ipv4Addr::new(10, 107, 1, 8), PORT), None);
    world.told.denied("gateway: no database is wired here");
    let mut neighbour = world.sandbox(open);
    assert_eq!(neighbour.guest.connect(DATABASE, PORT), None);
    assert!(ask(&mut neighbour, "memory.db.internal", 1).is_nx_domain());
}
