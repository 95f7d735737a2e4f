//! What one simulation is made of. All of it comes from the test's generator, so a failing one shrinks: to fewer events,
//! fewer connections, a better network.

use dataplane::testkit::{INSIDE, OUTSIDE};
use packet::Family;
use proptest::{
    collection::vec,
    prelude::{Just, Strategy, any, prop_oneof},
};
use tables::{NatMode, PortId};

/// Backends of the Service.
pub(crate) const BACKENDS: usize = 4;

/// See the module. Times are in simulated milliseconds.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    /// Of the network's dice, and of the stacks'.
    pub(crate) seed: u64,
    pub(crate) family: Family,
    pub(crate) mode: NatMode,
    /// With two, frames come to either one's queue as the dice fall.
    pub(crate) workers: u16,
    pub(crate) network: Network,
    pub(crate) connections: Vec<Plan>,
    pub(crate) cutting: Cutting,
    pub(crate) askers: Vec<Asking>,
    pub(crate) events: Vec<(u32, Event)>,
}

/// How bad the wires are, in frames of a hundred.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Network {
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    pub(crate) late: u64,
}

/// What a client does: it sends a chunk, waits a little, sends the next, and wants all of it back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) start_ms: u32,
    pub(crate) chunks: usize,
    pub(crate) chunk_bytes: usize,
    pub(crate) pause_ms: u32,
}

impl Plan {
    pub(crate) const fn bytes(self) -> usize {
        self.chunks * self.chunk_bytes
    }
}

/// What a client of datagrams does: it asks until it is answered, waits a little, asks the next question.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asking {
    pub(crate) start_ms: u32,
    pub(crate) questions: u16,
    /// Bytes of a question and of its answer, besides what stands in front.
    pub(crate) question_bytes: usize,
    pub(crate) answer_bytes: usize,
    pub(crate) pause_ms: u32,
}

/// How datagrams leave their senders.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cutting {
    /// Longer IP packets leave in parts.
    pub(crate) longest: u16,
    /// Routers may cut what is IPv4.
    pub(crate) allowed: bool,
}

impl Scenario {
    /// Nothing is lost on the wires, and nothing happens that may cost a packet.
    pub(crate) fn is_calm(&self) -> bool {
        self.network.lost == 0 && self.events.iter().all(|(_, event)| matches!(event, Event::Swap))
    }
}

/// What happens meanwhile.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// The same in new tables, all ways looked up anew.
    Swap,
    /// The backends are now these.
    Backends([State; BACKENDS]),
    /// The port of the appliance takes IP packets of so many bytes.
    PortMtu(PortId, u16),
    /// A router beyond the port takes IP packets of so many bytes, and says so to who sends more.
    PathMtu(PortId, u16),
    /// The neighbours behind the port must be asked for again.
    Forget(PortId),
    /// Nothing passes the wire of the port for so long.
    Cut(PortId, u32),
    /// The machine of a backend forgets its connections.
    Crash(usize),
    /// The appliance forgets its flows.
    Restart,
}

/// What a backend is to the Service.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum State {
    /// Gets new connections.
    Serving,
    /// Gets none, and keeps those it has.
    Draining,
    /// Is not in the tables any more.
    Gone,
}

pub(crate) fn scenarios() -> impl Strategy<Value = Scenario> {
    let kind = (
        prop_oneof![Just(Family::V4), Just(Family::V6)],
        prop_oneof![Just(NatMode::Snat), Just(NatMode::Dnat)],
        1..=2_u16,
    );
    // On a network that loses nothing the appliance may not either.
    let lost = prop_oneof![1 => Just(0), 2 => 1..8_u64];
    let network =
        (lost, 0..5_u64, 0..20_u64).prop_map(|(lost, doubled, late)| Network { lost, doubled, late });
    // At times the backends change so often that it happens in the middle of much else.
    let churn = prop_oneof![2 => Just(Vec::new()), 1 => vec((0..12_000_u32, changes()), 40..100)];
    let events =
        (vec((0..12_000_u32, events()), 0..10), churn).prop_map(|(events, churn)| [events, churn].concat());
    let cutting = (600..=1_500_u16, any::<bool>());
    let cutting = cutting.prop_map(|(longest, allowed)| Cutting { longest, allowed });
    // Either kind of program, or both.
    let programs =
        prop_oneof![(vec(plans(), 1..6), vec(asking(), 0..2)), (vec(plans(), 0..2), vec(asking(), 1..6)),];
    (any::<u64>(), kind, network, programs, cutting, events).prop_map(
        |(seed, (family, mode, workers), network, (connections, askers), cutting, mut events)| {
            events.sort_by_key(|(at, _)| *at);
            Scenario { seed, family, mode, workers, network, connections, cutting, askers, events }
        },
    )
}

fn asking() -> impl Strategy<Value = Asking> {
    let bytes = || prop_oneof![1..600_usize, 600..2_400_usize];
    (0..6_000_u32, 1..12_u16, bytes(), bytes(), 0..1_500_u32).prop_map(
        |(start_ms, questions, question_bytes, answer_bytes, pause_ms)| Asking {
            start_ms,
            questions,
            question_bytes,
            answer_bytes,
            pause_ms,
        },
    )
}

fn plans() -> impl Strategy<Value = Plan> {
    (0..6_000_u32, 1..8_usize, 1..4_000_usize, 0..1_500_u32).prop_map(
        |(start_ms, chunks, chunk_bytes, pause_ms)| Plan { start_ms, chunks, chunk_bytes, pause_ms },
    )
}

fn events() -> impl Strategy<Value = Event> {
    let port = || prop_oneof![Just(INSIDE), Just(OUTSIDE)];
    let mtu = || 1_280..=1_500_u16;
    prop_oneof![
        2 => Just(Event::Swap),
        4 => changes(),
        2 => (port(), mtu()).prop_map(|(port, mtu)| Event::PortMtu(port, mtu)),
        2 => (port(), mtu()).prop_map(|(port, mtu)| Event::PathMtu(port, mtu)),
        2 => port().prop_map(Event::Forget),
        1 => (port(), 1..5_000_u32).prop_map(|(port, ms)| Event::Cut(port, ms)),
        1 => (0..BACKENDS).prop_map(Event::Crash),
        1 => Just(Event::Restart),
    ]
}

fn changes() -> impl Strategy<Value = Event> {
    let state = prop_oneof![2 => Just(State::Serving), 1 => Just(State::Draining), 1 => Just(State::Gone)];
    proptest::array::uniform4(state).prop_map(Event::Backends)
}
