//! Address blocks: which are empty, and which lie within others.

use ipnet::IpNet;

use crate::intent::IpBlock;
use crate::prefix::bounds;

/// Whether the exceptions leave no address of the block.
pub(super) fn is_empty(block: &IpBlock) -> bool {
    covers(&block.except, &block.cidr)
}

/// Whether every address of `one` is in `other`.
pub(super) fn within(one: &IpBlock, other: &IpBlock) -> bool {
    let spared = |part: &IpNet| {
        // Of what the other leaves out, nothing is in this one.
        let apart = !one.cidr.contains(part) && !part.contains(&one.cidr);
        apart || covers(&one.except, &overlap(part, &one.cidr))
    };
    other.cidr.contains(&one.cidr) && other.except.iter().all(spared)
}

/// The smaller of two prefixes that nest.
fn overlap(one: &IpNet, other: &IpNet) -> IpNet {
    if one.contains(other) { *other } else { *one }
}

/// Whether `parts` together have every address of `whole`.
fn covers(parts: &[IpNet], whole: &IpNet) -> bool {
    let same_family = |part: &&IpNet| part.addr().is_ipv4() == whole.addr().is_ipv4();
    let mut ranges: Vec<(u128, u128)> = parts.iter().filter(same_family).map(bounds).collect();
    ranges.sort_unstable();
    let (mut next, last) = bounds(whole);
    for (begin, end) in ranges {
        if begin > next {
            return false;
        }
        if end >= last {
            return true;
        }
        next = next.max(end + 1);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(text: &str) -> IpBlock {
        let mut parts = text.split(" - ").map(|part| part.parse().unwrap());
        IpBlock { cidr: parts.next().unwrap(), except: parts.collect() }
    }

    #[test]
    fn exceptions_that_leave_nothing() {
        let rows = [
            ("10.0.0.0/8 - 10.0.0.0/9 - 10.128.0.0/9", true),
            ("10.0.0.0/8 - 10.128.0.0/9 - 10.64.0.0/10 - 10.0.0.0/10", true),
            ("10.0.0.0/8 - 10.0.0.0/9 - 10.128.0.0/10", false),
            ("10.0.0.0/8 - 10.0.0.1/32", false),
            ("10.0.0.0/8", false),
            ("0.0.0.0/0 - 0.0.0.0/1 - 128.0.0.0/1", true),
            ("::/0 - ::/1 - 8000::/1", true),
            ("::/0 - ::/1 - 8000::/2", false),
            ("10.0.0.0/8 - 10.0.0.0/9 - 10.0.0.0/10 - 10.128.0.0/9", true),
        ];
        for (text, expected) in rows {
            assert_eq!(is_empty(&block(text)), expected, "{text}");
        }
    }

    #[test]
    fn blocks_within_blocks() {
        let rows = [
            ("10.1.0.0/16", "10.0.0.0/8", true),
            ("10.0.0.0/8", "10.1.0.0/16", false),
            ("10.0.0.0/8", "10.0.0.0/8", true),
            ("10.1.0.0/16", "10.0.0.0/8 - 10.2.0.0/16", true),
            ("10.1.0.0/16", "10.0.0.0/8 - 10.1.2.0/24", false),
            ("10.1.0.0/16 - 10.1.2.0/24", "10.0.0.0/8 - 10.1.2.0/24", true),
            ("10.1.0.0/16 - 10.1.2.0/25 - 10.1.2.128/25", "10.0.0.0/8 - 10.1.2.0/24", true),
            ("10.1.0.0/16", "10.0.0.0/8 - 10.0.0.0/9", false),
            ("10.1.0.0/16 - 10.1.0.0/17 - 10.1.128.0/17", "10.0.0.0/8 - 10.0.0.0/9", true),
            ("::/0", "0.0.0.0/0", false),
        ];
        for (one, other, expected) in rows {
            assert_eq!(within(&block(one), &block(other)), expected, "{one} in {other}");
        }
    }
}
