//! The client where nobody answers, or not in time.

use std::time::{Duration, Instant};

use agent_api::address::Address;
use agent_api::client::{Client, ClientError, ConnectOptions};

use super::double::Double;
use super::stage::{SOON, Served, intent};

fn options(patience: Duration) -> ConnectOptions {
    ConnectOptions { patience, ..ConnectOptions::default() }
}

#[tokio::test]
async fn nobody_there_is_said_at_once_with_the_address() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.sock");
    let text = path.display().to_string();
    let error = Client::connect(&text).await.unwrap_err();
    assert!(error.is_unreachable());
    assert!(error.to_string().starts_with(&format!("unix://{text}: No such file")), "{error}");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let error = Client::connect(&text).await.unwrap_err();
    assert!(error.to_string().contains("Connection refused"), "{error}");
    assert!(matches!(Client::connect("ftp://x").await, Err(ClientError::Address(_))));
}

#[tokio::test]
async fn patience_waits_for_a_server_that_is_yet_to_come() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.sock");
    let address = Address::Unix(path.clone());
    let begun = Instant::now();
    let patience = Duration::from_millis(200);
    assert!(Client::connect_with(&address, &options(patience)).await.unwrap_err().is_unreachable());
    // It gives up before a pause that would end too late.
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());

    let connecting = tokio::spawn(async move { Client::connect_with(&address, &options(SOON)).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let served = Served::at(&path, Double::new()).await;
    let client = connecting.await.unwrap().unwrap();
    assert_eq!(client.apply(intent(), None).await.unwrap().generation, 1);
    assert_eq!(served.double.generation(), 1);
}

#[tokio::test]
async fn a_connection_that_broke_is_made_anew_by_the_next_call() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.sock");
    let mut first = Served::at(&path, Double::new()).await;
    let client = first.client().await;
    assert_eq!(client.apply(intent(), None).await.unwrap().generation, 1);
    first.stop();
    first.ended().await.unwrap();
    let error = client.stats().await.unwrap_err();
    assert!(error.is_unreachable(), "{error}");
    let _second = Served::at(&path, Double::new()).await;
    assert_eq!(client.stats().await.unwrap().generation, 0);
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_given_up() {
    let served = Served::unix().await;
    served.double.hold(true);
    let options =
        ConnectOptions { call_timeout: Some(Duration::from_millis(100)), ..ConnectOptions::default() };
    let client = Client::connect_with(&served.address, &options).await.unwrap();
    let error = client.apply(intent(), None).await.unwrap_err();
    assert!(error.is_unreachable(), "{error:?}");
    served.double.hold(false);
}
