use serde_json::{Value, json};

use super::*;
use crate::intent::Intent;

fn intent(policy: Value) -> Result<Intent, ObjectError> {
    let mut objects = Objects::default();
    let name = ObjectName::new("shop", "web");
    objects.network_policies.insert(name, serde_json::from_value(policy).unwrap());
    objects.intent("").map(|(intent, _)| intent)
}

#[test]
fn the_annotation_says_what_becomes_of_live_flows() {
    let annotated = |annotations: Value| {
        intent(json!({"metadata": {"annotations": annotations}, "spec": {"podSelector": {}}}))
    };
    let rows = [
        (json!({}), Revocation::Drop),
        (json!({"penstock.io/other": "x"}), Revocation::Drop),
        (json!({"penstock.io/revocation": "keep"}), Revocation::Keep),
        (json!({"penstock.io/revocation": "drop"}), Revocation::Drop),
        (json!({"penstock.io/revocation": "reset"}), Revocation::Reset),
    ];
    for (annotations, expected) in rows {
        assert_eq!(annotated(annotations).unwrap().policies[0].revocation, expected);
    }
    for wrong in ["", "Keep", "reset ", "yes"] {
        let error = annotated(json!({"penstock.io/revocation": wrong})).unwrap_err().to_string();
        let problem = format!("{wrong:?} is not a revocation (keep, drop, reset)");
        let place = "NetworkPolicy shop/web: metadata.annotations[penstock.io/revocation]";
        assert_eq!(error, format!("{place}: {problem}"));
    }
}
