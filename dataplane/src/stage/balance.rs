//! Which backend a new flow gets: a pure function of the pool and the client's packet, equal on every appliance.

use packet::{Address, FlowKey};
use tables::{
    Action, Backend, BackendId, DropReason, Pool, Tables,
    hash::{maglev_client_hash, maglev_hash},
};

use super::classify::Served;

/// Why a Service port takes no flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Refusal {
    /// The client is told.
    Reject(DropReason),
    /// It is not.
    Drop(DropReason),
}

/// The pool a client's flows are balanced over.
pub(crate) fn pool<'t>(served: &Served<'t>) -> Result<&'t Pool, Refusal> {
    match served.choice.action {
        Action::Balance(index) => served.port.pool(index).ok_or(Refusal::Reject(DropReason::NoEndpoints)),
        Action::Drop(reason) => Err(Refusal::Drop(reason)),
        Action::Reject(reason) => Err(Refusal::Reject(reason)),
    }
}

/// The hash that says which backend of its pool a new flow gets: of the whole tuple, or of the client's address alone with
/// session affinity. What will be read for it is asked for.
pub(crate) fn hash_for<A: Address>(served: &Served<'_>, key: &FlowKey<A>) -> u64 {
    let Some(maglev) = pool(served).ok().and_then(|pool| pool.maglev.as_ref()) else { return 0 };
    let hash = match served.port.affinity_timeout_s {
        None => maglev_hash(key),
        Some(_) => maglev_client_hash(key.src),
    };
    maglev.prefetch(hash);
    hash
}

/// The backend of a new flow: the one that affinity remembers, while it is among those eligible for this client; else that
/// for its [hash](hash_for).
pub(crate) fn balance<'t>(
    tables: &'t Tables,
    served: &Served<'t>,
    hash: u64,
    remembered: Option<BackendId>,
) -> Result<&'t Backend, Refusal> {
    let pool = pool(served)?;
    let kept = remembered.filter(|id| pool.backends.contains(id));
    let picked = kept.or_else(|| pool.pick(hash));
    let backend =
        picked.and_then(|id| tables.backends.get(id)).ok_or(Refusal::Reject(DropReason::NoEndpoints))?;
    // kube-proxy's checks of service addresses see the packet after DNAT.
    match tables.refusal(backend.address) {
        None | Some(Action::Balance(_)) => Ok(backend),
        Some(Action::Drop(_)) => Err(Refusal::Drop(DropReason::BackendIsService)),
        Some(Action::Reject(_)) => Err(Refusal::Reject(DropReason::BackendIsService)),
    }
}
