//! Who may be sent what, by an account of its own: each frame the appliance sends must come of one that it received, with
//! the addresses, ports and content that the data centre's plan says, to the machine that the plan says.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use dataplane::testkit::{Fixture, INSIDE, OUTSIDE};
use packet::{AnyAddrs, AnyKey, Body, Fragment, Icmp, MacAddr, Parsed, Protocol, TcpFlags, checksum, parse};
use tables::PortId;

use crate::{
    INSIDE_MTU,
    frames::with_ports,
    trunk::{self, CLIENTS, STORES, port_of},
};

/// A frame that parses, and its facts.
struct Seen {
    port: PortId,
    frame: Vec<u8>,
    parsed: Parsed,
    /// Of a packet with ports, or the first part of one.
    flow: Option<(Parsed, AnyKey)>,
}

impl Seen {
    /// A frame at a device.
    fn new(device: PortId, frame: &[u8]) -> Option<Self> {
        let (port, frame) = port_of(device, frame)?;
        let parsed = parse(&frame, frame.len()).ok()?;
        let flow = with_ports(&parsed, &frame);
        Some(Self { port, frame, parsed, flow })
    }

    /// Everything behind the ports but the checksum.
    fn content(&self) -> Vec<u8> {
        let Some((_, key)) = self.flow else { return Vec::new() };
        let mut content = self.frame[self.parsed.l4.into()..self.parsed.frame_end()].to_vec();
        let checksum = match key.protocol() {
            Protocol::Tcp => 16..18,
            Protocol::Udp => 6..8,
            Protocol::Sctp => 8..12,
        };
        let len = content.len();
        content[checksum.start.min(len)..checksum.end.min(len)].fill(0);
        content.split_off(4.min(len))
    }
}

/// Addresses that a packet may leave with because one with these came, or was translated to these.
type Pairs = HashSet<(IpAddr, IpAddr)>;

#[derive(Default)]
pub(crate) struct Model {
    /// Of each packet that went to a backend, as the backend sees it: as its client may have sent it.
    clients: HashMap<AnyKey, Vec<AnyKey>>,
    /// What was too long for the way to a backend: a flow may have begun with it, though nothing went there.
    begun: HashSet<AnyKey>,
    /// Clients that had their backend's key when the burst at hand began, and another one has now.
    before: Vec<(AnyKey, AnyKey)>,
    pairs: Pairs,
    /// Begun with an endpoint by its own address, or by it: as its client's packets are.
    direct: HashSet<AnyKey>,
    arrived: Vec<Seen>,
    /// Frames sent, by what they were.
    pub(crate) sent: HashMap<&'static str, u64>,
}

impl Model {
    /// A frame is about to arrive.
    pub(crate) fn arrives(&mut self, port: PortId, frame: &[u8]) {
        if let Some(seen) = Seen::new(port, frame) {
            if let Some(addrs) = seen.parsed.addrs() {
                self.pairs.insert((addrs.src(), addrs.dst()));
            }
            if let Some((_, key)) = seen.flow.filter(|_| seen.parsed.ip_len > INSIDE_MTU) {
                self.begun.insert(key);
            }
            if let Some((facts, key)) = seen.flow {
                self.direct.extend(is_endpoint(key.dst(), key.dport()).then_some(key));
                let opens = matches!(facts.body, Body::Flow { tcp_flags, .. } if tcp_flags.opens());
                self.direct.extend((opens && is_endpoint(key.src(), key.sport())).then(|| key.reversed()));
            }
            self.arrived.push(seen);
        }
    }

    /// What came of all that arrived; `sound` if every checksum of that was right.
    pub(crate) fn check(&mut self, sent: &[(PortId, Vec<u8>)], sound: bool) {
        let sent: Vec<Seen> = sent.iter().map(|(port, frame)| self.basics(*port, frame, sound)).collect();
        // What goes to backends first: answers to it may be in the same burst.
        let rest: Vec<_> = sent.iter().filter(|seen| !self.is_to_backend(seen)).collect();
        for seen in rest {
            let Some(kind) = self.kind(seen) else {
                let alike = self.arrived.iter().filter(|from| from.content() == seen.content());
                let alike: Vec<_> = alike.map(|from| (from.port, from.parsed)).collect();
                let Seen { port, parsed, frame, .. } = seen;
                panic!(
                    "nothing explains {parsed:?} out of {port:?}: {frame:02x?}; of the same content: {alike:?}"
                )
            };
            *self.sent.entry(kind).or_default() += 1;
        }
        let tagged = sent.iter().filter(|seen| trunk::device(seen.port) != seen.port).count();
        *self.sent.entry("tagged").or_default() += tagged as u64;
        self.arrived.clear();
        self.before.clear();
        // Mutated addresses are many.
        if self.pairs.len() > 100_000 {
            self.pairs.clear();
        }
    }

    fn basics(&self, port: PortId, frame: &[u8], sound: bool) -> Seen {
        let seen = Seen::new(port, frame).unwrap_or_else(|| panic!("no packet of a port: {frame:02x?}"));
        let Seen { parsed, frame, port, .. } = &seen;
        assert_eq!(parsed.src_mac, trunk::mac(*port));
        assert!(parsed.vlan.is_none_or(|tag| tag.id() == 0), "a tag was left on {parsed:?}");
        assert!(parsed.ip_checksum_right, "{parsed:?}");
        assert!(!sound || checksum::is_right(parsed, [&frame[..]]), "a checksum went wrong: {frame:02x?}");
        assert!(parsed.ip_len <= 1_500, "{parsed:?}");
        seen
    }

    /// A client's packet of a Service on its way to a backend; takes note of it.
    fn is_to_backend(&mut self, seen: &Seen) -> bool {
        let Some((_, key)) = seen.flow else { return false };
        let content = seen.content();
        let comes_of = |other: &&Seen| {
            other.flow.is_some_and(|(_, from)| is_served(from, key, seen.port))
                && is_one_hop_on(other, seen)
                && may_become(&other.content(), &content, (key, is_cut(other, seen)))
        };
        let from: Vec<AnyKey> =
            self.arrived.iter().filter(comes_of).filter_map(|from| Some(from.flow?.1)).collect();
        if from.is_empty() {
            return false;
        }
        for client in &from {
            self.pairs.insert((key.src(), key.dst()));
            self.pairs.insert((client.dst(), client.src()));
        }
        if let Some(old) = self.clients.insert(key, from) {
            self.before.extend(old.into_iter().map(|client| (client, key)));
        }
        *self.sent.entry("to a backend").or_default() += 1;
        is_sent_on(seen)
    }

    /// What a frame is that does not go to a backend.
    fn kind(&self, seen: &Seen) -> Option<&'static str> {
        let of = |is: &dyn Fn(&Seen) -> bool| self.arrived.iter().any(is);
        let addrs = match seen.parsed.body {
            Body::Arp(arp) => return is_ours(arp.sender_ip.into()).then_some("ARP"),
            Body::Nd(nd) => return is_ours(nd.target.into()).then_some("ND"),
            _ => seen.parsed.addrs()?,
        };
        let goes_back = |from: &Seen| {
            from.port == seen.port
                && from.parsed.src_mac == seen.parsed.dst_mac
                && from.parsed.addrs().is_some_and(|came| came.src() == addrs.dst())
        };
        if of(&|from| goes_back(from) && is_answer(from, seen)) {
            return Some("answer");
        }
        if !is_sent_on(seen) {
            return None;
        }
        if let Some((_, key)) = seen.flow
            && of(&|from| {
                is_one_hop_on(from, seen) && self.is_to_client(from, key) && from.content() == seen.content()
            })
        {
            return Some("to a client");
        }
        if let Body::Icmp(icmp) = seen.parsed.body
            && of(&|from| matches!(from.parsed.body, Body::Icmp(came) if self.is_told(came, icmp)))
        {
            return Some("error");
        }
        if let Some((_, key)) = seen.flow
            && of(&|from| {
                is_one_hop_on(from, seen) && is_for_the_vip(from, key) && from.content() == seen.content()
            })
        {
            return Some("for the VIP");
        }
        let stray = seen
            .flow
            .is_some_and(|(_, key)| is_answer_of_an_endpoint(key) && !self.direct.contains(&key.reversed()));
        if !stray && of(&|from| from.parsed.addrs() == Some(addrs) && is_routed(from, seen)) {
            return Some("routed");
        }
        // Later parts, and what was cut here, have no ports.
        let part = seen.parsed.fragment != Fragment::Whole;
        let known = || self.pairs.contains(&(addrs.src(), addrs.dst()));
        (part && (known() || of(&|from| self.is_part_of_begun(from, seen)))).then_some("part")
    }

    /// A later part goes with a flow of which nothing went to a backend yet.
    fn is_part_of_begun(&self, from: &Seen, to: &Seen) -> bool {
        let (Some(came), Some(left)) = (from.parsed.addrs(), to.parsed.addrs()) else { return false };
        let (src, dst) = (left.src(), left.dst());
        let may_be = |client: &AnyKey| {
            let at_backend =
                AnyKey::new((src, client.sport()).into(), (dst, 8_080).into(), client.protocol());
            client.addrs() == came && at_backend.is_some_and(|key| is_served(*client, key, to.port))
        };
        is_one_hop_on(from, to) && self.begun.iter().any(may_be)
    }

    /// The packet answers one that went to a backend, and would go to its client as this.
    fn is_to_client(&self, from: &Seen, to: AnyKey) -> bool {
        let Some((_, from)) = from.flow else { return false };
        self.is_known(to.reversed(), from.reversed())
    }

    /// This client's flow is, or may be, the one that has this key at its backend.
    fn is_known(&self, client: AnyKey, at_backend: AnyKey) -> bool {
        self.clients.get(&at_backend).is_some_and(|clients| clients.contains(&client))
            || self.before.contains(&(client, at_backend))
            || self.begun.contains(&client) && is_served(client, at_backend, INSIDE)
    }

    /// An error that came becomes this one: about the same packet, as its sender knows it.
    fn is_told(&self, came: Icmp, told: Icmp) -> bool {
        let (Some(came_about), Some(about)) = (came.inner, told.inner) else { return false };
        if (came.kind, came.code) != (told.kind, told.code) || told.addrs.dst() != about.key.src() {
            return false;
        }
        let (came_about, about) = (came_about.key, about.key);
        self.is_known(about, came_about) || self.is_known(came_about.reversed(), about.reversed())
    }
}

/// The appliance answers this by that itself.
fn is_answer(from: &Seen, answer: &Seen) -> bool {
    match (answer.parsed.body, from.parsed.body) {
        (Body::Flow { key, tcp_flags }, _) => {
            tcp_flags.rst() && from.flow.is_some_and(|(_, asked)| asked == key.reversed())
        }
        (Body::Icmp(reply), Body::Icmp(asked)) if reply.is_echo_reply() => {
            asked.is_echo_request() && reply.addrs.src() == asked.addrs.dst() && is_ours(reply.addrs.src())
        }
        (Body::Icmp(icmp), _) => {
            // Some of what is refused has no ports; what is quoted of it is its header.
            let quoted = icmp.inner.map(|inner| inner.key);
            icmp.is_error() && (quoted.is_none() || quoted == from.flow.map(|(_, key)| key))
        }
        _ => false,
    }
}

/// The packet is of an endpoint whose client has no flow, and may leave as the answer of the dnat Service's VIP.
fn is_for_the_vip(from: &Seen, to: AnyKey) -> bool {
    let whole = from.parsed.fragment == Fragment::Whole;
    let lb = [ip("203.0.113.10"), ip("2001:db8:f::10")].contains(&to.src());
    let Some((_, from)) = from.flow.filter(|_| whole && lb) else { return false };
    is_answer_of_an_endpoint(from) && is_served(to.reversed(), from.reversed(), INSIDE) && to.sport() == 81
}

/// An endpoint of the dnat Services says something to somebody outside.
fn is_answer_of_an_endpoint(key: AnyKey) -> bool {
    let inside = match key.dst() {
        IpAddr::V4(v4) => matches!(v4.octets(), [10, 244, 1 | 2, _] | [10, 0, 0, _]),
        IpAddr::V6(v6) => matches!(v6.segments(), [0xfd00, 0, 0, 0, ..] | [0xfd00, 0x244, 1 | 2, 0, ..]),
    };
    !inside && is_endpoint(key.src(), key.sport())
}

fn is_endpoint(address: IpAddr, port: u16) -> bool {
    let pods = ["10.244.1.5", "10.244.2.5", "fd00:244:1::5", "fd00:244:2::5"];
    port == 8_080 && pods.iter().any(|text| ip(text) == address)
}

/// A packet of a client with this key is one of a Service, and may go to a backend as that.
fn is_served(from: AnyKey, to: AnyKey, out: PortId) -> bool {
    let (vips, backends, own): ([&str; 2], [&str; 2], &str) = match from.addrs() {
        AnyAddrs::V4 { .. } => (["10.96.0.10", "203.0.113.10"], ["10.244.1.5", "10.244.2.5"], "10.0.0.1"),
        AnyAddrs::V6 { .. } => {
            (["fd00:96::10", "2001:db8:f::10"], ["fd00:244:1::5", "fd00:244:2::5"], "fd00::1")
        }
    };
    let is = |address: IpAddr, one_of: &[&str]| one_of.iter().any(|text| ip(text) == address);
    let kept = (to.src(), to.sport()) == (from.src(), from.sport()) && from.dport() == 81;
    from.protocol() == to.protocol()
        && out == INSIDE
        && is(from.dst(), &vips)
        && matches!(from.dport(), 80 | 81)
        && is(to.dst(), &backends)
        && to.dport() == 8_080
        && (kept || is(to.src(), &[own]))
}

/// What stands behind the ports may come out like this: as it was, but for the segment size that a SYN offers, or of it what
/// a first part holds.
fn may_become(from: &[u8], to: &[u8], (key, cut): (AnyKey, bool)) -> bool {
    let syn = key.protocol() == Protocol::Tcp && from.get(9).is_some_and(|flags| TcpFlags(*flags).syn());
    match (cut, syn) {
        (true, _) => from.starts_with(to),
        (false, true) => from.len() == to.len(),
        (false, false) => from == to,
    }
}

/// A packet, or a first part, left in parts, and this is the first.
fn is_cut(from: &Seen, to: &Seen) -> bool {
    let whole = !matches!(from.parsed.fragment, Fragment::Later { .. });
    whole && matches!(to.parsed.fragment, Fragment::First { .. }) && from.parsed.ip_len > to.parsed.ip_len
}

/// The same packet one hop further, or its first part.
fn is_one_hop_on(from: &Seen, to: &Seen) -> bool {
    from.parsed.ttl == to.parsed.ttl + 1 && (from.parsed.fragment == to.parsed.fragment || is_cut(from, to))
}

/// A packet that is for nobody here leaves as it came, or in parts.
fn is_routed(from: &Seen, to: &Seen) -> bool {
    let whole = from.parsed.fragment == to.parsed.fragment;
    let same = || {
        from.frame[from.parsed.l4.into()..from.parsed.frame_end()] == to.frame[to.parsed.l4.into()..]
            || from.flow.is_some() && from.content() == to.content()
    };
    let dst = from.parsed.addrs().expect("IP").dst();
    !is_ours(dst) && from.parsed.ttl == to.parsed.ttl + 1 && (!whole || same())
}

/// The frame leaves by the port, and to the machine, that the plan has for its receiver, and ends where its packet does.
fn is_sent_on(seen: &Seen) -> bool {
    let Some(addrs) = seen.parsed.addrs() else { return false };
    let padding = seen.frame.len() - seen.parsed.frame_end();
    padding == 0 && next_hop(addrs.dst()) == Some((seen.port, seen.parsed.dst_mac))
}

/// Where the plan has an address; `None` on a network whose stations never answered.
fn next_hop(dst: IpAddr) -> Option<(PortId, MacAddr)> {
    let outside = |last| Some((OUTSIDE, Fixture::neighbor_mac(OUTSIDE, last)));
    let inside = |last| Some((INSIDE, Fixture::neighbor_mac(INSIDE, last)));
    if trunk::CLIENT.iter().any(|text| ip(text) == dst) {
        return Some((CLIENTS, Fixture::neighbor_mac(CLIENTS, 2)));
    }
    if trunk::STORE.iter().any(|text| ip(text) == dst) {
        return Some((STORES, Fixture::neighbor_mac(STORES, 11)));
    }
    match dst {
        IpAddr::V4(v4) => match v4.octets() {
            [10, 0, 0, last @ (11 | 12)] => inside(last),
            [10, 244, 1, _] => inside(11),
            [10, 244, 2, _] => inside(12),
            [192, 0, 2, 2] => outside(2),
            [192, 0, 2, 254] => outside(254),
            [192, 0, 2, _] | [10, 0 | 2, 0, _] | [198, 51, 100, _] => None,
            _ => outside(254),
        },
        IpAddr::V6(v6) => match v6.segments() {
            [0xfd00, 0, 0, 0, 0, 0, 0, 0x11] => inside(11),
            [0xfd00, 0, 0, 0, 0, 0, 0, 0x12] => inside(12),
            [0xfd00, 0 | 2, 0, 0, ..] | [0x2001, 0xdb8, 0x64, 0, ..] => None,
            [0xfd00, 0x244, 1, 0, ..] => inside(11),
            [0xfd00, 0x244, 2, 0, ..] => inside(12),
            [0x2001, 0xdb8, 1, 0, 0, 0, 0, 2] => outside(2),
            [0x2001, 0xdb8, 1, 0, 0, 0, 0, 0xfe] => outside(254),
            [0x2001, 0xdb8, 1, 0, ..] => None,
            _ => outside(254),
        },
    }
}

/// An address of the appliance, or of a Service.
fn is_ours(address: IpAddr) -> bool {
    const OURS: [&str; 8] = [
        "192.0.2.1",
        "10.0.0.1",
        "2001:db8:1::1",
        "fd00::1",
        "10.96.0.10",
        "203.0.113.10",
        "fd00:96::10",
        "2001:db8:f::10",
    ];
    OURS.iter().chain(&trunk::OWN).any(|text| ip(text) == address)
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}
