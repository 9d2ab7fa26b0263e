//! `policy hits`: how often each rule of the running policies has decided.

use std::cmp::Reverse;

use agent_api::contract::{PolicyHits, RuleHits};
use policy_compiler::intent::Action;

use crate::answer::{Answer, Fault, Rows};
use crate::arguments::{Connection, Hits, Order};
use crate::running::{connect, dash};

pub(crate) async fn hits(connection: &Connection, arguments: &Hits) -> Result<Answer, Fault> {
    let mut found = connect(connection).await?.rule_hits().await?;
    found.hits.retain(|hits| arguments.wants(hits));
    if arguments.sort == Order::Count {
        // Those with as many stay in the order of their names.
        found.hits.sort_by_key(|hits| {
            Reverse((hits.flows_allowed.saturating_add(hits.flows_denied), hits.packets_denied))
        });
    }
    Answer::new(&found, text(&found))
}

impl Hits {
    fn wants(&self, hits: &RuleHits) -> bool {
        let Some(rule) = hits.decided_by.rule() else {
            return self.namespace.is_none() && self.policy.is_none() && !self.unused;
        };
        let is = |wanted: &Option<String>, name: &str| wanted.as_ref().is_none_or(|wanted| wanted == name);
        // What a Pass leaves to others is counted as theirs.
        let is_dead = hits.is_unused() && hits.action != Action::Pass;
        is(&self.namespace, &rule.namespace) && is(&self.policy, &rule.name) && (!self.unused || is_dead)
    }
}

fn text(found: &PolicyHits) -> String {
    let mut rows =
        Rows::new(["rule", "version", "action", "flows allowed", "flows denied", "packets denied"]);
    for hits in &found.hits {
        let (name, version) = match hits.decided_by.rule() {
            Some(rule) => (hits.decided_by.to_string(), dash(&rule.resource_version)),
            None => (format!("{} ({})", hits.decided_by, hits.decided_by.direction), dash("")),
        };
        rows.row([
            name,
            version,
            hits.action.to_string(),
            hits.flows_allowed.to_string(),
            hits.flows_denied.to_string(),
            hits.packets_denied.to_string(),
        ]);
    }
    rows.text("no such rule")
}
