//! TCP's phases under attack: resets that nobody in the connection sent, and handshakes that nobody finishes.

use dataplane::testkit::{INSIDE, OUTSIDE, Rig, RigConfig};
use packet::{AnyKey, Protocol, TcpFlags, testkit::PacketBuilder, testkit::flow_of};
use tables::{DropReason, PortId};

use crate::world::*;

const ACK: TcpFlags = TcpFlags::ACK;
const RST: TcpFlags = TcpFlags::RST;
/// What the two ends have sent in an established connection.
const CLIENT_AT: u32 = 500_000;
const SERVER_AT: u32 = 0xffff_f000;

/// A connection in its middle, through a frontend at this port: its keys outside and inside.
struct Connection {
    outside: AnyKey,
    inside: AnyKey,
}

impl Connection {
    fn open(rig: &mut Rig, world: &World, (sport, vip_port): (u16, u16)) -> Self {
        let outside = key(Protocol::Tcp, at(world.client, sport), at(world.lb, vip_port));
        let syn = first(outside).numbers(CLIENT_AT - 1, 0);
        let (_, frame) = one(rig.exchange(OUTSIDE, &arriving(OUTSIDE, syn)), "SYN");
        let inside = flow_of(&frame).reversed();
        let syn_ack = answer(inside).numbers(SERVER_AT.wrapping_sub(1), CLIENT_AT);
        one(rig.exchange(INSIDE, &arriving(INSIDE, syn_ack)), "SYN-ACK");
        let connection = Self { outside, inside };
        connection.goes_on(rig, "handshake");
        connection
    }

    /// A segment of either side; where it came out.
    fn says(&self, rig: &mut Rig, from: PortId, flags: TcpFlags, seq: u32) -> AnyKey {
        let (key, ack) = if from == OUTSIDE { (self.outside, SERVER_AT) } else { (self.inside, CLIENT_AT) };
        let segment = PacketBuilder::flow(key).flags(flags).numbers(seq, ack);
        flow_of(&one(rig.exchange(from, &arriving(from, segment)), "a segment").1)
    }

    /// Both sides hear each other by the same translation as before.
    fn goes_on(&self, rig: &mut Rig, name: &str) {
        rig.now = rig.now.plus(1);
        assert_eq!(self.says(rig, OUTSIDE, ACK, CLIENT_AT), self.inside.reversed(), "{name}");
        assert_eq!(self.says(rig, INSIDE, ACK, SERVER_AT), self.outside.reversed(), "{name}");
    }
}

#[test]
fn a_reset_out_of_the_window_is_passed_on_and_kills_no_flow() {
    for (world, vip_port) in WORLDS.iter().flat_map(|world| [(world, 80), (world, 81)]) {
        let mut rig = rig(&mut served(world));
        let connection = Connection::open(&mut rig, world, (900, vip_port));
        for (from, at) in [(OUTSIDE, CLIENT_AT), (INSIDE, SERVER_AT)] {
            for (n, far) in [1 << 23, 1 << 31, u32::MAX << 23].into_iter().enumerate() {
                connection.says(&mut rig, from, RST, at.wrapping_add(far));
                assert_eq!(rig.counts().flows.resets_ignored % 3, (n as u64 + 1) % 3);
            }
        }
        assert_eq!(rig.counts().flows.resets_ignored, 6);
        // An hour of silence: a flow that was reset would be gone.
        rig.now = rig.now.plus(3_600_000);
        rig.settle();
        connection.goes_on(&mut rig, "after an hour");
        assert_eq!(rig.counts().flows.created, 1);
    }
}

#[test]
fn a_reset_in_the_window_ends_a_flow_unless_somebody_goes_on() {
    for (world, vip_port) in WORLDS.iter().flat_map(|world| [(world, 80), (world, 81)]) {
        for (from, seq) in [(OUTSIDE, CLIENT_AT + 7), (INSIDE, SERVER_AT.wrapping_add(7))] {
            let mut rig = rig(&mut served(world));
            let connection = Connection::open(&mut rig, world, (900, vip_port));
            connection.says(&mut rig, from, RST, seq);
            // The receiver did not believe it and says so (RFC 5961 §3.2).
            connection.goes_on(&mut rig, "challenge ACK");
            assert_eq!((rig.counts().flows.revived, rig.counts().flows.resets_ignored), (1, 0));
            rig.now = rig.now.plus(3_600_000);
            rig.settle();
            connection.goes_on(&mut rig, "after an hour");
            connection.says(&mut rig, from, RST | ACK, seq);
            rig.now = rig.now.plus(10_001);
            rig.settle();
            assert_eq!((rig.counts().flows.used, rig.counts().flows.expired), (0, 1));
        }
    }
}

#[test]
fn half_open_floods_push_out_no_established_flow_and_refuse_no_client() {
    const FLOWS: u16 = 256;
    for world in &WORLDS {
        let config = RigConfig { flows: FLOWS.into(), ..RigConfig::default() };
        let mut rig = rig_of(&config, served(world).tables());
        let old: Vec<_> = (0..20).map(|n| Connection::open(&mut rig, world, (900 + n, 80))).collect();
        // The backends answer each SYN, or refuse it; forged ACKs follow.
        for n in 0..4 * FLOWS {
            let spoofed = key(Protocol::Tcp, at(world.far, 10_000 + n), at(world.lb, 80));
            let (_, syn) = one(rig.exchange(OUTSIDE, &arriving(OUTSIDE, first(spoofed))), "flood");
            let seq = u32::from(n).wrapping_mul(0x9e37_79b1) | 1 << 20;
            let flags = if n % 2 == 0 { TcpFlags::SYN | ACK } else { RST | ACK };
            let reply = PacketBuilder::flow(flow_of(&syn).reversed()).flags(flags).numbers(seq, 2);
            rig.exchange(INSIDE, &arriving(INSIDE, reply));
            rig.exchange(OUTSIDE, &arriving(OUTSIDE, PacketBuilder::flow(spoofed)));
        }
        assert!(rig.counts().flows.recycled > u64::from(2 * FLOWS), "{:?}", rig.counts().flows);
        let new = Connection::open(&mut rig, world, (2_000, 80));
        old.iter().chain([&new]).for_each(|connection| connection.goes_on(&mut rig, "beside a flood"));
        assert_eq!(rig.dropped(DropReason::FlowTableFull), 0);
    }
}
