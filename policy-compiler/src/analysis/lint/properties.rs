//! What lint finds to do nothing does nothing: by the oracle, on arbitrary small clusters, nothing changes without it.

use proptest::prelude::*;

use super::{Code, Finding, lint};
use crate::intent::ObjectName;
use crate::objects::Objects;
use crate::oracle::Oracle;
use crate::policy::properties::{addresses, cluster};

/// The numbers in brackets in a field's path.
fn indices(field: &str) -> Vec<usize> {
    field.split('[').skip(1).filter_map(|part| part.split(']').next()?.parse().ok()).collect()
}

/// The objects without what the findings of this code say is idle; findings of others are left.
fn without(objects: &Objects, findings: &[Finding], code: Code) -> Objects {
    let mut left = objects.clone();
    // The last first, so that the places of the others stay.
    for finding in findings.iter().rev().filter(|finding| finding.code == code) {
        let name = finding.object.strip_prefix("NetworkPolicy ").unwrap();
        let (namespace, name) = name.split_once('/').unwrap();
        let name = ObjectName::new(namespace, name);
        let at = indices(&finding.field);
        let ingress = finding.field.starts_with("spec.ingress");
        let spec = left.network_policies.get_mut(&name).and_then(|policy| policy.spec.as_mut()).unwrap();
        match code {
            Code::SelectsNothing | Code::NoSuchNamespace => drop(left.network_policies.remove(&name)),
            Code::DeadDirection if ingress => spec.ingress = None,
            Code::DeadDirection => spec.egress = None,
            Code::Shadowed if ingress => drop(spec.ingress.as_mut().unwrap().remove(at[0])),
            Code::Shadowed => drop(spec.egress.as_mut().unwrap().remove(at[0])),
            // Without its last peer or port a rule would be about everyone or everything.
            Code::PeerMatchesNothing if ingress => {
                let from = spec.ingress.as_mut().unwrap()[at[0]].from.as_mut().unwrap();
                if from.len() > 1 { drop(from.remove(at[1])) } else { from[0].pod_selector = Some(nobody()) }
            }
            Code::PeerMatchesNothing => {
                let to = spec.egress.as_mut().unwrap()[at[0]].to.as_mut().unwrap();
                if to.len() > 1 { drop(to.remove(at[1])) } else { to[0].pod_selector = Some(nobody()) }
            }
            Code::NoSuchPort => {
                let ports = match ingress {
                    true => spec.ingress.as_mut().unwrap()[at[0]].ports.as_mut().unwrap(),
                    false => spec.egress.as_mut().unwrap()[at[0]].ports.as_mut().unwrap(),
                };
                if ports.len() > 1 {
                    drop(ports.remove(at[1]))
                }
            }
            _ => {}
        }
    }
    left
}

fn nobody() -> k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector {
    crate::policy::properties::read(serde_json::json!({"matchLabels": {"nobody": "has-this"}}))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_does_nothing_may_go(objects in cluster()) {
        let findings = lint(&objects).findings;
        let codes = [
            Code::SelectsNothing,
            Code::NoSuchNamespace,
            Code::DeadDirection,
            Code::PeerMatchesNothing,
            Code::NoSuchPort,
            Code::Shadowed,
        ];
        let before = Oracle::new(&objects);
        for code in codes {
            if !findings.iter().any(|finding| finding.code == code) {
                continue;
            }
            let left = without(&objects, &findings, code);
            let after = Oracle::new(&left);
            let addresses = addresses(&objects);
            for (src, dst) in addresses.iter().flat_map(|src| addresses.iter().map(move |dst| (*src, *dst))) {
                if src.is_ipv4() != dst.is_ipv4() {
                    continue;
                }
                for (protocol, port) in [(6, 80), (6, 443), (6, 81), (17, 53), (17, 80), (132, 9), (1, 0)] {
                    prop_assert_eq!(
                        before.judge(src, dst, protocol, port),
                        after.judge(src, dst, protocol, port),
                        "{:?}: {} > {}, protocol {}, port {}: {:?}", code, src, dst, protocol, port, findings
                    );
                }
            }
        }
    }

    /// Whatever the API takes of a policy alone is not called refused.
    #[test]
    fn nothing_good_is_called_bad(objects in cluster()) {
        let refused = lint(&objects).findings.into_iter().find(|f| matches!(f.code, Code::Refused | Code::ExceptOutside));
        prop_assert!(refused.is_none(), "{:?}", refused);
    }
}
