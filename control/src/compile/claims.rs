//! Who owns an address and port that several Services ask for: the oldest, then the first by namespace and name.
//! kube-proxy leaves this to chance; two appliances must agree, so the rule is total and the losers are told.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use packet::{Family, Protocol};
use tables::{FrontendKind, ServiceId};

use crate::model::{ObjectKey, Service};

/// Something only one Service port can have.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) enum Claim {
    /// A nodePort.
    NodePort(Family, Protocol, u16),
    /// A service address and port.
    Vip(IpAddr, Protocol, u16),
}

/// Seniority: a Service with a creation time goes before one without.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Rank {
    unknown_age: bool,
    created: String,
    pub(super) key: ObjectKey,
    /// Position of the port in the Service, so that a Service cannot disagree with itself either.
    port: usize,
}

impl Rank {
    pub(super) fn new(service: &Service, port: usize) -> Self {
        Self {
            unknown_age: service.created.is_empty(),
            created: service.created.clone(),
            key: service.key.clone(),
            port,
        }
    }
}

/// Everybody who asks for each claim.
#[derive(Debug, Default)]
pub(super) struct Claims {
    wanted: HashMap<Claim, BTreeMap<Rank, (ServiceId, FrontendKind)>>,
    /// How many claims each nodePort number is of.
    node_ports: BTreeMap<u16, usize>,
}

impl Claims {
    pub(super) fn add(&mut self, claim: Claim, rank: Rank, id: ServiceId, kind: FrontendKind) {
        let wanted = self.wanted.entry(claim).or_default();
        if let (true, Claim::NodePort(_, _, port)) = (wanted.is_empty(), claim) {
            *self.node_ports.entry(port).or_default() += 1;
        }
        wanted.insert(rank, (id, kind));
    }

    pub(super) fn remove(&mut self, claim: Claim, rank: &Rank) {
        let Some(ranks) = self.wanted.get_mut(&claim) else { return };
        ranks.remove(rank);
        if !ranks.is_empty() {
            return;
        }
        self.wanted.remove(&claim);
        if let Claim::NodePort(_, _, port) = claim
            && let Some(count) = self.node_ports.get_mut(&port)
        {
            *count -= 1;
            if *count == 0 {
                self.node_ports.remove(&port);
            }
        }
    }

    /// Who has it.
    pub(super) fn winner(&self, claim: Claim) -> Option<(&Rank, ServiceId, FrontendKind)> {
        let (rank, (id, kind)) = self.wanted.get(&claim)?.first_key_value()?;
        Some((rank, *id, *kind))
    }

    /// Everybody who asks for it.
    pub(super) fn rivals(&self, claim: Claim) -> impl Iterator<Item = &ObjectKey> {
        self.wanted.get(&claim).into_iter().flat_map(|ranks| ranks.keys().map(|rank| &rank.key))
    }

    /// Numbers of the nodePorts that somebody has.
    pub(super) fn node_ports(&self) -> impl Iterator<Item = u16> {
        self.node_ports.keys().copied()
    }
}
