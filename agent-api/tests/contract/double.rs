//! [`Double`]: a dataplane that forwards nothing, records every question and answers from what it was given.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use agent_api::contract::{
    AddPort, Applied, Basis, Dataplane, DecidedBy, Direction, DropEvent, ExplainQuery, Explanation, FlowInfo,
    FlowTableStats, PolicyDecision, PolicyHits, PortInfo, PortRole, PortStats, Refusal, RefusalKind,
    RuleHits, RuleRef, ShadowDifference, ShadowRow, ShadowStatus, State, Stats, WorkerStats,
};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use policy_compiler::intent::update::Update;
use policy_compiler::intent::{Action, Intent, PolicyKind};
use tokio::sync::{broadcast, watch};
use tokio_stream::wrappers::BroadcastStream;

/// One question as it came in.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Call {
    Apply {
        intent: Intent,
        expected: Option<u64>,
    },
    /// With the state that it makes of the one before.
    Update {
        update: Update,
        base: u64,
        intent: Intent,
    },
    Explain(ExplainQuery),
    AddPort(AddPort),
    RemovePort(String),
    Flows(usize),
    SetShadow {
        intent: Intent,
        sample: u32,
    },
    Promote {
        force: bool,
    },
    Discard,
}

pub(crate) struct Double {
    inner: Mutex<Inner>,
    drops: broadcast::Sender<DropEvent>,
    /// True: changes wait before they take effect.
    hold: watch::Sender<bool>,
}

#[derive(Default)]
struct Inner {
    calls: Vec<Call>,
    generation: u64,
    intent: Intent,
    ports: Vec<PortInfo>,
    shadow: Option<ShadowStatus>,
    /// Every change and every explanation is refused with it.
    refusal: Option<Refusal>,
    uptime: f64,
    panics: bool,
}

impl Double {
    pub(crate) fn new() -> Arc<Self> {
        let inner = Mutex::new(Inner { uptime: 12.5, ..Inner::default() });
        Arc::new(Double { inner, drops: broadcast::channel(64).0, hold: watch::channel(false).0 })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The questions so far.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.inner().calls.clone()
    }

    /// The intents applied or refused so far.
    pub(crate) fn intents(&self) -> Vec<Intent> {
        let intent = |call| match call {
            Call::Apply { intent, .. } | Call::Update { intent, .. } => Some(intent),
            _ => None,
        };
        self.calls().into_iter().filter_map(intent).collect()
    }

    pub(crate) fn generation(&self) -> u64 {
        self.inner().generation
    }

    /// Refuses from now on, or no longer.
    pub(crate) fn refuse(&self, refusal: Option<Refusal>) {
        self.inner().refusal = refusal;
    }

    /// Panics at the next changes.
    pub(crate) fn panic(&self) {
        self.inner().panics = true;
    }

    /// Holds changes back, or lets them go on.
    pub(crate) fn hold(&self, hold: bool) {
        self.hold.send_replace(hold);
    }

    /// Somebody else's transaction.
    pub(crate) fn step(&self) {
        self.inner().generation += 1;
    }

    pub(crate) fn set_uptime(&self, seconds: f64) {
        self.inner().uptime = seconds;
    }

    /// Drops a packet once somebody watches.
    pub(crate) async fn drop_packet(&self, event: DropEvent) {
        until("a watcher of drops", || self.drops.receiver_count() > 0).await;
        self.drops.send(event).unwrap();
    }

    /// Drops a packet, whether or not somebody watches.
    pub(crate) fn drop_unwatched(&self, event: DropEvent) {
        // An error says that nobody does.
        let _ = self.drops.send(event);
    }

    async fn begin(&self, call: Call) -> Result<(), Refusal> {
        self.inner().calls.push(call);
        let mut hold = self.hold.subscribe();
        hold.wait_for(|hold| !hold).await.unwrap();
        assert!(!self.inner().panics, "as the test wants it");
        self.inner().refusal.clone().map_or(Ok(()), Err)
    }
}

impl Dataplane for Double {
    async fn apply(&self, intent: Intent, expected: Option<u64>) -> Result<Applied, Refusal> {
        self.begin(Call::Apply { intent: intent.clone(), expected }).await?;
        let mut inner = self.inner();
        if let Some(expected) = expected.filter(|expected| *expected != inner.generation) {
            let problem = format!("{} is running, not {expected}", inner.generation);
            return Err(refusal("Apply", "expected_generation", &problem, RefusalKind::Conflict));
        }
        inner.generation += 1;
        inner.intent = intent;
        Ok(Applied { generation: inner.generation, microseconds: 1234 })
    }

    async fn update(&self, update: Update, base: u64) -> Result<Applied, Refusal> {
        let mut intent = self.inner().intent.clone();
        update.apply_to(&mut intent);
        self.begin(Call::Update { update, base, intent: intent.clone() }).await?;
        let mut inner = self.inner();
        if base != inner.generation {
            let problem = format!("{} is running, not {base}", inner.generation);
            return Err(refusal("Update", "base_generation", &problem, RefusalKind::Conflict));
        }
        inner.generation += 1;
        inner.intent = intent;
        Ok(Applied { generation: inner.generation, microseconds: 567 })
    }

    async fn state(&self) -> State {
        let inner = self.inner();
        State {
            generation: inner.generation,
            workers: vec![inner.generation; 2],
            intent: inner.intent.clone(),
        }
    }

    async fn stats(&self) -> Stats {
        let inner = self.inner();
        Stats { generation: inner.generation, uptime_seconds: inner.uptime, ..stats() }
    }

    async fn watch_drops(&self) -> BoxStream<'static, DropEvent> {
        let events = BroadcastStream::new(self.drops.subscribe());
        events.filter_map(|event| std::future::ready(event.ok())).boxed()
    }

    async fn explain(&self, query: ExplainQuery) -> Result<Explanation, Refusal> {
        self.begin(Call::Explain(query.clone())).await?;
        Ok(explanation(query.dst_port != 23))
    }

    async fn add_port(&self, request: AddPort) -> Result<PortInfo, Refusal> {
        self.begin(Call::AddPort(request.clone())).await?;
        let port = PortInfo {
            device: request.device,
            role: request.role,
            addresses: vec!["10.244.1.10".parse().unwrap(), "fd00::10".parse().unwrap()],
            mac: [2, 0, 0, 0, 0, 0xfe],
            peer_mac: request.peer_mac,
            mtu: 1450,
            worker: 1,
            mode: "native, copy".into(),
        };
        self.inner().ports.push(port.clone());
        Ok(port)
    }

    async fn remove_port(&self, device: String) -> Result<(), Refusal> {
        self.begin(Call::RemovePort(device.clone())).await?;
        let mut inner = self.inner();
        let before = inner.ports.len();
        inner.ports.retain(|port| port.device != device);
        if inner.ports.len() == before {
            let object = format!("port {device}");
            return Err(refusal(&object, "device", "is not attached", RefusalKind::NotFound));
        }
        Ok(())
    }

    async fn ports(&self) -> Vec<PortInfo> {
        self.inner().ports.clone()
    }

    async fn flows(&self, limit: usize) -> Vec<FlowInfo> {
        self.inner().calls.push(Call::Flows(limit));
        flows().into_iter().take(limit).collect()
    }

    async fn rule_hits(&self) -> PolicyHits {
        PolicyHits { generation: self.inner().generation, hits: rule_hits() }
    }

    async fn set_shadow(&self, intent: Intent, sample: u32) -> Result<ShadowStatus, Refusal> {
        self.begin(Call::SetShadow { intent, sample }).await?;
        let mut inner = self.inner();
        let status = ShadowStatus {
            base_generation: inner.generation,
            generation: inner.generation,
            sample,
            ..shadow()
        };
        inner.shadow = Some(status.clone());
        Ok(status)
    }

    async fn shadow(&self) -> Option<ShadowStatus> {
        self.inner().shadow.clone()
    }

    async fn watch_shadow(&self) -> BoxStream<'static, ShadowDifference> {
        stream::iter(differences()).chain(stream::pending()).boxed()
    }

    async fn promote_shadow(&self, force: bool) -> Result<Applied, Refusal> {
        self.begin(Call::Promote { force }).await?;
        let mut inner = self.inner();
        inner.shadow = None;
        inner.generation += 1;
        Ok(Applied { generation: inner.generation, microseconds: 890 })
    }

    async fn discard_shadow(&self) -> Result<(), Refusal> {
        self.begin(Call::Discard).await?;
        let gone = self.inner().shadow.take();
        gone.map(drop).ok_or_else(|| refusal("shadow", "candidate", "none is set", RefusalKind::NotFound))
    }
}

/// Waits until `condition` holds; fails after ten seconds.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..2000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{what}: not within ten seconds");
}

pub(crate) fn refusal(object: &str, field: &str, problem: &str, kind: RefusalKind) -> Refusal {
    Refusal { object: object.into(), field: field.into(), problem: problem.into(), kind }
}

/// The counters it answers with, but for generation and uptime.
pub(crate) fn stats() -> Stats {
    let counts =
        |rows: &[(&str, u64)]| rows.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    let worker = WorkerStats {
        worker: 0,
        core: Some(1),
        rx: 1000,
        generated: 2,
        tx: 900,
        drops: counts(&[("policy-denied", 90), ("ttl-expired", 10)]),
        held: 2,
        flow_hits: 950,
        flow_misses: 50,
        busy_turns: 100,
        busy_cycles: 150_000,
        kernel_cycles: 120_000,
        sleeps: 7,
        chunks: [100, 2, 26, 128],
    };
    let idle = WorkerStats { worker: 1, drops: counts(&[("policy-denied", 1)]), ..WorkerStats::default() };
    let port = PortStats {
        device: "veth0".into(),
        pod: "poc/web-a".into(),
        rx_packets: 1000,
        rx_bytes: 64_000,
        tx_packets: 900,
        tx_bytes: 57_600,
        kernel: counts(&[("rx_dropped", 3)]),
    };
    let table = FlowTableStats {
        entries: 12,
        capacity: 65_536,
        evicted: counts(&[("closed", 4)]),
        backing: "2 MiB pages".into(),
    };
    let flows = BTreeMap::from([("ipv4".to_owned(), table)]);
    Stats { workers: vec![worker, idle], ports: vec![port], flows, ..Stats::default() }
}

/// The explanation it gives.
pub(crate) fn explanation(forward: bool) -> Explanation {
    Explanation {
        verdict: if forward { "forward" } else { "drop" }.into(),
        reason: (!forward).then(|| "policy-denied".into()),
        steps: vec!["no Service is at the destination".into(), "policy at the destination: no rule".into()],
        generation: 3,
        egress: "default-allow".into(),
        ingress: if forward { "NetworkPolicy poc/mongodb-vm ingress[0]" } else { "no-rule" }.into(),
        decisions: vec![
            PolicyDecision { allowed: true, decided_by: by(Direction::Egress, Basis::DefaultAllow) },
            PolicyDecision {
                allowed: forward,
                decided_by: by(Direction::Ingress, if forward { mongodb(0) } else { Basis::NoRule }),
            },
        ],
        backend: forward.then(|| "10.244.1.20:27017".into()),
    }
}

pub(crate) fn by(direction: Direction, basis: Basis) -> DecidedBy {
    DecidedBy { direction, basis }
}

/// A rule of the database's policy.
pub(crate) fn mongodb(index: u32) -> Basis {
    Basis::Rule(RuleRef {
        kind: PolicyKind::NetworkPolicy,
        namespace: "poc".into(),
        name: "mongodb-vm".into(),
        resource_version: "4711".into(),
        index,
        rule_name: String::new(),
    })
}

/// A rule of a policy of the cluster.
pub(crate) fn strict(index: u32, name: &str) -> Basis {
    Basis::Rule(RuleRef {
        kind: PolicyKind::ClusterNetworkPolicy,
        namespace: String::new(),
        name: "strict".into(),
        resource_version: String::new(),
        index,
        rule_name: name.into(),
    })
}

/// The hits that it has counted: flows allowed and denied, packets denied.
pub(crate) fn rule_hits() -> Vec<RuleHits> {
    use Direction::{Egress, Ingress};
    let rows = [
        (Ingress, Basis::DefaultAllow, Action::Accept, [7, 0, 0]),
        (Egress, Basis::DefaultAllow, Action::Accept, [19, 0, 0]),
        (Ingress, Basis::NoRule, Action::Deny, [0, 3, 17]),
        (Egress, Basis::NoRule, Action::Deny, [0, 0, 0]),
        (Ingress, mongodb(0), Action::Accept, [12, 0, 0]),
        (Ingress, mongodb(1), Action::Accept, [0, 0, 0]),
        (Egress, strict(0, ""), Action::Pass, [0, 0, 0]),
        (Egress, strict(1, "no-dns"), Action::Deny, [0, 3, 18]),
    ];
    let hits = rows.map(|(direction, basis, action, [flows_allowed, flows_denied, packets_denied])| {
        let decided_by = by(direction, basis);
        RuleHits { decided_by, action, flows_allowed, flows_denied, packets_denied }
    });
    hits.into()
}

/// The flows it has.
pub(crate) fn flows() -> Vec<FlowInfo> {
    let original = FlowInfo {
        src: "10.244.1.10".parse().unwrap(),
        src_port: 40000,
        dst: "10.96.0.10".parse().unwrap(),
        dst_port: 80,
        protocol: 6,
        verdict: "forward".into(),
        reply: false,
        state: "established".into(),
        translated_src: None,
        translated_dst: Some("10.244.2.10:8080".into()),
        rule: "default-allow".into(),
        decided_by: Some(by(Direction::Ingress, Basis::DefaultAllow)),
        idle_seconds: 3,
        packets: 42,
    };
    let reply = FlowInfo {
        src: "10.244.2.10".parse().unwrap(),
        src_port: 8080,
        dst: original.src,
        dst_port: original.src_port,
        reply: true,
        translated_src: Some("10.96.0.10:80".into()),
        translated_dst: None,
        ..original.clone()
    };
    vec![original, reply]
}

/// What has been counted of every candidate.
pub(crate) fn shadow() -> ShadowStatus {
    ShadowStatus {
        number: 4,
        since_ns: 1_700_000_000_000_000_000,
        judged: 120,
        sampled: 30,
        newly_allowed: 1,
        newly_denied: 12,
        unplaced: 2,
        lost: 3,
        rows: vec![ShadowRow {
            allowed: false,
            ingress: true,
            active: "default-allow".into(),
            candidate: "no-rule of NetworkPolicy poc/web".into(),
            flows: 11,
        }],
        ..ShadowStatus::default()
    }
}

/// Flows that differ: one of a pod and a Service, one that is established and came from nobody.
pub(crate) fn differences() -> [ShadowDifference; 2] {
    let first = ShadowDifference {
        time_ns: 1_700_000_000_123_456_789,
        shadow: 4,
        src: "10.244.1.10".parse().unwrap(),
        src_port: 40000,
        src_name: "poc/web-a".into(),
        dst: "10.96.0.10".parse().unwrap(),
        dst_port: 80,
        protocol: 6,
        backend: Some("10.244.2.10:8080".into()),
        dst_name: "poc/web-b".into(),
        established: false,
        allowed: false,
        ingress: true,
        active: "default-allow".into(),
        candidate: "no-rule of NetworkPolicy poc/web".into(),
        generation: 3,
        stale: false,
        missed: 0,
    };
    let second = ShadowDifference {
        src: "fd00::9".parse().unwrap(),
        src_name: String::new(),
        dst: "fd00::10".parse().unwrap(),
        backend: None,
        established: true,
        allowed: true,
        ingress: false,
        active: "no-rule".into(),
        candidate: "default-allow".into(),
        stale: true,
        missed: 7,
        ..first.clone()
    };
    [first, second]
}

/// A dropped packet.
pub(crate) fn dropped(reason: &str) -> DropEvent {
    DropEvent {
        time_ns: 1_700_000_000_123_456_789,
        reason: reason.into(),
        device: "veth0".into(),
        src: Some("10.244.2.10".parse().unwrap()),
        src_port: 40000,
        dst: Some("10.244.1.20".parse().unwrap()),
        dst_port: 27017,
        protocol: 6,
        rule: "no-rule".into(),
        decided_by: Some(by(Direction::Ingress, Basis::NoRule)),
        generation: 3,
        missed: 0,
    }
}

/// A port to add.
pub(crate) fn port_request(device: &str) -> AddPort {
    AddPort {
        device: device.into(),
        role: PortRole::Pod("poc/web-a".into()),
        peer_mac: Some([2, 0, 0, 0, 0, 0x0a]),
    }
}
