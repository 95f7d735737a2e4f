//! What would happen to a packet: the tables asked by the same code that the workers run.

use std::{fmt, net::SocketAddr};

use packet::{Address, AnyKey, FlowKey, Protocol};
use tables::{Action, DropReason, FrontendKind, Generation, NatMode, Route, Tables, hash::maglev_hash};

use crate::stage::{
    admit::{mode, reach},
    balance::{Refusal, balance, pool},
    classify::{Class, Served, classify},
    reply::answered,
};

/// What becomes of a packet, in the words of `fairlead trace`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Verdict {
    /// For the appliance itself.
    Deliver,
    /// Dropped without an answer.
    Drop,
    /// Sent to a backend.
    Forward,
    /// Not a service packet: routed or punted.
    Pass,
    /// Dropped, and the sender told.
    Reject,
}

impl Verdict {
    /// `FORWARD`, `REJECT`, `DROP`, `DELIVER` or `PASS`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deliver => "DELIVER",
            Self::Drop => "DROP",
            Self::Forward => "FORWARD",
            Self::Pass => "PASS",
            Self::Reject => "REJECT",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The answer to one question.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Explanation {
    /// What becomes of the packet.
    pub verdict: Verdict,
    /// Why, as a symbol: of a [`DropReason`], or `Answered`, `Balanced`, `Own`, `Routed`, `VipPortUnknown`.
    pub reason: &'static str,
    /// The Service port, as `namespace/name:port`.
    pub service: Option<String>,
    /// How the packet reached it.
    pub frontend: Option<FrontendKind>,
    /// The backend that this packet's flow would get.
    pub backend: Option<SocketAddr>,
    /// Every backend that was eligible, sorted.
    pub candidates: Vec<SocketAddr>,
    /// How the flow would be translated.
    pub mode: Option<NatMode>,
    /// The version of the tables that was asked.
    pub generation: Generation,
}

impl Explanation {
    /// Whether the client's address would be replaced.
    #[must_use]
    pub fn snat(&self) -> bool {
        self.mode == Some(NatMode::Snat)
    }

    fn plain(tables: &Tables, verdict: Verdict, reason: &'static str) -> Self {
        Self {
            verdict,
            reason,
            service: None,
            frontend: None,
            backend: None,
            candidates: Vec::new(),
            mode: None,
            generation: tables.generation,
        }
    }
}

/// What these tables make of the first packet of a flow.
///
/// What workers remember of clients with session affinity is theirs alone: the answer is that for a client unknown to them.
/// A missing route does not hide what the Service would do: the tables of a directory of manifests know no routes.
#[must_use]
pub fn explain(tables: &Tables, packet: &AnyKey) -> Explanation {
    match packet {
        AnyKey::V4(key) => explain_key(tables, key),
        AnyKey::V6(key) => explain_key(tables, key),
    }
}

fn explain_key<A: Address>(tables: &Tables, key: &FlowKey<A>) -> Explanation {
    let (verdict, reason) = match classify(tables, key) {
        Class::Service(served) => return explain_service(tables, key, &served),
        Class::Own => (Verdict::Deliver, "Own"),
        Class::Transit => return explain_transit(tables, key),
        Class::UnknownPort => (Verdict::Pass, DropReason::VipPortUnknown.symbol()),
        Class::Reject(reason) => (Verdict::Reject, reason.symbol()),
        Class::Drop(reason) => (Verdict::Drop, reason.symbol()),
    };
    Explanation::plain(tables, verdict, reason)
}

/// Of a dnat Service's endpoint a datagram is taken for its answer to a client; a TCP or SCTP packet is taken for the first of
/// its flow here, and that is no answer.
fn explain_transit<A: Address>(tables: &Tables, key: &FlowKey<A>) -> Explanation {
    match answered(tables, key).filter(|_| key.protocol == Protocol::Udp) {
        None => explain_route(tables, key),
        Some(None) => Explanation::plain(tables, Verdict::Drop, DropReason::ReplyWithoutFlow.symbol()),
        Some(Some((served, _))) => Explanation {
            service: Some(name_of(&served)),
            frontend: Some(served.kind),
            backend: Some(SocketAddr::new(key.src.into(), key.sport)),
            candidates: candidates(tables, &served),
            mode: Some(NatMode::Dnat),
            ..Explanation::plain(tables, Verdict::Forward, "Answered")
        },
    }
}

/// Not a service packet, whatever becomes of it; the reason says whether there is a way.
fn explain_route<A: Address>(tables: &Tables, key: &FlowKey<A>) -> Explanation {
    let reason = match tables.fib.lookup(key.dst.into(), || maglev_hash(key)) {
        None | Some(Route::Spread(_)) => DropReason::NoRoute.symbol(),
        Some(Route::Blackhole) => DropReason::Blackhole.symbol(),
        Some(Route::Connected(_) | Route::Via(_)) => "Routed",
        Some(Route::Local) => "Own",
    };
    Explanation::plain(tables, Verdict::Pass, reason)
}

fn explain_service<A: Address>(tables: &Tables, key: &FlowKey<A>, served: &Served<'_>) -> Explanation {
    let mut answer = Explanation {
        service: Some(name_of(served)),
        frontend: Some(served.kind),
        candidates: candidates(tables, served),
        ..Explanation::plain(tables, Verdict::Forward, "Balanced")
    };
    match balance(tables, served, key, None) {
        Ok(backend) => {
            let reach = reach(tables, backend.address, key).ok();
            answer.backend = Some(SocketAddr::new(backend.address, backend.port));
            answer.mode = Some(mode(tables, served, (key.src.into(), backend), reach));
        }
        Err(Refusal::Drop(reason)) => (answer.verdict, answer.reason) = (Verdict::Drop, reason.symbol()),
        Err(Refusal::Reject(reason)) => (answer.verdict, answer.reason) = (Verdict::Reject, reason.symbol()),
    }
    answer
}

fn name_of(served: &Served<'_>) -> String {
    let info = &served.port.info;
    let port = if info.port_name.is_empty() { info.port.to_string() } else { info.port_name.clone() };
    format!("{}/{}:{port}", info.namespace, info.name)
}

fn candidates(tables: &Tables, served: &Served<'_>) -> Vec<SocketAddr> {
    let backends = match (served.choice.action, pool(served)) {
        (Action::Balance(_), Ok(pool)) => &pool.backends[..],
        _ => &[],
    };
    let named = backends.iter().filter_map(|id| tables.backend(*id));
    let mut candidates: Vec<_> =
        named.map(|backend| SocketAddr::new(backend.address, backend.port)).collect();
    candidates.sort_unstable();
    candidates
}
