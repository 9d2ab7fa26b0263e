//! The house plan of `docs/design.md`, held against what cargo says. Needs neither root nor network.

// Helpers of tests fail as tests do: clippy knows only functions that are tests themselves.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Every edge there may be, and must be, between the crates that ship.
const EDGES: &[(&str, &str)] = &[
    ("pktgen", "afxdp-driver"),
    ("dataplane", "afxdp-driver"),
    ("dataplane", "agent-api"),
    ("dataplane", "policy-compiler"),
    ("agent-api", "policy-compiler"),
];

/// May depend on any crate; nothing depends on them.
const ON_TOP: &[&str] = &["tests", "benches"];

/// Clients of Kubernetes and HTTP, none of which the privileged process may link.
const NOT_IN_PENSTOCKD: &[&str] = &[
    "k8s-openapi",
    "kube",
    "kube-client",
    "kube-core",
    "kube-runtime",
    "reqwest",
    "ureq",
    "attohttpc",
    "isahc",
    "curl",
    "hyper-rustls",
    "hyper-tls",
    "native-tls",
    "openssl",
    "serde_norway",
];

#[test]
fn the_crates_depend_on_each_other_as_the_house_plan_says() {
    let packages = packages();
    let names: BTreeSet<&str> = packages.iter().map(|package| text(package, "name")).collect();
    let mut edges = BTreeSet::new();
    for package in &packages {
        let from = text(package, "name");
        for dependency in package["dependencies"].as_array().unwrap() {
            let to = text(dependency, "name");
            if names.contains(to) && !ON_TOP.contains(&from) {
                // Of every kind: a test that needs another edge is in the wrong crate.
                edges.insert((from, to));
            }
        }
    }
    assert_eq!(edges, EDGES.iter().copied().collect());
}

#[test]
fn the_house_has_these_rooms_and_no_others() {
    let names: BTreeSet<String> = packages().iter().map(|package| text(package, "name").to_owned()).collect();
    let wanted = ["afxdp-driver", "agent-api", "benches", "dataplane", "pktgen", "policy-compiler", "tests"];
    assert_eq!(names, wanted.iter().map(|&name| name.to_owned()).collect());
}

#[test]
fn penstockd_links_no_client_of_kubernetes_or_http() {
    let linked = tree(&["-p", "dataplane", "-e", "normal", "--prefix", "none", "--format", "{p}"]);
    let linked: BTreeSet<&str> = linked.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(
        linked.contains("policy-compiler") && linked.contains("tonic"),
        "the list is cargo's: {linked:?}"
    );
    let forbidden: Vec<_> = NOT_IN_PENSTOCKD.iter().filter(|name| linked.contains(*name)).collect();
    assert!(forbidden.is_empty(), "penstockd links {forbidden:?}");
}

#[test]
fn the_pure_crate_stays_pure() {
    let linked = tree(&["-p", "policy-compiler", "-e", "normal", "--prefix", "none", "--format", "{p}"]);
    for name in ["tokio", "libc", "nix", "tracing", "rand", "tonic"] {
        assert!(
            !linked.lines().any(|line| line.split(' ').next() == Some(name)),
            "policy-compiler links {name}"
        );
    }
}

#[test]
fn no_file_has_grown_for_years() {
    let mut checked = 0;
    for package in packages() {
        let folder = Path::new(text(&package, "manifest_path")).parent().unwrap().to_owned();
        for file in rust_files(&folder) {
            let lines = std::fs::read_to_string(&file).unwrap().lines().count();
            assert!(lines < 800, "{} has {lines} lines", file.display());
            checked += 1;
        }
    }
    assert!(checked > 20, "only {checked} files found");
}

fn packages() -> Vec<Value> {
    let out = cargo(&["metadata", "--no-deps", "--offline", "--format-version", "1"]);
    let metadata: Value = serde_json::from_str(&out).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

fn tree(arguments: &[&str]) -> String {
    let mut all = vec!["tree", "--offline", "--locked"];
    all.extend(arguments);
    cargo(&all)
}

fn cargo(arguments: &[&str]) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(root).output().unwrap();
    assert!(
        output.status.success(),
        "cargo {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().is_none_or(|name| name != "target") {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap()
}
