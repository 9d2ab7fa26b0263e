//! Case folders as outsiders write them: good ones, and every way to get one wrong.

use super::*;

const OBJECTS: &str = r#"
apiVersion: v1
kind: Node
metadata: {name: node-a}
spec: {podCIDRs: ["10.244.1.0/24", "fd00:10:244:1::/64"]}
status: {addresses: [{type: InternalIP, address: 172.30.0.1}, {type: InternalIP, address: "fd30::1"}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: x, name: a}
spec: {nodeName: node-a, containers: []}
status: {phase: Running, podIPs: [{ip: 10.244.1.2}, {ip: "fd00:10:244:1::2"}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: x, name: four}
spec: {nodeName: node-a, containers: []}
status: {phase: Running, podIPs: [{ip: 10.244.1.3}]}
"#;

const GOOD: &str = r#"
about: two pods and a host
source: none
outside: [{name: far, addresses: [172.30.0.9]}]
objects: [objects.yaml]
steps:
  - expect:
      - on: [tcp/80, icmp]
        verdicts: |
          from    x/a  x/four  far
          x/a     A    A       D
          node-a  A    .       .
"#;

/// Loads a folder with these two files.
fn load_texts(case: &str, objects: &str) -> Result<Case> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(FILE), case).unwrap();
    std::fs::write(folder.path().join("objects.yaml"), objects).unwrap();
    load(folder.path())
}

#[test]
fn a_case_is_asked_in_every_family_that_both_ends_have() {
    let case = load_texts(GOOD, OBJECTS).unwrap();
    let Wanted::Flows(flows) = &case.steps[0].wanted else { panic!("no flows") };
    let told: Vec<String> = flows.iter().map(|f| format!("{f} {}", u8::from(f.allowed))).collect();
    let expected = [
        "x/a -> x/a tcp/80 (10.244.1.2 -> 10.244.1.2) 1",
        "x/a -> x/a tcp/80 (fd00:10:244:1::2 -> fd00:10:244:1::2) 1",
        "x/a -> x/four tcp/80 (10.244.1.2 -> 10.244.1.3) 1",
        "x/a -> far tcp/80 (10.244.1.2 -> 172.30.0.9) 0",
        "node-a -> x/a tcp/80 (172.30.0.1 -> 10.244.1.2) 1",
        "node-a -> x/a tcp/80 (fd30::1 -> fd00:10:244:1::2) 1",
    ];
    assert_eq!(told[..6], expected);
    assert_eq!(told.len(), 12, "{told:#?}");
    assert!(told[6].starts_with("x/a -> x/a icmp"), "{}", told[6]);
    assert_eq!(case.pending, None);
}

#[test]
fn a_malformed_case_is_refused_with_file_and_field() {
    let rows: &[(&str, &str, &str)] = &[
        ("about: two pods and a host\n", "", "missing field `about`"),
        ("source: none", "source: \" \"", "source: is empty"),
        ("about:", "abuot:", "unknown field `abuot`"),
        ("172.30.0.9", "172.30.0", "outside[0].addresses[0]: "),
        ("172.30.0.9", "172.30.0.9, 172.30.0.10", "outside[0].addresses: more than one of a family"),
        ("addresses: [172.30.0.9]", "addresses: []", "outside[0].addresses: is empty"),
        ("name: far", "name: x/far", "outside[0].name: \"x/far\" looks like a pod's"),
        ("name: far", "name: node-a", "steps[0]: two are called node-a"),
        ("objects.yaml", "nowhere.yaml", "objects: [0]: "),
        ("tcp/80", "tpc/80", "steps[0]: expect[0].on[0]: \"tpc/80\" is not tcp/PORT"),
        ("tcp/80", "tcp/0", "steps[0]: expect[0].on[0]: \"tcp/0\""),
        ("tcp/80", "tcp/65536", "steps[0]: expect[0].on[0]: \"tcp/65536\""),
        ("[tcp/80, icmp]", "[]", "steps[0]: expect[0].on: is empty"),
        ("[tcp/80, icmp]", "[icmp, icmp]", "steps[0]: expect[0].verdicts: x/a -> x/a icmp"),
        (
            "node-a  A",
            "node-b  A",
            "steps[0]: expect[0].verdicts: \"node-b\" is no running pod, node or outside",
        ),
        (
            "A    .       .",
            "A    .",
            "steps[0]: expect[0].verdicts: line 3, node-a: 2 verdicts for 3 columns",
        ),
        ("A    .       .", "A    x       .", "steps[0]: expect[0].verdicts: line 3, node-a: \"x\" is not A"),
        ("  - expect:", "  - refused: [x]\n    expect:", "steps[0]: expect and refused exclude each other"),
        ("verdicts:", "verdict:", "steps[0].expect[0]"),
    ];
    for (old, new, expected) in rows {
        assert!(GOOD.contains(old), "{old}");
        let error = format!("{:#}", load_texts(&GOOD.replacen(old, new, 1), OBJECTS).unwrap_err());
        assert!(error.contains("case.yaml: ") && error.contains(expected), "{old} -> {new}: {error}");
    }
    let rows = [
        ("about: a\nsource: b\nsteps: []\n", "steps: is empty"),
        (
            "about: a\nsource: b\nsteps: [{objects: [objects.yaml]}]\n",
            "steps[0]: expect: is missing, and refused, too",
        ),
        (
            "about: a\nsource: b\nsteps: [{objects: [objects.yaml], refused: [\"\"]}]\n",
            "steps[0]: refused: a part is empty",
        ),
        ("", "missing field `about`"),
        ("about: [", "case.yaml: about: invalid type: sequence, expected a string at line 1"),
    ];
    for (text, expected) in rows {
        let error = format!("{:#}", load_texts(text, OBJECTS).unwrap_err());
        assert!(error.contains("case.yaml: ") && error.contains(expected), "{text:?}: {error}");
    }
}

#[test]
fn malformed_objects_are_refused_with_file_and_field() {
    let rows = [
        ("podIPs: [{ip: 10.244.1.3}]", "podIPs: [{ip: 10.244.1}]", "Pod x/four: status.podIPs[0].ip"),
        ("podIPs: [{ip: 10.244.1.3}]", "podIP: [1]", "objects.yaml, document 3: Pod x/four: status.podIP"),
        (
            "nodeName: node-a, containers: []}\nstatus: {phase: Running, podIPs: [{ip: 10.244.1.3}]}",
            "nodName: node-a, containers: []}",
            "objects.yaml: Pod x/four: spec.nodName is not a field of the API",
        ),
        ("kind: Node", "kind: [", "objects.yaml, document 1"),
    ];
    for (old, new, expected) in rows {
        assert!(OBJECTS.contains(old), "{old}");
        let error = format!("{:#}", load_texts(GOOD, &OBJECTS.replacen(old, new, 1)).unwrap_err());
        assert!(error.contains("case.yaml: steps[0]") && error.contains(expected), "{old} -> {new}: {error}");
    }
}

#[test]
fn a_kind_that_is_not_used_makes_a_case_wait_instead_of_passing() {
    let more = format!("{OBJECTS}---\napiVersion: example.org/v1\nkind: Wall\nmetadata: {{name: w}}\n");
    let case = load_texts(GOOD, &more).unwrap();
    let pending = case.pending.unwrap();
    assert!(pending.contains("Wall w") && pending.contains("is not a kind that is used"), "{pending}");
}

#[test]
fn folders_are_found_sorted_and_none_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["b", "a/deep", "c"] {
        std::fs::create_dir_all(folder.path().join(name)).unwrap();
    }
    let error = find(folder.path()).unwrap_err().to_string();
    assert!(error.contains("no folder with a case.yaml"), "{error}");
    for name in ["b", "a/deep"] {
        std::fs::write(folder.path().join(name).join(FILE), "").unwrap();
    }
    let found = find(folder.path()).unwrap();
    assert_eq!(found, [folder.path().join("a/deep"), folder.path().join("b")]);
}
