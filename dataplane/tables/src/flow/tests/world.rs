//! What happens to a flow table: few keys, so that they collide all the time.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use packet::plain::{Ends, Plain};
use packet::{Address, AnyKey, Family, FlowKey, Protocol, TcpFlags};
use proptest::prelude::*;
use proptest::sample::select;

use crate::flow::Direction;

/// The two keys of a flow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tuple {
    ipv6: bool,
    protocol: Protocol,
    client: u8,
    sport: u16,
    pub(super) backend: u8,
    pub(super) snat_port: Option<u16>,
}

impl Tuple {
    fn address(self, net: u8, host: u8) -> IpAddr {
        if self.ipv6 {
            Ipv6Addr::new(0x2001, 0xdb8, net.into(), 0, 0, 0, 0, host.into()).into()
        } else {
            Ipv4Addr::new(10, net, 0, host).into()
        }
    }

    pub(super) fn original(self) -> AnyKey {
        let src = SocketAddr::new(self.address(1, self.client), self.sport);
        AnyKey::new(src, SocketAddr::new(self.address(2, 1), 80), self.protocol).unwrap()
    }

    pub(super) fn reply(self) -> AnyKey {
        let src = SocketAddr::new(self.address(3, self.backend), 8080);
        let dst = match self.snat_port {
            Some(port) => SocketAddr::new(self.address(4, 1), port),
            None => SocketAddr::new(self.address(1, self.client), self.sport),
        };
        AnyKey::new(src, dst, self.protocol).unwrap()
    }
}

/// The words of a packet with this key.
pub(super) fn plain<E: Ends, A: Address>(key: &FlowKey<A>, flags: TcpFlags) -> Plain<E> {
    let ([s0, s1], [d0, d1]) = (key.src.words(), key.dst.words());
    let ends = match A::FAMILY {
        Family::V4 => E::from_words(&[s0 << 32 | d0]),
        Family::V6 => E::from_words(&[s0, s1, d0, d1]),
    };
    Plain {
        ends: ends.expect("the words of its family"),
        ports: key.ports(),
        ip_len: 60,
        ttl: 64,
        flags,
        protocol: key.protocol,
        ip_checksum_right: true,
        unfinished: false,
    }
}

#[derive(Clone, Debug)]
pub(super) enum Op {
    Insert(Tuple),
    /// A packet with one of the tuple's keys.
    Packet(Tuple, Direction, TcpFlags),
    Remove(Tuple),
    Pass(u32),
    Sweep(u32),
    Kill(u8),
    Route(Tuple, Direction, u32, u16),
}

fn tuples() -> impl Strategy<Value = Tuple> {
    let protocol = select(Protocol::ALL.to_vec());
    (any::<bool>(), protocol, 0u8..4, 0u16..6, 0u8..3, prop::option::of(0u16..6)).prop_map(
        |(ipv6, protocol, client, sport, backend, snat_port)| Tuple {
            ipv6,
            protocol,
            client,
            sport,
            backend,
            snat_port,
        },
    )
}

pub(super) fn ops() -> impl Strategy<Value = Op> {
    let direction = || select(vec![Direction::Original, Direction::Reply]);
    let flags = select(vec![0x02, 0x12, 0x10, 0x11, 0x04, 0x14]).prop_map(TcpFlags);
    prop_oneof![
        8 => tuples().prop_map(Op::Insert),
        8 => (tuples(), direction(), flags).prop_map(|(tuple, direction, flags)| Op::Packet(tuple, direction, flags)),
        1 => tuples().prop_map(Op::Remove),
        3 => (0u32..200).prop_map(Op::Pass),
        2 => (0u32..20).prop_map(Op::Sweep),
        1 => (0u8..3).prop_map(Op::Kill),
        2 => (tuples(), direction(), 0u32..3, 0u16..5).prop_map(|(t, d, e, h)| Op::Route(t, d, e, h)),
    ]
}
