//! Receive-side scaling as NICs do it: the Toeplitz hash of a packet's addresses and ports under a key, and a redirection
//! table from hashes to queues. Workers and NICs that use one key agree about a packet without asking each other, so that
//! most packets arrive at the worker that has their flow.
//! Source: Microsoft, "Introduction to Receive Side Scaling" and its verification suite; `rte_softrss` computes the same.
//!
//! The hash is linear: it is the exclusive-or of what each bit of the input adds. So half a byte at a time is looked up,
//! and what another port would make of a hash costs four look-ups.

use packet::{Address, Family, FlowKey};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::WorkerId;

/// Bytes of a key: the longest that NICs take; the others take its beginning.
pub const KEY_BYTES: usize = 52;
/// Entries of the redirection table. Virtual functions have no more; a larger one repeats them.
pub const ENTRIES: u32 = 64;
/// Half bytes of the longest input: two IPv6 addresses and two ports.
const NIBBLES: usize = 2 * (16 + 16 + 2 + 2);

/// How the packets of flows are spread over workers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rss {
    key: [u8; KEY_BYTES],
    /// What each value of each half byte of the input adds.
    adds: Box<[[u32; 16]; NIBBLES]>,
}

impl Rss {
    /// By a key that a number determines. One that nobody outside knows keeps senders from aiming at a worker.
    #[must_use]
    pub fn of_secret(secret: u64) -> Self {
        let mut key = [0; KEY_BYTES];
        for (word, n) in key.chunks_mut(8).zip(0u64..) {
            let bytes = xxh3_64_with_seed(&n.to_le_bytes(), secret).to_le_bytes();
            word.copy_from_slice(&bytes[..word.len()]);
        }
        Self::of_key(key)
    }

    /// By this key.
    #[must_use]
    pub fn of_key(key: [u8; KEY_BYTES]) -> Self {
        let add = |place: usize, value: usize| {
            let bits = (0..4).filter(|bit| value >> (3 - bit) & 1 == 1);
            bits.fold(0, |hash, bit| hash ^ window(&key, 4 * place + bit))
        };
        let adds = std::array::from_fn(|place| std::array::from_fn(|value| add(place, value)));
        Self { key, adds: Box::new(adds) }
    }

    /// The key; a NIC whose key is shorter takes its beginning.
    #[must_use]
    pub const fn key(&self) -> &[u8; KEY_BYTES] {
        &self.key
    }

    /// The redirection table of a NIC with so many entries (a power of two) for so many workers: the queue of each.
    #[must_use]
    pub fn redirection(entries: usize, workers: u16) -> Vec<u16> {
        (0u32..).take(entries).map(|entry| worker(entry, workers).0).collect()
    }

    /// The hash of a packet with this key.
    #[must_use]
    pub fn hash<A: Address>(&self, key: &FlowKey<A>) -> u32 {
        let (src, dst) = (key.src.words(), key.dst.words());
        let ports = u64::from(key.ports());
        match A::FAMILY {
            Family::V4 => self.add::<16>(0, src[0] << 32 | dst[0]) ^ self.add::<8>(16, ports),
            Family::V6 => {
                let words = [src[0], src[1], dst[0], dst[1]].into_iter().zip((0..).step_by(16));
                words.fold(self.add::<8>(64, ports), |hash, (word, at)| hash ^ self.add::<16>(at, word))
            }
        }
    }

    /// What the receiver's port adds to the hash of a packet whose port was taken for 0.
    #[must_use]
    pub fn receiver_port<A: Address>(&self, port: u16) -> u32 {
        self.add::<4>(4 * A::BYTES + 4, port.into())
    }

    /// The worker of a packet with this key, of so many.
    #[must_use]
    pub fn worker<A: Address>(&self, key: &FlowKey<A>, workers: u16) -> WorkerId {
        worker(self.hash(key), workers)
    }

    /// What the last `N` half bytes of a word add, which stand in the input from half byte `at` on.
    #[inline(always)]
    fn add<const N: usize>(&self, at: usize, word: u64) -> u32 {
        let nibble = |n: usize| (word >> (4 * (N - 1 - n)) & 15) as usize;
        (0..N).fold(0, |hash, n| hash ^ self.adds[at + n][nibble(n)])
    }
}

impl Default for Rss {
    /// By a key that everybody knows: for who has no traffic.
    fn default() -> Self {
        Self::of_secret(0)
    }
}

/// The worker of a hash, of so many.
#[inline]
#[must_use]
pub fn worker(hash: u32, workers: u16) -> WorkerId {
    let entry = hash % ENTRIES;
    WorkerId(u16::try_from(entry % u32::from(workers.max(1))).unwrap_or(0))
}

/// The 32 bits of a key from this bit on.
fn window(key: &[u8; KEY_BYTES], bit: usize) -> u32 {
    let byte = bit / 8;
    let word = key[byte..byte + 5].iter().fold(0u64, |word, byte| word << 8 | u64::from(*byte));
    #[expect(clippy::cast_possible_truncation, reason = "the 32 bits that are asked for")]
    let bits = (word >> (8 - bit % 8)) as u32;
    bits
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

    use packet::{AnyKey, Protocol};
    use proptest::prelude::*;

    use super::*;

    /// The key of Microsoft's verification suite.
    fn published() -> Rss {
        const KEY: [u8; 40] = [
            0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
            0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c,
            0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
        ];
        let mut key = [0; KEY_BYTES];
        key[..40].copy_from_slice(&KEY);
        Rss::of_key(key)
    }

    #[test]
    fn hashes_are_those_of_the_verification_suite() {
        let rss = published();
        for (from, to, want) in [
            ("66.9.149.187:2794", "161.142.100.80:1766", 0x51cc_c178),
            ("199.92.111.2:14230", "65.69.140.83:4739", 0xc626_b0ea),
            ("24.19.198.95:12898", "12.22.207.184:38024", 0x5c2b_394a),
            ("38.27.205.30:48228", "209.142.163.6:2217", 0xafc7_327f),
            ("153.39.163.191:44251", "202.188.127.2:1303", 0x10e8_28a2),
            ("[3ffe:2501:200:1fff::7]:2794", "[3ffe:2501:200:3::1]:1766", 0x4020_7d3d),
            ("[3ffe:501:8::260:97ff:fe40:efab]:14230", "[ff02::1]:4739", 0xdde5_1bbf),
            ("[3ffe:1900:4545:3:200:f8ff:fe21:67cf]:44251", "[fe80::200:f8ff:fe21:67cf]:38024", 0x02d1_feef),
        ] {
            let end = |text: &str| text.parse::<SocketAddr>().unwrap();
            let hash = match AnyKey::new(end(from), end(to), Protocol::Tcp).unwrap() {
                AnyKey::V4(key) => rss.hash(&key),
                AnyKey::V6(key) => rss.hash(&key),
            };
            assert_eq!(hash, want, "{from} > {to}: {hash:#x}");
        }
    }

    fn key<A>((src, dst): (A, A), (sport, dport): (u16, u16)) -> FlowKey<A> {
        FlowKey { src, dst, sport, dport, protocol: Protocol::Tcp }
    }

    proptest! {
        #[test]
        fn another_port_changes_a_hash_by_what_it_adds(secret: u64, a: u128, b: u128, v4: (u32, u32), ports: (u16, u16)) {
            let rss = Rss::of_secret(secret);
            let v6 = key((Ipv6Addr::from_bits(a), Ipv6Addr::from_bits(b)), ports);
            let without = rss.hash(&FlowKey { dport: 0, ..v6 });
            prop_assert_eq!(rss.hash(&v6), without ^ rss.receiver_port::<Ipv6Addr>(ports.1));
            let v4 = key((Ipv4Addr::from_bits(v4.0), Ipv4Addr::from_bits(v4.1)), ports);
            let without = rss.hash(&FlowKey { dport: 0, ..v4 });
            prop_assert_eq!(rss.hash(&v4), without ^ rss.receiver_port::<Ipv4Addr>(ports.1));
        }

        #[test]
        fn every_table_of_a_nic_names_the_worker(hash: u32, workers in 1u16..=64, bits in 6u32..12) {
            let entries = 1usize << bits;
            let table = Rss::redirection(entries, workers);
            prop_assert_eq!(table[hash as usize % entries], worker(hash, workers).0);
            prop_assert!(worker(hash, workers).0 < workers);
        }
    }

    #[test]
    fn a_secret_spreads_clients_evenly() {
        let rss = Rss::of_secret(7);
        let mut counts = [0; 4];
        for n in 0..4000u16 {
            let ends = (Ipv4Addr::from_bits(0x0a01_0000 + u32::from(n)), Ipv4Addr::new(203, 0, 113, 1));
            counts[rss.worker(&key(ends, (40_000 + n % 7, 80)), 4).index()] += 1;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
