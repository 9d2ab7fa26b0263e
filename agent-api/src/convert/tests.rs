//! Every message comes back as it went; what the wire can say and the types cannot is refused by name.
//!
//! * here: round trips over arbitrary values, and arbitrary bytes.
//! * `refusals`: a row for each check. `values`: arbitrary plain values.

mod refusals;
mod values;

use std::fmt::Debug;

use policy_compiler::intent::Intent;
use proptest::prelude::*;
use prost::Message;

use super::calls::{added_port, applied_intent, flow_list, port_list};
use super::shadow::{candidate, set_shadow};
use crate::contract::{
    AddPort, Applied, DropEvent, ExplainQuery, Explanation, FlowInfo, PolicyHits, PortInfo, Refusal,
    ShadowDifference, ShadowStatus, State, Stats,
};
use crate::proto;

/// A message through its bytes.
fn through_bytes<M: Message + Default>(message: &M) -> M {
    M::decode(message.encode_to_vec().as_slice()).unwrap()
}

/// Plain to message to bytes, and all the way back.
fn comes_back<T, M>(plain: T)
where
    T: Clone + PartialEq + Debug + TryFrom<M>,
    T::Error: Debug,
    M: Message + Default + From<T>,
{
    let message = M::from(plain.clone());
    assert_eq!(T::try_from(through_bytes(&message)).unwrap(), plain);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn an_intent_comes_back(intent in values::intent(), expected in any::<Option<u64>>()) {
        let request = proto::ApplyRequest {
            intent: Some(intent.clone().into()),
            expected_generation: expected,
        };
        let request = through_bytes(&request);
        prop_assert_eq!(request.expected_generation, expected);
        prop_assert_eq!(applied_intent(request.intent).unwrap(), intent);
    }

    #[test]
    fn a_state_comes_back(state in values::state()) {
        comes_back::<State, proto::GetStateResponse>(state);
    }

    #[test]
    fn counters_come_back(stats in values::stats()) {
        comes_back::<Stats, proto::StatsResponse>(stats);
    }

    #[test]
    fn answers_to_changes_come_back(applied in values::applied(), refusal in values::refusal()) {
        comes_back::<Applied, proto::ApplyResponse>(applied.clone());
        comes_back::<Applied, proto::PromoteShadowResponse>(applied);
        comes_back::<Refusal, proto::Refusal>(refusal);
    }

    #[test]
    fn drops_come_back(event in values::drop_event()) {
        comes_back::<DropEvent, proto::DropEvent>(event);
    }

    #[test]
    fn questions_and_their_answers_come_back(query in values::query(), answer in values::explanation()) {
        comes_back::<ExplainQuery, proto::ExplainRequest>(query);
        comes_back::<Explanation, proto::ExplainResponse>(answer);
    }

    #[test]
    fn hits_of_rules_come_back(hits in values::policy_hits()) {
        comes_back::<PolicyHits, proto::ListRuleHitsResponse>(hits);
    }

    #[test]
    fn ports_come_back(request in values::add_port(), ports in prop::collection::vec(values::port_info(), 0..4)) {
        comes_back::<AddPort, proto::AddPortRequest>(request);
        for port in &ports {
            comes_back::<PortInfo, proto::Port>(port.clone());
            let answer = proto::AddPortResponse { port: Some(port.clone().into()) };
            prop_assert_eq!(&added_port(through_bytes(&answer)).unwrap(), port);
        }
        let list = proto::ListPortsResponse { ports: ports.iter().cloned().map(Into::into).collect() };
        prop_assert_eq!(port_list(through_bytes(&list)).unwrap(), ports);
    }

    #[test]
    fn flows_come_back(flows in prop::collection::vec(values::flow_info(), 0..4)) {
        for flow in &flows {
            comes_back::<FlowInfo, proto::Flow>(flow.clone());
        }
        let list = proto::ListFlowsResponse { flows: flows.iter().cloned().map(Into::into).collect() };
        prop_assert_eq!(flow_list(through_bytes(&list)).unwrap(), flows);
    }

    #[test]
    fn shadows_come_back(
        intent in values::intent(),
        sample in 1..=u32::MAX,
        status in values::shadow_status(),
        difference in values::shadow_difference(),
    ) {
        let request = proto::SetShadowRequest { intent: Some(intent.clone().into()), sample };
        prop_assert_eq!(candidate(through_bytes(&request)).unwrap(), (intent, sample));
        let answer = proto::SetShadowResponse { shadow: Some(status.clone().into()) };
        prop_assert_eq!(set_shadow(through_bytes(&answer)).unwrap(), status.clone());
        comes_back::<ShadowStatus, proto::Shadow>(status);
        comes_back::<ShadowDifference, proto::ShadowDifference>(difference);
    }

    /// Bytes near a good message: whatever still decodes is converted or refused, and a refusal names a field.
    #[test]
    fn damaged_bytes_are_refused_by_field_or_read(
        intent in values::intent(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = proto::Intent::from(intent).encode_to_vec();
        for (at, byte) in damage {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        if let Ok(message) = proto::Intent::decode(bytes.as_slice())
            && let Err(error) = Intent::try_from(message)
        {
            let refusal = error.refusal("Intent");
            prop_assert!(!refusal.field.is_empty() && !refusal.problem.is_empty(), "{:?}", refusal);
        }
    }
}

#[test]
fn what_is_left_out_is_the_default() {
    let request = proto::SetShadowRequest { intent: Some(proto::Intent::default()), sample: 0 };
    assert_eq!(candidate(request).unwrap(), (Intent::default(), 16));
    assert_eq!(Intent::try_from(proto::Intent::default()).unwrap(), Intent::default());
    assert_eq!(Stats::from(proto::StatsResponse::default()), Stats::default());
    let worker = proto::WorkerStats { worker: 3, chunks: None, ..Default::default() };
    let stats = Stats::from(proto::StatsResponse { workers: vec![worker], ..Default::default() });
    assert_eq!(stats.workers.first().map(|worker| (worker.worker, worker.chunks)), Some((3, [0; 4])));
}
