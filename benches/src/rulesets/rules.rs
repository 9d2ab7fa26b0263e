//! The policies of a set.

use policy_compiler::intent::{
    Action, IpBlock, ObjectName, Peers, Policy, PortMatch, PortSelector, Protocol, Rule, Tier,
};

use super::{APPS, CYCLE, Dice, SELECTED_APPS, identities_of, is_managed, namespace_name};

/// Namespaces that a pair of ClusterNetworkPolicies, one of each tier, is about.
const NAMESPACES_A_TENANT: u32 = 16;
/// A set has one such pair for so many rules.
const RULES_A_TENANT: usize = 1000;
/// Blocks that rules are about beside the Internet.
const PARTNERS: u32 = 64;

/// Writes policies until there are as many rules as wanted.
pub(super) struct Author {
    namespaces: u32,
    dice: Dice,
}

/// What a rule is about.
type Matches = (Option<Peers>, Option<Vec<PortMatch>>);

impl Author {
    pub(super) fn new(namespaces: u32, seed: u64) -> Self {
        Author { namespaces, dice: Dice(seed) }
    }

    /// Of `rules` rules in all.
    pub(super) fn policies(mut self, rules: usize) -> Vec<Policy> {
        let mut policies = Vec::new();
        let mut missing = rules;
        for tenant in 0..(rules / RULES_A_TENANT).max(1) as u32 {
            add(&mut policies, &mut missing, self.admin(tenant));
            if rules >= RULES_A_TENANT / 10 {
                add(&mut policies, &mut missing, self.baseline(tenant));
            }
        }
        for round in 0.. {
            for namespace in (0..self.namespaces).filter(|namespace| is_managed(*namespace)) {
                for app in 0..SELECTED_APPS {
                    if missing == 0 {
                        return policies;
                    }
                    let policy = self.network_policy(namespace, app, round);
                    add(&mut policies, &mut missing, policy);
                }
            }
        }
        policies
    }

    /// One to five rules of ingress; every other policy isolates egress, too.
    fn network_policy(&mut self, namespace: u32, app: u32, round: u32) -> Policy {
        let ingress = (0..1 + self.dice.below(5)).map(|_| self.ingress(namespace, app)).collect();
        let with_egress = self.dice.below(2) == 0;
        let egress =
            with_egress.then(|| (0..1 + self.dice.below(3)).map(|_| self.egress(namespace)).collect());
        Policy {
            name: ObjectName::new(namespace_name(namespace), format!("app-{app}-{round}")),
            subjects: vec![identities_of(namespace).start + app],
            ingress: Some(allowing(ingress)),
            egress: egress.map(allowing),
            ..Policy::default()
        }
    }

    fn ingress(&mut self, namespace: u32, app: u32) -> Matches {
        let own = identities_of(namespace).start + app;
        match self.dice.below(8) {
            0..=2 => (pods(self.apps_of(namespace, 2)), Some(vec![tcp(service_port(own))])),
            3 => (pods(monitors()), Some(vec![tcp(9100), udp(9100, 9100)])),
            4 => (Some(self.partner()), Some(vec![tcp(443)])),
            5 => {
                let (other, first) = (self.namespace(), 30_000 + self.dice.below(1000) as u16);
                (pods(self.apps_of(other, 3)), Some(vec![range(Protocol::Tcp, first, first + 99)]))
            }
            6 => (pods(vec![own]), None),
            _ => (None, Some(vec![tcp(80)])),
        }
    }

    fn egress(&mut self, namespace: u32) -> Matches {
        let all = identities_of(namespace);
        match self.dice.below(6) {
            0 | 1 => (pods(name_servers()), Some(vec![udp(53, 53), tcp(53)])),
            2 => (pods(all.collect()), Some(vec![any(Protocol::Tcp)])),
            3 => (Some(internet()), Some(vec![tcp(443)])),
            4 => {
                let (other, first) = (self.namespace(), 5000 + self.dice.below(500) as u16);
                (pods(self.apps_of(other, 2)), Some(vec![udp(first, first + 20)]))
            }
            _ => {
                let servers = self.apps_of(namespace, 2);
                let ports = servers.iter().map(|server| tcp(service_port(*server))).collect();
                (pods(servers), Some(ports))
            }
        }
    }

    /// Monitors are left to the NetworkPolicies, one application is in quarantine, nobody reaches the metadata service, all
    /// reach the name servers.
    fn admin(&mut self, tenant: u32) -> Policy {
        let other = self.namespace();
        let quarantine = self.apps_of(other, 1);
        let ingress =
            [(Action::Pass, pods(monitors()), Some(vec![tcp(9100)])), (Action::Deny, pods(quarantine), None)];
        let egress = [
            (Action::Deny, Some(network("169.254.169.254/32")), None),
            (Action::Accept, pods(name_servers()), Some(vec![udp(53, 53)])),
        ];
        self.tenant_policy(tenant, Tier::Admin(tenant as u16), ingress.into(), egress.into())
    }

    /// Where no NetworkPolicy isolates: strangers may not call the well-known ports, and a range of the world is closed.
    fn baseline(&mut self, tenant: u32) -> Policy {
        let other = self.namespace();
        let strangers = self.apps_of(other, 3);
        let ingress = (Action::Deny, pods(strangers), Some(vec![range(Protocol::Tcp, 1, 1023)]));
        let egress = (Action::Deny, Some(network("198.51.100.0/24")), None);
        self.tenant_policy(tenant, Tier::Baseline(tenant as u16), vec![ingress], vec![egress])
    }

    fn tenant_policy(
        &self,
        tenant: u32,
        tier: Tier,
        ingress: Vec<(Action, Option<Peers>, Option<Vec<PortMatch>>)>,
        egress: Vec<(Action, Option<Peers>, Option<Vec<PortMatch>>)>,
    ) -> Policy {
        let first = tenant * NAMESPACES_A_TENANT;
        let namespaces = (first..first + NAMESPACES_A_TENANT).filter(|namespace| is_managed(*namespace));
        let kind = if matches!(tier, Tier::Admin(_)) { "admin" } else { "baseline" };
        Policy {
            tier,
            name: ObjectName::new("", format!("tenant-{tenant}-{kind}")),
            subjects: namespaces.filter(|space| *space < self.namespaces).flat_map(identities_of).collect(),
            ingress: Some(numbered(ingress)),
            egress: Some(numbered(egress)),
            ..Policy::default()
        }
    }

    fn namespace(&mut self) -> u32 {
        self.dice.below(self.namespaces)
    }

    /// So many applications of a namespace, one after the other.
    fn apps_of(&mut self, namespace: u32, count: u32) -> Vec<u32> {
        let first = identities_of(namespace).start + self.dice.below(APPS + 1 - count);
        (first..first + count).collect()
    }

    /// A partner's blocks, in both families: of four lengths, the larger ones without a part.
    fn partner(&mut self) -> Peers {
        let number = self.dice.below(PARTNERS);
        let length = [16, 20, 24, 32][number as usize % 4];
        let hole = if length < 24 { vec![format!("203.{number}.3.0/24")] } else { vec![] };
        let v4 = block(&format!("203.{number}.0.0/{length}"), &hole);
        let v6 = block(&format!("2001:db8:{number:x}::/48"), &[format!("2001:db8:{number:x}:1::/64")]);
        Peers { identities: vec![], blocks: vec![v4, v6] }
    }
}

/// Adds a policy, or as many of its first rules as are still missing.
fn add(policies: &mut Vec<Policy>, missing: &mut usize, mut policy: Policy) {
    for rules in [&mut policy.ingress, &mut policy.egress] {
        if *missing == 0 {
            *rules = None;
        }
        if let Some(rules) = rules {
            rules.truncate(*missing);
            *missing -= rules.len();
        }
    }
    if policy.ingress.is_some() || policy.egress.is_some() {
        policies.push(policy);
    }
}

fn allowing(rules: Vec<Matches>) -> Vec<Rule> {
    numbered(rules.into_iter().map(|(peers, ports)| (Action::Accept, peers, ports)).collect())
}

fn numbered(rules: Vec<(Action, Option<Peers>, Option<Vec<PortMatch>>)>) -> Vec<Rule> {
    let rule = |(index, (action, peers, ports)): (usize, (_, Option<Peers>, _))| Rule {
        index: index as u32,
        action,
        selects_pods: peers.as_ref().is_some_and(|peers| !peers.identities.is_empty()),
        peers,
        ports,
        ..Rule::default()
    };
    rules.into_iter().enumerate().map(rule).collect()
}

/// The first namespace without policies.
const INFRASTRUCTURE: u32 = CYCLE - 1;

fn monitors() -> Vec<u32> {
    identities_of(INFRASTRUCTURE).take(2).collect()
}

fn name_servers() -> Vec<u32> {
    identities_of(INFRASTRUCTURE).skip(2).take(1).collect()
}

fn service_port(identity: u32) -> u16 {
    8000 + (identity % APPS) as u16
}

fn pods(identities: Vec<u32>) -> Option<Peers> {
    Some(Peers { identities, blocks: vec![] })
}

fn internet() -> Peers {
    let private = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"].map(str::to_owned);
    let blocks = vec![block("0.0.0.0/0", &private), block("::/0", &["fd00::/8".to_owned()])];
    Peers { identities: vec![], blocks }
}

fn network(cidr: &str) -> Peers {
    Peers { identities: vec![], blocks: vec![block(cidr, &[])] }
}

fn block(cidr: &str, except: &[String]) -> IpBlock {
    let prefix = |text: &str| text.parse().expect("a prefix");
    IpBlock { cidr: prefix(cidr), except: except.iter().map(|part| prefix(part)).collect() }
}

fn tcp(port: u16) -> PortMatch {
    range(Protocol::Tcp, port, port)
}

fn udp(first: u16, last: u16) -> PortMatch {
    range(Protocol::Udp, first, last)
}

fn any(protocol: Protocol) -> PortMatch {
    PortMatch { protocol, port: PortSelector::Any }
}

fn range(protocol: Protocol, first: u16, last: u16) -> PortMatch {
    PortMatch { protocol, port: PortSelector::Range(first, last) }
}
