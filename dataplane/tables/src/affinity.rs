//! Session affinity: which backend a client last got at a Service port, for so long as the Service says.
//!
//! One worker's memory, as kube-proxy keeps one a node; only new flows read or write it. Invariants: a client has at most
//! one entry a Service port, in one of two buckets; nothing is allocated after construction; a remembered backend is a
//! proposal, which holds only if the caller finds it eligible. Time is an argument. Not here: who is eligible.

use packet::Address;

use crate::{BackendId, Millis, ServiceId, flow::Liveness, hash::ClientHasher};

/// Entries of a bucket: two cache lines. With two buckets to choose from, nearly all of the memory fills before any
/// client finds both full.
const WAYS: usize = 4;
/// What the API allows (`timeoutSeconds`), and well below half the range of [`Millis`].
const TIMEOUT_S_MAX: u32 = 86_400;

/// A client's entry, 32 bytes; free if its service is `NONE`.
#[derive(Clone, Copy, Debug)]
struct Entry {
    client: [u64; 2],
    service: ServiceId,
    backend: BackendId,
    /// When it is forgotten.
    expires: Millis,
}

impl Entry {
    const FREE: Self =
        Self { client: [0; 2], service: ServiceId::NONE, backend: BackendId::NONE, expires: Millis(0) };

    fn is_free(&self) -> bool {
        self.service.is_none()
    }

    /// A free entry is not over.
    fn is_over(&self, now: Millis) -> bool {
        !self.is_free() && now.since(self.expires) <= i32::MAX as u32
    }

    fn is_of(&self, client: [u64; 2], service: ServiceId) -> bool {
        self.service == service && self.client == client
    }
}

/// What a memory holds, and has done since the start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct AffinityStats {
    /// Clients it can hold, a client counting once for each Service port.
    pub capacity: u32,
    /// Clients it holds.
    pub used: u32,
    /// Clients not remembered because there was no room.
    pub refused: u64,
}

/// See the module.
pub struct Affinity {
    hasher: ClientHasher,
    buckets: Box<[[Entry; WAYS]]>,
    sweep_cursor: usize,
    stats: AffinityStats,
}

impl Affinity {
    /// A memory for at least so many clients; `secret` is random and new at every start, so that clients cannot aim at
    /// one bucket.
    #[must_use]
    pub fn new(clients: u32, secret: u64) -> Self {
        let buckets = (clients as usize).div_ceil(WAYS).max(1);
        let capacity = u32::try_from(buckets * WAYS).unwrap_or(u32::MAX);
        Self {
            hasher: ClientHasher::new(secret),
            buckets: vec![[Entry::FREE; WAYS]; buckets].into(),
            sweep_cursor: 0,
            stats: AffinityStats { capacity, ..AffinityStats::default() },
        }
    }

    /// The backend that the client had last, unless that was too long ago.
    #[must_use]
    pub fn recall<A: Address>(&self, client: A, service: ServiceId, now: Millis) -> Option<BackendId> {
        let words = client.words();
        let buckets = self.buckets_of(words, service);
        let mut entries = buckets.iter().flat_map(|&bucket| &self.buckets[bucket]);
        let found = entries.find(|entry| entry.is_of(words, service))?;
        (!found.is_over(now)).then_some(found.backend)
    }

    /// Remembers what backend the client got, from now on for `timeout_s` seconds. Without room it is not remembered, and
    /// counted as refused.
    pub fn remember<A: Address>(
        &mut self,
        (client, service): (A, ServiceId),
        backend: BackendId,
        timeout_s: u32,
        now: Millis,
    ) {
        let words = client.words();
        let expires = now.plus(timeout_s.min(TIMEOUT_S_MAX) * 1_000);
        let Some((bucket, way)) = self.place(words, service, now) else {
            self.stats.refused += 1;
            return;
        };
        let entry = &mut self.buckets[bucket][way];
        self.stats.used += u32::from(entry.is_free());
        *entry = Entry { client: words, service, backend, expires };
    }

    /// Goes on with the sweep for about `entries` of them: forgets clients whose time is over, and those of a Service port
    /// or a backend that is gone. True at the end of a pass over all; the next step begins a new one.
    pub fn sweep(&mut self, entries: u32, now: Millis, liveness: &impl Liveness) -> bool {
        if self.stats.used == 0 {
            self.sweep_cursor = 0;
            return true;
        }
        let steps = (entries as usize).div_ceil(WAYS);
        let end = (self.sweep_cursor + steps).min(self.buckets.len());
        for entry in self.buckets[self.sweep_cursor..end].as_flattened_mut() {
            let keeps = entry.is_free()
                || !entry.is_over(now)
                    && liveness.service_is_live(entry.service)
                    && liveness.backend_is_live(entry.backend);
            if !keeps {
                *entry = Entry::FREE;
                self.stats.used -= 1;
            }
        }
        let done = end == self.buckets.len();
        self.sweep_cursor = if done { 0 } else { end };
        done
    }

    /// Counts and gauges.
    #[must_use]
    pub const fn stats(&self) -> AffinityStats {
        self.stats
    }

    /// The client's own entry, else the best one to take: in the emptier of its buckets.
    fn place(&self, client: [u64; 2], service: ServiceId, now: Millis) -> Option<(usize, usize)> {
        let buckets = self.buckets_of(client, service);
        let find = |bucket: usize, wanted: &dyn Fn(&Entry) -> bool| {
            self.buckets[bucket].iter().position(wanted).map(|way| (bucket, way))
        };
        let is_open = |entry: &Entry| entry.is_free() || entry.is_over(now);
        let open = |bucket: usize| self.buckets[bucket].iter().filter(|entry| is_open(entry)).count();
        let [first, second] = buckets;
        let emptier = if open(second) > open(first) { second } else { first };
        let own = |entry: &Entry| entry.is_of(client, service);
        find(first, &own).or_else(|| find(second, &own)).or_else(|| find(emptier, &is_open))
    }

    fn buckets_of(&self, client: [u64; 2], service: ServiceId) -> [usize; 2] {
        self.hasher.two(client, service.to_bits(), self.buckets.len())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{HashMap, HashSet},
        net::{Ipv4Addr, Ipv6Addr},
    };

    use proptest::{collection::vec, prelude::*};

    use super::*;

    const T0: Millis = Millis(u32::MAX - 20_000);

    fn service(slot: u32) -> ServiceId {
        ServiceId::new(slot, 0).unwrap()
    }

    fn backend(slot: u32) -> BackendId {
        BackendId::new(slot, 0).unwrap()
    }

    /// What is gone.
    #[derive(Default)]
    struct Gone {
        services: HashSet<ServiceId>,
        backends: HashSet<BackendId>,
    }

    impl Liveness for Gone {
        fn service_is_live(&self, service: ServiceId) -> bool {
            !self.services.contains(&service)
        }

        fn backend_is_live(&self, backend: BackendId) -> bool {
            !self.backends.contains(&backend)
        }
    }

    fn sweep_all(memory: &mut Affinity, now: Millis, gone: &Gone) {
        let passes = (0..10_000).find(|_| memory.sweep(8, now, gone));
        assert!(passes.is_some(), "a pass ends");
    }

    #[test]
    fn a_client_is_remembered_for_the_time_since_its_last_new_flow() {
        let mut memory = Affinity::new(64, 1);
        let client = Ipv4Addr::new(192, 0, 2, 2);
        memory.remember((client, service(1)), backend(7), 30, T0);
        for (after, want) in [(0, Some(7)), (29_999, Some(7)), (30_000, None)] {
            assert_eq!(memory.recall(client, service(1), T0.plus(after)), want.map(backend), "{after} ms");
        }
        memory.remember((client, service(1)), backend(7), 30, T0.plus(20_000));
        assert_eq!(memory.recall(client, service(1), T0.plus(49_999)), Some(backend(7)));
        assert_eq!(memory.recall(client, service(2), T0), None, "each Service port on its own");
        assert_eq!(memory.recall(Ipv4Addr::new(192, 0, 2, 3), service(1), T0), None);
        assert_eq!(memory.stats().used, 1);
    }

    #[test]
    fn a_timeout_of_nonsense_is_a_day() {
        let mut memory = Affinity::new(64, 1);
        memory.remember((Ipv6Addr::LOCALHOST, service(1)), backend(7), u32::MAX, T0);
        assert!(memory.recall(Ipv6Addr::LOCALHOST, service(1), T0.plus(86_399_999)).is_some());
        assert!(memory.recall(Ipv6Addr::LOCALHOST, service(1), T0.plus(86_400_000)).is_none());
    }

    #[test]
    fn a_full_memory_refuses_and_says_so_and_takes_again_what_is_over() {
        let mut memory = Affinity::new(1_000, 1);
        let client = |n: u32| Ipv4Addr::from_bits(n);
        for n in 0..1_500 {
            memory.remember((client(n), service(1)), backend(1), 10, T0);
        }
        let AffinityStats { capacity, used, refused } = memory.stats();
        assert_eq!((capacity, u64::from(used) + refused), (1_000, 1_500));
        assert!(used > 950, "{used}: two choices fill nearly all");
        let later = T0.plus(10_000);
        for n in 2_000..2_500 {
            memory.remember((client(n), service(1)), backend(2), 10, later);
            assert_eq!(memory.recall(client(n), service(1), later), Some(backend(2)));
        }
        assert_eq!(memory.stats().refused, refused);
    }

    #[test]
    fn entries_of_what_is_gone_are_swept() {
        let mut memory = Affinity::new(64, 1);
        for n in 0..8 {
            memory.remember((Ipv4Addr::from_bits(n), service(n % 2)), backend(n % 4), 10, T0);
        }
        let mut gone = Gone::default();
        gone.services.insert(service(1));
        sweep_all(&mut memory, T0, &gone);
        assert_eq!(memory.stats().used, 4);
        gone.backends.insert(backend(2));
        sweep_all(&mut memory, T0, &gone);
        assert_eq!(memory.stats().used, 2);
        sweep_all(&mut memory, T0.plus(10_000), &gone);
        assert_eq!(memory.stats().used, 0);
    }

    /// A step of the model: client, Service port, backend, timeout, how far time goes.
    type Step = (u8, u32, u32, u32, u32);

    proptest! {
        #[test]
        fn equals_a_map_while_there_is_room(steps in vec((0u8..20, 0u32..3, 0u32..5, 1u32..9, 0u32..4_000), 1..200)) {
            let steps: Vec<Step> = steps;
            let mut memory = Affinity::new(4_096, 9);
            let mut model = HashMap::new();
            let (mut now, gone) = (T0, Gone::default());
            for (n, (client, port, to, timeout_s, ms)) in steps.into_iter().enumerate() {
                now = now.plus(ms);
                let client = Ipv6Addr::from_bits(u128::from(client) << 64);
                let expected = model.get(&(client, port)).filter(|(_, until)| now.since(T0) < *until);
                prop_assert_eq!(memory.recall(client, service(port), now), expected.map(|(to, _)| backend(*to)));
                memory.remember((client, service(port)), backend(to), timeout_s, now);
                model.insert((client, port), (to, now.since(T0) + timeout_s * 1_000));
                if n % 7 == 0 {
                    sweep_all(&mut memory, now, &gone);
                    let alive = model.values().filter(|(_, until)| now.since(T0) < *until).count();
                    prop_assert_eq!(memory.stats().used as usize, alive);
                }
            }
            prop_assert_eq!(memory.stats().refused, 0);
        }
    }
}
