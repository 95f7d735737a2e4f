//! Which frontends the endpoints of dnat Services are reached by from outside, kept as Services come and go: an endpoint
//! may be of several Services, so none of them alone can say.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use packet::Protocol;
use tables::{BackendId, FrontendKind, NatMode, Origin, Origins as Table, ServiceId, ServicePort};

use super::claims::Claim;

/// A frontend by which clients outside reach a Service port with their own address.
pub(super) type Front = (FrontendKind, SocketAddr);

/// What a Service port has to say: its fronts, and its endpoints.
#[derive(Clone, Debug, Default)]
pub(super) struct Part {
    pub(super) fronts: Arc<[Front]>,
    pub(super) backends: BTreeMap<SocketAddr, BackendId>,
}

/// An endpoint.
type End = (SocketAddr, Protocol);
/// What Service ports say of one: its name there, and their fronts.
type Said = BTreeMap<ServiceId, (BackendId, Arc<[Front]>)>;

/// What all of them say of each endpoint.
#[derive(Debug, Default)]
pub(super) struct Origins {
    said: HashMap<End, Said>,
    dirty: BTreeSet<End>,
}

/// The fronts among the addresses that a Service port asks for. Whether it has an address is not asked: of two that ask
/// for one the packet's own way, which goes by the one that has it, decides.
pub(super) fn fronts(port: &ServicePort, claims: &[(Claim, FrontendKind)]) -> Arc<[Front]> {
    let dnat = |kind: FrontendKind| port.rule(kind).outside.mode == NatMode::Dnat;
    let front = |(claim, kind): &(Claim, FrontendKind)| match claim {
        Claim::Vip(address, _, port) => (*kind, SocketAddr::new(*address, *port)),
        Claim::NodePort(_, _, port) => (*kind, SocketAddr::new([0; 4].into(), *port)),
    };
    claims.iter().filter(|(_, kind)| dnat(*kind)).map(front).collect()
}

impl Origins {
    /// A Service port says this now, and said that before.
    pub(super) fn change(&mut self, (id, protocol): (ServiceId, Protocol), old: &Part, new: &Part) {
        let same_fronts = old.fronts == new.fronts;
        for at in old.backends.keys() {
            if new.fronts.is_empty() || !new.backends.contains_key(at) {
                self.unsay((*at, protocol), id);
            }
        }
        if new.fronts.is_empty() {
            return;
        }
        for (at, backend) in &new.backends {
            if !same_fronts || old.backends.get(at) != Some(backend) {
                let said = self.said.entry((*at, protocol)).or_default();
                said.insert(id, (*backend, Arc::clone(&new.fronts)));
                self.dirty.insert((*at, protocol));
            }
        }
    }

    fn unsay(&mut self, end: End, id: ServiceId) {
        let Some(said) = self.said.get_mut(&end) else { return };
        if said.remove(&id).is_some() {
            self.dirty.insert(end);
        }
        if said.is_empty() {
            self.said.remove(&end);
        }
    }

    /// Puts what changed into the tables.
    pub(super) fn settle(&mut self, table: &mut Table) {
        for (at, protocol) in std::mem::take(&mut self.dirty) {
            let said = self.said.get(&(at, protocol));
            let Some((backend, said)) = said.and_then(|said| Some((said.first_key_value()?.1.0, said)))
            else {
                table.remove(at, protocol);
                continue;
            };
            let fronts = said.values().flat_map(|(_, fronts)| fronts.iter().copied());
            let origin = Origin { backend, vip: Origin::sole_vip(fronts) };
            if table.get(at.ip(), protocol, at.port()) != Some(origin) {
                table.insert(at, protocol, origin);
            }
        }
    }
}
