use std::fs;
use std::os::unix::fs::symlink;

use super::*;

const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: NAME}\n";

fn namespace(name: &str) -> String {
    NAMESPACE.replace("NAME", name)
}

fn names(loaded: &Loaded) -> Vec<String> {
    loaded.objects.namespaces.keys().map(ToString::to_string).collect()
}

#[test]
fn every_manifest_of_every_folder_is_read_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir_all(at("a/b")).unwrap();
    fs::write(at("one.yaml"), namespace("one")).unwrap();
    fs::write(at("a/two.yml"), namespace("two")).unwrap();
    fs::write(at("a/b/three.json"), r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"three"}}"#)
        .unwrap();
    fs::write(at("README.md"), "# not a manifest").unwrap();
    fs::write(at(".hidden.yaml"), "not: a manifest").unwrap();
    let loaded = load(folder.path()).unwrap();
    assert_eq!(names(&loaded), ["one", "three", "two"]);
    assert_eq!(loaded.files, 3);
    assert_eq!(names(&load(&at("one.yaml")).unwrap()), ["one"]);
}

#[test]
fn a_mounted_config_map_is_read_once() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("..2026")).unwrap();
    fs::write(at("..2026/one.yaml"), namespace("one")).unwrap();
    symlink("..2026", at("..data")).unwrap();
    symlink("..data/one.yaml", at("one.yaml")).unwrap();
    assert_eq!(names(&load(folder.path()).unwrap()), ["one"]);
}

#[test]
fn links_in_a_circle_end() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("one.yaml"), namespace("one")).unwrap();
    symlink(".", folder.path().join("again")).unwrap();
    assert_eq!(names(&load(folder.path()).unwrap()), ["one"]);
}

#[test]
fn what_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    assert!(load(&at("nowhere")).unwrap_err().to_string().contains("nowhere: No such file"));
    fs::write(at("bytes.yaml"), b"kind: \xff").unwrap();
    assert!(load(folder.path()).unwrap_err().to_string().contains("bytes.yaml: not UTF-8 text (byte 6)"));
    fs::write(at("bytes.yaml"), "kind: [").unwrap();
    let error = load(folder.path()).unwrap_err().to_string();
    assert!(error.starts_with("bytes.yaml, document 1: "), "{error}");
    fs::remove_file(at("bytes.yaml")).unwrap();
    symlink("nowhere", at("link.yaml")).unwrap();
    assert!(load(folder.path()).unwrap_err().to_string().contains("link.yaml: No such file"));
    fs::remove_file(at("link.yaml")).unwrap();
    let long = File::create(at("long.yaml")).unwrap();
    long.set_len(MAX_FILE_BYTES + 1).unwrap();
    assert!(load(folder.path()).unwrap_err().to_string().contains("long.yaml: longer than 64 MiB"));
}

#[test]
fn a_fingerprint_tells_edits_renames_and_swapped_links() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for generation in ["..1", "..2"] {
        fs::create_dir(at(generation)).unwrap();
        fs::write(at(generation).join("linked.yaml"), namespace("linked")).unwrap();
    }
    symlink("..1", at("..data")).unwrap();
    symlink("..data/linked.yaml", at("linked.yaml")).unwrap();
    fs::write(at("one.yaml"), namespace("one")).unwrap();
    let tick = || std::thread::sleep(std::time::Duration::from_millis(10));
    let mut last = fingerprint(folder.path());
    assert_eq!(fingerprint(folder.path()), last, "looking changes nothing");
    type Edit<'a> = Box<dyn FnMut() + 'a>;
    let mut edits: Vec<(&str, Edit<'_>)> = vec![
        ("an edit of the same length", Box::new(|| fs::write(at("one.yaml"), namespace("two")).unwrap())),
        (
            "a rename over it",
            Box::new(|| {
                fs::write(at(".new"), namespace("two")).unwrap();
                fs::rename(at(".new"), at("one.yaml")).unwrap();
            }),
        ),
        (
            "a swapped link",
            Box::new(|| {
                symlink("..2", at("..new")).unwrap();
                fs::rename(at("..new"), at("..data")).unwrap();
            }),
        ),
        ("a removal", Box::new(|| fs::remove_file(at("one.yaml")).unwrap())),
    ];
    for (what, edit) in &mut edits {
        tick();
        edit();
        let now = fingerprint(folder.path());
        assert_ne!(now, last, "{what}");
        last = now;
    }
}
