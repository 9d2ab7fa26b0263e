//! The hashes of this crate: equal on every node and in every run, so that all nodes pick alike without asking
//! each other. Not for keys an adversary chooses in bulk: tables are filled by the control plane.
//!
//! The mixing step is one folded 64×64→128-bit multiplication a word; the finish is the SplitMix64 finaliser
//! (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014).

use std::hash::{BuildHasherDefault, Hasher};
use std::net::IpAddr;

/// Fraction digits of pi: numbers that nobody chose for an effect.
const PI: [u64; 2] = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344];

/// A hash map over keys of the control plane.
pub(crate) type FastMap<K, V> = std::collections::HashMap<K, V, BuildHasherDefault<FastHasher>>;

/// Takes one word more into a running hash.
pub(crate) fn absorb(state: u64, word: u64) -> u64 {
    let product = u128::from(state ^ word ^ PI[0]) * u128::from(PI[1] | 1);
    ((product as u64) ^ ((product >> 64) as u64)).wrapping_add(state.rotate_left(23))
}

/// Spreads every bit of a running hash over all 64.
pub(crate) fn finish(state: u64) -> u64 {
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

/// Takes an address into a running hash. The family is part of it: `::ffff:a.b.c.d` is not `a.b.c.d`.
pub(crate) fn absorb_address(state: u64, address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(v4) => absorb(state, 4 << 32 | u64::from(v4.to_bits())),
        IpAddr::V6(v6) => absorb(absorb(state, (v6.to_bits() >> 64) as u64), v6.to_bits() as u64),
    }
}

/// Takes text into a running hash, its length included, so that neighbouring texts cannot run together.
pub(crate) fn absorb_text(state: u64, text: &str) -> u64 {
    absorb(absorb_bytes(state, text.as_bytes()), text.len() as u64)
}

fn absorb_bytes(state: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks();
    let state = words.iter().fold(state, |state, word| absorb(state, u64::from_le_bytes(*word)));
    if rest.is_empty() {
        return state;
    }
    absorb(state, rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)))
}

/// [`Hasher`] over [`absorb`] for tables whose keys come from the control plane.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct FastHasher(u64);

impl Hasher for FastHasher {
    fn finish(&self) -> u64 {
        finish(self.0)
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = absorb_bytes(self.0, bytes);
    }

    fn write_u8(&mut self, word: u8) {
        self.write_u64(word.into());
    }

    fn write_u16(&mut self, word: u16) {
        self.write_u64(word.into());
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(word.into());
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = absorb(self.0, word);
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_flipped_bit_of_the_input_flips_about_half_of_the_output() {
        for bit in 0..64 {
            let flips: u32 = (0..256_u64)
                .map(|n| {
                    let word = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    (finish(absorb(7, word)) ^ finish(absorb(7, word ^ 1 << bit))).count_ones()
                })
                .sum();
            let mean = f64::from(flips) / 256.0;
            assert!((28.0..36.0).contains(&mean), "bit {bit}: {mean} of 64 flip");
        }
    }

    #[test]
    fn the_values_are_the_same_in_every_run_and_on_every_node() {
        assert_eq!(finish(absorb_text(0, "default/web:http")), 0xf4e0_8a1e_b458_7abc);
    }

    #[test]
    fn the_two_families_of_one_bit_pattern_differ() {
        let v4: IpAddr = "10.0.0.1".parse().unwrap();
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        assert_ne!(absorb_address(1, v4), absorb_address(1, mapped));
    }
}
