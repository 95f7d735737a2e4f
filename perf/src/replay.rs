//! Frames made once and sent again and again through a [`Stand`]: flows of IPv6, clients in a VLAN, and datagrams in parts. What makes each
//! frame anew, and takes time for it, is in the stand itself.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use cpu::{Level, TscClock};
use dataplane::testkit::{Fixture, INSIDE, OUTSIDE};
use packet::{AnyKey, Family, FlowKey, Protocol, TcpFlags, VlanTag, parse, testkit::PacketBuilder};
use tables::{FrontendKind, NatMode, PortId, Tables, Vlan};

use crate::{
    Laps, Meter, Random, Template, shuffle,
    stand::{Stand, VIP},
};

/// Where clients of IPv6 go to.
const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 0x10);

/// The VLAN of some clients, at the port outside.
const VLAN: VlanTag = VlanTag(7);

/// What arrives in a round at the port outside, and at the one inside.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    outside: Vec<Vec<u8>>,
    inside: Vec<Vec<u8>>,
}

impl Replay {
    /// A stand with room for `flows` of either family, before two Services in both, each with 256 backends: of TCP at port 80,
    /// of UDP at port 53.
    ///
    /// # Errors
    /// When there is no memory for the buffers or the flow table.
    pub fn stand(flows: u32, level: Level) -> io::Result<Stand> {
        Stand::dual(tables(Fixture::data_centre()), flows, level)
    }

    /// The same with a VLAN at the port outside.
    ///
    /// # Errors
    /// When there is no memory for the buffers or the flow table.
    pub fn stand_with_vlan(flows: u32, level: Level) -> io::Result<Stand> {
        let mut fixture = Fixture::data_centre();
        let vlan = Vlan { parent: OUTSIDE, id: VLAN.id() };
        fixture.sub_port(PortId(2), (vlan, "outside.7"), &[("198.51.7.1", 24)]);
        fixture.neighbor(PortId(2), "198.51.7.9", 9);
        Stand::dual(tables(fixture), flows, level)
    }

    /// Packets both ways of established TCP flows over IPv6, in another order each way.
    ///
    /// # Panics
    /// If a packet of the handshakes is lost.
    pub fn of_ipv6(stand: &mut Stand, flows: u16) -> Self {
        Self::of_tcp(stand, (0..flows).map(client6), packet)
    }

    /// Packets both ways of established TCP flows whose clients are in a VLAN, so that half of them come with a tag and half
    /// get one, at a stand that has it.
    ///
    /// # Panics
    /// If a packet of the handshakes is lost.
    pub fn of_vlan(stand: &mut Stand, flows: u16) -> Self {
        Self::of_tcp(stand, (0..flows).map(client_in_vlan), |key, flags| packet(key, flags).vlan(VLAN))
    }

    fn of_tcp(
        stand: &mut Stand,
        keys: impl Iterator<Item = AnyKey>,
        of_client: impl Fn(AnyKey, TcpFlags) -> PacketBuilder,
    ) -> Self {
        let keys: Vec<AnyKey> = keys.collect();
        let replies = open(stand, &keys, |key| of_client(key, TcpFlags::SYN));
        let syn_acks =
            frames(INSIDE, &replies, |key| packet(key, TcpFlags::SYN | TcpFlags::ACK).numbers(0, 1));
        pass(stand, &[], &syn_acks, &mut Laps::new(), |_| {});
        let outside = frames(OUTSIDE, &keys, |key| of_client(key, TcpFlags::ACK));
        pass(stand, &outside, &[], &mut Laps::new(), |_| {});
        let mut inside = frames(INSIDE, &replies, |key| packet(key, TcpFlags::ACK | TcpFlags::PSH));
        shuffle(&mut inside, &mut Random::new(2));
        Self { outside, inside }
    }

    /// Datagrams of established UDP flows, each in two parts of 32 bytes, the first one first.
    ///
    /// # Panics
    /// If a packet that begins a flow is lost.
    pub fn of_parts(stand: &mut Stand, family: Family, flows: u16) -> Self {
        let keys: Vec<AnyKey> = (0..flows).map(|n| client_udp(family, n)).collect();
        let replies = open(stand, &keys, |key| packet(key, TcpFlags::NONE));
        let answers = frames(INSIDE, &replies, |key| packet(key, TcpFlags::NONE));
        pass(stand, &[], &answers, &mut Laps::new(), |_| {});
        let parts = |key: &AnyKey| {
            let whole = PacketBuilder::flow(*key).payload(&[7; 56]).build();
            let header = if family == Family::V4 { 34 } else { 54 };
            let payload = whole[header..].to_vec();
            [(0, true), (32, false)].map(|(start, more)| {
                let part = PacketBuilder::ip(key.src(), key.dst(), Protocol::Udp.number());
                let id = u32::from(key.sport());
                let part = part.payload(&payload[start.into()..][..32]).fragment(id, start, more);
                at(OUTSIDE, &part).pad_to(crate::FRAME_LEN).build()
            })
        };
        Self { outside: keys.iter().flat_map(parts).collect(), inside: Vec::new() }
    }

    /// Packets of a round.
    #[must_use]
    pub fn len(&self) -> usize {
        self.outside.len() + self.inside.len()
    }

    /// True for nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One round of it; turns go through `meter`.
    ///
    /// # Panics
    /// If a packet is lost.
    pub fn round(&self, stand: &mut Stand, meter: &mut impl Meter) {
        pass(stand, &self.outside, &self.inside, meter, |_| {});
    }

    /// Runs rounds until `time` was spent in turns; simulated time passes with the real one.
    pub fn rounds(&self, stand: &mut Stand, time: Duration, clock: &TscClock) -> Laps {
        let (mut laps, start, began) = (Laps::new(), Instant::now(), stand.now);
        while Duration::from_nanos(laps.ns(clock)) < time && start.elapsed() < time * 20 {
            self.round(stand, &mut laps);
            stand.now = began.plus(u32::try_from(start.elapsed().as_millis()).unwrap_or(u32::MAX));
        }
        laps
    }
}

/// What the gateway of a network knows, and the Services.
fn tables(mut fixture: Fixture) -> Tables {
    for vip in [IpAddr::V4(VIP), IpAddr::V6(VIP6)] {
        let backend = |n: u32| match vip {
            IpAddr::V4(_) => format!("10.244.{}.{}:8080", 1 + n / 128, 2 + n % 128),
            IpAddr::V6(_) => format!("[fd00:244:{}::{:x}]:8080", 1 + n / 128, 2 + n % 128),
        };
        let backends: Vec<_> = (0..256).map(backend).collect();
        let backends: Vec<_> = backends.iter().map(String::as_str).collect();
        for (protocol, port) in [(Protocol::Tcp, 80), (Protocol::Udp, 53)] {
            let service = fixture.service("web", protocol, &backends, NatMode::Snat);
            fixture.vip(FrontendKind::LoadBalancer, &SocketAddr::new(vip, port).to_string(), service);
        }
    }
    fixture.tables()
}

/// Lets frames arrive at both ports; every one leaves by the other.
fn pass(
    stand: &mut Stand,
    outside: &[Vec<u8>],
    inside: &[Vec<u8>],
    meter: &mut impl Meter,
    mut see: impl FnMut(&[u8]),
) {
    stand.put(OUTSIDE, outside);
    stand.put(INSIDE, inside);
    stand.drain(meter);
    stand.collect(INSIDE, outside.len(), |_, frame| see(frame));
    stand.collect(OUTSIDE, inside.len(), |_, _| {});
}

/// Sends the first packet of each flow, and gives the keys of their replies.
fn open(stand: &mut Stand, keys: &[AnyKey], first: impl Fn(AnyKey) -> PacketBuilder) -> Vec<AnyKey> {
    let mut replies = Vec::with_capacity(keys.len());
    let first = frames(OUTSIDE, keys, first);
    pass(stand, &first, &[], &mut Laps::new(), |frame| {
        let key = parse(frame, frame.len()).ok().and_then(|parsed| parsed.key());
        replies.push(key.expect("a packet of a flow").reversed());
    });
    replies
}

fn packet(key: AnyKey, flags: TcpFlags) -> PacketBuilder {
    PacketBuilder::flow(key).flags(flags)
}

fn frames(port: PortId, keys: &[AnyKey], packet: impl Fn(AnyKey) -> PacketBuilder) -> Vec<Vec<u8>> {
    let Some(first) = keys.first() else { return Vec::new() };
    let template = Template::of(&at(port, &packet(*first)));
    keys.iter().map(|key| template.frame(*key)).collect()
}

/// A packet from the neighbour that the fixture has on a port.
fn at(port: PortId, packet: &PacketBuilder) -> PacketBuilder {
    let last = if port == OUTSIDE { 254 } else { 11 };
    packet.clone().macs(Fixture::port_mac(port), Fixture::neighbor_mac(port, last))
}

/// The n-th client of IPv6, each with an address of its own.
fn client6(n: u16) -> AnyKey {
    let src = Ipv6Addr::new(0x2001, 0xdb8, 0x18, 0, 0, 0, 0, n);
    FlowKey { src, dst: VIP6, sport: 1_024, dport: 80, protocol: Protocol::Tcp }.into()
}

/// The n-th client in the VLAN, each with a port of its own.
fn client_in_vlan(n: u16) -> AnyKey {
    let src = Ipv4Addr::new(198, 51, 7, 9);
    FlowKey { src, dst: VIP, sport: 1_024 + n, dport: 80, protocol: Protocol::Tcp }.into()
}

/// The n-th client of UDP, each with a port of its own.
fn client_udp(family: Family, n: u16) -> AnyKey {
    let (sport, dport, protocol) = (1_024 + n, 53, Protocol::Udp);
    match family {
        Family::V4 => {
            let src = Ipv4Addr::new(198, 18, 0, 1);
            FlowKey { src, dst: VIP, sport, dport, protocol }.into()
        }
        Family::V6 => {
            let src = Ipv6Addr::new(0x2001, 0xdb8, 0x18, 0, 0, 0, 0, 1);
            FlowKey { src, dst: VIP6, sport, dport, protocol }.into()
        }
    }
}
