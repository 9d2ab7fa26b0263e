//! The flow hash: 64 bits that stand for addresses and ports, keyed by a secret so that nobody can choose flows that
//! collide. Folded multiplication: two 64-bit words become the two halves of their 128-bit product, put together by
//! exclusive or. Not symmetric: the two directions of a flow hash differently.
//!
//! It is not a cryptographic hash: the seed must stay secret, and be drawn anew by each process.

const SECOND: u64 = 0x9e37_79b9_7f4a_7c15;
const THIRD: u64 = 0xd6e8_feb8_6659_fd93;
const FOURTH: u64 = 0xa076_1d64_78bd_642f;

/// The hash of an IPv4 flow: both addresses in one word (as in [`Parsed::addresses`](super::Parsed::addresses)) and
/// ports with protocol in another.
#[inline(always)]
pub fn hash_v4(addresses: u64, ports: u64, seed: u64) -> u64 {
    let mixed = fold(addresses ^ seed, ports ^ seed.rotate_left(32) ^ SECOND);
    fold(mixed ^ seed, THIRD)
}

/// The hash of an IPv6 flow: source and destination in four words, ports with protocol in a fifth.
#[inline(always)]
pub fn hash_v6(addresses: &[u64; 4], ports: u64, seed: u64) -> u64 {
    let other = seed.rotate_left(32) ^ SECOND;
    let src = fold(addresses[0] ^ seed, addresses[1] ^ other);
    let dst = fold(addresses[2] ^ seed ^ FOURTH, addresses[3] ^ other ^ THIRD);
    let ends = fold(src ^ ports, dst ^ other);
    fold(ends ^ seed, THIRD)
}

/// The two halves of the product put together.
#[inline(always)]
fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SEED: u64 = 0x0123_4567_89ab_cdef;

    /// For every input bit: how often each output bit flips with it, over many inputs.
    fn flips(words: usize, hash: impl Fn(&[u64]) -> u64) -> Vec<[u32; 64]> {
        let mut counts = vec![[0; 64]; words * 64];
        let mut state = 1u64;
        for _ in 0..SAMPLES {
            let input: Vec<u64> = (0..words)
                .map(|_| {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    // Few bits differ between real flows: high entropy would flatter the hash.
                    (state >> 33) & 0x0000_ffff
                })
                .collect();
            let before = hash(&input);
            for (bit, row) in counts.iter_mut().enumerate() {
                let mut changed = input.clone();
                changed[bit / 64] ^= 1 << (bit % 64);
                let difference = before ^ hash(&changed);
                for (out, count) in row.iter_mut().enumerate() {
                    *count += (difference >> out & 1) as u32;
                }
            }
        }
        counts
    }

    const SAMPLES: u32 = 2_000;

    fn worst_bias(counts: &[[u32; 64]]) -> f64 {
        let bias = |&count: &u32| (f64::from(count) / f64::from(SAMPLES) - 0.5).abs();
        counts.iter().flatten().map(bias).fold(0.0, f64::max)
    }

    #[test]
    fn every_input_bit_flips_every_output_bit_half_the_time() {
        assert!(worst_bias(&flips(2, |w| hash_v4(w[0], w[1], SEED))) < 0.10);
        assert!(worst_bias(&flips(5, |w| hash_v6(&[w[0], w[1], w[2], w[3]], w[4], SEED))) < 0.10);
    }

    #[test]
    fn neighbouring_flows_spread_evenly_over_buckets() {
        // 64 Ki flows that differ in one port and one octet, into 4,096 buckets by the low and by the high bits.
        for shift in [0, 52] {
            let mut buckets = vec![0u32; 4096];
            for port in 0..256u64 {
                for host in 0..256u64 {
                    let address = u64::from_ne_bytes([10, 0, 0, host as u8, 10, 1, 2, 3]);
                    let hash = hash_v4(address, (30_000 + port) << 32 | 80 << 16 | 6 << 8 | 1, SEED);
                    buckets[(hash >> shift) as usize & 4095] += 1;
                }
            }
            let chi2: f64 = buckets.iter().map(|&n| (f64::from(n) - 16.0).powi(2) / 16.0).sum();
            // 4,095 degrees of freedom: mean 4,095, standard deviation 90; six of them either way.
            assert!((3_550.0..4_640.0).contains(&chi2), "chi² {chi2} by bits from {shift}");
        }
    }

    proptest! {
        #[test]
        fn the_seed_and_the_direction_matter(a in any::<u32>(), b in any::<u32>(), ports: u32, seed: u64) {
            prop_assume!(a != b);
            let (forth, back) = ((a as u64) << 32 | b as u64, (b as u64) << 32 | a as u64);
            prop_assert_ne!(hash_v4(forth, ports as u64, seed), hash_v4(back, ports as u64, seed));
            prop_assert_ne!(hash_v4(forth, ports as u64, seed), hash_v4(forth, ports as u64, !seed));
        }
    }
}
