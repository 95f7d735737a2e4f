//! The wires at the appliance's two ports, and a router on each: frames are lost, late, doubled, too long for the path.

use std::collections::BTreeMap;

use packet::{AnyAddrs, Body, Family, parse, tcp, testkit::PacketBuilder};
use tables::{Millis, PortId};

use crate::{
    card::MTU,
    parts::{cut, is_udp},
    scenario::Network,
};

/// xorshift64.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) % bound
    }
}

/// A frame on its way to or from the appliance's port.
#[derive(Clone)]
pub(crate) struct Flight {
    pub(crate) port: PortId,
    pub(crate) to_appliance: bool,
    pub(crate) frame: Vec<u8>,
}

pub(crate) struct Wire {
    pub(crate) dice: Dice,
    network: Network,
    /// By the moment they arrive.
    flying: BTreeMap<(u32, u64), Flight>,
    count: u64,
    /// Every frame is told of.
    trace: bool,
    /// What the router of each port takes.
    pub(crate) path_mtu: [u16; 2],
    /// Until when nothing passes.
    pub(crate) cut_until: [u32; 2],
}

impl Wire {
    pub(crate) fn new(seed: u64, network: Network) -> Self {
        let (flying, dice) = (BTreeMap::new(), Dice::new(seed));
        let trace = std::env::var_os("SIM_TRACE").is_some();
        Self { dice, network, flying, count: 0, trace, path_mtu: [MTU; 2], cut_until: [0; 2] }
    }

    /// Sends a frame on its way, as the dice fall.
    pub(crate) fn send(&mut self, now: Millis, flight: Flight) {
        if self.trace {
            tell(now, &flight);
        }
        let port = flight.port.index();
        if now.0 < self.cut_until[port] {
            return;
        }
        self.route(flight).into_iter().for_each(|flight| self.fly(now, &flight));
    }

    fn fly(&mut self, now: Millis, flight: &Flight) {
        let copies = match self.dice.below(100) {
            dice if dice < self.network.lost => 0,
            dice if dice < self.network.lost + self.network.doubled => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let late = self.dice.below(100) < self.network.late;
            let delay = 1 + if late { self.dice.below(40) } else { 0 };
            self.count += 1;
            let at = now.0 + u32::try_from(delay).expect("a short one");
            self.flying.insert((at, self.count), flight.clone());
        }
    }

    /// A frame that the router can send on, as it is or in parts, or what it says about it to the sender.
    fn route(&self, flight: Flight) -> Vec<Flight> {
        let mtu = self.path_mtu[flight.port.index()];
        let parsed = parse(&flight.frame, flight.frame.len()).expect("what is sent parses");
        if parsed.ip_len <= mtu {
            return vec![flight];
        }
        let addrs = parsed.addrs().expect("a long packet is IP");
        if is_udp(&parsed) && addrs.family() == Family::V4 && !parsed.dont_fragment {
            let id = &flight.frame[usize::from(parsed.l3) + 4..][..2];
            let parts = cut(&flight.frame, mtu, u16::from_be_bytes([id[0], id[1]]).into());
            return parts.into_iter().map(|frame| Flight { frame, ..flight }).collect();
        }
        let (kind, code, router) = match addrs.family() {
            Family::V4 => (3, 4, "198.18.0.1"),
            Family::V6 => (2, 0, "2001:db8:ffff::1"),
        };
        assert!(!matches!(parsed.body, Body::Icmp(_)), "errors are short");
        let quoted = &flight.frame[parsed.l3.into()..][..match addrs {
            AnyAddrs::V4 { .. } => 28,
            AnyAddrs::V6 { .. } => 1_000,
        }];
        let rest = [&[0, 0][..], &mtu.to_be_bytes(), quoted].concat();
        let router = router.parse().expect("an address");
        let frame = PacketBuilder::icmp(router, addrs.src(), kind, code, &rest)
            .macs(parsed.src_mac, parsed.dst_mac)
            .build();
        vec![Flight { to_appliance: !flight.to_appliance, frame, ..flight }]
    }

    /// When the next frame arrives.
    pub(crate) fn next(&self) -> Option<u32> {
        self.flying.first_key_value().map(|((at, _), _)| *at)
    }

    /// A frame that has arrived.
    pub(crate) fn arrived(&mut self, now: Millis) -> Option<Flight> {
        let first = self.flying.first_entry()?;
        (first.key().0 <= now.0).then(|| first.remove())
    }
}

fn tell(now: Millis, Flight { port, to_appliance, frame }: &Flight) {
    let parsed = parse(frame, frame.len()).expect("what is sent parses");
    let way = if *to_appliance { "to" } else { "from" };
    let what = match (parsed.body, tcp::Header::at(frame, parsed.l4)) {
        (Body::Flow { key, tcp_flags }, Some(tcp)) => {
            format!(
                "{}:{} > {}:{} {tcp_flags} {} {}",
                key.src(),
                key.sport(),
                key.dst(),
                key.dport(),
                tcp.seq(),
                tcp.ack()
            )
        }
        (other, _) => format!("{other:?}"),
    };
    eprintln!("{} {way} {} {what} {}", now.0, port.0, parsed.ip_len);
}
