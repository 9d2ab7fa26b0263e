//! Maglev against its slow twin, and its promises as sentences.

use super::*;
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The twin: the paper's pseudo-code, permutations written down, weights as extra turns.
fn slow(members: &[Member], size: u32) -> Vec<usize> {
    let mut order: Vec<usize> = (0..members.len()).collect();
    order.sort_by_key(|index| members[*index]);
    let permutation = |member: &Member| -> Vec<usize> {
        let identity = absorb(absorb_address(0, member.address.ip()), u64::from(member.address.port()));
        let offset = finish(identity) % u64::from(size);
        let skip = finish(absorb(identity, 1)) % u64::from(size - 1) + 1;
        (0..u64::from(size)).map(|j| ((offset + j * skip) % u64::from(size)) as usize).collect()
    };
    let permutations: Vec<Vec<usize>> = members.iter().map(permutation).collect();
    let heaviest = members.iter().map(|m| u64::from(m.weight.max(1))).max().unwrap();
    let mut turns = vec![0_u64; members.len()];
    let mut next = vec![0; members.len()];
    let mut entry: Vec<Option<usize>> = vec![None; size as usize];
    let mut taken = 0;
    for round in 0_u64.. {
        for &i in &order {
            // The turn number t of a backend comes in the first round r with r × weight ≥ t × heaviest.
            if round * u64::from(members[i].weight.max(1)) < turns[i] * heaviest {
                continue;
            }
            turns[i] += 1;
            let mut slot = permutations[i][next[i]];
            while entry[slot].is_some() {
                next[i] += 1;
                slot = permutations[i][next[i]];
            }
            entry[slot] = Some(i);
            next[i] += 1;
            taken += 1;
            if taken == size {
                return entry.into_iter().map(Option::unwrap).collect();
            }
        }
    }
    unreachable!()
}

fn slots(table: &Maglev) -> Vec<usize> {
    match &table.slots {
        Slots::Narrow(slots) => slots.iter().map(|s| usize::from(*s)).collect(),
        Slots::Wide(slots) => slots.iter().map(|s| *s as usize).collect(),
    }
}

fn member(n: u32, weight: u32) -> Member {
    Member { address: SocketAddr::new(IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n)), 8080), weight }
}

fn even(count: u32) -> Vec<Member> {
    (0..count).map(|n| member(n, 1)).collect()
}

fn counts(table: &Maglev, members: usize) -> Vec<usize> {
    let mut counts = vec![0; members];
    slots(table).into_iter().for_each(|m| counts[m] += 1);
    counts
}

fn any_members() -> impl Strategy<Value = Vec<Member>> {
    let address = prop_oneof![
        any::<u32>().prop_map(|n| IpAddr::V4(Ipv4Addr::from_bits(n))),
        any::<u128>().prop_map(|n| IpAddr::V6(Ipv6Addr::from_bits(n))),
    ];
    let member = (address, any::<u16>(), prop_oneof![Just(1_u32), 0_u32..20])
        .prop_map(|(ip, port, weight)| Member { address: SocketAddr::new(ip, port), weight });
    proptest::collection::vec(member, 2..40).prop_map(|mut members| {
        let mut seen = std::collections::HashSet::new();
        members.retain(|m| seen.insert(m.address));
        members
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_fast_table_is_the_papers(members in any_members(), size in 0_usize..6) {
        prop_assume!(members.len() > 1);
        let size = SIZES[size];
        prop_assert_eq!(slots(&Maglev::with_size(&members, size)), slow(&members, size));
    }

    #[test]
    fn the_order_of_the_list_does_not_matter(members in any_members(), turn in any::<prop::sample::Index>()) {
        let mut rotated = members.clone();
        rotated.rotate_left(turn.index(members.len()));
        rotated.swap(0, turn.index(members.len()));
        let (a, b) = (Maglev::build(&members), Maglev::build(&rotated));
        for n in 0..500_u64 {
            let hash = finish(n);
            prop_assert_eq!(a.pick(hash).map(|m| members[m]), b.pick(hash).map(|m| rotated[m]));
        }
    }

    #[test]
    fn every_pick_is_a_member_and_every_member_has_a_slot(members in any_members(), hash: u64) {
        let table = Maglev::build(&members);
        prop_assert!(table.pick(hash).unwrap() < members.len());
        prop_assert!(counts(&table, members.len()).iter().all(|count| *count > 0));
    }
}

#[test]
fn the_sizes_are_primes_in_ascending_order() {
    assert!(SIZES.is_sorted());
    for size in SIZES {
        assert!((2..).take_while(|d| d * d <= size).all(|d| size % d != 0), "{size} is not prime");
    }
}

#[test]
fn sizes_grow_with_the_backends_and_the_weights_sum() {
    let size = |members: &[Member]| size_for(members);
    assert_eq!(size(&[]), 0);
    assert_eq!(size(&even(1)), 1);
    assert_eq!(size(&even(2)), 127);
    assert_eq!(size(&even(50)), 2039);
    assert_eq!(size(&even(1000)), 32_749);
    assert_eq!(size(&even(2048)), 65_537);
    assert_eq!(size(&even(100_000)), 1_048_573);
    assert_eq!(size(&[member(0, 10), member(1, 10)]), 127, "equal weights are no weights");
    assert_eq!(size(&[member(0, 1), member(1, 3)]), 251);
    assert_eq!(size(&[member(0, 1), member(1, u32::MAX)]), 1021, "odd weights do not make tables huge");
}

#[test]
fn no_member_no_pick_and_one_member_takes_all() {
    assert_eq!(Maglev::default().pick(7), None);
    assert_eq!(Maglev::build(&[]).pick(u64::MAX), None);
    let one = Maglev::build(&even(1));
    assert_eq!((one.pick(0), one.pick(u64::MAX), one.size()), (Some(0), Some(0), 1));
}

#[test]
fn equal_backends_have_equal_shares_give_or_take_one_slot() {
    let members = even(1000);
    let counts = counts(&Maglev::with_size(&members, 65_537), members.len());
    assert_eq!((counts.iter().min(), counts.iter().max()), (Some(&65), Some(&66)));
}

#[test]
fn shares_follow_the_weights() {
    let members = [member(0, 1), member(1, 2), member(2, 5)];
    let table = Maglev::build(&members);
    let counts = counts(&table, 3);
    for (count, weight) in counts.iter().zip([1.0, 2.0, 5.0]) {
        let share = *count as f64 / table.size() as f64;
        assert!((share - weight / 8.0).abs() < 0.01, "{counts:?}");
    }
}

#[test]
fn a_backend_that_leaves_moves_few_flows_of_the_others() {
    let members = even(50);
    let before = Maglev::with_size(&members, 16_381);
    let mut without = members.clone();
    without.remove(17);
    let after = Maglev::with_size(&without, 16_381);
    let moved = slots(&before)
        .into_iter()
        .zip(slots(&after))
        .filter(|(a, b)| *a != 17 && members[*a] != without[*b])
        .count();
    // The paper's figure 12: with a size of about 300 slots a backend, some percent of the others' slots move.
    assert!(moved * 100 < 16_381 * 3, "{moved} of 16381 slots of other backends moved");
    assert!(slots(&after).iter().all(|b| without[*b] != members[17]));
}

#[test]
fn more_than_65535_members_fit() {
    let members = even(70_000);
    let table = Maglev::build(&members);
    assert!(matches!(table.slots, Slots::Wide(_)));
    assert!(counts(&table, members.len()).iter().all(|count| (14..=15).contains(count)));
}

#[test]
fn an_inverse_undoes_its_number() {
    for size in SIZES {
        for value in [1, 2, size / 2, size - 1] {
            let product = u64::from(value) * u64::from(inverse(value, size)) % u64::from(size);
            assert_eq!(product, 1, "{value} mod {size}");
        }
    }
}

/// Prints what building costs; run with `--release -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, not a check"]
#[allow(clippy::print_stdout, reason = "its output is the figures")]
fn what_building_costs() {
    for (count, size) in [(1000, 65_537), (50, 2039), (3, 127)] {
        let members = even(count);
        let start = std::time::Instant::now();
        let rounds = 50;
        (0..rounds).for_each(|_| drop(std::hint::black_box(Maglev::with_size(&members, size))));
        println!("{count} backends, {size} slots: {:?} a table", start.elapsed() / rounds);
    }
}
