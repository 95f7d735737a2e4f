//! What would happen to a packet: the tables asked by the same code that the workers run.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use packet::{Address, AnyKey, FlowKey, Protocol};
use tables::{
    Action, AddressKind, DropReason, FrontendKind, Generation, NatMode, Route, Tables, hash::maglev_hash,
};

pub use crate::stage::reject::Told;
use crate::stage::{
    admit::{mode, reach},
    balance::{Refusal, balance, hash_for, pool},
    classify::{Class, Served, classify, elsewhere},
    local::query_fault,
    reject::told,
    reply::answered,
};

/// What becomes of a packet, in the words of `fairlead trace`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Verdict {
    /// Answered here, a ping of a VIP.
    Answer,
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
    /// `ANSWER`, `FORWARD`, `REJECT`, `DROP`, `DELIVER` or `PASS`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Answer => "ANSWER",
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
    /// Why, as a symbol: of a [`DropReason`], or `Answered`, `Balanced`, `Echo`, `Own`, `Routed`, `VipPortUnknown`.
    pub reason: &'static str,
    /// What a refused sender hears.
    pub told: Option<Told>,
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
            told: None,
            service: None,
            frontend: None,
            backend: None,
            candidates: Vec::new(),
            mode: None,
            generation: tables.generation,
        }
    }

    /// The same, refused: with an answer, if the configuration lets any be given to such a packet.
    fn refused(self, tables: &Tables, refusal: Refusal, protocol: Option<Protocol>) -> Self {
        let (told, reason) = match refusal {
            Refusal::Drop(reason) => (None, reason),
            Refusal::Reject(reason) => (told(tables.answers.reject, protocol), reason),
        };
        let verdict = if told.is_some() { Verdict::Reject } else { Verdict::Drop };
        Self { verdict, reason: reason.symbol(), told, ..self }
    }
}

/// Which packet of its connection is asked about.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Moment {
    /// The first one: a SYN, an INIT, any datagram.
    #[default]
    First,
    /// One from the middle of a connection of which no worker knows, as after a restart: a TCP segment with ACK, SCTP data.
    Midstream,
}

/// What these tables make of a packet that belongs to no flow.
///
/// What workers remember of clients with session affinity is theirs alone: the answer is that for a client unknown to them.
/// A missing route does not hide what the Service would do: the tables of a directory of manifests know no routes.
#[must_use]
pub fn explain(tables: &Tables, packet: &AnyKey, moment: Moment) -> Explanation {
    match packet {
        AnyKey::V4(key) => explain_key(tables, key, moment),
        AnyKey::V6(key) => explain_key(tables, key, moment),
    }
}

/// What these tables make of a ping.
#[must_use]
pub fn explain_echo(tables: &Tables, dst: IpAddr) -> Explanation {
    let plain = |verdict, reason| Explanation::plain(tables, verdict, reason);
    let refused = |refusal| plain(Verdict::Drop, "").refused(tables, refusal, None);
    match tables.addresses.get(dst) {
        None => match elsewhere(tables, dst) {
            Class::Drop(reason) => refused(Refusal::Drop(reason)),
            _ => explain_route(tables, dst, || 0),
        },
        Some(info) if matches!(info.kind, AddressKind::Own(_)) => plain(Verdict::Deliver, "Own"),
        Some(info) => query_fault(tables, info, true).map_or(plain(Verdict::Answer, "Echo"), refused),
    }
}

fn explain_key<A: Address>(tables: &Tables, key: &FlowKey<A>, moment: Moment) -> Explanation {
    let plain = |verdict, reason| Explanation::plain(tables, verdict, reason);
    let refused = |refusal| plain(Verdict::Drop, "").refused(tables, refusal, Some(key.protocol));
    match classify(tables, key) {
        Class::Service(served) => explain_service(tables, key, &served, moment),
        Class::Own => plain(Verdict::Deliver, "Own"),
        Class::Transit => explain_transit(tables, key, moment),
        Class::UnknownPort => plain(Verdict::Pass, DropReason::VipPortUnknown.symbol()),
        Class::Reject(reason) => refused(Refusal::Reject(reason)),
        Class::Drop(reason) => refused(Refusal::Drop(reason)),
    }
}

/// Of a dnat Service's endpoint a datagram, and what is from the middle of a connection, is taken for its answer to a client; a
/// SYN (or INIT) is none.
fn explain_transit<A: Address>(tables: &Tables, key: &FlowKey<A>, moment: Moment) -> Explanation {
    let may_answer = key.protocol == Protocol::Udp || moment == Moment::Midstream;
    match answered(tables, key).filter(|_| may_answer) {
        None => explain_route(tables, key.dst.into(), || maglev_hash(key)),
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
fn explain_route(tables: &Tables, dst: IpAddr, hash: impl FnOnce() -> u64) -> Explanation {
    let reason = match tables.fib.lookup(dst, hash) {
        None | Some(Route::Spread(_)) => DropReason::NoRoute.symbol(),
        Some(Route::Blackhole) => DropReason::Blackhole.symbol(),
        Some(Route::Connected(_) | Route::Via(_)) => "Routed",
        Some(Route::Local) => "Own",
    };
    Explanation::plain(tables, Verdict::Pass, reason)
}

fn explain_service<A: Address>(
    tables: &Tables,
    key: &FlowKey<A>,
    served: &Served<'_>,
    moment: Moment,
) -> Explanation {
    let mut answer = Explanation {
        service: Some(name_of(served)),
        frontend: Some(served.kind),
        candidates: candidates(tables, served),
        ..Explanation::plain(tables, Verdict::Forward, "Balanced")
    };
    let midstream = moment == Moment::Midstream && key.protocol != Protocol::Udp;
    match balance(tables, served, hash_for(served, key), None) {
        Ok(_) if midstream && !tables.answers.takes_midstream => {
            let refusal = Refusal::Reject(DropReason::MidstreamRefused);
            return answer.refused(tables, refusal, Some(key.protocol));
        }
        Ok(backend) => {
            let reach = reach(tables, backend.address, key).ok();
            answer.backend = Some(SocketAddr::new(backend.address, backend.port));
            answer.mode = Some(mode(tables, served, (key.src.into(), backend), reach));
        }
        Err(refusal) => return answer.refused(tables, refusal, Some(key.protocol)),
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
