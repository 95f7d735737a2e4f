//! What a version of the tables takes: bytes on the heap, each shared part once, without what an allocator adds.

use std::{collections::HashSet, mem::size_of_val, ptr, sync::Arc};

use crate::{Access, Lpm, Rule, ServicePort, Tables};

/// Bytes of one version of the [`Tables`], by what they are for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Memory {
    /// Addresses and ports that Services are reached at, and those that replies come from.
    pub frontends: usize,
    /// Service ports with their rules, lists of backends and who may use them.
    pub services: usize,
    /// The arrays that balance.
    pub maglev: usize,
    /// Endpoints.
    pub backends: usize,
    /// Routes, next hops, and where clients are.
    pub routes: usize,
    /// Addresses of ours.
    pub addresses: usize,
}

impl Memory {
    /// Measures; takes a look at every Service port, so a millisecond for some ten thousand.
    #[must_use]
    pub fn of(tables: &Tables) -> Self {
        let mut services = OfServices::default();
        tables.services.iter().for_each(|service| services.add(service));
        let routes = tables.fib.heap_bytes()
            + tables.sources.heap_bytes()
            + tables.service_cidrs.heap_bytes()
            + tables.adjacencies().heap_bytes();
        Self {
            frontends: tables.index.heap_bytes() + tables.origins.heap_bytes(),
            services: tables.services.heap_bytes() + services.bytes,
            maglev: services.maglev,
            backends: tables.backends.heap_bytes(),
            routes,
            addresses: tables.addresses.heap_bytes(),
        }
    }

    /// The parts by their names.
    #[must_use]
    pub const fn parts(&self) -> [(&'static str, usize); 6] {
        [
            ("frontends", self.frontends),
            ("services", self.services),
            ("maglev", self.maglev),
            ("backends", self.backends),
            ("routes", self.routes),
            ("addresses", self.addresses),
        ]
    }

    /// All of it.
    #[must_use]
    pub fn total(&self) -> usize {
        self.parts().iter().map(|(_, bytes)| bytes).sum()
    }
}

/// What Service ports take of their own, and what several of them may share.
#[derive(Default)]
struct OfServices {
    bytes: usize,
    maglev: usize,
    /// The shared parts that are in it.
    seen: HashSet<*const ()>,
}

impl OfServices {
    fn add(&mut self, service: &ServicePort) {
        let ServicePort { internal, external, pools, source_ranges, access, info, .. } = service;
        let nodes = |rule: &Rule| size_of_val(&*rule.by_node);
        let names = info.namespace.capacity() + info.name.capacity() + info.port_name.capacity();
        self.bytes += size_of_val(service) + nodes(internal) + nodes(external) + size_of_val(&**pools);
        self.bytes += size_of_val(&**info) + names;
        for pool in pools {
            self.bytes += self.once(&pool.backends, size_of_val);
            if let Some(maglev) = &pool.maglev {
                self.maglev += self.once(maglev, |maglev| size_of_val(maglev) + size_of_val(maglev.slots()));
            }
        }
        let access_bytes = |access: &Access| size_of_val(access) + access.lists.heap_bytes();
        self.bytes += access.as_ref().map_or(0, |access| self.once(access, access_bytes));
        let ranges = |ranges: &Lpm<()>| size_of_val(ranges) + ranges.heap_bytes();
        self.bytes += source_ranges.as_ref().map_or(0, |it| self.once(it, ranges));
    }

    /// The bytes of a shared part, unless it was seen before.
    fn once<T: ?Sized>(&mut self, shared: &Arc<T>, bytes: impl FnOnce(&T) -> usize) -> usize {
        if self.seen.insert(ptr::from_ref(&**shared).cast()) { bytes(shared) } else { 0 }
    }
}
