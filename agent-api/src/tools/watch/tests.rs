use std::fs;
use std::os::unix::fs::symlink;

use super::*;

const SOON: Duration = Duration::from_millis(700);

async fn told(watch: &mut Watch, within: Duration) -> bool {
    timeout(within, watch.changed()).await.is_ok()
}

#[tokio::test]
async fn edits_renames_and_swapped_links_are_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for generation in ["..1", "..2"] {
        fs::create_dir(at(generation)).unwrap();
        fs::write(at(generation).join("linked.yaml"), "a: 1").unwrap();
    }
    symlink("..1", at("..data")).unwrap();
    symlink("..data/linked.yaml", at("linked.yaml")).unwrap();
    fs::write(at("one.yaml"), "a: 1").unwrap();
    let mut watch = Watch::new(folder.path());

    fs::write(at("one.yaml"), "a: 2").unwrap();
    assert!(told(&mut watch, SOON).await, "an edit in place");
    fs::write(at(".new"), "a: 3").unwrap();
    fs::rename(at(".new"), at("one.yaml")).unwrap();
    assert!(told(&mut watch, SOON).await, "a rename");
    symlink("..2", at("..new")).unwrap();
    fs::rename(at("..new"), at("..data")).unwrap();
    assert!(told(&mut watch, SOON).await, "a swapped link");
    fs::create_dir(at("deeper")).unwrap();
    assert!(told(&mut watch, SOON).await, "a folder");
    fs::write(at("deeper/two.yaml"), "a: 1").unwrap();
    assert!(told(&mut watch, SOON).await, "a file in the new folder");
}

#[tokio::test]
async fn reading_is_no_change() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("one.yaml"), "a: 1").unwrap();
    let mut watch = Watch::new(folder.path());
    for _ in 0..5 {
        fs::read(folder.path().join("one.yaml")).unwrap();
    }
    assert!(!told(&mut watch, Duration::from_millis(1300)).await);
}

#[tokio::test]
async fn a_link_to_elsewhere_and_a_replaced_folder_are_told_within_two_seconds() {
    let outside = tempfile::tempdir().unwrap();
    let folder = outside.path().join("manifests");
    fs::create_dir(&folder).unwrap();
    fs::write(outside.path().join("target.yaml"), "a: 1").unwrap();
    symlink("../target.yaml", folder.join("linked.yaml")).unwrap();
    let mut watch = Watch::new(&folder);
    tokio::time::sleep(Duration::from_millis(20)).await;
    fs::write(outside.path().join("target.yaml"), "a: 2").unwrap();
    assert!(told(&mut watch, Duration::from_secs(2)).await, "the target");

    fs::rename(&folder, outside.path().join("old")).unwrap();
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("one.yaml"), "a: 1").unwrap();
    assert!(told(&mut watch, Duration::from_secs(2)).await, "the new folder");
    while told(&mut watch, Duration::from_millis(100)).await {}
    fs::write(folder.join("one.yaml"), "a: 2").unwrap();
    assert!(told(&mut watch, SOON).await, "an edit in the new folder, by inotify again");
}

#[tokio::test]
async fn a_change_is_not_lost_when_waiting_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let mut watch = Watch::new(folder.path());
    fs::write(folder.path().join("one.yaml"), "a: 1").unwrap();
    for _ in 0..20 {
        // Given up within the pause that ends an edit.
        if told(&mut watch, Duration::from_millis(3)).await {
            return;
        }
    }
    assert!(told(&mut watch, SOON).await);
}
