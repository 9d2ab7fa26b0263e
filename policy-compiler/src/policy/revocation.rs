//! What becomes of a live flow that policy does not allow any more: the policy says so that denies it.

use std::net::IpAddr;

use super::{Decision, Judgement, PolicyTable, RuleId};
use crate::intent::{PolicyKind, Revocation};

impl PolicyTable {
    /// What becomes of a live flow from `src` to `dst` (the addresses that were judged) of which this table has said
    /// `judgement`: as the policy says whose rule denies it or, for [`RuleId::NO_RULE`], as the strictest of the
    /// NetworkPolicies says that isolate the endpoint in that direction. Where both ends deny, the stricter of both holds.
    /// [`Revocation::Keep`] for a judgement that allows: nothing is revoked.
    ///
    /// For flows that are revoked, not for each packet: it walks the policies that select an endpoint.
    pub fn revocation(&self, src: IpAddr, dst: IpAddr, judgement: &Judgement) -> Revocation {
        self.revoked_by(src, false, judgement.egress).max(self.revoked_by(dst, true, judgement.ingress))
    }

    fn revoked_by(&self, subject: IpAddr, ingress: bool, decision: Decision) -> Revocation {
        if decision.allowed {
            return Revocation::Keep;
        }
        if decision.rule == RuleId::NO_RULE {
            let isolating = self.selecting(subject, ingress);
            let isolating = isolating.filter(|policy| policy.kind == PolicyKind::NetworkPolicy);
            return isolating.map(|policy| policy.revocation).max().unwrap_or_default();
        }
        self.origin(decision.rule).map(|origin| origin.revocation).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intent::{Action, Endpoint, Identity, Intent, ObjectName, Peers, Policy, Rule, Tier};

    const CLIENT: &str = "10.1.0.1";
    const SERVER: &str = "10.1.0.2";

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// The client is identity 0, the server identity 1.
    fn table(policies: Vec<Policy>) -> PolicyTable {
        let endpoint = |(number, at)| Endpoint {
            name: ObjectName::new("ns", format!("pod-{number}")),
            node: String::new(),
            addresses: vec![address(at)],
            host_network: false,
            identity: number,
        };
        PolicyTable::compile(&Intent {
            identities: vec![
                Identity::default(),
                Identity { labels: vec!["a=b".into()], ..Identity::default() },
            ],
            endpoints: (0..).zip([CLIENT, SERVER]).map(endpoint).collect(),
            policies,
            ..Intent::default()
        })
        .unwrap()
    }

    /// One that isolates the server for ingress, and lets nobody in.
    fn isolating(name: &str, revocation: Revocation) -> Policy {
        let name = ObjectName::new("ns", name);
        Policy { name, revocation, subjects: vec![1], ingress: Some(vec![]), ..Policy::default() }
    }

    fn rule(action: Action, identity: u32) -> Rule {
        let peers = Some(Peers { identities: vec![identity], blocks: vec![] });
        Rule { action, peers, ..Rule::default() }
    }

    fn revocation(policies: Vec<Policy>) -> Revocation {
        let table = table(policies);
        let (src, dst) = (address(CLIENT), address(SERVER));
        table.revocation(src, dst, &table.judge(src, dst, 6, 80))
    }

    #[test]
    fn the_strictest_of_those_that_isolate_says() {
        use Revocation::{Drop, Keep, Reset};
        let rows: [(&[Revocation], Revocation); 6] = [
            (&[], Keep),
            (&[Keep], Keep),
            (&[Drop], Drop),
            (&[Keep, Drop], Drop),
            (&[Reset, Keep, Drop], Reset),
            (&[Keep, Keep], Keep),
        ];
        for (modes, expected) in rows {
            let named = modes.iter().enumerate();
            let policies = named.map(|(number, mode)| isolating(&format!("p{number}"), *mode)).collect();
            assert_eq!(revocation(policies), expected, "{modes:?}");
        }
    }

    #[test]
    fn a_rule_that_denies_says_for_its_policy_alone() {
        let deny = |tier| Policy {
            tier,
            name: ObjectName::new("", "strict"),
            revocation: Revocation::Keep,
            subjects: vec![1],
            ingress: Some(vec![rule(Action::Deny, 0)]),
            ..Policy::default()
        };
        let reset = || isolating("isolates", Revocation::Reset);
        assert_eq!(revocation(vec![reset(), deny(Tier::Admin(3))]), Revocation::Keep);
        // The Baseline tier is not asked of those whom a NetworkPolicy isolates.
        assert_eq!(revocation(vec![reset(), deny(Tier::Baseline(3))]), Revocation::Reset);
        assert_eq!(revocation(vec![deny(Tier::Baseline(3))]), Revocation::Keep);
    }

    #[test]
    fn where_both_ends_deny_the_stricter_holds() {
        let egress = |revocation| Policy {
            name: ObjectName::new("ns", "egress"),
            revocation,
            subjects: vec![0],
            egress: Some(vec![]),
            ..Policy::default()
        };
        use Revocation::{Drop, Keep, Reset};
        for (source, destination, expected) in [(Keep, Drop, Drop), (Reset, Drop, Reset), (Keep, Keep, Keep)]
        {
            let policies = vec![egress(source), isolating("ingress", destination)];
            assert_eq!(revocation(policies), expected, "{source} and {destination}");
        }
        assert_eq!(revocation(vec![egress(Reset)]), Reset);
    }
}
