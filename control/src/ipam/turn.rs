//! One Service's turn: which address it gets in each of its families, and why not.

use std::net::IpAddr;

use packet::Family;

use super::holders::For;
use super::wish::{self, Wish};
use super::{Allocation, Around, Assigned, Ipam, named};
use crate::model::{FamilyPolicy, Service};

/// A Service with what it asks for.
pub(super) struct Turn<'a> {
    pub(super) service: &'a Service,
    pub(super) wish: Wish,
    pub(super) around: &'a Around<'a>,
}

/// What comes out for one family.
#[derive(Default)]
struct Choice {
    address: Option<IpAddr>,
    lack: Option<String>,
    warning: Option<String>,
}

impl Choice {
    fn of(address: IpAddr) -> Self {
        Self { address: Some(address), ..Self::default() }
    }
}

impl Ipam {
    /// What the status says, as far as it can be served. Why there is none is known to whoever decides; both see the same
    /// annotations.
    pub(super) fn follow(&self, turn: &Turn<'_>) -> Assigned {
        let mut assigned = Assigned { lacks: turn.wish.faults.clone(), ..Assigned::default() };
        for address in self.adoptable(turn.service, turn.wish.share.as_ref()) {
            match (turn.around.refused)(address) {
                Some(why) => assigned.lacks.push(format!("{address} of its status is not served: {why}")),
                None => assigned.addresses.push(address),
            }
        }
        if assigned.addresses.is_empty() && assigned.lacks.is_empty() {
            let why = "whoever holds the Lease decides, and the Service's status names none that can be served; \
                       its events say why";
            assigned.lacks.push(format!("no address: {why}"));
        }
        assigned
    }

    /// One address a family: the one it asks for, else the one it has, else a free one.
    pub(super) fn decide(&mut self, turn: &Turn<'_>) -> Assigned {
        let mut assigned = Assigned { lacks: turn.wish.faults.clone(), ..Assigned::default() };
        let families = [Family::V4, Family::V6].into_iter().filter(|at| turn.service.families.contains(at));
        let (mut had, mut lacking) = (false, 0);
        for family in families {
            had |= self.current(turn, family).is_some();
            let choice = self.choose(turn, family);
            lacking += usize::from(choice.address.is_none());
            assigned.addresses.extend(choice.address);
            assigned.lacks.extend(choice.lack);
            assigned.warnings.extend(choice.warning);
        }
        let required = turn.service.family_policy == FamilyPolicy::RequireDualStack;
        if required && !had && lacking > 0 && !assigned.addresses.is_empty() {
            assigned.addresses.clear();
            let problem = "ipFamilyPolicy RequireDualStack: without an address of each family none is given";
            assigned.lacks.push(problem.into());
        }
        assigned
    }

    fn choose(&mut self, turn: &Turn<'_>, family: Family) -> Choice {
        if self.allocation == Allocation::Own && named(turn.service).any(|at| Family::of(at) == family) {
            let adopted = self.adoptable(turn.service, turn.wish.share.as_ref());
            let address = adopted.into_iter().find(|address| Family::of(*address) == family);
            return Choice { address, ..Choice::default() };
        }
        let current = self.current(turn, family);
        if !turn.wish.faults.is_empty() {
            return Choice { address: current, ..Choice::default() };
        }
        if let Some(asked) = turn.wish.ip(family).filter(|asked| current != Some(*asked)) {
            return self.grant(turn, current, asked);
        }
        let Some(address) = current else { return self.find(turn, family) };
        // One that is in no pool any more was of the pool that it names, for all that is known: it is kept.
        match &turn.wish.pool {
            Some(pool) if self.pool_name(address).is_some_and(|has| has != pool) => {
                let found = self.find(turn, family);
                Choice { address: found.address.or(current), ..found }
            }
            _ => Choice { warning: self.warning(turn, address), ..Choice::of(address) },
        }
    }

    /// What it has already, or by its status, and may keep.
    fn current(&self, turn: &Turn<'_>, family: Family) -> Option<IpAddr> {
        let key = &turn.service.key;
        let named = named(turn.service).filter(|_| self.allocation == Allocation::Lead);
        let mut known = self.holders.given(key).chain(named).filter(|address| Family::of(*address) == family);
        known.find(|address| {
            let conflict = self.holders.conflict(*address, key, turn.wish.share.as_ref(), For::Keeping);
            conflict.is_none() && (turn.around.refused)(*address).is_none()
        })
    }

    /// What is not as it should be with an address that is kept.
    fn warning(&self, turn: &Turn<'_>, address: IpAddr) -> Option<String> {
        let Some(pool) = self.pools.of(address) else {
            let advice =
                "it is kept while the Service stays; put it back into a pool, or ask for another address";
            return Some(format!("{address} is in no pool any more: {advice}"));
        };
        (!pool.admits(&turn.service.labels, turn.around.namespace)).then(|| {
            let why = "does not admit this Service any more (serviceSelector, namespaceSelector)";
            format!("{address} is kept although pool {} {why}", pool.name)
        })
    }

    /// New addresses are given once our finalizer holds the Service, so that nothing outlives it unnoticed.
    fn may_give(&self, turn: &Turn<'_>) -> bool {
        self.allocation == Allocation::Own || turn.service.upkeep.finalizer
    }

    /// A certain address, or what it has and why.
    fn grant(&mut self, turn: &Turn<'_>, current: Option<IpAddr>, asked: IpAddr) -> Choice {
        self.yield_unseen(asked);
        match self.obstacle(turn, asked) {
            Some(why) => {
                let kept = current.map(|at| format!("; {at} stays until then")).unwrap_or_default();
                let lack = Some(format!("{asked} cannot be given: {why}{kept}"));
                Choice { address: current, lack, warning: None }
            }
            None if self.may_give(turn) => Choice::of(asked),
            None => Choice { address: current, ..Choice::default() },
        }
    }

    /// Why a certain address cannot be given, and what to do.
    fn obstacle(&self, turn: &Turn<'_>, asked: IpAddr) -> Option<String> {
        let key = &turn.service.key;
        if let Some(why) = (turn.around.refused)(asked) {
            return Some(format!("{why}; ask for another"));
        }
        let Some(pool) = self.pools.of(asked) else {
            return Some("it is in no pool; add it to one, or ask for another".into());
        };
        if let Some(wanted) = turn.wish.pool.as_ref().filter(|wanted| **wanted != pool.name) {
            return Some(format!("it is in pool {}, and the Service asks for pool {wanted}", pool.name));
        }
        if !pool.admits(&turn.service.labels, turn.around.namespace) {
            let advice = "change its serviceSelector or namespaceSelector, or ask for another";
            return Some(format!("pool {} does not admit this Service; {advice}", pool.name));
        }
        let (holder, why) = self.holders.conflict(asked, key, turn.wish.share.as_ref(), For::Giving)?;
        Some(format!("it belongs to {holder}, and {why}; ask for another"))
    }

    /// A Service that was not seen since the start yields an address that one here names.
    fn yield_unseen(&mut self, address: IpAddr) {
        let holders: Vec<_> = self
            .unseen
            .iter()
            .filter(|key| self.holders.given(key).any(|at| at == address))
            .cloned()
            .collect();
        for key in holders {
            let rest = self.holders.given(&key).filter(|at| *at != address).collect();
            self.give(&key, rest);
        }
    }

    /// Any address that the pools give to this Service: one to share where it would share, else the lowest free one.
    fn find(&mut self, turn: &Turn<'_>, family: Family) -> Choice {
        let pools = match self.eligible(turn, family) {
            Ok(pools) => pools,
            Err(lack) => return Choice { lack, ..Choice::default() },
        };
        if !self.may_give(turn) {
            return Choice::default();
        }
        let found = self.shared(turn, family, &pools);
        let found =
            found.or_else(|| self.free(turn, family, &pools)).or_else(|| self.evict(turn, family, &pools));
        match found {
            Some(address) => Choice::of(address),
            None => Choice { lack: Some(self.full(family, &pools)), ..Choice::default() },
        }
    }

    /// The pools to look in; or what to tell when there is none. A cluster without pools is nothing to tell of, nor is
    /// the second family of a Service that only prefers two.
    fn eligible(&self, turn: &Turn<'_>, family: Family) -> Result<Vec<usize>, Option<String>> {
        let (labels, namespace) = (&turn.service.labels, turn.around.namespace);
        if let Some(wanted) = &turn.wish.pool {
            let Some(pool) = self.pools.named(wanted) else {
                let refused = self.pools.refused().get(wanted).map(|why| format!(" in force ({why})"));
                let names: Vec<_> = self.pool_names().take(8).collect();
                let there = format!("there is no pool {wanted}{}", refused.unwrap_or_default());
                return Err(Some(format!("{there}; pools are: {}", names.join(", "))));
            };
            if !pool.admits(labels, namespace) {
                let advice = "change its serviceSelector or namespaceSelector, or ask for another";
                return Err(Some(format!("pool {wanted} does not admit this Service; {advice}")));
            }
            return Ok(self.pools.position(wanted).into_iter().collect());
        }
        let pools = self.pools.automatic(labels, namespace, family);
        if pools.is_empty() {
            let other = turn.service.family_policy == FamilyPolicy::PreferDualStack
                && turn.service.families.iter().any(|other| *other != family);
            let lack = format!(
                "no pool gives {} addresses to this Service without being named; name one by fairlead.dev/pool, or add one with autoAssign",
                wish::name(family)
            );
            return Err((!self.pools.is_empty() && !other).then_some(lack));
        }
        Ok(pools)
    }

    fn full(&self, family: Family, pools: &[usize]) -> String {
        let names: Vec<_> = pools.iter().take(8).map(|index| &*self.pools.all()[*index].name).collect();
        format!("no free {} address in {}; add addresses to a pool", wish::name(family), names.join(", "))
    }

    fn shared(&self, turn: &Turn<'_>, family: Family, pools: &[usize]) -> Option<IpAddr> {
        let share = turn.wish.share.as_ref()?;
        self.holders.shared(&share.key).filter(|address| Family::of(*address) == family).find(|address| {
            let pool = self.pools.of(*address).and_then(|pool| self.pools.position(&pool.name));
            pool.is_some_and(|pool| pools.contains(&pool)) && self.obstacle(turn, *address).is_none()
        })
    }

    fn free(&mut self, turn: &Turn<'_>, family: Family, pools: &[usize]) -> Option<IpAddr> {
        let holders = &self.holders;
        let taken = |address| holders.is_held(address) || (turn.around.refused)(address).is_some();
        pools.iter().find_map(|pool| self.pools.lowest_free(*pool, family, taken))
    }

    /// An address of a Service that was not seen since the start.
    fn evict(&mut self, turn: &Turn<'_>, family: Family, pools: &[usize]) -> Option<IpAddr> {
        let usable = |address: &IpAddr| {
            let pool = self.pools.of(*address).and_then(|pool| self.pools.position(&pool.name));
            Family::of(*address) == family
                && pool.is_some_and(|pool| pools.contains(&pool))
                && (turn.around.refused)(*address).is_none()
        };
        let address = self.unseen.iter().find_map(|key| self.holders.given(key).find(usable))?;
        self.yield_unseen(address);
        Some(address)
    }
}
