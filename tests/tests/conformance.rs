//! The project's own conformance cases and those of others, through the compiled tables and the oracle. Needs no root.
//! (On packets: `conformance_wire.rs`.)

// Helpers of tests fail as tests do: clippy knows only functions that are tests themselves.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};

use tests::conformance::case::{Case, Wanted};
use tests::conformance::{Outcome, command, offline, report, sample};
use tests::daemon::{checkout, run_binary};

fn own() -> Vec<Case> {
    command::read(&checkout().join("tests/cases")).unwrap()
}

/// What others recorded, in the folder `PENSTOCK_CONFORMANCE`, else where it is at hand; `None` where it is not.
fn recorded(file: &str) -> Option<Vec<Case>> {
    let asked_for = std::env::var_os("PENSTOCK_CONFORMANCE").map(PathBuf::from);
    let beside = checkout().join("../shared/conformance");
    let path = asked_for.as_ref().unwrap_or(&beside).join("netpol").join(file);
    if asked_for.is_none() && !path.is_file() {
        tests::say(&format!("{file}: not at hand, not run (see PENSTOCK_CONFORMANCE in docs/testing.md)"));
        return None;
    }
    Some(command::read(&path).unwrap())
}

fn assert_passed(outcomes: &[Outcome], how: &str) {
    let printed = report::print(outcomes, how);
    tests::say(printed.lines().last().unwrap_or_default());
    let sums = report::sums(outcomes);
    assert_eq!((sums.failed, sums.pending), (0, 0), "{printed}");
}

#[test]
fn every_case_of_our_own_passes_offline() {
    let cases = own();
    assert!(cases.len() > 50, "{} cases", cases.len());
    assert_passed(&cases.iter().map(offline::run).collect::<Vec<_>>(), "own cases, offline");
}

#[test]
fn what_others_recorded_passes_offline() {
    for file in ["cyclonus-ipv4.json", "cluster-network-policy-ipv4.json"] {
        let Some(cases) = recorded(file) else { continue };
        assert_passed(&cases.iter().map(offline::run).collect::<Vec<_>>(), &format!("{file}, offline"));
    }
}

#[test]
fn all_that_others_recorded_is_read() {
    let counted = |cases: &[Case]| {
        let steps: usize = cases.iter().map(|case| case.steps.len()).sum();
        let flows = cases.iter().flat_map(|case| &case.steps).map(|step| match &step.wanted {
            Wanted::Flows(flows) => flows.len(),
            Wanted::Refused(_) => 0,
        });
        (cases.len(), steps, flows.sum::<usize>())
    };
    if let Some(cases) = recorded("cyclonus-ipv4.json") {
        assert_eq!(counted(&cases), (230, 256, 123_669));
        let picked = sample::pick(cases);
        assert!((10..40).contains(&picked.len()), "a sample of {}", picked.len());
    }
    if let Some(cases) = recorded("cluster-network-policy-ipv4.json") {
        let (cases, _, flows) = counted(&cases);
        assert_eq!((cases, flows), (18, 284));
    }
}

#[test]
fn no_case_passes_with_its_verdicts_turned() {
    for mut case in own() {
        for step in &mut case.steps {
            match &mut step.wanted {
                Wanted::Flows(flows) => flows.iter_mut().for_each(|flow| flow.allowed = !flow.allowed),
                Wanted::Refused(parts) => parts.push("words that nobody says".to_owned()),
            }
        }
        let outcome = offline::run(&case);
        assert_eq!(outcome.failures.len(), outcome.probes, "{}: {:#?}", case.name, outcome.failures);
    }
}

/// Writes a case that is good but for one letter of its table, which `verdict` replaces.
fn one_flow(folder: &Path, verdict: &str) {
    let cluster = checkout().join("tests/cases/clusters/two-nodes.yaml").canonicalize().unwrap();
    let case = format!(
        "about: a case of the runner's own\nsource: none\nobjects: [{}]\nsteps:\n  - expect:\n      - on: [tcp/80]\n        verdicts: |\n          from x/b\n          x/a  {verdict}\n",
        cluster.display()
    );
    std::fs::write(folder.join("case.yaml"), case).unwrap();
}

#[test]
fn a_wrong_expectation_is_reported_and_ends_with_code_1() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    one_flow(folder.path(), "A");
    let good = run_binary("conformance", &[path]).unwrap();
    assert_eq!(good.code, Some(0), "{}{}", good.out, good.err);
    one_flow(folder.path(), "D");
    let bad = run_binary("conformance", &[path]).unwrap();
    assert_eq!(bad.code, Some(1), "{}", bad.out);
    for family in ["10.244.1.11 -> 10.244.1.12", "fd00:10:244:1::11 -> fd00:10:244:1::12"] {
        let words = format!(
            "step 0: x/a -> x/b tcp/80 ({family}): wanted deny, the tables say allow (egress: default-allow; \
             ingress: default-allow); the oracle says allow (egress) and allow (ingress)"
        );
        assert!(bad.out.contains(&words), "{words}\n{}", bad.out);
    }
    assert!(bad.out.contains("1 cases: 0 passed, 1 failed, 0 pending, 0 left out; 2 probes"), "{}", bad.out);
}

#[test]
fn what_cannot_be_run_ends_with_code_2_and_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let empty = run_binary("conformance", &[path]).unwrap();
    assert_eq!(empty.code, Some(2), "{}", empty.out);
    assert!(empty.out.contains("no folder with a case.yaml"), "{}", empty.out);
    one_flow(folder.path(), "?");
    let malformed = run_binary("conformance", &[path]).unwrap();
    assert_eq!(malformed.code, Some(2), "{}", malformed.out);
    assert!(
        malformed.out.contains("case.yaml: steps[0]: expect[0].verdicts: line 2, x/a: \"?\""),
        "{}",
        malformed.out
    );
    let filtered = run_binary("conformance", &["--filter", "no such case"]).unwrap();
    assert_eq!(filtered.code, Some(2), "{}", filtered.out);
    std::fs::write(folder.path().join("file.json"), "{}").unwrap();
    let file = folder.path().join("file.json");
    let neither = run_binary("conformance", &[file.to_str().unwrap()]).unwrap();
    assert!(
        neither.code == Some(2) && neither.out.contains("file.json: has neither cases"),
        "{}",
        neither.out
    );
}
