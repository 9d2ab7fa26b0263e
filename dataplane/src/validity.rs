//! [`Validity`]: which judgements of earlier epochs still hold, so that a change of one Service does not have every flow judged
//! once more.
//!
//! ```text
//!   judged in epoch E  ─► E before `since`: over                       (all was replaced)
//!                      ─► one of its four addresses touched after E: over
//!                      ─► it holds
//! ```
//!
//! A flow's judgement follows from what the tables say of its addresses: source and destination, as they come and as they leave.
//! An update names the addresses of which they may say something else ([`Touched`]); each stands for a place in a
//! small array of epochs. Two addresses may share a place: then a flow is judged again in vain, never kept in error.
//!
//! The slow twin is a `Validity` of which every epoch replaces all ([`Validity::only`]); a property test of the pipeline holds the
//! two against each other.

use std::net::IpAddr;
use std::sync::Arc;

use policy_compiler::compiler::Touched;

use crate::flow::entry::words_of;

/// Bits of a place's number: 8 KiB of places stay in the nearest cache.
const BITS: u32 = 12;
const PLACES: usize = 1 << BITS;
/// Fibonacci hashing: 2^64 and 2^32 over the golden ratio.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
const SPREAD_V4: u32 = 0x9e37_79b9;

/// Which judgements hold in an epoch.
#[derive(Debug, Clone)]
pub struct Validity {
    epoch: u32,
    /// Judgements of earlier epochs are over.
    since: u32,
    /// By the place of an address: epochs after `since` at which it was touched last.
    touched: Arc<[u16; PLACES]>,
}

impl Validity {
    /// Only what is judged in `epoch` itself holds in it.
    pub fn only(epoch: u32) -> Self {
        Validity { epoch, since: epoch, touched: Arc::new([0; PLACES]) }
    }

    /// What holds in `epoch`, the next but for zero, which changes what `touched` says.
    #[must_use]
    pub fn after(&self, epoch: u32, touched: &Touched) -> Self {
        let Touched::Addresses(addresses) = touched else { return Self::only(epoch) };
        let age = epoch.wrapping_sub(self.since);
        // Ages do not wrap around, and zero, which stands for "never judged", is not stepped over.
        let Ok(age) = u16::try_from(age) else { return Self::only(epoch) };
        if epoch < self.since {
            return Self::only(epoch);
        }
        let mut places = Arc::clone(&self.touched);
        if !addresses.is_empty() {
            let places = Arc::make_mut(&mut places);
            addresses.iter().for_each(|address| places[place_of(*address)] = age);
        }
        Validity { epoch, since: self.since, touched: places }
    }

    /// The epoch.
    #[inline(always)]
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Whether a judgement of an epoch before this one holds. `addresses` are the flow's as it comes and as it leaves, in the words
    /// of [`Parsed::addresses`](crate::wire::Parsed::addresses): one each for IPv4, four for IPv6.
    #[inline(always)]
    pub(crate) fn holds<const A: usize>(&self, judged: u32, addresses: [&[u64; A]; 2]) -> bool {
        let age = judged.wrapping_sub(self.since);
        if age > self.epoch.wrapping_sub(self.since) {
            return false;
        }
        let ([a, b], [c, d]) = (places(addresses[0]), places(addresses[1]));
        let last = |one: usize, other: usize| self.touched[one].max(self.touched[other]);
        u32::from(last(a, b).max(last(c, d))) <= age
    }
}

/// The places of the two addresses that stand in these words.
#[inline(always)]
fn places<const A: usize>(words: &[u64; A]) -> [usize; 2] {
    match words[..] {
        [both] => [place_v4(both as u32), place_v4((both >> 32) as u32)],
        [a, b, c, d] => [place_v6(a, b), place_v6(c, d)],
        // No other number of words is used: a place like any other.
        _ => [0; 2],
    }
}

#[inline(always)]
fn place_v4(address: u32) -> usize {
    (address.wrapping_mul(SPREAD_V4) >> (u32::BITS - BITS)) as usize
}

#[inline(always)]
fn place_v6(first: u64, second: u64) -> usize {
    ((first ^ second.rotate_left(32)).wrapping_mul(SPREAD) >> (u64::BITS - BITS)) as usize
}

fn place_of(address: IpAddr) -> usize {
    let words = words_of(address, address);
    if address.is_ipv4() { place_v4(words[0] as u32) } else { place_v6(words[0], words[1]) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OLD: u32 = 7;

    fn address(v6: bool, number: u16) -> IpAddr {
        let [high, low] = number.to_be_bytes();
        if v6 { IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, number]) } else { IpAddr::from([10, 1, high, low]) }
    }

    fn holds(validity: &Validity, v6: bool, judged: u32, flow: [u16; 4]) -> bool {
        let [src, dst, new_src, new_dst] = flow.map(|number| address(v6, number));
        let (key, rewritten) = (words_of(src, dst), words_of(new_src, new_dst));
        if v6 {
            validity.holds(judged, [&key, &rewritten])
        } else {
            validity.holds(judged, [&[key[0]], &[rewritten[0]]])
        }
    }

    #[test]
    fn a_judgement_holds_until_an_address_of_it_is_touched() {
        for v6 in [false, true] {
            let mut validity = Validity::only(OLD);
            assert!(holds(&validity, v6, OLD, [1, 2, 1, 3]));
            for before in [0, 1, OLD - 1, OLD + 1] {
                assert!(!holds(&validity, v6, before, [1, 2, 1, 3]), "{before}");
            }
            validity = validity.after(OLD + 1, &Touched::Addresses(vec![address(v6, 9)]));
            assert!(holds(&validity, v6, OLD, [1, 2, 1, 3]));
            for flow in [[9, 2, 9, 3], [1, 9, 1, 3], [1, 2, 9, 3], [1, 2, 1, 9]] {
                assert!(!holds(&validity, v6, OLD, flow), "{flow:?}");
                assert!(holds(&validity, v6, OLD + 1, flow), "judged since: {flow:?}");
            }
            validity = validity.after(OLD + 2, &Touched::Everything);
            assert!(!holds(&validity, v6, OLD, [1, 2, 1, 3]));
            assert!(holds(&validity, v6, OLD + 2, [1, 2, 1, 3]));
        }
    }

    #[test]
    fn ages_do_not_wrap_around() {
        let nothing = Touched::Addresses(Vec::new());
        let last = Validity::only(OLD).after(OLD + u32::from(u16::MAX), &nothing);
        assert!(holds(&last, false, OLD, [1, 2, 1, 2]));
        let over = last.after(OLD + u32::from(u16::MAX) + 1, &nothing);
        assert!(!holds(&over, false, OLD, [1, 2, 1, 2]));
        // The count of epochs steps over zero when it wraps; a line that was never judged holds in none.
        let wrapped = Validity::only(u32::MAX).after(1, &nothing);
        assert!(!holds(&wrapped, false, 0, [1, 2, 1, 2]) && !holds(&wrapped, false, u32::MAX, [1, 2, 1, 2]));
    }

    proptest! {
        /// Never kept in error, and mostly kept: against a list of what was touched when.
        #[test]
        fn what_holds_has_not_been_touched(
            v6 in any::<bool>(),
            steps in prop::collection::vec((prop::collection::vec(0_u16..40, 0..3), prop::bool::weighted(0.05)), 1..60),
            flows in prop::collection::vec(any::<[u8; 4]>(), 1..20),
        ) {
            let mut validity = Validity::only(OLD);
            let mut log = Vec::new();
            let mut kept = (0, 0);
            for (epoch, (numbers, everything)) in (OLD + 1..).zip(steps) {
                let addresses = numbers.iter().map(|number| address(v6, *number)).collect();
                let touched = if everything { Touched::Everything } else { Touched::Addresses(addresses) };
                validity = validity.after(epoch, &touched);
                log.push((epoch, numbers, everything));
                for flow in &flows {
                    let flow = flow.map(|number| u16::from(number % 40));
                    for judged in OLD..=epoch {
                        let over = log.iter().any(|(at, numbers, everything)| {
                            *at > judged && (*everything || flow.iter().any(|one| numbers.contains(one)))
                        });
                        let holds = holds(&validity, v6, judged, flow);
                        prop_assert!(!(over && holds), "{judged} {flow:?} {log:?}");
                        kept.0 += u32::from(!over);
                        kept.1 += u32::from(holds);
                    }
                }
            }
            prop_assert!(kept.1 * 10 >= kept.0 * 9, "{kept:?}");
        }
    }
}
