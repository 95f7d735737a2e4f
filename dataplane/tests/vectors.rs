//! One packet in, what comes out: a row for every rule of the packet path.

use dataplane::testkit::{Fixture, INSIDE, OUTSIDE, Rig, RigConfig};
use packet::{
    Protocol, TcpFlags,
    testkit::{PacketBuilder, assert_valid_checksums, flow_of},
};
use tables::{FrontendKind, NatMode};

/// From the client's side: to the outside port.
fn from_client(packet: PacketBuilder) -> Vec<u8> {
    packet.macs(Fixture::port_mac(OUTSIDE), Fixture::neighbor_mac(OUTSIDE, 2)).build()
}

/// From Node 1's side: to the inside port.
fn from_node(packet: PacketBuilder) -> Vec<u8> {
    packet.macs(Fixture::port_mac(INSIDE), Fixture::neighbor_mac(INSIDE, 11)).build()
}

#[test]
fn smoke() {
    let mut fixture = Fixture::data_centre();
    let web = fixture.service("web", Protocol::Tcp, &["10.244.1.5:8080"], NatMode::Snat);
    fixture.vip(FrontendKind::LoadBalancer, "203.0.113.10:80", web);
    let mut rig = Rig::new(&RigConfig::default(), fixture.tables());
    rig.settle();
    let syn = from_client(PacketBuilder::tcp("192.0.2.2:40000", "203.0.113.10:80").flags(TcpFlags::SYN));
    let out = rig.exchange(OUTSIDE, &syn);
    let [(INSIDE, frame)] = &out[..] else { panic!("{out:?} {:?}", rig.counts()) };
    assert_valid_checksums(frame);
    let key = flow_of(frame);
    assert_eq!(key.dst().to_string(), "10.244.1.5");
    let reply = from_node(PacketBuilder::flow(key.reversed()).flags(TcpFlags::SYN | TcpFlags::ACK));
    let out = rig.exchange(INSIDE, &reply);
    let [(OUTSIDE, frame)] = &out[..] else { panic!("{out:?} {:?}", rig.counts()) };
    assert_valid_checksums(frame);
    assert_eq!(flow_of(frame).to_string(), "TCP 203.0.113.10:80 > 192.0.2.2:40000");
}
