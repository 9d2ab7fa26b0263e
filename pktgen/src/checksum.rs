//! The Internet checksum (RFC 1071) as a sum that can be built from parts, so that a packet's checksum is its
//! template's sum plus the few words that differ.

/// Sum of the 16-bit big-endian words of `bytes`; an odd last byte counts as the high half of a word. Not folded:
/// sums of parts that begin at even offsets may be added before [`fold`].
#[inline]
pub fn sum(bytes: &[u8]) -> u64 {
    let mut total = 0u64;
    let (words, rest) = bytes.as_chunks::<4>();
    for word in words {
        total += u64::from(u32::from_be_bytes(*word));
    }
    let (halves, last) = rest.as_chunks::<2>();
    for half in halves {
        total += u64::from(u16::from_be_bytes(*half));
    }
    if let [byte] = last {
        total += u64::from(*byte) << 8;
    }
    total
}

/// Folds a sum into 16 bits with end-around carry. A correct packet's sum, its checksum included, folds to 0xffff.
#[inline]
pub fn fold(mut total: u64) -> u16 {
    total = (total >> 32) + (total & 0xffff_ffff);
    total = (total >> 16) + (total & 0xffff);
    total = (total >> 16) + (total & 0xffff);
    total = (total >> 16) + (total & 0xffff);
    total as u16
}

/// The checksum field for a sum: its complement.
#[inline]
pub fn complement(total: u64) -> u16 {
    !fold(total)
}

/// As [`complement`], but never zero: in UDP a zero field says "no checksum" (RFC 768).
#[inline]
pub fn complement_udp(total: u64) -> u16 {
    match complement(total) {
        0 => 0xffff,
        checksum => checksum,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The slow twin: RFC 1071 word by word, folding at once.
    fn slow(bytes: &[u8]) -> u16 {
        let mut total = 0u32;
        for (index, byte) in bytes.iter().enumerate() {
            total += if index % 2 == 0 { u32::from(*byte) << 8 } else { u32::from(*byte) };
            if total > 0xffff {
                total = (total & 0xffff) + 1;
            }
        }
        total as u16
    }

    proptest! {
        #[test]
        fn agrees_with_the_word_by_word_sum(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(fold(sum(&bytes)), slow(&bytes));
        }

        #[test]
        fn folding_any_sum_keeps_it_modulo_65535(total in any::<u64>()) {
            prop_assert_eq!(u64::from(fold(total)) % 65_535, total % 65_535);
        }
    }

    #[test]
    fn the_example_of_rfc_1071() {
        assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
    }

    #[test]
    fn a_udp_checksum_is_never_zero() {
        assert_eq!(complement(0xffff), 0);
        assert_eq!(complement_udp(0xffff), 0xffff);
    }
}
