//! What a database keeps when the power goes under it: QEMU is killed, and with it goes all that the node
//! inside had written and not flushed.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use api_node::{CreateDatabase, QueryDatabase};
use base_types::Size;
use client::Client;
use tokio::time::{sleep, timeout};

use crate::host::{PATIENCE, alone};
use crate::power::kill_qemu;

const NAME: &str = "ledger";
/// How many rows must have been answered for when the power goes.
const ROWS_MIN: usize = 20;

async fn numbers(client: &Client) -> BTreeSet<u64> {
    let ask = QueryDatabase { rows_max: 10_000, ..QueryDatabase::new("SELECT n FROM ledger") };
    let answer = timeout(2 * PATIENCE, client.database_query(NAME, &ask)).await.unwrap();
    let rows = answer.unwrap_or_else(|error| panic!("{error}")).rows;
    rows.iter().map(|row| row[0].as_deref().unwrap().parse().unwrap()).collect()
}

#[tokio::test]
async fn every_row_that_a_database_answered_for_outlives_a_power_cut() {
    let host = alone().await;
    host.snapshot("postgres", Size::Nano).await;
    let client = host.client();
    let seed = Some("CREATE TABLE ledger (n bigint PRIMARY KEY)".to_owned());
    let request = CreateDatabase { seed, ..CreateDatabase::named(NAME) };
    timeout(PATIENCE, client.database_create(&request)).await.unwrap().unwrap();

    let answered = Arc::new(Mutex::new(0));
    let (noted, writing) = (answered.clone(), client.clone());
    let writer = tokio::spawn(async move {
        for number in 0_u64.. {
            let insert = QueryDatabase::new(format!("INSERT INTO ledger VALUES ({number})"));
            if let Err(error) = writing.database_query(NAME, &insert).await {
                return (number, error);
            }
            *noted.lock().unwrap() += 1;
        }
        unreachable!("it writes until the power goes");
    });
    let begun = Instant::now();
    while *answered.lock().unwrap() < ROWS_MIN {
        assert!(begun.elapsed() < PATIENCE && !writer.is_finished(), "{answered:?} rows");
        sleep(Duration::from_millis(20)).await;
    }
    kill_qemu(&host).await;
    let (tried, error) = timeout(PATIENCE, writer).await.unwrap().unwrap();
    println!("{tried} rows were answered for, and then: {error}");

    host.up().await;
    let client = host.client();
    let begun = Instant::now();
    let found = numbers(&client).await;
    println!("its rows were there {} ms after the node was", begun.elapsed().as_millis());
    let wanted: BTreeSet<u64> = (0..tried).collect();
    // The one that was under way may be there.
    assert!(found.is_superset(&wanted) && found.len() <= wanted.len() + 1, "{tried}: {found:?}");
    let insert = QueryDatabase::new("INSERT INTO ledger VALUES (1000000)");
    timeout(PATIENCE, client.database_query(NAME, &insert)).await.unwrap().unwrap();
    timeout(PATIENCE, client.database_delete(NAME)).await.unwrap().unwrap();
}
