//! How much of its machine's disk a database may take, and what a full one does.

use api_node::{CreateDatabase, ErrorCode, ForkDatabase};
use client::ClientError;
use futures_util::stream;
use tokio::time::timeout;

use crate::databases::{Made, wanted};
use crate::host::{PATIENCE, shared};

/// Fills a table until there is no room, and returns how many rows were answered for.
async fn filled(made: &Made<'_>) -> u64 {
    for inserts in 0..100 {
        let insert = "INSERT INTO filled SELECT repeat('x', 1000) FROM generate_series(1, 2000)";
        match made.query(insert).await {
            Ok(_) => {}
            Err(ClientError::Refused(failure)) if failure.code == ErrorCode::DiskFull => {
                assert!(failure.message.contains("could not extend file"), "{failure:?}");
                return inserts * 2000;
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("there is no limit");
}

#[tokio::test]
async fn a_full_database_refuses_what_would_grow_it_and_goes_on() {
    let host = shared().await;
    let made = Made::new(&host, &CreateDatabase { disk_mib: Some(64), ..wanted("narrow") }).await;
    assert_eq!(made.database.disk_mib, Some(64));
    made.query("CREATE TABLE filled (x text); CREATE TABLE kept AS SELECT 1 AS x").await.unwrap();
    // What vacuuming needs beside the table is there from now on.
    made.query("INSERT INTO filled VALUES ('first')").await.unwrap();
    made.query("VACUUM filled").await.unwrap();
    let rows = filled(&made).await;
    assert!((15_000..64_000).contains(&rows), "{rows}");
    let count = "SELECT count(*) FROM filled";
    assert_eq!(made.value(count).await, (rows + 1).to_string());
    // What needs no room goes on, and whatever else would take it is refused, also what sorts on the disk.
    made.query("UPDATE kept SET x = 2").await.unwrap();
    for sql in [
        "CREATE TABLE more AS SELECT repeat('x', 1000) AS x FROM generate_series(1, 5000)",
        "SELECT count(*) FROM (SELECT n, repeat('x', 500) FROM generate_series(1, 40000) n ORDER BY 2, 1) s",
        "SELECT lo_from_bytea(0, (SELECT string_agg(sha512(convert_to((n * 100 + m)::text, 'UTF8')), '') \
         FROM generate_series(1, 32) m)) FROM generate_series(1, 3500) n",
    ] {
        match made.query(sql).await {
            Err(ClientError::Refused(failure)) if failure.code == ErrorCode::DiskFull => {}
            other => panic!("{sql}: {other:?}"),
        }
    }
    // Programs that a dump names find no other place either: were there one, this would end psql.
    let escape = "\\! touch /tmp/mine && kill -9 $PPID\n\\! touch /var/tmp/mine && kill -9 $PPID\nSELECT 1;\n";
    let dump = stream::iter([Ok(escape.as_bytes().to_vec().into())]);
    timeout(PATIENCE, made.client.database_restore("narrow", dump)).await.unwrap().unwrap();

    // A fork is as narrow, and as full.
    let fork = ForkDatabase { name: "narrow-fork".to_owned(), password: None, snapshot: None };
    let forked = timeout(PATIENCE, made.client.database_fork("narrow", &fork)).await.unwrap();
    let branch = Made::of(&host, forked.unwrap());
    assert_eq!(branch.database.disk_mib, Some(64));
    assert_eq!(filled(&branch).await, 0);
    branch.query("DROP TABLE filled").await.unwrap();
    branch.query("CREATE TABLE filled (x text)").await.unwrap();
    assert!(filled(&branch).await >= 15_000);
    branch.delete().await;

    made.query("DELETE FROM filled WHERE true").await.unwrap();
    made.query("VACUUM filled").await.unwrap();
    assert!(filled(&made).await >= rows - 2_000);
    made.query("DROP TABLE filled").await.unwrap();
    made.query("CREATE TABLE filled (x text)").await.unwrap();
    made.query("INSERT INTO filled VALUES ('again')").await.unwrap();
    assert_eq!(made.value("SELECT x FROM kept").await, "2");
    made.delete().await;
}
