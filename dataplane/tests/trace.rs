//! Trace says what the workers do.

#![expect(clippy::unwrap_used, reason = "a test")]

use dataplane::{
    testkit::{Fixture, OUTSIDE, Rig, RigConfig},
    trace::{Explanation, Moment, Verdict, explain as explain_moment},
};
use packet::{
    AnyKey, Protocol, TcpFlags,
    testkit::{PacketBuilder, flow_of},
};
use tables::{Backend, FrontendKind, NatMode, NodeId, Source, Tables};

fn key(src: &str, dst: &str) -> AnyKey {
    AnyKey::new(src.parse().unwrap(), dst.parse().unwrap(), Protocol::Tcp).unwrap()
}

fn explain(tables: &Tables, key: &AnyKey) -> Explanation {
    explain_moment(tables, key, Moment::First)
}

fn fixture() -> Fixture {
    let mut fixture = Fixture::data_centre();
    let backends: Vec<String> = (1..=9).map(|n| format!("10.244.1.{n}:80")).collect();
    let backends: Vec<&str> = backends.iter().map(String::as_str).collect();
    let web = fixture.service("web", Protocol::Tcp, &backends, NatMode::Dnat);
    fixture.vip(FrontendKind::LoadBalancer, "203.0.113.10:80", web);
    fixture.vip(FrontendKind::ClusterIp, "10.96.0.10:80", web);
    let empty = fixture.service("empty", Protocol::Tcp, &[], NatMode::Snat);
    fixture.vip(FrontendKind::ExternalIp, "198.51.100.7:80", empty);
    fixture
}

#[test]
fn verdicts_and_reasons() {
    let tables = fixture().tables();
    for (src, dst, verdict, reason) in [
        ("192.0.2.2:1", "203.0.113.10:80", Verdict::Forward, "Balanced"),
        ("192.0.2.2:1", "203.0.113.10:81", Verdict::Pass, "VipPortUnknown"),
        ("192.0.2.2:1", "10.96.0.10:81", Verdict::Reject, "VipPortUnknown"),
        ("192.0.2.2:1", "10.96.0.11:80", Verdict::Drop, "ServiceCidrUnallocated"),
        ("192.0.2.2:1", "198.51.100.7:80", Verdict::Reject, "NoEndpoints"),
        ("192.0.2.2:1", "192.0.2.1:22", Verdict::Deliver, "Own"),
        ("192.0.2.2:1", "10.244.1.5:80", Verdict::Pass, "Routed"),
    ] {
        let answer = explain(&tables, &key(src, dst));
        assert_eq!((answer.verdict, answer.reason), (verdict, reason), "{src} > {dst}");
        assert_eq!(answer.generation, tables.generation);
    }
    let answer = explain(&tables, &key("192.0.2.2:1", "203.0.113.10:80"));
    assert_eq!(answer.service.as_deref(), Some("default/web:80"));
    assert_eq!((answer.frontend, answer.mode), (Some(FrontendKind::LoadBalancer), Some(NatMode::Dnat)));
    assert_eq!(answer.candidates.len(), 9);
    assert!(answer.candidates.contains(&answer.backend.unwrap()) && !answer.snat());
    assert!(explain(&tables, &key("10.244.2.9:1", "203.0.113.10:80")).snat(), "a pod's reply would bypass");
}

#[test]
fn an_appliance_that_is_a_node_translates_as_its_rules_say() {
    let mut tables = fixture().tables();
    tables.acts_as = Some(NodeId(77));
    assert!(!explain(&tables, &key("10.244.2.9:1", "203.0.113.10:80")).snat(), "pods keep their address");
    for here in [true, false] {
        let node = here.then_some(NodeId(77));
        let of: Vec<_> = tables.backends.iter().map(|backend| Backend { node, ..*backend }).collect();
        for backend in of {
            tables.backends.insert(backend);
        }
        let answers: Vec<_> = (1..200)
            .map(|sport| explain(&tables, &key(&format!("10.244.1.5:{sport}"), "203.0.113.10:80")))
            .collect();
        for answer in &answers {
            let hairpin = answer.backend == Some("10.244.1.5:80".parse().unwrap());
            assert_eq!(answer.snat(), hairpin && here, "{answer:?}");
        }
        let reached = |answer: &Explanation| answer.backend == Some("10.244.1.5:80".parse().unwrap());
        assert!(answers.iter().any(reached), "some of 200 flows reach the client itself");
    }
}

#[test]
fn what_ends_at_the_own_node_is_not_translated() {
    let mut fixture = Fixture::data_centre();
    let web = fixture.service("web", Protocol::Tcp, &["10.9.9.9:80"], NatMode::Snat);
    fixture.vip(FrontendKind::LoadBalancer, "203.0.113.10:80", web);
    fixture.source("10.9.9.9/32", Source::Node(NodeId(77)));
    let mut tables = fixture.tables();
    for (this, snat) in [(Some(NodeId(77)), false), (Some(NodeId(78)), true), (None, true)] {
        tables.acts_as = this;
        assert_eq!(explain(&tables, &key("192.0.2.2:1", "203.0.113.10:80")).snat(), snat, "{this:?}");
    }
}

#[test]
fn service_addresses_are_checked_after_translation_too() {
    let mut fixture = Fixture::data_centre();
    for (vip, backend) in [("203.0.113.11:80", "10.96.0.99:80"), ("203.0.113.12:80", "10.96.0.10:81")] {
        let service = fixture.service("web", Protocol::Tcp, &[backend], NatMode::Snat);
        fixture.vip(FrontendKind::LoadBalancer, vip, service);
        fixture.vip(FrontendKind::ClusterIp, "10.96.0.10:80", service);
    }
    let inside = fixture.service("inside", Protocol::Tcp, &["10.244.1.5:80"], NatMode::Snat);
    fixture.vip(FrontendKind::ExternalIp, "10.96.7.7:80", inside);
    let tables = fixture.tables();
    for (dst, verdict, reason) in [
        ("203.0.113.11:80", Verdict::Drop, "BackendIsService"),
        ("203.0.113.12:80", Verdict::Reject, "BackendIsService"),
        ("10.96.7.7:80", Verdict::Forward, "Balanced"),
        ("10.96.7.7:81", Verdict::Drop, "ServiceCidrUnallocated"),
    ] {
        let answer = explain(&tables, &key("192.0.2.2:1", dst));
        assert_eq!((answer.verdict, answer.reason), (verdict, reason), "{dst}");
    }
}

#[test]
fn the_worker_picks_the_backend_that_trace_names() {
    let tables = fixture().tables();
    let mut rig = Rig::new(&RigConfig::default(), tables.clone());
    rig.settle();
    rig.all_sent();
    for sport in 1_000..1_200 {
        let key = key(&format!("192.0.2.2:{sport}"), "203.0.113.10:80");
        let syn = PacketBuilder::flow(key).flags(TcpFlags::SYN);
        let syn = syn.macs(Fixture::port_mac(OUTSIDE), Fixture::neighbor_mac(OUTSIDE, 2)).build();
        let out = rig.exchange(OUTSIDE, &syn);
        let sent = flow_of(&out.first().unwrap().1);
        let backend = explain(&tables, &key).backend.unwrap();
        assert_eq!((sent.dst(), sent.dport()), (backend.ip(), backend.port()));
    }
}

#[test]
fn a_datagram_of_an_endpoint_is_an_answer() {
    let mut fixture = fixture();
    let backends = ["10.244.1.1:53", "10.244.2.1:53"];
    let dns = fixture.service("dns", Protocol::Udp, &backends, NatMode::Dnat);
    fixture.vip(FrontendKind::LoadBalancer, "203.0.113.10:53", dns);
    let tables = fixture.tables();
    let ask = |src: &str, dst: &str, protocol| {
        explain(&tables, &AnyKey::new(src.parse().unwrap(), dst.parse().unwrap(), protocol).unwrap())
    };
    for sport in 1..50 {
        let client = format!("192.0.2.2:{sport}");
        let had = ask(&client, "203.0.113.10:53", Protocol::Udp).backend.unwrap().to_string();
        for backend in backends {
            let answer = ask(backend, &client, Protocol::Udp);
            if backend == had {
                assert_eq!((answer.verdict, answer.reason), (Verdict::Forward, "Answered"));
                assert_eq!(answer.service.as_deref(), Some("default/dns:80"));
                assert_eq!(answer.frontend, Some(FrontendKind::LoadBalancer));
                assert_eq!(
                    (answer.backend, answer.mode),
                    (Some(backend.parse().unwrap()), Some(NatMode::Dnat))
                );
                assert_eq!(answer.candidates.len(), 2);
            } else {
                assert_eq!((answer.verdict, answer.reason), (Verdict::Drop, "ReplyWithoutFlow"));
            }
        }
    }
    for (name, src, dst, protocol) in [
        ("another port", "10.244.1.1:54", "192.0.2.2:1", Protocol::Udp),
        ("to a pod", "10.244.1.1:53", "10.244.2.9:1", Protocol::Udp),
        ("a SYN", "10.244.1.1:80", "192.0.2.2:1", Protocol::Tcp),
    ] {
        let answer = ask(src, dst, protocol);
        assert_eq!((answer.verdict, answer.reason), (Verdict::Pass, "Routed"), "{name}");
    }
}
