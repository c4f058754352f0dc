//! The Diffie-Hellman groups ffdhe2048 to ffdhe8192 (RFC 7919).
//!
//! Raising to a power takes the same time for every exponent of a group. It is by far the dearest part of an exchange:
//! from one millisecond (ffdhe2048) to some tens (ffdhe8192), twice on each side.

use crate::primes;
use crypto_bigint::modular::{BoxedMontyForm, BoxedMontyParams};
use crypto_bigint::{BoxedUint, Odd, Resize};
use nvferry_wire::auth::DhGroup;
use zeroize::{Zeroize, Zeroizing};

/// A value of the peer's that no honest peer sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ImproperValue;

/// One side's part of a key exchange, used once.
pub(crate) struct KeyExchange {
    group: DhGroup,
    exponent: BoxedUint,
}

impl Drop for KeyExchange {
    fn drop(&mut self) {
        self.exponent.zeroize();
    }
}

impl KeyExchange {
    /// A fresh random exponent, of about twice the bits of the group's strength (RFC 7919, 5.2, asks for fewer);
    /// `None` for the group that is none.
    pub(crate) fn new(group: DhGroup) -> Option<Result<Self, getrandom::Error>> {
        let bytes = match group {
            DhGroup::Null => return None,
            DhGroup::Ffdhe2048 => 32,
            DhGroup::Ffdhe3072 => 40,
            DhGroup::Ffdhe4096 => 48,
            DhGroup::Ffdhe6144 => 56,
            DhGroup::Ffdhe8192 => 64,
        };
        let mut random = Zeroizing::new(vec![0; bytes]);
        if let Err(error) = getrandom::fill(&mut random) {
            return Some(Err(error));
        }
        // The highest bit is set, so that the exponent is as long as it should be.
        random[0] |= 0x80;
        Some(Ok(Self { group, exponent: BoxedUint::from_be_slice_vartime(&random) }))
    }

    /// What the peer is told: 2 to the power of the exponent.
    pub(crate) fn value(&self) -> Vec<u8> {
        let two = BoxedUint::from(2_u8).resize(self.group.len_bytes() as u32 * 8);
        power(self.group, two, &self.exponent).to_vec()
    }

    /// What only the two sides know, padded to the length of the prime.
    ///
    /// # Errors
    /// The peer's value is 0, 1, p - 1, or not less than p: the result would be known to everyone.
    pub(crate) fn agree(&self, peer: &[u8]) -> Result<Zeroizing<Vec<u8>>, ImproperValue> {
        let bits = self.group.len_bytes() as u32 * 8;
        let peer = BoxedUint::from_be_slice(peer, bits).map_err(|_| ImproperValue)?;
        let last = BoxedUint::from_be_hex(prime(self.group), bits).into_option().ok_or(ImproperValue)?;
        let last = last.wrapping_sub(BoxedUint::one_with_precision(bits));
        if peer <= BoxedUint::one_with_precision(bits) || peer >= last {
            return Err(ImproperValue);
        }
        Ok(power(self.group, peer, &self.exponent))
    }
}

/// The group's prime; that of the group that is none is never asked for.
fn prime(group: DhGroup) -> &'static str {
    match group {
        DhGroup::Null | DhGroup::Ffdhe2048 => primes::FFDHE2048,
        DhGroup::Ffdhe3072 => primes::FFDHE3072,
        DhGroup::Ffdhe4096 => primes::FFDHE4096,
        DhGroup::Ffdhe6144 => primes::FFDHE6144,
        DhGroup::Ffdhe8192 => primes::FFDHE8192,
    }
}

/// `base` to the power of `exponent`, modulo the group's prime, as long as that. The base must be less than the prime.
fn power(group: DhGroup, base: BoxedUint, exponent: &BoxedUint) -> Zeroizing<Vec<u8>> {
    let bits = group.len_bytes() as u32 * 8;
    // The primes are constants, right and odd, as a test shows; no result would match anything.
    let prime = BoxedUint::from_be_hex(prime(group), bits).into_option().and_then(|p| Odd::new(p).into_option());
    let Some(prime) = prime else { return Zeroizing::default() };
    let base = BoxedMontyForm::new(base, &BoxedMontyParams::new_vartime(prime));
    let mut result = base.pow(exponent).retrieve();
    let bytes = Zeroizing::new(result.to_be_bytes().into_vec());
    result.zeroize();
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUPS: [DhGroup; 5] =
        [DhGroup::Ffdhe2048, DhGroup::Ffdhe3072, DhGroup::Ffdhe4096, DhGroup::Ffdhe6144, DhGroup::Ffdhe8192];

    /// RFC 7919: p = 2^b - 2^(b-64) + ([2^(b-130) e] + X) 2^64 - 1.
    #[test]
    fn the_primes_are_those_of_rfc_7919() {
        let number = |group: DhGroup| BoxedUint::from_be_hex(prime(group), group.len_bytes() as u32 * 8).unwrap();
        // [2^(b-130) e] of the longest; shorter ones are its beginning.
        let middle = |group: DhGroup, x: u64| {
            let bits = group.len_bytes() as u32 * 8;
            let top = number(group).shr(bits - 64).resize(64);
            assert_eq!(top, BoxedUint::from(u64::MAX), "{group:?}");
            assert_eq!(number(group).resize_unchecked(64), BoxedUint::from(u64::MAX), "{group:?}");
            // Without the ones at both ends; the -1 has borrowed one.
            let shifted = number(group).shl(64).shr(128);
            shifted.wrapping_sub(BoxedUint::from(x - 1).resize(bits))
        };
        let e = middle(DhGroup::Ffdhe8192, 10_965_728);
        // e = 2.718281828459045…
        let first = e.shr(8192 - 130 - 50).resize_unchecked(64);
        assert_eq!(first, BoxedUint::from((std::f64::consts::E * (1_u64 << 50) as f64) as u64));
        for (group, x) in GROUPS.into_iter().zip([560_316, 2_625_351, 5_736_041, 15_705_020, 10_965_728]) {
            let bits = group.len_bytes() as u32 * 8;
            assert_eq!(middle(group, x), e.shr(8192 - bits).resize_unchecked(bits), "{group:?}");
        }
    }

    #[test]
    fn both_sides_come_to_the_same_secret() {
        for group in GROUPS {
            let (a, b) = (KeyExchange::new(group).unwrap().unwrap(), KeyExchange::new(group).unwrap().unwrap());
            let (to_b, to_a) = (a.value(), b.value());
            assert_eq!((to_b.len(), to_a.len()), (group.len_bytes(), group.len_bytes()));
            assert_ne!(to_a, to_b);
            assert_eq!(a.agree(&to_a), b.agree(&to_b));
            assert_ne!(a.agree(&to_a), a.agree(&to_b));
        }
    }

    #[test]
    fn p14_values_that_give_the_secret_away_are_refused() {
        for group in GROUPS {
            let side = KeyExchange::new(group).unwrap().unwrap();
            let len = group.len_bytes();
            let small = |value: u8| [vec![0; len - 1], vec![value]].concat();
            let p = hex(prime(group));
            let below = |by: u8| [&p[..len - 1], &[p[len - 1] - by]].concat();
            for wrong in [small(0), small(1), below(1), below(0), vec![0xFF; len], vec![1; len + 1]] {
                assert_eq!(side.agree(&wrong), Err(ImproperValue));
            }
            assert!(side.agree(&small(2)).is_ok_and(|secret| *secret == side.value()));
            assert!(side.agree(&below(2)).is_ok());
        }
    }

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
    }
}
