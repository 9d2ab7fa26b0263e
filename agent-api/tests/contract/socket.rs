//! The Unix socket: whose it is, who may connect, and what becomes of one that is there already.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;

use agent_api::server::{ServerError, UnixSocket, serve_unix};

use super::double::Double;
use super::stage::Served;

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
}

fn entries(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn it_is_for_its_owner_and_group_and_gone_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run/penstock/penstockd.sock");
    let mut served = Served::at(&path, Double::new()).await;
    assert!(fs::symlink_metadata(&path).unwrap().file_type().is_socket());
    assert_eq!(mode(&path), 0o660);
    let lock = path.with_file_name("penstockd.sock.lock");
    assert_eq!(mode(&lock), 0o600);
    assert_eq!(entries(path.parent().unwrap()), ["penstockd.sock", "penstockd.sock.lock"]);
    served.stop();
    served.ended().await.unwrap();
    assert_eq!(entries(path.parent().unwrap()), [""; 0]);
}

#[tokio::test]
async fn the_socket_of_a_dead_process_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.sock");
    // A listener that is closed leaves its name behind, as a killed process does; a killed bind leaves `.new`.
    drop(UnixListener::bind(&path).unwrap());
    drop(UnixListener::bind(folder.path().join("p.sock.new")).unwrap());
    fs::write(folder.path().join("p.sock.lock"), "").unwrap();
    let served = Served::at(&path, Double::new()).await;
    assert_eq!(served.client().await.stats().await.unwrap().generation, 0);
}

#[tokio::test]
async fn the_socket_of_a_live_process_is_refused_and_serves_on() {
    let served = Served::unix().await;
    let agent_api::address::Address::Unix(path) = served.address.clone() else { panic!("not a socket") };
    let error = serve_unix(&path, Double::new(), std::future::ready(())).await.unwrap_err();
    assert!(matches!(error, ServerError::Live { .. }), "{error}");
    assert_eq!(error.to_string(), format!("{}: another process is serving on it", path.display()));
    assert_eq!(served.client().await.stats().await.unwrap().generation, 0);

    // One that knows nothing of our lock.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.sock");
    let _foreign = UnixListener::bind(&path).unwrap();
    let error = UnixSocket::bind(&path, 0o660).unwrap_err();
    assert!(matches!(error, ServerError::Live { .. }), "{error}");
    assert_eq!(entries(folder.path()), ["p.sock"], "the lock is given back");
}

#[tokio::test]
async fn what_is_no_socket_is_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.sock");
    fs::write(&path, "precious").unwrap();
    let error = UnixSocket::bind(&path, 0o660).unwrap_err();
    assert!(matches!(error, ServerError::NotASocket { .. }), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");

    let error = UnixSocket::bind(&path.join("p.sock"), 0o660).unwrap_err();
    assert!(error.to_string().starts_with("create folder "), "{error}");
}

#[tokio::test]
async fn a_socket_that_has_become_anothers_is_left_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.sock");
    let socket = UnixSocket::bind(&path, 0o600).unwrap();
    assert_eq!(mode(&path), 0o600);
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    drop(socket);
    assert_eq!(entries(folder.path()), ["p.sock"]);
}
