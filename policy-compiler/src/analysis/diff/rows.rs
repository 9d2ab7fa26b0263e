//! [`Rows`]: differences between pairs of ends, put together to few sentences.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::rc::Rc;

use super::super::addresses::{host_names, order, own_nodes};
use super::super::{Packet, Party, Verdict, ports};
use super::ends::{End, Ends, Members};
use super::lists::{Lists, Said};
use super::{Change, Difference, Parties};
use crate::hash::FastMap;
use crate::intent::{Endpoint, Intent};
use crate::policy::PolicyTable;

/// Collects the differences.
pub(super) struct Rows<'a> {
    sides: [(&'a Intent, &'a PolicyTable); 2],
    ends: &'a Ends,
    names: Names<'a>,
    /// The party of each end.
    party_of: Vec<u32>,
    groups: Groups,
    /// Whether an endpoint has two addresses of one family.
    crowded: bool,
    drafts: Vec<Draft>,
}

/// A row in numbers.
struct Draft {
    delta: u32,
    own_node: bool,
    ipv6: bool,
    from: Group,
    to: Vec<u32>,
    witness: (IpAddr, IpAddr),
}

/// Parties by number, sorted; where it is true, every pod and node of the family but those.
type Group = (bool, Rc<[u32]>);

/// Makes groups small, and equal ones one.
struct Groups {
    /// All pods and nodes, of IPv4 and of IPv6.
    known: [Rc<[u32]>; 2],
    sets: HashSet<Rc<[u32]>>,
}

/// Most parties that are listed where those left out are fewer.
const LISTED: usize = 6;

/// Parties by number; equal ones are one.
struct Names<'a> {
    new: &'a Intent,
    nodes: HashMap<IpAddr, String>,
    parties: Vec<Party>,
    pods: FastMap<Vec<u32>, u32>,
    others: HashMap<Party, u32>,
}

/// Where what is allowed differs in one direction: bits by pair of subjects and pair of classes.
struct Changed {
    /// By pair of subjects; nothing where nothing differs.
    rows: Vec<Option<Vec<u64>>>,
    /// Whether any pair of subjects differs about a pair of classes.
    any: Vec<u64>,
}

/// The ends from which flows to one end differ, by difference and by whether they are outside: a handful of lists.
#[derive(Default)]
struct Sources(Vec<((u32, bool), Vec<u32>)>);

impl Sources {
    fn add(&mut self, key: (u32, bool), end: u32) {
        match self.0.iter_mut().find(|(known, _)| *known == key) {
            Some((_, ends)) => ends.push(end),
            None => self.0.push((key, vec![end])),
        }
    }
}

/// Numbers for pairs of numbers, the old table's and the new one's.
#[derive(Default)]
struct Pairs {
    pairs: Vec<[u32; 2]>,
    numbers: FastMap<[u32; 2], u32>,
}

/// What an end is, as numbers of [`Pairs`].
#[derive(Clone, Copy)]
struct Numbers {
    class: u32,
    ingress: u32,
    egress: u32,
}

impl<'a> Rows<'a> {
    /// Without any yet.
    pub(super) fn new(sides: [(&'a Intent, &'a PolicyTable); 2], ends: &'a Ends) -> Self {
        let mut names = Names::new(sides[1].0);
        let party_of: Vec<u32> = ends.ends.iter().map(|end| names.of_end(end)).collect();
        let known = |ipv6: bool| {
            let known =
                ends.ends.iter().zip(&party_of).filter(|(end, _)| end.ipv6 == ipv6 && !end.is_outside());
            sorted(known.map(|(_, party)| *party).collect())
        };
        let groups = Groups { known: [known(false), known(true)], sets: HashSet::new() };
        Rows { sides, ends, names, party_of, groups, crowded: is_crowded(sides), drafts: Vec::new() }
    }

    /// Compares all pairs of ends, apart from pods with their own nodes and themselves.
    pub(super) fn classes(&mut self, lists: &mut Lists<'_>) {
        let (mut classes, mut ingress, mut egress) = (Pairs::default(), Pairs::default(), Pairs::default());
        let numbers = self.ends.ends.iter().map(|End { looks: [old, new], .. }| Numbers {
            class: classes.number([old.class, new.class]),
            ingress: ingress.number([old.ingress, new.ingress]),
            egress: egress.number([old.egress, new.egress]),
        });
        let numbers: Vec<Numbers> = numbers.collect();
        let tables = self.sides.map(|(_, table)| table);
        let allowances = lists.allowances();
        let into = Changed::of(tables, &ingress.pairs, &classes.pairs, &allowances);
        let out_of = Changed::of(tables, &egress.pairs, &classes.pairs, &allowances);
        for (to, of_to) in numbers.iter().enumerate() {
            if !into.has_row(of_to.ingress) && !bit(&out_of.any, of_to.class) {
                continue;
            }
            let mut sources = Sources::default();
            for (from, of_from) in numbers.iter().enumerate() {
                let differs =
                    into.get(of_to.ingress, of_from.class) || out_of.get(of_from.egress, of_to.class);
                if differs {
                    self.pair(from, to, lists, &mut sources);
                }
            }
            self.draft(to, sources);
        }
    }

    /// Compares one pair of ends.
    fn pair(&self, from: usize, to: usize, lists: &mut Lists<'_>, sources: &mut Sources) {
        let (Some(src), Some(dst)) = (self.ends.ends.get(from), self.ends.ends.get(to)) else { return };
        if src.ipv6 != dst.ipv6 {
            return;
        }
        let said = said(self.sides.map(|(_, table)| table), src, dst, [false; 2]);
        let deltas = lists.compare(said);
        if deltas.is_empty() || self.may_be_exempt(from, to) && self.witness(from, to).is_none() {
            return;
        }
        for delta in deltas.iter() {
            sources.add((*delta, src.is_outside()), from as u32);
        }
    }

    /// Whether no pair of addresses may be left without those that are exempt.
    fn may_be_exempt(&self, from: usize, to: usize) -> bool {
        let host =
            |end: usize| self.ends.ends.get(end).is_some_and(|end| matches!(end.members, Members::Hosts(_)));
        self.crowded || from == to || host(from) || host(to)
    }

    /// Addresses of both ends that no table exempts from isolation.
    fn witness(&self, from: usize, to: usize) -> Option<(IpAddr, IpAddr)> {
        let (src, dst) = (self.ends.ends.get(from)?, self.ends.ends.get(to)?);
        let exempt = |a: IpAddr, b: IpAddr| self.sides.iter().any(|(_, table)| table.is_exempt(a, b));
        src.addresses().find_map(|a| {
            let b = dst.addresses().find(|b| a != *b && !exempt(a, *b))?;
            Some((a, b))
        })
    }

    fn draft(&mut self, to: usize, Sources(sources): Sources) {
        let Some(ipv6) = self.ends.ends.get(to).map(|end| end.ipv6) else { return };
        let Some(party) = self.party_of.get(to).copied() else { return };
        for ((delta, _), from) in sources {
            let first = from.first().and_then(|first| self.witness(*first as usize, to));
            let Some(witness) = first else { continue };
            let from = from.iter().filter_map(|end| self.party_of.get(*end as usize).copied());
            let from = self.groups.group(from.collect(), ipv6);
            self.drafts.push(Draft { delta, own_node: false, ipv6, from, to: vec![party], witness });
        }
    }

    /// Compares pods with the nodes that they run on in either state.
    pub(super) fn own_nodes(&mut self, lists: &mut Lists<'_>) {
        let mut pairs: Vec<(IpAddr, IpAddr)> =
            self.sides.iter().flat_map(|(intent, _)| own_nodes(intent)).collect();
        pairs.sort_unstable_by_key(|(pod, host)| (order(*host), order(*pod)));
        pairs.dedup();
        // By node's address, whether the pod is the source, difference and the pod's end.
        let mut found = BTreeMap::<((bool, u128), bool, u32, u32), Vec<(IpAddr, IpAddr)>>::new();
        for (pod, host) in pairs {
            for outward in [true, false] {
                let (src, dst) = if outward { (pod, host) } else { (host, pod) };
                for delta in self.own_node(src, dst, lists).iter() {
                    let Some(end) = self.ends.of_address.get(&pod) else { continue };
                    found.entry((order(host), outward, *delta, *end)).or_default().push((pod, host));
                }
            }
        }
        for ((_, outward, delta, end), pairs) in found {
            let Some((pod, host)) = pairs.first().copied() else { continue };
            let pods = self.names.some_of(self.ends.ends.get(end as usize), &pairs);
            let node = self.names.host(host);
            let (from, to) = if outward { (pods, node) } else { (node, pods) };
            let witness = if outward { (pod, host) } else { (host, pod) };
            let ipv6 = host.is_ipv6();
            self.drafts.push(Draft {
                delta,
                own_node: true,
                ipv6,
                from: (false, Rc::new([from])),
                to: vec![to],
                witness,
            });
        }
    }

    fn own_node(&self, src: IpAddr, dst: IpAddr, lists: &mut Lists<'_>) -> Rc<[u32]> {
        let end = |address: &IpAddr| {
            let end = self.ends.of_address.get(address)?;
            self.ends.ends.get(*end as usize)
        };
        let (Some(from), Some(to)) = (end(&src), end(&dst)) else { return Rc::new([]) };
        let exempt = self.sides.map(|(_, table)| table.is_exempt(src, dst));
        lists.compare(said(self.sides.map(|(_, table)| table), from, to, exempt))
    }

    /// The differences in words: those from the same to several become one, then those of both families.
    pub(super) fn finish(self, lists: &Lists<'_>) -> Vec<Difference> {
        let Rows { sides, names, drafts, mut groups, .. } = self;
        let mut same_from = BTreeMap::<(u32, bool, bool, Group), (Vec<u32>, (IpAddr, IpAddr))>::new();
        for Draft { delta, own_node, ipv6, from, to, witness } in drafts {
            let key = (delta, own_node, ipv6, from);
            same_from.entry(key).or_insert_with(|| (Vec::new(), witness)).0.extend(to);
        }
        let mut rows = BTreeMap::<(u32, bool, Group, Group), (Vec<u8>, (IpAddr, IpAddr))>::new();
        for ((delta, own_node, ipv6, from), (to, witness)) in same_from {
            let to = if own_node { (false, sorted(to)) } else { groups.group(to, ipv6) };
            let key = (delta, own_node, from, to);
            let family = if ipv6 { 6 } else { 4 };
            rows.entry(key).or_insert_with(|| (Vec::new(), witness)).0.push(family);
        }
        let rows = rows.into_iter().filter_map(|((delta, own_node, from, to), (families, (src, dst)))| {
            let delta = lists.delta(delta)?;
            let (protocol, port) = ports::packet_of(ports::example(&delta.keys)?, src.is_ipv6());
            let witness = Packet::new(src, dst, protocol, port);
            let [old, new] = sides.map(|(_, table)| Verdict::of(table, &witness));
            Some(Difference {
                change: delta.change,
                families,
                from: names.named(&from),
                to: names.named(&to),
                ports: delta.keys.iter().flat_map(|(first, last)| ports::ranges(*first, *last)).collect(),
                own_node,
                witness,
                old,
                new,
            })
        });
        let mut rows: Vec<Difference> = rows.collect();
        let rank = |row: &Difference| row.change == Change::Denied;
        rows.sort_by(|a, b| (rank(a), &a.to, &a.from, &a.ports).cmp(&(rank(b), &b.to, &b.from, &b.ports)));
        rows
    }
}

/// What both tables say of a pair of ends.
fn said(tables: [&PolicyTable; 2], src: &End, dst: &End, exempt: [bool; 2]) -> Said {
    let lists = [0, 1].map(|side: usize| {
        let (from, to) = (src.looks[side], dst.looks[side]);
        [tables[side].list(from.egress, to.class), tables[side].list(to.ingress, from.class)]
    });
    Said { lists, exempt }
}

/// Whether an endpoint of either state has two addresses of one family: then one of them may be the other's own.
fn is_crowded(sides: [(&Intent, &PolicyTable); 2]) -> bool {
    let crowded = |endpoint: &Endpoint| {
        [true, false]
            .into_iter()
            .any(|v4| endpoint.addresses.iter().filter(|a| a.is_ipv4() == v4).count() > 1)
    };
    sides.iter().any(|(intent, _)| intent.endpoints.iter().any(crowded))
}

impl Groups {
    /// The parties of these numbers, of one family.
    fn group(&mut self, numbers: Vec<u32>, ipv6: bool) -> Group {
        let numbers = sorted(numbers);
        let known = &self.known[usize::from(ipv6)];
        let most = numbers.len() > LISTED && numbers.len() * 2 > known.len();
        let others = if most { others(known, &numbers) } else { None };
        let (all_but, set) = others.map_or((false, numbers), |others| (true, others.into()));
        let known = self.sets.get(&set).cloned();
        let set = known.unwrap_or_else(|| {
            self.sets.insert(Rc::clone(&set));
            set
        });
        (all_but, set)
    }
}

/// Those of `known` that are not among `numbers`, both sorted; `None` where a number is not known.
fn others(known: &[u32], numbers: &[u32]) -> Option<Vec<u32>> {
    let mut others = Vec::new();
    let mut numbers = numbers.iter().peekable();
    for candidate in known {
        if numbers.next_if_eq(&candidate).is_none() {
            others.push(*candidate);
        }
    }
    numbers.next().is_none().then_some(others)
}

fn sorted(mut numbers: Vec<u32>) -> Rc<[u32]> {
    numbers.sort_unstable();
    numbers.dedup();
    numbers.into()
}

impl<'a> Names<'a> {
    fn new(new: &'a Intent) -> Self {
        Names {
            new,
            nodes: host_names(new),
            parties: Vec::new(),
            pods: FastMap::default(),
            others: HashMap::new(),
        }
    }

    fn of_end(&mut self, end: &End) -> u32 {
        match &end.members {
            Members::Endpoints(members) => self.pods(members.iter().map(|(_, position)| *position).collect()),
            Members::Hosts(members) => {
                let names = members.iter().map(|address| self.host_name(*address)).collect();
                self.other(Party::nodes(names))
            }
            members @ Members::Outside(..) => {
                self.other(Party::outside(members.ranges().iter().copied(), end.ipv6))
            }
        }
    }

    /// Those of the end's pods that are in `pairs`.
    fn some_of(&mut self, end: Option<&End>, pairs: &[(IpAddr, IpAddr)]) -> u32 {
        let members = match end.map(|end| &end.members) {
            Some(Members::Endpoints(members)) => members.as_slice(),
            _ => &[],
        };
        let positions: HashMap<IpAddr, u32> = members.iter().copied().collect();
        self.pods(pairs.iter().filter_map(|(pod, _)| positions.get(pod).copied()).collect())
    }

    fn host(&mut self, address: IpAddr) -> u32 {
        let name = self.host_name(address);
        self.other(Party::nodes(vec![name]))
    }

    fn host_name(&self, address: IpAddr) -> String {
        self.nodes.get(&address).cloned().unwrap_or_else(|| address.to_string())
    }

    fn pods(&mut self, mut members: Vec<u32>) -> u32 {
        members.sort_unstable();
        if let Some(number) = self.pods.get(&members) {
            return *number;
        }
        let number = self.push(Party::pods(self.new, &members));
        self.pods.insert(members, number);
        number
    }

    fn other(&mut self, party: Party) -> u32 {
        if let Some(number) = self.others.get(&party) {
            return *number;
        }
        let number = self.push(party.clone());
        self.others.insert(party, number);
        number
    }

    fn push(&mut self, party: Party) -> u32 {
        self.parties.push(party);
        self.parties.len() as u32 - 1
    }

    fn named(&self, (all_but, numbers): &Group) -> Parties {
        let mut parties: Vec<Party> =
            numbers.iter().filter_map(|number| self.parties.get(*number as usize).cloned()).collect();
        parties.sort();
        Parties { all_but: *all_but, parties }
    }
}

impl Pairs {
    fn number(&mut self, pair: [u32; 2]) -> u32 {
        let next = self.pairs.len() as u32;
        let number = *self.numbers.entry(pair).or_insert(next);
        if number == next {
            self.pairs.push(pair);
        }
        number
    }
}

impl Changed {
    fn of(
        tables: [&PolicyTable; 2],
        subjects: &[[u32; 2]],
        classes: &[[u32; 2]],
        allowances: &[Vec<u32>; 2],
    ) -> Self {
        let words = classes.len().div_ceil(64);
        let mut changed = Changed { rows: Vec::with_capacity(subjects.len()), any: vec![0; words] };
        for subject in subjects {
            let mut row = None;
            if *subject != [0, 0] {
                for (position, class) in classes.iter().enumerate() {
                    let [old, new] = [0, 1].map(|side: usize| {
                        allowances[side].get(tables[side].list(subject[side], class[side]).index())
                    });
                    if old != new {
                        let bits: &mut Vec<u64> = row.get_or_insert_with(|| vec![0; words]);
                        set(bits, position);
                        set(&mut changed.any, position);
                    }
                }
            }
            changed.rows.push(row);
        }
        changed
    }

    fn has_row(&self, subject: u32) -> bool {
        self.rows.get(subject as usize).is_some_and(Option::is_some)
    }

    fn get(&self, subject: u32, class: u32) -> bool {
        self.rows.get(subject as usize).and_then(Option::as_ref).is_some_and(|row| bit(row, class))
    }
}

fn set(bits: &mut [u64], position: usize) {
    bits.get_mut(position / 64).into_iter().for_each(|word| *word |= 1 << (position % 64));
}

fn bit(bits: &[u64], position: u32) -> bool {
    bits.get(position as usize / 64).is_some_and(|word| word >> (position % 64) & 1 == 1)
}
