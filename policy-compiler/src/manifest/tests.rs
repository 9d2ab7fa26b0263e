use proptest::prelude::*;

use super::*;

const POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: mongo, namespace: db }
spec:
  podSelector: { matchLabels: { kubevirt.io/domain: mongodb-vm } }
  ingress:
  - from:
    - podSelector: { matchLabels: { app: kubevirt-networking-poc } }
    ports:
    - { port: 27017 }
";

const CLUSTER_POLICY: &str = "
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: { name: strict }
spec:
  tier: Admin
  priority: 7
  subject: { namespaces: {} }
  ingress:
  - name: no-strangers
    action: Deny
    from:
    - { namespaces: {} }
    protocols:
    - tcp: { destinationPort: { number: 80 } }
";

fn read(text: &str) -> Result<Manifests, ManifestError> {
    let mut manifests = Manifests::default();
    manifests.parse("a.yaml", text)?;
    Ok(manifests)
}

fn warnings(manifests: &Manifests) -> Vec<String> {
    manifests.warnings.iter().map(ToString::to_string).collect()
}

#[test]
fn every_used_kind_is_read_from_one_text() {
    let text = format!(
        "{POLICY}---\n---\n# nothing\n---
apiVersion: v1
kind: Node
metadata: {{ name: a, namespace: ignored }}
---
apiVersion: v1
kind: Namespace
metadata: {{ name: db }}
---
apiVersion: v1
kind: Pod
metadata: {{ name: p }}
---
apiVersion: v1
kind: Service
metadata: {{ name: s, namespace: db }}
spec: {{ ports: [ {{ port: 80, targetPort: http }} ] }}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: e, namespace: db }}
addressType: IPv4
endpoints: []
"
    );
    let manifests = read(&text).unwrap();
    let objects = &manifests.objects;
    assert!(objects.network_policies.contains_key(&ObjectName::new("db", "mongo")));
    assert!(objects.nodes.contains_key(&ObjectName::new("", "a")));
    assert!(objects.namespaces.contains_key(&ObjectName::new("", "db")));
    let pod = &objects.pods[&ObjectName::new("default", "p")];
    assert_eq!(pod.metadata.namespace.as_deref(), Some("default"));
    assert!(objects.services.contains_key(&ObjectName::new("db", "s")));
    assert!(objects.endpoint_slices.contains_key(&ObjectName::new("db", "e")));
    assert_eq!(warnings(&manifests), Vec::<String>::new());
}

#[test]
fn json_with_tabs_and_lists_are_read() {
    let json = "{\n\t\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [\n\t\t{\"apiVersion\": \"v1\", \"kind\": \
                \"Pod\", \"metadata\": {\"name\": \"p\"}},\n\t{\"apiVersion\": \"v1\", \"kind\": \"PodList\", \"items\": \
                [{\"metadata\": {\"name\": \"q\", \"namespace\": \"n\"}}]}]}";
    let manifests = read(json).unwrap();
    let names: Vec<_> = manifests.objects.pods.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["default/p", "n/q"]);
}

#[test]
fn flow_style_yaml_and_merge_keys_are_read() {
    let text = "{apiVersion: v1, kind: Pod, metadata: {name: p, labels: {<<: {a: b}, c: d}}}";
    let manifests = read(text).unwrap();
    let labels = manifests.objects.pods[&ObjectName::new("default", "p")].metadata.labels.clone().unwrap();
    assert_eq!(labels.into_iter().collect::<Vec<_>>(), [("a".into(), "b".into()), ("c".into(), "d".into())]);
}

#[test]
fn kinds_that_are_not_used_are_named_in_a_warning() {
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: shop}\n---\n\
                apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: k}\n";
    assert_eq!(
        warnings(&read(text).unwrap()),
        [
            "a.yaml: ConfigMap shop/c: v1 ConfigMap is not a kind that is used",
            "a.yaml: Service k: serving.knative.dev/v1 Service is not a kind that is used"
        ]
    );
}

#[test]
fn fields_that_the_api_does_not_know_are_named_in_a_warning() {
    let text =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p, x: 1}\nspec: {containers: [{name: c, y: {}}]}\n";
    assert_eq!(
        warnings(&read(text).unwrap()),
        [
            "a.yaml: Pod default/p: metadata.x is not a field of the API; ignored",
            "a.yaml: Pod default/p: spec.containers[0].y is not a field of the API; ignored"
        ]
    );
    assert_eq!(
        warnings(&read(&POLICY.replace("name: mongo", "name: mongo, x: 1")).unwrap()),
        ["a.yaml: NetworkPolicy db/mongo: metadata.x is not a field of the API; ignored"]
    );
}

/// Without what such a field was to say, a policy would say more than it should.
#[test]
fn fields_that_the_api_does_not_know_are_refused_in_policies() {
    let rows = [
        (POLICY.replace("spec:\n", "spec:\n  x: {}\n"), "NetworkPolicy db/mongo: spec.x"),
        (
            POLICY.replace("    ports:\n", "    port: 80\n    ports:\n"),
            "NetworkPolicy db/mongo: spec.ingress[0].port",
        ),
        (
            POLICY.replace("podSelector: { matchLabels: { app", "podSelector: { matchLabel: { app"),
            "NetworkPolicy db/mongo: spec.ingress[0].from[0].podSelector.matchLabel",
        ),
        (
            CLUSTER_POLICY.replace("protocols:", "ports:"),
            "ClusterNetworkPolicy strict: spec.ingress[0].ports",
        ),
        (
            CLUSTER_POLICY.replace("- { namespaces: {}", "- { namespaces: {matchLabel: {a: b}}"),
            "ClusterNetworkPolicy strict: spec.ingress[0].from[0].namespaces.matchLabel",
        ),
        (
            CLUSTER_POLICY.replace("- { namespaces", "- { networks: [10.0.0.0/8], namespaces"),
            "ClusterNetworkPolicy strict: spec.ingress[0].from[0].networks",
        ),
    ];
    for (text, place) in rows {
        let error = read(&text).unwrap_err().to_string();
        assert_eq!(error, format!("a.yaml, document 1: {place}: is not a field of the API"));
    }
}

#[test]
fn a_cluster_policy_is_read_whatever_its_status_says() {
    let text = format!("{CLUSTER_POLICY}status:\n  conditions: [{{type: Ready, status: \"True\"}}]\n");
    let manifests = read(&text).unwrap();
    assert_eq!(warnings(&manifests), Vec::<String>::new());
    let policy = &manifests.objects.cluster_network_policies[&ObjectName::new("", "strict")];
    let spec = policy.spec.as_ref().unwrap();
    assert_eq!((spec.tier.as_deref(), spec.priority), (Some("Admin"), Some(7)));
    let wrong = read(&CLUSTER_POLICY.replace("v1alpha2", "v1alpha1")).unwrap_err().to_string();
    assert_eq!(
        wrong,
        "a.yaml, document 1: ClusterNetworkPolicy strict: apiVersion: \"policy.networking.k8s.io/v1alpha1\" is not read; \
         write it as \"policy.networking.k8s.io/v1alpha2\""
    );
}

#[test]
fn what_cluster_policies_succeeded_is_refused_with_its_successor() {
    for (kind, tier) in [("AdminNetworkPolicy", "Admin"), ("BaselineAdminNetworkPolicy", "Baseline")] {
        for version in ["v1alpha1", "v1alpha2"] {
            let text = format!(
                "apiVersion: policy.networking.k8s.io/{version}\nkind: {kind}\nmetadata: {{name: old}}\n"
            );
            assert_eq!(
                read(&text).unwrap_err().to_string(),
                format!(
                    "a.yaml, document 1: {kind} old: kind: {kind} is not read; write it as its successor, \
                     ClusterNetworkPolicy of policy.networking.k8s.io/v1alpha2 with tier: {tier}"
                )
            );
        }
    }
}

#[test]
fn errors_name_file_document_object_and_field() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n";
    let rows = [
        ("- 1\n".to_owned(), "a.yaml, document 1: not an object"),
        ("kind: Pod\n".into(), "a.yaml, document 1: Pod without a name: apiVersion: is missing"),
        ("a: b\n".into(), "a.yaml, document 1: object without a name: kind: is missing"),
        (
            format!("{pod}---\napiVersion: v1\nkind: Pod\nmetadata: {{namespace: n}}\n"),
            "a.yaml, document 2: Pod without a name: metadata.name: is missing",
        ),
        (
            POLICY.replace("networking.k8s.io/v1", "networking.k8s.io/v1beta1"),
            "a.yaml, document 1: NetworkPolicy db/mongo: apiVersion: \"networking.k8s.io/v1beta1\" is not read; write \
             it as \"networking.k8s.io/v1\"",
        ),
        (
            POLICY.replace("port: 27017", "port: [27017]"),
            "a.yaml, document 1: NetworkPolicy db/mongo: spec.ingress[0].ports[0].port: invalid type: sequence",
        ),
        (
            POLICY.replace("app: kubevirt-networking-poc", "app: 7"),
            "a.yaml, document 1: NetworkPolicy db/mongo: \
             spec.ingress[0].from[0].podSelector.matchLabels.app: invalid type: integer `7`",
        ),
        (
            format!("{pod}---\n{pod}"),
            "Pod default/p is in a.yaml (document 1) and again in a.yaml (document 2)",
        ),
        (format!("{pod}spec: {{\n"), "a.yaml, document 1: "),
        ("a: 1\na: 2\n".into(), "a.yaml, document 1: duplicate entry"),
        ("apiVersion: v1\nkind: List\nitems: 3\n".into(), "a.yaml, document 1: List: items: not a list"),
        (
            "apiVersion: v1\nkind: List\nitems: [3]\n".into(),
            "a.yaml, document 1: List: items[0]: not an object",
        ),
    ];
    for (text, expected) in rows {
        let error = read(&text).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}\nexpected {expected}\nin {text}");
    }
}

#[test]
fn duplicates_in_two_files_name_both() {
    let mut manifests = Manifests::default();
    manifests.parse("a.yaml", POLICY).unwrap();
    let error = manifests.parse("b.yaml", POLICY).unwrap_err().to_string();
    assert_eq!(error, "NetworkPolicy db/mongo is in a.yaml (document 1) and again in b.yaml (document 1)");
}

proptest! {
    /// No text, and no manifest with a piece missing or doubled, can do more than be refused.
    #[test]
    fn arbitrary_text_never_panics(text in "\\PC*", cut in 0..POLICY.len(), again in 0..POLICY.len()) {
        let _ = read(&text);
        let _ = read(&POLICY[..cut]);
        let _ = read(&format!("{}{}", &POLICY[..cut], &POLICY[again..]));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&String::from_utf8_lossy(&bytes));
    }
}
