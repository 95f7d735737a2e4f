//! The two hashes of a flow. The index of a flow table uses a keyed one that no client can aim at; Maglev uses a fixed,
//! specified one, so that every appliance agrees. Not here: the NIC's RSS hash, which is public and differs by port.

use std::net::{IpAddr, Ipv6Addr};

use packet::{
    Address, AnyAddrs, AnyKey, Family, FlowKey, Protocol,
    plain::{Ends, Plain},
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Seed of the Maglev hashes. Part of the contract between appliances: never change.
const MAGLEV_SEED: u64 = 0x6661_6972_6c65_6164;
/// Any odd constant with its bits well mixed.
const SPREAD_SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// Where a key belongs in the index of one [`crate::flow::FlowTable`]; meaningless in another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FlowHash(pub u64);

/// Keyed hash of flow keys: folded 64x64 -> 128 bit multiplications, as in wyhash and foldhash, under a secret drawn at
/// start. A handful of instructions a key; not a cryptographic hash, but nobody outside sees its output.
#[derive(Clone)]
pub struct FlowHasher {
    secrets: [u64; 6],
}

impl FlowHasher {
    /// A hasher for this secret, which should be random and new at every start.
    #[must_use]
    pub fn new(secret: u64) -> Self {
        let word = |n: usize| xxh3_64_with_seed(&n.to_le_bytes(), secret);
        Self { secrets: std::array::from_fn(word) }
    }

    /// The hash of one direction of a flow.
    #[inline]
    #[must_use]
    pub fn hash<A: Address>(&self, key: &FlowKey<A>) -> FlowHash {
        let (src, dst) = (key.src.words(), key.dst.words());
        match A::FAMILY {
            Family::V4 => self.hash_v4(src[0] << 32 | dst[0], (key.protocol, key.ports())),
            Family::V6 => self.hash_v6([src[0], src[1], dst[0], dst[1]], (key.protocol, key.ports())),
        }
    }

    /// The same for a plain packet.
    #[inline(always)]
    #[must_use]
    pub fn hash_plain<E: Ends>(&self, plain: &Plain<E>) -> FlowHash {
        let rest = (plain.protocol, plain.ports);
        match *plain.ends.words() {
            [ends] => self.hash_v4(ends, rest),
            [src0, src1, dst0, dst1] => self.hash_v6([src0, src1, dst0, dst1], rest),
            _ => FlowHash(0),
        }
    }

    /// The same of the words of a key: addresses, then protocol and ports.
    #[inline(always)]
    pub(crate) fn hash_v4(&self, ends: u64, rest: (Protocol, u32)) -> FlowHash {
        let [s0, s1, s2, s3, ..] = self.secrets;
        FlowHash(fold(fold(ends ^ s0, word_of(rest) ^ s1) ^ s2, s3))
    }

    /// The same for IPv6, two words an address.
    #[inline(always)]
    pub(crate) fn hash_v6(&self, [src0, src1, dst0, dst1]: [u64; 4], rest: (Protocol, u32)) -> FlowHash {
        let [s0, s1, s2, s3, s4, s5] = self.secrets;
        let ends = fold(src0 ^ s0, src1 ^ s1) ^ fold(dst0 ^ s2, dst1 ^ s3).rotate_left(32);
        FlowHash(fold(fold(ends ^ s4, word_of(rest) ^ s5) ^ s2, s3))
    }
}

/// Protocol and ports of a key as one word.
#[inline(always)]
fn word_of((protocol, ports): (Protocol, u32)) -> u64 {
    u64::from(protocol.number()) << 32 | u64::from(ports)
}

/// Keyed hash of a client at a Service port, for the memory of session affinity.
#[derive(Clone)]
pub(crate) struct ClientHasher {
    secrets: [u64; 3],
}

impl ClientHasher {
    /// A hasher for this secret.
    pub(crate) fn new(secret: u64) -> Self {
        let word = |n: usize| xxh3_64_with_seed(&[b'c', n.to_le_bytes()[0]], secret);
        Self { secrets: std::array::from_fn(word) }
    }

    /// Two places of 0..len for the client, independent of each other.
    #[inline]
    pub(crate) fn two(&self, client: [u64; 2], service: u32, len: usize) -> [usize; 2] {
        let [s0, s1, s2] = self.secrets;
        let hash = fold(fold(client[0] ^ s0, client[1] ^ s1) ^ u64::from(service), s2);
        [lower(hash), lower(hash >> 32)].map(|half| scale(half, len))
    }
}

/// The Maglev hash of a flow, from its original key (client to Service).
#[must_use]
pub fn maglev_hash<A: Address>(key: &FlowKey<A>) -> u64 {
    let mut bytes = [0; 37];
    bytes[0] = key.protocol.number();
    bytes[1..17].copy_from_slice(&mapped(key.src).octets());
    bytes[17..33].copy_from_slice(&mapped(key.dst).octets());
    bytes[33..35].copy_from_slice(&key.sport.to_be_bytes());
    bytes[35..37].copy_from_slice(&key.dport.to_be_bytes());
    xxh3_64_with_seed(&bytes, MAGLEV_SEED)
}

/// The Maglev hash of a client, for Services with session affinity: every flow of it goes to one backend.
#[must_use]
pub fn maglev_client_hash<A: Address>(client: A) -> u64 {
    xxh3_64_with_seed(&mapped(client).octets(), MAGLEV_SEED)
}

/// Which of `workers` has the packets of this end of a flow: one function for every worker, without a secret, since all
/// it decides is who works.
#[inline]
pub(crate) fn spread<A: Address>(end: A, port: u16, workers: u16) -> u16 {
    let [high, low] = end.words();
    let mixed = fold(high ^ SPREAD_SEED, low ^ SPREAD_SEED.rotate_left(32));
    let hash = fold(mixed ^ u64::from(port), SPREAD_SEED);
    u16::try_from(scale(lower(hash), workers.into())).unwrap_or(0)
}

/// Choosing among next hops by their names.
pub(crate) mod choice {
    use std::net::IpAddr;

    use super::{SPREAD_SEED, fold, maglev_client_hash};

    /// A number that an address alone determines.
    pub(crate) fn name(address: IpAddr) -> u64 {
        match address {
            IpAddr::V4(v4) => maglev_client_hash(v4),
            IpAddr::V6(v6) => maglev_client_hash(v6),
        }
    }

    /// How much a flow is drawn to a name: as good as independent of all others.
    pub(crate) fn score(flow: u64, name: u64) -> u64 {
        fold(fold(flow ^ SPREAD_SEED, name), flow.rotate_left(32) ^ name)
    }
}

/// Which of several next hops the packets with these addresses and ports take, or other packets with these addresses.
#[inline]
#[must_use]
pub fn way_hash(addrs: AnyAddrs, key: Option<AnyKey>) -> u64 {
    match (key, addrs) {
        (Some(AnyKey::V4(key)), _) => maglev_hash(&key),
        (Some(AnyKey::V6(key)), _) => maglev_hash(&key),
        (None, AnyAddrs::V4 { src, dst }) => maglev_hash(&portless(src, dst)),
        (None, AnyAddrs::V6 { src, dst }) => maglev_hash(&portless(src, dst)),
    }
}

const fn portless<A>(src: A, dst: A) -> FlowKey<A> {
    FlowKey { src, dst, sport: 0, dport: 0, protocol: Protocol::Udp }
}

/// The lower half of a word.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the lower half is what is asked for")]
pub(crate) const fn lower(word: u64) -> u32 {
    word as u32
}

/// Multiply-shift of a uniform 32-bit value to 0..len; `len` is below 2^31. Cheaper than a remainder.
#[inline]
pub(crate) const fn scale(value: u32, len: usize) -> usize {
    ((value as u64 * len as u64) >> 32) as usize
}

/// IPv4 as `::ffff:a.b.c.d`, so that both families hash alike.
fn mapped<A: Address>(address: A) -> Ipv6Addr {
    match address.into() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// Both halves of the product, exclusive-or'd.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the two halves of a 128-bit value")]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn key<A: Address>(src: A, dst: A) -> FlowKey<A> {
        FlowKey { src, dst, sport: 40_000, dport: 80, protocol: Protocol::Tcp }
    }

    #[test]
    fn maglev_hashes_are_pinned_across_releases() {
        let v4 = key(Ipv4Addr::new(203, 0, 113, 2), Ipv4Addr::new(1, 2, 3, 4));
        let v6 = key("2001:db8::2".parse::<Ipv6Addr>().unwrap(), "2001:db8::1".parse().unwrap());
        assert_eq!(maglev_hash(&v4), 1_632_376_573_853_328_762);
        assert_eq!(maglev_hash(&v6), 4_739_650_092_143_554_352);
        assert_eq!(maglev_client_hash(v4.src), 12_570_160_209_752_147_590);
    }

    /// Each single-bit change of a key flips about half of the bits of its hash.
    fn assert_avalanche<A: Address>(
        base: FlowKey<A>,
        flip: impl Fn(FlowKey<A>, u32) -> FlowKey<A>,
        bits: u32,
    ) {
        let hasher = FlowHasher::new(7);
        let mut flips = [0u32; 64];
        let mut samples = 0;
        for n in 0..400u16 {
            let base = FlowKey { sport: n.wrapping_mul(40_503), ..base };
            for bit in 0..bits {
                let changed = hasher.hash(&base).0 ^ hasher.hash(&flip(base, bit)).0;
                flips.iter_mut().enumerate().for_each(|(at, count)| *count += (changed >> at & 1) as u32);
                samples += 1;
            }
        }
        for (bit, &count) in flips.iter().enumerate() {
            let share = f64::from(count) / f64::from(samples);
            assert!((0.47..0.53).contains(&share), "hash bit {bit} flips in {share:.3} of the cases");
        }
    }

    #[test]
    fn every_bit_of_a_key_reaches_every_bit_of_its_hash() {
        let v4 = key(Ipv4Addr::new(203, 0, 113, 2), Ipv4Addr::new(1, 2, 3, 4));
        let flip = |key: FlowKey<Ipv4Addr>, bit: u32| match bit {
            0..32 => FlowKey { src: (key.src.to_bits() ^ 1 << bit).into(), ..key },
            32..64 => FlowKey { dst: (key.dst.to_bits() ^ 1 << (bit - 32)).into(), ..key },
            64..80 => FlowKey { sport: key.sport ^ 1 << (bit - 64), ..key },
            _ => FlowKey { dport: key.dport ^ 1 << (bit - 80), ..key },
        };
        assert_avalanche(v4, flip, 96);
        let v6 = key("2001:db8::2".parse::<Ipv6Addr>().unwrap(), "2001:db8::1".parse().unwrap());
        let flip = |key: FlowKey<Ipv6Addr>, bit: u32| match bit {
            0..128 => FlowKey { src: (key.src.to_bits() ^ 1 << bit).into(), ..key },
            128..256 => FlowKey { dst: (key.dst.to_bits() ^ 1 << (bit - 128)).into(), ..key },
            256..272 => FlowKey { sport: key.sport ^ 1 << (bit - 256), ..key },
            _ => FlowKey { dport: key.dport ^ 1 << (bit - 272), ..key },
        };
        assert_avalanche(v6, flip, 288);
    }

    #[test]
    fn another_secret_gives_another_hash() {
        let v4 = key(Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST);
        assert_ne!(FlowHasher::new(1).hash(&v4), FlowHasher::new(2).hash(&v4));
        assert_ne!(FlowHasher::new(1).hash(&v4), FlowHasher::new(1).hash(&v4.reversed()));
    }
}
