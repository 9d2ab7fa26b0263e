//! Which subjects a check asks about, and about which peers: of a whole state ([`Run::whole`]), and of a change ([`Run::change`]).

use std::net::IpAddr;

use super::index::{self, Party, address, bits, blocks, distinct, edges, last, named};
use super::oracle::Subject;
use super::witness::{Peer, Place, Run};
use crate::hash::FastMap;
use crate::intent::{Endpoint, Policy};
use crate::policy::inspect::{Look, Sort};
use crate::view::Change;

/// Endpoints of an identity that stand for all of them where an update is checked.
const MEMBERS: usize = 2;
/// From so many identities on one endpoint stands for each.
const FEW: usize = 8;
/// Policies with address blocks that are asked about any peer that has changed.
const ANY: usize = 4;
/// Subjects, of those whose rules name a peer that has changed, that are asked about it.
const ASKING: usize = 16;
/// Peers that a changed policy names, of those about which other policies are asked.
const NAMED: usize = 4;

/// Addresses of a range of the world's that are passed over where somebody has them.
const OWNED: usize = 16;

/// Endpoints' addresses that neither side tells apart, by one of them.
#[derive(Clone, Copy)]
struct Cohort<'a> {
    place: Place<'a>,
    look: Look,
    region: (bool, u128),
    /// Where the table thinks that it runs, if that is not so.
    elsewhere: Option<Option<u32>>,
    /// How many there are.
    count: usize,
}

impl Cohort<'_> {
    /// What is equal where one subject stands for both, family apart.
    fn row(&self) -> (u32, u32, Option<Option<u32>>) {
        (self.look.ingress, self.look.egress, self.elsewhere)
    }
}

/// One address of each sort that either side can tell apart.
#[derive(Default)]
struct World<'a> {
    peers: Vec<Peer<'a>>,
    /// Those of endpoints, by identity.
    of_identity: Vec<Vec<u32>>,
    /// All, by the table's class.
    of_class: Vec<Vec<u32>>,
    /// For each the last subject that was asked about it.
    asked: Vec<u32>,
    subject: u32,
}

impl<'a> World<'a> {
    fn add(&mut self, peer: Peer<'a>) -> u32 {
        let number = self.peers.len() as u32;
        let class = peer.class as usize;
        if self.of_class.len() <= class {
            self.of_class.resize(class + 1, Vec::new());
        }
        self.of_class.get_mut(class).into_iter().for_each(|list| list.push(number));
        self.peers.push(peer);
        self.asked.push(0);
        number
    }

    /// The endpoints of some identities and whoever is of some classes, each once.
    fn some(&mut self, identities: &[u32], classes: impl Iterator<Item = u32>) -> Vec<Peer<'a>> {
        self.subject += 1;
        let mut some = Vec::new();
        let World { peers, of_identity, of_class, asked, subject } = self;
        let by_identity = identities.iter().filter_map(|identity| of_identity.get(*identity as usize));
        let by_class = classes.filter_map(|class| of_class.get(class as usize));
        for number in by_identity.chain(by_class).flatten() {
            let Some(asked) = asked.get_mut(*number as usize).filter(|asked| **asked != *subject) else {
                continue;
            };
            *asked = *subject;
            some.extend(peers.get(*number as usize));
        }
        some
    }
}

impl<'a> Run<'a> {
    /// Every subject, and of it every class of peers.
    pub(super) fn whole(&mut self) {
        let cohorts = self.cohorts();
        let unknown = self.unknown(&cohorts);
        let mut world = self.world(&cohorts, &unknown);
        let first = self.roll(cohorts.len());
        let (last, before) = cohorts.split_at(first.min(cohorts.len()));
        for list in before.iter().chain(last) {
            for (position, cohort) in list.iter().enumerate() {
                let earlier = list.iter().take(position);
                if earlier.filter(|other| other.row() == cohort.row()).count() == 0 {
                    let alike = list.iter().filter(|other| other.row() == cohort.row());
                    self.cohort(
                        cohort.look,
                        &alike.map(|cohort| cohort.place).collect::<Vec<_>>(),
                        &mut world,
                    );
                }
            }
        }
        self.outsiders(&unknown, &mut world);
    }

    /// What a change of parts changes: what is said of the endpoints and to them, and the subjects of the policies.
    pub(super) fn change(&mut self, endpoints: &Change<'_, Endpoint>, policies: &Change<'_, Policy>) {
        let changed = || policies.removed.iter().chain(&policies.added).map(|(_, policy)| *policy);
        // Whom the rules were about that are gone.
        let mut before = Vec::new();
        for (_, policy) in &policies.removed {
            named(policy).into_iter().for_each(|identity| self.members(identity, 1, &mut before));
            before.extend(around(blocks(policy).flat_map(edges)));
        }
        let subjects = distinct(changed().flat_map(|policy| policy.subjects.iter().copied()));
        let most = if subjects.len() < FEW { MEMBERS } else { 1 };
        for identity in self.rotated(&subjects, subjects.len()) {
            let mut places = Vec::new();
            self.members(identity, most, &mut places);
            for at in places {
                self.place(at, &before);
            }
        }
        // One that they do not select, and may not have come to.
        if !policies.is_empty() {
            let any = self.roll(self.oracle.state.identities());
            let mut places = Vec::new();
            self.members(any as u32, 1, &mut places);
            places.into_iter().for_each(|at| self.place(at, &before));
        }
        let peers = distinct(changed().flat_map(named));
        for identity in self.some(&peers, NAMED) {
            let mut places = Vec::new();
            self.members(identity, 1, &mut places);
            places.into_iter().for_each(|at| self.peer(at, identity));
        }
        for (_, endpoint) in &endpoints.added {
            for at in &endpoint.addresses {
                self.place(*at, &[]);
                self.peer(*at, endpoint.identity);
            }
        }
        for (_, endpoint) in &endpoints.removed {
            for at in &endpoint.addresses {
                self.peer(*at, endpoint.identity);
                if self.is_nobodys(*at) && self.table.look(*at).sort == Sort::Endpoint {
                    self.gone(*at, endpoint.identity);
                }
            }
        }
    }

    /// An address that was an endpoint's of that identity and that the table still has for one.
    fn gone(&mut self, at: IpAddr, identity: u32) {
        let look = self.table.look(at);
        for (ingress, row) in [(true, look.ingress), (false, look.egress)] {
            let subject = self.oracle.subject(identity, ingress);
            let mut peers = vec![self.anywhere(at.is_ipv6())];
            peers.extend(self.stranger(at.is_ipv6()));
            for identity in peer_identities(&subject) {
                self.members(identity, 1, &mut peers);
            }
            peers.extend(around(subject.blocks().flat_map(edges)));
            peers.retain(|peer| peer.is_ipv6() == at.is_ipv6());
            peers.into_iter().for_each(|peer| self.outsider(at, peer, row, ingress));
        }
    }

    /// The addresses of endpoints by identity, those of one cohort together.
    fn cohorts(&mut self) -> Vec<Vec<Cohort<'a>>> {
        let state = self.oracle.state;
        let mut cohorts = vec![Vec::<Cohort<'_>>::new(); state.identities()];
        for (number, endpoint) in state.endpoints.slots.numbered() {
            if endpoint.host_network {
                continue;
            }
            let Some(list) = cohorts.get_mut(endpoint.identity as usize) else { continue };
            for at in endpoint.addresses.iter().copied() {
                let (look, node) = self.table.look_and_node(at);
                let region = self.oracle.index.region(at);
                let place = Place { at, number, endpoint };
                let elsewhere = self.elsewhere_by_table(place, node);
                let alike = |cohort: &&mut Cohort<'_>| {
                    (cohort.look, cohort.region, cohort.elsewhere) == (look, region, elsewhere)
                };
                match list.iter_mut().find(alike) {
                    Some(cohort) => {
                        cohort.count += 1;
                        // Each of them is as likely to stand for all.
                        if self.roll(cohort.count) == 0 {
                            cohort.place = place;
                        }
                    }
                    None => list.push(Cohort { place, look, region, elsewhere, count: 1 }),
                }
            }
        }
        cohorts
    }

    /// Addresses that the table alone knows. There is none unless it was made of another state.
    fn unknown(&self, cohorts: &[Vec<Cohort<'a>>]) -> Vec<IpAddr> {
        let is_missing = |cohort: &Cohort<'_>| cohort.look.sort == Sort::Outside;
        let same_count = self.table.known_count() == self.oracle.index.addresses();
        if same_count && !cohorts.iter().flatten().any(is_missing) {
            return Vec::new();
        }
        self.table.known().filter(|at| self.is_nobodys(*at)).collect()
    }

    /// One address of each cohort, of hosts, of the table's ranges of the world, and those that the table alone knows.
    fn world(&mut self, cohorts: &[Vec<Cohort<'a>>], unknown: &[IpAddr]) -> World<'a> {
        let mut world = World::default();
        for list in cohorts {
            let numbers = list.iter().map(|Cohort { place, look, .. }| {
                let party = Party::Pod(place.number, place.endpoint);
                world.add(Peer { at: place.at, party, class: look.class })
            });
            let numbers = numbers.collect();
            world.of_identity.push(numbers);
        }
        let nodes = self.oracle.state.nodes.iter().flat_map(|node| node.addresses.iter().copied());
        for at in nodes.chain(self.oracle.index.hosts()).chain(unknown.iter().copied()) {
            world.add(self.peer_at(at));
        }
        for ipv6 in [false, true] {
            for (first, class) in self.table.outside(ipv6) {
                let mut within = (first..=last(ipv6)).take(OWNED).map(|bits| address(ipv6, bits));
                if let Some(at) = within.find(|at| self.is_nobodys(*at)) {
                    world.add(Peer { at, party: self.oracle.party(at), class });
                }
            }
        }
        world
    }

    /// Both directions of endpoints that are alike, about all peers that either side tells apart.
    fn cohort(&mut self, look: Look, places: &[Place<'a>], world: &mut World<'a>) {
        let Some(identity) = places.first().map(|place| place.endpoint.identity) else { return };
        for (ingress, row) in [(true, look.ingress), (false, look.egress)] {
            if self.is_over() {
                self.checked.left_out += 1;
                continue;
            }
            let subject = self.oracle.subject(identity, ingress);
            let some = world.some(&peer_identities(&subject), self.table.exceptions(row));
            let mut known = Vec::new();
            for ipv6 in [false, true] {
                let family: Vec<Place<'a>> =
                    places.iter().filter(|place| place.at.is_ipv6() == ipv6).copied().collect();
                let Some(place) = family.get(self.roll(family.len())) else { continue };
                let mut peers = some.clone();
                self.others(&subject, row, *place, &mut peers);
                self.subject(*place, &subject, row, &peers, &mut known);
            }
        }
    }

    /// Both directions of the endpoint that has an address, if one has.
    fn place(&mut self, at: IpAddr, also: &[IpAddr]) {
        let Party::Pod(number, endpoint) = self.oracle.party(at) else { return };
        let place = Place { at, number, endpoint };
        let look = self.table.look(at);
        for (ingress, row) in [(true, look.ingress), (false, look.egress)] {
            let subject = self.oracle.subject(endpoint.identity, ingress);
            let mut at_all = also.to_vec();
            for identity in self.told_apart(&subject) {
                self.members(identity, 1, &mut at_all);
            }
            at_all.retain(|other| other.is_ipv6() == at.is_ipv6());
            let mut peers: Vec<Peer<'a>> = at_all.into_iter().map(|at| self.peer_at(at)).collect();
            self.others(&subject, row, place, &mut peers);
            self.subject(place, &subject, row, &peers, &mut Vec::new());
        }
    }

    /// Of the identities that a subject's rules are about, one for each set of rules that are.
    fn told_apart(&mut self, subject: &Subject<'a>) -> Vec<u32> {
        let mut about: Vec<(u32, u32)> = Vec::new();
        for (rule, position) in subject.rules().zip(0..) {
            let identities = rule.peers.iter().flat_map(|peers| &peers.identities);
            about.extend(identities.map(|identity| (*identity, position)));
        }
        about.sort_unstable();
        about.dedup();
        let mut told_apart = FastMap::<Vec<u32>, (u32, usize)>::default();
        for rules in about.chunk_by(|one, other| one.0 == other.0) {
            let Some((identity, _)) = rules.first().copied() else { continue };
            let set = rules.iter().map(|(_, position)| *position).collect();
            let (chosen, count) = told_apart.entry(set).or_insert((identity, 0));
            *count += 1;
            if self.roll(*count) == 0 {
                *chosen = identity;
            }
        }
        told_apart.into_values().map(|(chosen, _)| chosen).collect()
    }

    /// What some of the subjects say of an address whose rules are about it, or about those of that identity, and what one
    /// says that may know nothing of it.
    fn peer(&mut self, at: IpAddr, identity: u32) {
        let index = self.oracle.index;
        let naming = self.some(index.naming(identity), ASKING);
        let with_blocks = self.rotated(index.with_blocks(), ANY);
        for policy in naming.into_iter().chain(with_blocks) {
            let Some(policy) = self.oracle.state.policies.get(policy) else { continue };
            let subject = self.roll(policy.subjects.len());
            let Some(subject) = policy.subjects.get(subject) else { continue };
            self.asked_by(*subject, at);
        }
        let any = self.roll(self.oracle.state.identities());
        self.asked_by(any as u32, at);
        // Whoever it is, it may be nobody's subject any more.
        let other = self.anywhere(at.is_ipv6());
        self.ask(at, other, 6, 80);
        self.ask(other, at, 6, 80);
    }

    /// What an endpoint of that identity says of an address.
    fn asked_by(&mut self, identity: u32, at: IpAddr) {
        let mut places = Vec::new();
        self.members(identity, 1, &mut places);
        for place in places {
            let Party::Pod(number, endpoint) = self.oracle.party(place) else { continue };
            let (look, peers) = (self.table.look(place), [self.peer_at(at)]);
            for (ingress, row) in [(true, look.ingress), (false, look.egress)] {
                let subject = self.oracle.subject(identity, ingress);
                let place = Place { at: place, number, endpoint };
                self.subject(place, &subject, row, &peers, &mut Vec::new());
            }
        }
    }

    /// Peers beside those that rules name: at the edges of blocks; itself and its node, for which isolation does not hold; one of
    /// each sort that is nobody in particular.
    fn others(&mut self, subject: &Subject<'a>, row: u32, place: Place<'a>, peers: &mut Vec<Peer<'a>>) {
        let ipv6 = place.at.is_ipv6();
        if subject.is_free() && row == 0 {
            // Nothing is told apart.
            let any = self.anywhere(ipv6);
            return peers.push(self.peer_at(any));
        }
        let state = self.oracle.state;
        let mut others: Vec<IpAddr> = around(subject.blocks().flat_map(edges)).collect();
        others.push(place.at);
        others.extend(self.oracle.index.hosts().take(2));
        let any = self.roll(state.identities());
        self.members(any as u32, 1, &mut others);
        others.extend(self.stranger(ipv6));
        others.push(self.anywhere(ipv6));
        let own = self.oracle.index.node(&state, &place.endpoint.node);
        let by_table = self.table.node(place.at).and_then(|node| state.nodes.get(node as usize));
        let by_table = by_table.filter(|by_table| own.is_none_or(|own| own.name != by_table.name));
        let any = state.nodes.get(self.roll(state.nodes.len()));
        let nodes = [own, by_table, any].into_iter().flatten();
        others.extend(nodes.flat_map(|node| node.addresses.iter().copied()));
        others.retain(|at| at.is_ipv6() == ipv6);
        peers.extend(others.into_iter().map(|at| self.peer_at(at)));
    }

    /// An address of a range of pods, whoever has it.
    fn stranger(&mut self, ipv6: bool) -> Option<IpAddr> {
        let nodes = self.oracle.state.nodes;
        let node = nodes.get(self.roll(nodes.len()))?;
        let range = node.pod_cidrs.iter().find(|range| matches!(range, ipnet::IpNet::V6(_)) == ipv6)?;
        let (first, last) = (bits(range.network()), bits(range.broadcast()));
        let size = usize::try_from(last - first).unwrap_or(usize::MAX).saturating_add(1);
        Some(address(ipv6, first + self.roll(size) as u128))
    }

    /// An address of the family, whichever.
    fn anywhere(&mut self, ipv6: bool) -> IpAddr {
        match ipv6 {
            // Of the range that is given out (RFC 4291, section 2.4).
            true => address(true, (0x2000 << 112) + self.roll(usize::MAX) as u128),
            false => address(false, self.roll(1 << 32) as u128),
        }
    }

    /// Addresses of some of an identity's endpoints.
    fn members(&mut self, identity: u32, most: usize, places: &mut Vec<IpAddr>) {
        let members = self.oracle.index.members(identity);
        for number in self.rotated(members, most) {
            let endpoint = self.oracle.state.endpoints.get(number);
            places.extend(endpoint.into_iter().flat_map(|endpoint| endpoint.addresses.iter().copied()));
        }
    }

    /// Some of a list; the others are counted as left out.
    fn some(&mut self, list: &[u32], most: usize) -> Vec<u32> {
        self.checked.left_out += list.len().saturating_sub(most) as u64;
        self.rotated(list, most)
    }

    /// So many of a list, beginning anywhere in it.
    fn rotated(&mut self, list: &[u32], most: usize) -> Vec<u32> {
        let first = self.roll(list.len());
        let (last, before) = list.split_at(first.min(list.len()));
        before.iter().chain(last).take(most).copied().collect()
    }

    /// Addresses that the table takes for subjects' and the state does not, and those that the table alone knows.
    fn outsiders(&mut self, unknown: &[IpAddr], world: &mut World<'a>) {
        let nodes = self.oracle.state.nodes.iter().flat_map(|node| node.addresses.iter().copied());
        let hosts = nodes.chain(self.oracle.index.hosts()).filter(|at| !self.is_free(*at));
        let all: Vec<IpAddr> = hosts.chain(unknown.iter().copied()).collect();
        for at in all {
            let look = self.table.look(at);
            for (ingress, row) in [(true, look.ingress), (false, look.egress)] {
                let some = world.some(&[], self.table.exceptions(row));
                let mut peers: Vec<IpAddr> = some.iter().map(|peer| peer.at).collect();
                peers.push(self.anywhere(at.is_ipv6()));
                peers.retain(|peer| peer.is_ipv6() == at.is_ipv6());
                peers.into_iter().for_each(|peer| self.outsider(at, peer, row, ingress));
            }
        }
    }

    /// The node that the table has for an endpoint, if it is not its own.
    fn elsewhere_by_table(&self, place: Place<'a>, node: Option<u32>) -> Option<Option<u32>> {
        let name = &place.endpoint.node;
        let same = match node {
            Some(node) => self.oracle.state.nodes.get(node as usize).is_some_and(|node| node.name == *name),
            None => self.oracle.index.node(&self.oracle.state, name).is_none(),
        };
        (!same).then_some(node)
    }

    fn is_nobodys(&self, at: IpAddr) -> bool {
        matches!(self.oracle.party(at), Party::Stranger | Party::World)
    }

    fn is_free(&self, at: IpAddr) -> bool {
        let look = self.table.look(at);
        (look.ingress, look.egress) == (0, 0) || matches!(self.oracle.party(at), Party::Pod(..))
    }
}

/// The identities that a subject's rules are about, each once.
fn peer_identities(subject: &Subject<'_>) -> Vec<u32> {
    let peers = subject.rules().filter_map(|rule| rule.peers.as_ref());
    index::distinct(peers.flat_map(|peers| peers.identities.iter().copied()))
}

/// The first address behind each edge and the last before it.
pub(super) fn around(edges: impl Iterator<Item = (bool, u128)>) -> impl Iterator<Item = IpAddr> {
    edges.flat_map(|(ipv6, edge)| {
        let before = edge.checked_sub(1).unwrap_or(last(ipv6));
        [address(ipv6, edge), address(ipv6, before)]
    })
}
