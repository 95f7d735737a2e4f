//! Which Service gets which address, between the model and `ipam`: in what order they are asked, what may be no service
//! address, and what became of those that were touched.

use std::collections::BTreeSet;
use std::net::IpAddr;

use tables::Source;

use super::Compiler;
use super::claims::Claim;
use crate::ipam::{Allocation, Around, Assigned, Rules};
use crate::model::{AddressPool, ObjectKey, Service, ServiceType};
use crate::outcome::{Batch, Outcome, PoolOutcome};
use crate::pool::Labels;

/// How often those who lack an address are asked in one compilation: each round can free what the next one gives.
const ROUNDS_MAX: usize = 4;
/// The label by which a Namespace can be selected whether or not its object is known.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Objects whose outcome may differ from the one told last.
#[derive(Debug, Default)]
pub(super) struct Touched {
    pub(super) services: BTreeSet<ObjectKey>,
    pub(super) pools: BTreeSet<String>,
}

impl Compiler {
    /// Who decides about addresses from now on.
    pub fn set_allocation(&mut self, allocation: Allocation) {
        if allocation != self.ipam.allocation() {
            self.ipam.set_allocation(allocation);
            self.dirty.pools = true;
            // Whoever begins to write must know all.
            self.touched.services.extend(self.model.services().keys().cloned());
            self.touched.pools.extend(self.model.address_pools().keys().cloned());
        }
    }

    /// What became of Services and AddressPools that were touched since the last call, as compiled last.
    pub fn take_outcomes(&mut self) -> Batch {
        let Touched { services, pools } = std::mem::take(&mut self.touched);
        let services = services.into_iter().map(|key| {
            let outcome = self.outcome(&key);
            (key, outcome)
        });
        let services = services.collect();
        let pools = pools.into_iter().map(|name| {
            let outcome = self.pool_outcome(&name);
            (name, outcome)
        });
        Batch { services, pools: pools.collect(), ..Batch::default() }
    }

    fn outcome(&self, key: &ObjectKey) -> Outcome {
        let (Some(service), Some(compiled)) = (self.model.services().get(key), self.compiled.get(key)) else {
            return Outcome::default();
        };
        let served = |address: &&IpAddr| compiled.balanced.contains(address);
        let addresses: Vec<_> = compiled.assigned.addresses.iter().filter(served).copied().collect();
        let mut pools: Vec<_> =
            addresses.iter().filter_map(|at| self.ipam.pool_name(*at)).map(str::to_owned).collect();
        pools.dedup();
        let mut problems = self.lost_claims(compiled);
        problems.extend(compiled.assigned.warnings.iter().chain(&compiled.problems).cloned());
        let lost =
            compiled.ports.iter().flat_map(|port| port.claims.iter().map(move |claim| (port.id, *claim)));
        let lost = lost.filter_map(|(id, claim)| match claim {
            Claim::Vip(address, protocol, port) if addresses.contains(&address) => self
                .claims
                .winner(claim)
                .is_some_and(|(_, winner, _)| winner != id)
                .then_some((protocol, port)),
            _ => None,
        });
        let lost: BTreeSet<_> = lost.collect();
        Outcome {
            service: Some(service.clone()),
            ours: self.ipam.manages(service),
            lacks: compiled.assigned.lacks.clone(),
            lost_ports: lost.into_iter().collect(),
            addresses,
            pools,
            problems,
        }
    }

    fn pool_outcome(&self, name: &str) -> PoolOutcome {
        PoolOutcome {
            generation: self.model.address_pools().get(name).map(|object| object.generation),
            count: self.ipam.count_of(name),
            refused: self.ipam.refusal_of(name).unwrap_or_default().to_owned(),
        }
    }

    /// Compiles Services that exist, the oldest first; and those whose address a change of the pools changes.
    pub(super) fn compile_present(&mut self, present: Vec<ObjectKey>) {
        let pools = std::mem::take(&mut self.dirty.pools);
        if pools {
            let rules = Rules {
                class: self.settings.load_balancer_class.clone(),
                metallb_annotations: self.settings.metallb_annotations,
            };
            let objects = self.model.address_pools().values().map(|object| -> &AddressPool { object });
            self.ipam.set(rules, &self.settings.pools, objects);
            self.ipam.surroundings_changed();
        }
        let present = self.oldest_first(present);
        // Whoever exists keeps its address from before a restart, even from an older Service that never had one.
        for key in &present {
            self.ipam.exists(&self.model.services()[key]);
        }
        if !pools {
            return present.iter().for_each(|key| self.compile_service(key));
        }
        let mut all: BTreeSet<_> = present.iter().cloned().collect();
        let balanced =
            self.model.services().values().filter(|service| service.kind == ServiceType::LoadBalancer);
        all.extend(balanced.map(|service| service.key.clone()));
        let present: BTreeSet<_> = present.into_iter().collect();
        for key in self.oldest_first(all) {
            if present.contains(&key) || self.is_reassigned(&key) {
                self.compile_service(&key);
            }
        }
    }

    /// Services that lack an address get what this compilation freed.
    pub(super) fn serve_hopeful(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let hopeful = self.ipam.take_hopeful();
            if hopeful.is_empty() {
                break;
            }
            for key in self.oldest_first(hopeful) {
                if self.is_reassigned(&key) {
                    self.compile_service(&key);
                }
            }
        }
        self.touched.pools.extend(self.ipam.take_counted());
    }

    /// Whether a Service that is compiled would get something else now.
    fn is_reassigned(&mut self, key: &ObjectKey) -> bool {
        let service = self.model.services()[key].clone();
        let assigned = self.assign(&service);
        self.compiled.get(key).is_none_or(|compiled| compiled.assigned != assigned)
    }

    /// Its turn at the pools.
    pub(super) fn assign(&mut self, service: &Service) -> Assigned {
        let nameless = Labels::from([(NAME_LABEL.to_owned(), service.key.namespace.clone())]);
        let namespace = self.model.namespaces().get(&service.key.namespace);
        let refused = |address: IpAddr| {
            if let Some(why) = self.reserved.refusal(address) {
                return Some(why);
            }
            let prefix = |prefix: &&tables::Prefix| prefix.contains(address);
            if let Some(cidr) = self.service_cidrs.iter().find(prefix) {
                return Some(format!("it lies in the service CIDR {cidr}"));
            }
            match self.tables.sources.lookup(address)? {
                Source::Pod(_) => Some("it lies in a pod network".into()),
                Source::Node(_) => Some("it is the address of a node".into()),
                _ => None,
            }
        };
        let around =
            Around { namespace: namespace.map_or(&nameless, |known| &known.labels), refused: &refused };
        self.ipam.assign(service, &around)
    }

    /// Labels of a Namespace decide which pools its Services may use.
    pub(super) fn mark_namespace(&mut self, name: &str) {
        let first = ObjectKey::new(name, "");
        let services = self.model.services().range(first..).take_while(|(key, _)| key.namespace == name);
        let balanced = services.filter(|(_, service)| service.kind == ServiceType::LoadBalancer);
        self.dirty.services.extend(balanced.map(|(key, _)| key.clone()));
    }

    /// The oldest Service gets the first free address, whatever file it stands in; one without a time comes last.
    fn oldest_first(&self, keys: impl IntoIterator<Item = ObjectKey>) -> Vec<ObjectKey> {
        let mut keys: Vec<_> = keys.into_iter().collect();
        keys.sort_by_cached_key(|key| {
            let created = self.model.services().get(key).map(|service| service.created.clone());
            (created.as_ref().is_none_or(String::is_empty), created, key.clone())
        });
        keys
    }
}
