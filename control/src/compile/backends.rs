//! The slots of a Service port's endpoints in the tables: given, kept and given back.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tables::{Backend, BackendId, BackendState};

use super::Compiler;
use super::endpoints::Candidates;
use super::origins::Part;
use super::service::CompiledPort;

impl Compiler {
    /// Gives every endpoint a slot: those that stay keep theirs. A bad address is told and left out.
    pub(super) fn place_backends(
        &mut self,
        candidates: &Candidates<'_>,
        mut known: BTreeMap<SocketAddr, BackendId>,
        problems: &mut Vec<String>,
    ) -> BTreeMap<SocketAddr, BackendId> {
        problems.extend(candidates.problems());
        let (mut placed, mut full) = (BTreeMap::new(), false);
        for candidate in candidates.list() {
            let Some(id) = known.remove(&candidate.at).or_else(|| self.backend_slots.allocate()) else {
                full = true;
                continue;
            };
            let endpoint = candidate.endpoint;
            let state = if candidate.ready() {
                BackendState::Active
            } else if endpoint.ready {
                // It fails its health check: nothing may be there any more.
                BackendState::Down
            } else if endpoint.serving {
                BackendState::Draining
            } else {
                BackendState::Down
            };
            let node = endpoint.node.as_deref().map(|name| self.node_ids.of(name));
            let (address, port) = (candidate.at.ip(), candidate.at.port());
            let weight = candidate.weight;
            self.tables.backends.insert(Backend { id, address, port, weight, state, node });
            placed.insert(candidate.at, id);
        }
        if full {
            problems.push("some endpoints are left out: too many backends; remove some Services".into());
        }
        for id in known.into_values() {
            self.tables.backends.remove(id);
            self.backend_slots.retire(id, self.tables.generation);
        }
        placed
    }

    /// Gives a port's slots back.
    pub(super) fn retire(&mut self, port: CompiledPort) {
        self.origins.change((port.id, port.protocol), &port.says(), &Part::default());
        for id in port.backends.into_values() {
            self.tables.backends.remove(id);
            self.backend_slots.retire(id, self.tables.generation);
        }
        self.tables.services.remove(port.id);
        self.service_slots.retire(port.id, self.tables.generation);
    }
}
