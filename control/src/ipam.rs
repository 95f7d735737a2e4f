//! Addresses for Services of type LoadBalancer: a pure state machine over its own memory.
//! A Service keeps its address until it asks for another one, whatever becomes of the pools; two Services have one address
//! only if both say so. Not here: the file that keeps [`Assignments`], and the Service's status.

mod assignments;
mod holders;
mod pools;
#[cfg(test)]
mod tests;
mod turn;
mod wish;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use packet::Family;

pub use assignments::Assignments;

use crate::model::{AddressPool, IpMode, ObjectKey, Service, ServiceType};
use crate::pool::{Labels, Pool};
use holders::{For, Holders};
use pools::PoolSet;
use turn::Turn;
use wish::{Share, Wish};

/// Who decides about addresses.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Allocation {
    /// This appliance alone; an address in a Service's status is somebody's decision already.
    #[default]
    Own,
    /// This appliance, for all that share the API server; the Services' status is what was decided before.
    Lead,
    /// Another appliance: the Services' status is the decision.
    Follow,
}

/// What of the configuration says which Services are ours and how they ask.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rules {
    /// The load balancer class that is ours; empty: Services without a class.
    pub class: String,
    /// Whether MetalLB's annotations are heard.
    pub metallb_annotations: bool,
}

/// What else decides about a Service's address.
pub struct Around<'a> {
    /// Labels of its namespace.
    pub namespace: &'a Labels,
    /// Why an address can be no service address at all; none when it can.
    pub refused: &'a dyn Fn(IpAddr) -> Option<String>,
}

/// What a Service has.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Assigned {
    /// Its addresses, at most one a family.
    pub addresses: Vec<IpAddr>,
    /// Why it lacks one or did not get the one it asks for, a sentence each.
    pub lacks: Vec<String>,
    /// What is not right with those it has, a sentence each.
    pub warnings: Vec<String>,
}

/// How full a pool is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PoolUse {
    /// The pool; without addresses when it is refused.
    pub pool: Pool,
    /// Addresses of it that are given out, with their Services, one row a Service.
    pub used: Vec<(IpAddr, ObjectKey)>,
    /// Why the pool is not in force; empty when it is.
    pub refused: String,
}

/// Addresses of a pool, by family.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PoolCount {
    /// Given out, IPv4 and IPv6.
    pub used: [u64; 2],
    /// All that it may give, saturating.
    pub size: [u128; 2],
}

/// The allocator.
#[derive(Debug, Default)]
pub struct Ipam {
    pools: PoolSet,
    rules: Rules,
    allocation: Allocation,
    holders: Holders,
    /// Holders from before the restart whose Service was not seen yet: they yield when a pool is full.
    unseen: BTreeSet<ObjectKey>,
    /// Services that lack an address.
    waiting: BTreeSet<ObjectKey>,
    /// Whether an address or a share of one became free since somebody asked.
    freed: bool,
    /// Addresses given out, by pool.
    used: BTreeMap<String, [u64; 2]>,
    /// Services that were given something, or lost it, since somebody asked.
    reassigned: BTreeSet<ObjectKey>,
    /// Pools whose numbers changed since somebody asked.
    counted: BTreeSet<String>,
}

impl Ipam {
    /// An allocator without pools, which remembers what it gave before.
    #[must_use]
    pub fn new(before: Assignments) -> Self {
        let mut ipam = Self::default();
        for (key, addresses) in before.0 {
            ipam.unseen.insert(key.clone());
            ipam.give(&key, addresses);
        }
        ipam.reassigned.clear();
        ipam
    }

    /// Takes rules and pools in: those of the configuration, whose ranges do not overlap, and the AddressPools.
    pub fn set<'a>(&mut self, rules: Rules, pools: &[Pool], objects: impl Iterator<Item = &'a AddressPool>) {
        self.rules = rules;
        self.counted.extend(self.pool_names().map(str::to_owned).collect::<Vec<_>>());
        self.pools = PoolSet::new(pools, objects);
        self.counted.extend(self.pools.all().iter().map(|pool| pool.name.clone()));
        self.counted.extend(self.pools.refused().keys().cloned());
        self.used = BTreeMap::new();
        let given: BTreeSet<_> = self.holders.all().flat_map(|(_, given)| given).copied().collect();
        for address in given {
            self.count(address, true);
        }
        self.freed = true;
    }

    /// Who decides from now on.
    pub fn set_allocation(&mut self, allocation: Allocation) {
        self.allocation = allocation;
        self.freed = true;
    }

    /// Who decides.
    #[must_use]
    pub fn allocation(&self) -> Allocation {
        self.allocation
    }

    /// Which addresses may be used at all has changed.
    pub fn surroundings_changed(&mut self) {
        self.pools.search_anew();
        self.freed = true;
    }

    /// What is given out now.
    #[must_use]
    pub fn assignments(&self) -> Assignments {
        Assignments(self.holders.all().map(|(key, given)| (key.clone(), given.clone())).collect())
    }

    /// What a Service was given.
    pub fn assigned_to(&self, key: &ObjectKey) -> impl Iterator<Item = IpAddr> {
        self.holders.given(key)
    }

    /// Services that were given something, or lost it, since the last call.
    pub fn take_reassigned(&mut self) -> BTreeSet<ObjectKey> {
        std::mem::take(&mut self.reassigned)
    }

    /// How full the pools are: those of the configuration in its order, then the AddressPools.
    #[must_use]
    pub fn pools(&self) -> Vec<PoolUse> {
        let in_force =
            self.pools.all().iter().map(|pool| PoolUse { pool: pool.clone(), ..PoolUse::default() });
        let mut uses: Vec<_> = in_force.collect();
        for (key, addresses) in self.holders.all() {
            for address in addresses {
                let name = self.pool_name(*address);
                let of_pool = uses.iter_mut().find(|one| Some(&*one.pool.name) == name);
                of_pool.into_iter().for_each(|one| one.used.push((*address, key.clone())));
            }
        }
        uses.extend(self.pools.refused().iter().map(|(name, why)| PoolUse {
            pool: Pool { name: name.clone(), ..Pool::default() },
            used: Vec::new(),
            refused: why.clone(),
        }));
        uses
    }

    /// How many addresses of a pool are given out; none for a pool that is not in force.
    #[must_use]
    pub fn count_of(&self, pool: &str) -> Option<PoolCount> {
        let known = self.pools.named(pool)?;
        let used = self.used.get(pool).copied().unwrap_or_default();
        Some(PoolCount { used, size: [known.size(Family::V4), known.size(Family::V6)] })
    }

    /// Why an AddressPool is not in force.
    #[must_use]
    pub fn refusal_of(&self, pool: &str) -> Option<&str> {
        self.pools.refused().get(pool).map(String::as_str)
    }

    /// Pools that are not as they were at the last call: in use or in force.
    pub fn take_counted(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.counted)
    }

    /// Names of the pools in force.
    pub fn pool_names(&self) -> impl Iterator<Item = &str> {
        self.pools.all().iter().map(|pool| pool.name.as_str())
    }

    /// The pool that gives an address.
    #[must_use]
    pub fn pool_name(&self, address: IpAddr) -> Option<&str> {
        self.pools.of(address).map(|pool| pool.name.as_str())
    }

    /// Whether pools are to give this Service its addresses: type LoadBalancer, our class (KEP-1959: none asks for none),
    /// and not on its way out.
    #[must_use]
    pub fn is_ours(&self, service: &Service) -> bool {
        service.kind == ServiceType::LoadBalancer
            && service.load_balancer_class.as_deref().unwrap_or_default() == self.rules.class
            && service.proxy_name.is_none()
            && !service.upkeep.deleting
    }

    /// Whether such a Service is also looked after: a leader without pools leaves alone what it never touched.
    #[must_use]
    pub fn manages(&self, service: &Service) -> bool {
        let touched = service.upkeep.finalizer || !self.pools.is_empty();
        self.is_ours(service) && (self.allocation == Allocation::Own || touched)
    }

    /// The Service is there: nobody takes from it what it has, or what its status says that it has, before its own turn.
    pub fn exists(&mut self, service: &Service) {
        self.unseen.remove(&service.key);
        let wish = Wish::of(service, self.rules.metallb_annotations);
        self.describe(&service.key, named(service).collect(), wish.share.clone());
        if !self.manages(service) || self.holders.given(&service.key).next().is_some() {
            return;
        }
        let named = self.adoptable(service, wish.share.as_ref());
        self.give(&service.key, named);
    }

    /// Gives a Service that exists what it should have, and takes back what it should not.
    pub fn assign(&mut self, service: &Service, around: &Around<'_>) -> Assigned {
        self.unseen.remove(&service.key);
        self.waiting.remove(&service.key);
        let wish = Wish::of(service, self.rules.metallb_annotations);
        self.describe(&service.key, named(service).collect(), wish.share.clone());
        if !self.manages(service) {
            self.give(&service.key, BTreeSet::new());
            return Assigned::default();
        }
        let turn = Turn { service, wish, around };
        let assigned = match self.allocation {
            Allocation::Follow => self.follow(&turn),
            Allocation::Own | Allocation::Lead => self.decide(&turn),
        };
        self.give(&service.key, assigned.addresses.iter().copied().collect());
        if !assigned.lacks.is_empty() {
            self.waiting.insert(service.key.clone());
        }
        assigned
    }

    /// The Service is gone.
    pub fn release(&mut self, key: &ObjectKey) {
        self.unseen.remove(key);
        self.waiting.remove(key);
        self.give(key, BTreeSet::new());
        self.describe(key, BTreeSet::new(), None);
    }

    /// Services that lack an address and may get one now, because something became free since the last call.
    pub fn take_hopeful(&mut self) -> Vec<ObjectKey> {
        if std::mem::take(&mut self.freed) { self.waiting.iter().cloned().collect() } else { Vec::new() }
    }

    /// Notes what a Service's status names: the address is nobody else's before the status says otherwise.
    fn describe(&mut self, key: &ObjectKey, named: BTreeSet<IpAddr>, share: Option<Share>) {
        let before: Vec<_> = self.holders.named(key).filter(|at| !named.contains(at)).collect();
        self.freed |= self.holders.describe(key, named, share);
        before.into_iter().filter(|at| !self.holders.is_held(*at)).for_each(|at| self.pools.freed(at));
    }

    /// What a status names and may be taken for given: in `Own` only what is in a pool.
    fn adoptable(&self, service: &Service, share: Option<&Share>) -> BTreeSet<IpAddr> {
        let pooled =
            |address: &IpAddr| self.allocation != Allocation::Own || self.pools.of(*address).is_some();
        let of_families = |address: &IpAddr| service.families.contains(&Family::of(*address));
        let alone =
            |address: &IpAddr| self.holders.conflict(*address, &service.key, share, For::Keeping).is_none();
        let mut families = BTreeSet::new();
        named(service)
            .filter(|address| of_families(address) && pooled(address) && alone(address))
            .filter(|address| families.insert(address.is_ipv6()))
            .collect()
    }

    fn give(&mut self, key: &ObjectKey, given: BTreeSet<IpAddr>) {
        let before: BTreeSet<_> = self.holders.given(key).collect();
        if before == given {
            return;
        }
        self.reassigned.insert(key.clone());
        let fresh: Vec<_> =
            given.difference(&before).filter(|at| !self.holders.is_given(**at)).copied().collect();
        self.freed |= self.holders.give(key, given.clone());
        fresh.into_iter().for_each(|address| self.count(address, true));
        for address in before.difference(&given) {
            if !self.holders.is_given(*address) {
                self.count(*address, false);
            }
            if !self.holders.is_held(*address) {
                self.pools.freed(*address);
            }
        }
    }

    fn count(&mut self, address: IpAddr, more: bool) {
        let Some(pool) = self.pools.of(address) else { return };
        self.counted.insert(pool.name.clone());
        let used = &mut self.used.entry(pool.name.clone()).or_default()[usize::from(address.is_ipv6())];
        *used = if more { *used + 1 } else { *used - 1 };
    }
}

/// Addresses in the status of a Service of type LoadBalancer.
fn named(service: &Service) -> impl Iterator<Item = IpAddr> {
    let balanced = service.kind == ServiceType::LoadBalancer;
    service.ingress.iter().filter(move |at| balanced && at.mode == IpMode::Vip).map(|at| at.address)
}
