//! The project's own conformance cases, and a sample of others', on packets: penstockd between the kernel's own TCP, UDP
//! and ICMP. Needs root.

// Helpers of tests fail as tests do: clippy knows only functions that are tests themselves.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::net::Ipv4Addr;
use std::path::PathBuf;

use policy_compiler::evaluate::ProbeProtocol;
use tests::conformance::case::{Case, Wanted};
use tests::conformance::wire::Wire;
use tests::conformance::{Outcome, command, report, sample};
use tests::daemon::checkout;

/// Not `it-…`: a run with the tag `it` sweeps away what begins so.
const TAG: &str = "wire";

fn run(cases: &[Case]) -> Vec<Outcome> {
    let mut wire = Wire::new(TAG).unwrap();
    let outcomes = cases.iter().map(|case| wire.run(case)).collect();
    wire.close().unwrap();
    outcomes
}

fn assert_passed(outcomes: &[Outcome], how: &str) {
    let printed = report::print(outcomes, how);
    tests::say(printed.lines().last().unwrap_or_default());
    let sums = report::sums(outcomes);
    assert_eq!((sums.failed, sums.pending), (0, 0), "{printed}");
}

fn own() -> Vec<Case> {
    command::read(&checkout().join("tests/cases")).unwrap()
}

#[test]
fn every_case_of_our_own_passes_on_the_wire() {
    assert_passed(&run(&own()), "own cases, on the wire");
}

#[test]
fn a_sample_of_what_others_recorded_passes_on_the_wire() {
    let asked_for = std::env::var_os("PENSTOCK_CONFORMANCE").map(PathBuf::from);
    let beside = checkout().join("../shared/conformance");
    let folder = asked_for.as_ref().unwrap_or(&beside).join("netpol");
    for file in ["cyclonus-ipv4.json", "cluster-network-policy-ipv4.json"] {
        let path = folder.join(file);
        if asked_for.is_none() && !path.is_file() {
            tests::say(&format!(
                "{file}: not at hand, not run (see PENSTOCK_CONFORMANCE in docs/testing.md)"
            ));
            continue;
        }
        assert_passed(&run(&sample::pick(command::read(&path).unwrap())), &format!("{file}, on the wire"));
    }
}

/// The named one of our cases, with each flow's verdict turned.
fn turned(name: &str) -> Case {
    let mut case = own().into_iter().find(|case| case.name == name).unwrap();
    for step in &mut case.steps {
        if let Wanted::Flows(flows) = &mut step.wanted {
            flows.iter_mut().for_each(|flow| flow.allowed = !flow.allowed);
        }
    }
    case
}

#[test]
fn wrong_expectations_are_reported_each() {
    let mut case = turned("ip-block-outside");
    let outcome = run(std::slice::from_ref(&case)).remove(0);
    assert_eq!(outcome.failures.len(), outcome.probes, "{:#?}", outcome.failures);
    for part in [
        "near -> x/a tcp/80 (172.30.0.100 -> 10.244.1.11): wanted deny, answered",
        "far -> x/a udp/80 (172.30.0.200 -> 10.244.1.11): wanted allow, dropped as policy_ingress (no-rule)",
        "far -> x/a icmp (fd30::200 -> fd00:10:244:1::11): wanted allow, dropped as policy_ingress (no-rule)",
    ] {
        assert!(outcome.failures.iter().any(|f| f.contains(part)), "{part}\n{:#?}", outcome.failures);
    }
    // Silence for another reason than policy is no denial: nobody has this address.
    let mut nobody = own().into_iter().find(|case| case.name == "ip-block-egress").unwrap();
    if let Wanted::Flows(flows) = &mut nobody.steps[0].wanted {
        flows.retain(|flow| {
            flow.protocol == ProbeProtocol::Tcp && flow.src.is_ipv4() && flow.from.name == "x/b"
        });
        flows.retain(|flow| flow.to.name == "far");
        for flow in flows {
            (flow.dst, flow.allowed) = (Ipv4Addr::new(172, 30, 0, 77).into(), false);
        }
    }
    let outcome = run(&[nobody]).remove(0);
    assert_eq!(outcome.failures.len(), 1, "{:#?}", outcome.failures);
    assert!(outcome.failures[0].contains("but not by policy"), "{:#?}", outcome.failures);
    // A refusal that does not come is reported, too.
    case.steps.truncate(1);
    let mut again = case.steps[0].clone();
    again.wanted = Wanted::Refused(vec!["something".to_owned()]);
    case.steps.push(again);
    let outcome = run(std::slice::from_ref(&case)).remove(0);
    assert!(
        outcome.failures.iter().any(|f| f.contains("taken, though it is to be refused")),
        "{:#?}",
        outcome.failures
    );
}
