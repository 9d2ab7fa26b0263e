//! [`PrefixMap`]: longest-prefix match.
//!
//! The prefixes are flattened into disjoint ranges once, when the map is made; a lookup is one binary search over
//! their first addresses. Ten thousand prefixes make at most twenty thousand ranges: 15 steps.

use std::net::IpAddr;

use ipnet::IpNet;

/// Values by prefix; the longest prefix that contains an address decides.
#[derive(Debug, Clone)]
pub(crate) struct PrefixMap<T> {
    v4: Ranges<u32, T>,
    v6: Ranges<u128, T>,
}

/// `values[i]` holds from `starts[i]` to before `starts[i + 1]`; nothing holds before the first.
#[derive(Debug, Clone)]
struct Ranges<K, T> {
    starts: Vec<K>,
    values: Vec<Option<T>>,
}

impl<T: Copy> PrefixMap<T> {
    /// A map of `entries`; of two values for one prefix the first holds.
    pub(crate) fn new(entries: impl IntoIterator<Item = (IpNet, T)>) -> Self {
        let (v4, v6): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|(prefix, _)| matches!(prefix, IpNet::V4(_)));
        // Behind a prefix that reaches the last address a range begins at 2^32: no address is in it.
        let v4 = flatten(v4);
        let starts: Vec<u32> = v4.starts.iter().map_while(|start| u32::try_from(*start).ok()).collect();
        PrefixMap { v4: Ranges { starts, values: v4.values }, v6: flatten(v6) }
    }

    /// The same prefixes with other values.
    pub(crate) fn map<U>(&self, change: impl Fn(T) -> U) -> PrefixMap<U> {
        PrefixMap { v4: self.v4.map(&change), v6: self.v6.map(&change) }
    }

    /// The ranges of one family, ascending: the first address of each, as a number, with what holds from there on. Before
    /// the first nothing does.
    pub(crate) fn ranges(&self, ipv6: bool) -> Box<dyn Iterator<Item = (u128, Option<T>)> + '_> {
        if ipv6 {
            Box::new(self.v6.starts.iter().copied().zip(self.v6.values.iter().copied()))
        } else {
            Box::new(
                self.v4.starts.iter().map(|start| u128::from(*start)).zip(self.v4.values.iter().copied()),
            )
        }
    }

    /// The value of the longest prefix that contains `address`.
    pub(crate) fn lookup(&self, address: IpAddr) -> Option<T> {
        match address {
            IpAddr::V4(v4) => self.v4.lookup(v4.to_bits()),
            IpAddr::V6(v6) => self.v6.lookup(v6.to_bits()),
        }
    }
}

impl<T> Default for PrefixMap<T> {
    fn default() -> Self {
        let (v4, v6) = (Vec::new(), Vec::new());
        PrefixMap {
            v4: Ranges { starts: v4, values: Vec::new() },
            v6: Ranges { starts: v6, values: Vec::new() },
        }
    }
}

impl<K: Ord + Clone, T: Copy> Ranges<K, T> {
    fn map<U>(&self, change: impl Fn(T) -> U) -> Ranges<K, U> {
        let values = self.values.iter().map(|value| value.map(&change)).collect();
        Ranges { starts: self.starts.clone(), values }
    }

    fn lookup(&self, key: K) -> Option<T> {
        let after = self.starts.partition_point(|start| *start <= key);
        self.values.get(after.checked_sub(1)?).copied().flatten()
    }
}

/// The first and the last address of a prefix as numbers.
pub(crate) fn bounds(prefix: &IpNet) -> (u128, u128) {
    let bits = |address| match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    (bits(prefix.network()), bits(prefix.broadcast()))
}

/// Disjoint ranges of prefixes of one family. Prefixes nest or are disjoint, so a stack of the open ones suffices:
/// where one ends, the one around it goes on.
fn flatten<T: Copy>(mut entries: Vec<(IpNet, T)>) -> Ranges<u128, T> {
    entries.sort_by_key(|(prefix, _)| (bounds(prefix).0, prefix.prefix_len()));
    entries.dedup_by_key(|(prefix, _)| prefix.trunc());
    let mut ranges = Ranges { starts: Vec::new(), values: Vec::new() };
    let mut open = Vec::<(u128, T)>::new();
    let close_before = |start: Option<u128>, open: &mut Vec<(u128, T)>, ranges: &mut Ranges<u128, T>| {
        while let Some((last, _)) = open.pop_if(|(last, _)| start.is_none_or(|start| *last < start)) {
            if let Some(next) = last.checked_add(1) {
                ranges.begin(next, open.last().map(|(_, value)| *value));
            }
        }
    };
    for (prefix, value) in entries {
        let (first, last) = bounds(&prefix);
        close_before(Some(first), &mut open, &mut ranges);
        ranges.begin(first, Some(value));
        open.push((last, value));
    }
    close_before(None, &mut open, &mut ranges);
    ranges
}

impl<T> Ranges<u128, T> {
    fn begin(&mut self, start: u128, value: Option<T>) {
        if self.starts.last() == Some(&start) {
            self.starts.pop();
            self.values.pop();
        }
        self.starts.push(start);
        self.values.push(value);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The slow twin: every prefix is tried.
    fn longest(entries: &[(IpNet, u32)], address: IpAddr) -> Option<u32> {
        let mut best: Option<&(IpNet, u32)> = None;
        for entry in entries.iter().filter(|(prefix, _)| prefix.contains(&address)) {
            if best.is_none_or(|best| entry.0.prefix_len() > best.0.prefix_len()) {
                best = Some(entry);
            }
        }
        best.map(|(_, value)| *value)
    }

    /// Few distinct addresses, so that prefixes nest, touch and repeat; the ends of the address space among them.
    fn addresses() -> impl Strategy<Value = IpAddr> {
        let byte = || prop::sample::select(vec![0_u8, 1, 127, 128, 254, 255]);
        let v4 = prop::array::uniform4(byte()).prop_map(IpAddr::from);
        let v6 = prop::array::uniform4(byte()).prop_map(|b| {
            let mut octets = if b[0] > 127 { [255; 16] } else { [0; 16] };
            octets[0] = b[0];
            octets[7] = b[1];
            octets[8] = b[2];
            octets[15] = b[3];
            IpAddr::from(octets)
        });
        prop_oneof![v4, v6]
    }

    fn prefixes() -> impl Strategy<Value = IpNet> {
        (addresses(), 0..=128_u8).prop_map(|(address, length)| {
            let most = if address.is_ipv4() { 32 } else { 128 };
            IpNet::new(address, length % (most + 1)).unwrap()
        })
    }

    proptest! {
        #[test]
        fn finds_what_trying_every_prefix_finds(
            prefixes in prop::collection::vec(prefixes(), 0..20),
            addresses in prop::collection::vec(addresses(), 1..40),
        ) {
            let entries: Vec<_> = prefixes.into_iter().zip(0..).collect();
            let map = PrefixMap::new(entries.clone());
            let edges = entries.iter().flat_map(|(p, _)| [p.network(), p.broadcast()]);
            for address in addresses.into_iter().chain(edges) {
                prop_assert_eq!(map.lookup(address), longest(&entries, address), "{}", address);
            }
        }
    }

    #[test]
    fn the_whole_address_space_and_its_last_address() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let map = PrefixMap::new([(net("0.0.0.0/0"), 1), (net("255.255.255.255/32"), 2), (net("::/0"), 3)]);
        let rows =
            [("0.0.0.0", 1), ("255.255.255.254", 1), ("255.255.255.255", 2), ("::", 3), ("ffff::ffff", 3)];
        for (address, value) in rows {
            assert_eq!(map.lookup(address.parse().unwrap()), Some(value), "{address}");
        }
        let none = PrefixMap::<u8>::default();
        assert_eq!(none.lookup("1.2.3.4".parse().unwrap()), None);
    }
}
