//! Numbers at the start of prompts, so that no prompt is like one before.

use std::collections::BTreeSet;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::compare::TestKey;

/// Nonces have this many decimal digits: tokenizers cut numbers of one length alike, so that prompts stay equally long.
const DIGITS: usize = 12;

/// Nonces of one test. Both formats get the same ones, so that both are asked the same.
#[derive(Debug)]
pub struct Nonces {
    random: ChaCha8Rng,
    given: BTreeSet<u64>,
}

impl Nonces {
    /// Those that belong to a plan's seed and a test.
    pub fn new(seed: u64, key: &TestKey) -> Self {
        let round = key.round.to_le_bytes();
        let parts: [&[u8]; 4] = [
            &seed.to_le_bytes(),
            key.pair.as_bytes(),
            key.scenario.as_bytes(),
            &round,
        ];
        Self {
            random: ChaCha8Rng::seed_from_u64(fnv_1a(&parts)),
            given: BTreeSet::new(),
        }
    }

    /// One that was not given before.
    pub fn next(&mut self) -> String {
        loop {
            let number = self.random.next_u64() % 10_u64.pow(DIGITS as u32);
            if self.given.insert(number) {
                return format!("{number:0DIGITS$}");
            }
        }
    }
}

/// Fowler, Noll and Vo's hash FNV-1a in 64 bits (<http://www.isthe.com/chongo/tech/comp/fnv/>) over parts, each ended by a byte that no UTF-8 text has.
fn fnv_1a(parts: &[&[u8]]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.iter().chain(&[0xff]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Nonces, fnv_1a};
    use crate::compare::{Format, TestKey};

    fn key(scenario: &str, format: Format, round: usize) -> TestKey {
        TestKey {
            pair: "pair".to_owned(),
            scenario: scenario.to_owned(),
            format,
            round,
        }
    }

    fn drawn(seed: u64, key: &TestKey) -> Vec<String> {
        let mut nonces = Nonces::new(seed, key);
        (0..500).map(|_| nonces.next()).collect()
    }

    #[test]
    fn nonces_differ_within_a_test_and_between_tests() {
        let tests = [
            drawn(0, &key("a", Format::Gguf, 0)),
            drawn(0, &key("a", Format::Gguf, 1)),
            drawn(0, &key("b", Format::Gguf, 0)),
            drawn(1, &key("a", Format::Gguf, 0)),
        ];
        let all: BTreeSet<&String> = tests.iter().flatten().collect();
        assert_eq!(all.len(), 4 * 500);
        assert!(
            all.iter()
                .all(|nonce| nonce.len() == 12 && nonce.bytes().all(|byte| byte.is_ascii_digit()))
        );
    }

    #[test]
    fn both_formats_are_asked_the_same() {
        assert_eq!(
            drawn(7, &key("a", Format::Gguf, 0)),
            drawn(7, &key("a", Format::Mlx, 0))
        );
    }

    /// Its authors give the hash of `foobar` as 0x85944171f73967e8; the byte that ends a part is hashed after it.
    #[test]
    fn the_hash_is_fnv_1a() {
        let foobar: u64 = 0x8594_4171_f739_67e8;
        assert_eq!(fnv_1a(&[b"foobar"]), (foobar ^ 0xff).wrapping_mul(0x0100_0000_01b3));
    }
}
