//! An object means the same whether a file or an API server gave it; hostile ones cost little.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::json::Json;
use super::kind::Kind;
use super::saved::{self, Saver};
use crate::manifests::object::{Id, Object, Reading, read, read_one};
use crate::model::Node;
use crate::state_dir::StateDir;

/// As a watch gives it: without `apiVersion` and `kind`, as in a list.
fn from_server(kind: Kind, object: &Value) -> Option<Reading> {
    let text = object.to_string();
    let Json(tree) = serde_json::from_str(&text).expect("JSON");
    read_one(kind.resources()[0].version, kind.name(), &tree)
}

/// As a manifest of the same text; the object and how many problems.
fn from_file(kind: Kind, object: &Value) -> (Option<Object>, usize) {
    let mut object = object.clone();
    object["apiVersion"] = kind.resources()[0].version.into();
    object["kind"] = kind.name().into();
    let content = read(&object.to_string());
    (content.objects.into_values().next().map(|(_, object)| object), content.problems.len())
}

/// What API servers have stored over the years, and what they never would.
const ADDRESSES: [&str; 12] = [
    "10.1.0.1",
    "172.30.0.041",
    "::ffff:10.1.0.2",
    "2001:db8::1",
    " 10.1.0.3 ",
    "127.0.0.1",
    "169.254.1.1",
    "224.0.0.1",
    "fe80::1",
    "10.1.0",
    "",
    "None",
];

fn address() -> impl Strategy<Value = Value> {
    prop_oneof![9 => prop::sample::select(&ADDRESSES[..]).prop_map(Value::from), 1 => Just(Value::Null), 1 => Just(json!(7))]
}

fn list_of(item: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    prop_oneof![1 => Just(Value::Null), 9 => prop::collection::vec(item, 0..4).prop_map(Value::from)]
}

fn one_of(values: &[Value]) -> impl Strategy<Value = Value> + use<> {
    prop::sample::select(values.to_vec())
}

fn port() -> impl Strategy<Value = Value> {
    let number = one_of(&[json!(80), json!(0), json!(65_536), json!("80"), Value::Null]);
    let name = one_of(&[json!("http"), json!(""), Value::Null, json!("1")]);
    let protocol = one_of(&[json!("TCP"), json!("UDP"), json!("SCTP"), Value::Null, json!("QUIC")]);
    (number, name, protocol, one_of(&[json!(30_080), Value::Null, json!(0)])).prop_map(
        |(port, name, protocol, node_port)| json!({"port": port, "name": name, "protocol": protocol, "nodePort": node_port}),
    )
}

fn service() -> impl Strategy<Value = Value> {
    let kind = one_of(&[json!("LoadBalancer"), json!("ExternalName"), Value::Null, json!("Other")]);
    let policy = one_of(&[json!("Local"), json!("Cluster"), Value::Null]);
    let affinity = one_of(&[json!("ClientIP"), json!("None"), Value::Null]);
    let ranges = list_of(one_of(&[json!("10.0.0.0/8"), json!(" 010.1.0.0/16"), json!("10.0.0.0/33")]));
    let families = list_of(one_of(&[json!("IPv4"), json!("IPv6")]));
    let ingress = list_of(
        (address(), one_of(&[json!("VIP"), json!("Proxy"), Value::Null]))
            .prop_map(|(ip, mode)| json!({"ip": ip, "ipMode": mode, "hostname": "h"})),
    );
    let annotations =
        one_of(&[json!({"fairlead.dev/mode": "dnat"}), Value::Null, json!({"fairlead.dev/mode": 1})]);
    (
        (kind, policy, affinity, ranges, families),
        (list_of(address()), address(), list_of(address()), list_of(port()), ingress, annotations),
    )
        .prop_map(|((kind, policy, affinity, ranges, families), (ips, ip, external, ports, ingress, annotations))| {
            json!({
                "metadata": {"namespace": "shop", "name": "web", "annotations": annotations, "managedFields": [{"f": 1}],
                    "creationTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"type": kind, "externalTrafficPolicy": policy, "sessionAffinity": affinity, "clusterIPs": ips,
                    "clusterIP": ip, "externalIPs": external, "ports": ports, "loadBalancerSourceRanges": ranges,
                    "ipFamilies": families},
                "status": {"loadBalancer": {"ingress": ingress}},
            })
        })
}

fn slice() -> impl Strategy<Value = Value> {
    let condition = || one_of(&[json!(true), json!(false), Value::Null]);
    let hints = one_of(&[Value::Null, json!({"forZones": [{"name": "z"}], "forNodes": null})]);
    let endpoint = (list_of(address()), condition(), condition(), condition(), hints).prop_map(
        |(addresses, ready, serving, terminating, hints)| {
            json!({"addresses": addresses, "nodeName": "n1", "hints": hints,
                "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
        },
    );
    let labels = one_of(&[
        json!({"kubernetes.io/service-name": "web"}),
        json!({"kubernetes.io/service-name": "web", "service.kubernetes.io/headless": ""}),
        Value::Null,
    ]);
    let family = one_of(&[json!("IPv4"), json!("IPv6"), json!("FQDN"), Value::Null]);
    (labels, family, list_of(endpoint), list_of(port())).prop_map(|(labels, family, endpoints, ports)| {
        json!({"metadata": {"namespace": "shop", "name": "web-1", "labels": labels}, "addressType": family,
            "endpoints": endpoints, "ports": ports})
    })
}

fn node() -> impl Strategy<Value = Value> {
    let address = (one_of(&[json!("InternalIP"), json!("ExternalIP"), json!("Hostname")]), address())
        .prop_map(|(kind, address)| json!({"type": kind, "address": address}));
    let cidrs = list_of(one_of(&[json!("10.1.0.0/24"), json!("fd00::/64"), json!("10.1.0/24")]));
    let zone = one_of(&[json!({"topology.kubernetes.io/zone": "z"}), Value::Null]);
    (cidrs, list_of(address), zone).prop_map(|(cidrs, addresses, labels)| {
        json!({"metadata": {"name": "n1", "labels": labels}, "spec": {"podCIDRs": cidrs, "podCIDR": "10.2.0.0/24"},
            "status": {"addresses": addresses}})
    })
}

fn object() -> impl Strategy<Value = (Kind, Value)> {
    let cidr = list_of(one_of(&[json!("10.96.0.0/12"), json!("fd96::/112")]))
        .prop_map(|cidrs| json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": cidrs}}));
    let labels = one_of(&[json!({"team": "a"}), Value::Null]);
    let namespace = labels.prop_map(|labels| json!({"metadata": {"name": "shop", "labels": labels}}));
    let selector = one_of(&[
        Value::Null,
        json!({"matchLabels": {"team": "a"}}),
        json!({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["db"]}]}),
        json!({"matchExpressions": [{"key": "tier", "operator": "Is"}]}),
    ]);
    let pool = (list_of(one_of(&[json!("203.0.113.0/28"), json!("2001:db8::/120"), json!("203.0.113.0/33")])), selector)
        .prop_map(|(cidrs, selector)| {
            json!({"metadata": {"name": "public", "generation": 2, "creationTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"cidrs": cidrs, "autoAssign": false, "namespaceSelector": selector}})
        });
    prop_oneof![
        namespace.prop_map(|it| (Kind::Namespace, it)),
        pool.prop_map(|it| (Kind::AddressPool, it)),
        service().prop_map(|it| (Kind::Service, it)),
        slice().prop_map(|it| (Kind::EndpointSlice, it)),
        node().prop_map(|it| (Kind::Node, it)),
        cidr.prop_map(|it| (Kind::ServiceCidr, it)),
    ]
}

proptest! {
    /// Equal where a file is taken; where a file is refused the server's object has the same number of problems.
    #[test]
    fn a_file_and_a_server_say_the_same((kind, object) in object()) {
        let (of_file, problems) = from_file(kind, &object);
        let reading = from_server(kind, &object).expect("it has a name");
        let of_server = (problems > 0).then_some(()).and(reading.object.as_ref());
        if let Some(Object::AddressPool(pool)) = of_server {
            prop_assert!(!pool.faults.is_empty(), "half a pool");
        }
        if problems == 0 {
            prop_assert_eq!(reading.object, of_file);
            prop_assert_eq!(reading.problems, []);
        } else {
            prop_assert!(reading.problems.len() == problems.min(9), "{:?} of {problems}", reading.problems);
        }
    }

    /// What is written down is what is read again.
    #[test]
    fn a_saved_state_is_read_as_it_was(objects in prop::collection::vec(object(), 0..20)) {
        let folder = tempfile::tempdir().expect("folder");
        let state = StateDir::open(folder.path()).expect("a state directory");
        let objects = objects.iter().filter_map(|(kind, object)| from_server(*kind, object)?.object);
        let objects = objects.map(|object| (object.id(), object)).collect();
        saved::write(&state, "here", &objects).expect("written");
        prop_assert_eq!(saved::read(&state, "here"), Ok(Some(objects)));
    }
}

#[test]
fn a_file_that_is_not_ours_or_damaged_is_not_used() {
    let folder = tempfile::tempdir().expect("folder");
    let state = StateDir::open(folder.path()).expect("a state directory");
    assert_eq!(saved::read(&state, "here"), Ok(None));
    for (text, word) in [
        ("", "EOF"),
        ("{\"version\":1,\"source\":\"there\"}\n", "it is of there, not of here"),
        ("{\"version\":2,\"source\":\"here\"}\n", "version 2, 1 is expected"),
        ("{\"version\":1,\"source\":\"here\"}\n{\"Node\":{\"name\":", "line 2"),
        ("{\"version\":1,\"source\":\"here\"}\n{\"Pod\":{}}\n", "unknown variant `Pod`"),
    ] {
        state.write("kubernetes", text.as_bytes()).expect("written");
        let why = saved::read(&state, "here").expect_err(text);
        assert!(why.contains(word) && why.ends_with("; it is not used"), "{why}");
    }
    // An older version of this program knew fewer fields.
    let old = "{\"version\":1,\"source\":\"here\"}\n{\"Node\":{\"name\":\"n\"}}\n";
    state.write("kubernetes", old.as_bytes()).expect("written");
    assert_eq!(saved::read(&state, "here").expect("good").expect("there").len(), 1);
}

/// What changed since the last write is all that is handed over; what did not stays in the file.
#[tokio::test(start_paused = true)]
async fn the_file_holds_every_change_and_what_did_not_change() {
    let folder = tempfile::tempdir().expect("folder");
    let state = Arc::new(StateDir::open(folder.path()).expect("a state directory"));
    let mut saver = Saver::new(Arc::clone(&state), "here".into());
    let node = |name: &str, zone: &str| {
        let node = Node { name: name.into(), zone: Some(zone.into()), ..Node::default() };
        (Id::Node(name.into()), Object::Node(Arc::new(node)))
    };
    let steps = [
        (vec![node("a", "1"), node("b", "1"), node("c", "1")], vec![], "a1 b1 c1"),
        (vec![node("b", "2")], vec!["c"], "a1 b2"),
        (vec![node("c", "3")], vec!["a", "unknown"], "b2 c3"),
    ];
    for (now, gone, want) in steps {
        now.into_iter().for_each(|(id, object)| saver.note(id, Some(object)));
        gone.into_iter().for_each(|name| saver.note(Id::Node(name.into()), None));
        let held = || {
            let objects = saved::read(&state, "here").expect("a good file").unwrap_or_default();
            let text = |object: &Object| match object {
                Object::Node(node) => format!("{}{}", node.name, node.zone.as_deref().unwrap_or_default()),
                other => panic!("{other:?}"),
            };
            objects.values().map(text).collect::<Vec<_>>().join(" ")
        };
        // Writes begin at least 5 s after each other; the paused clock passes at once.
        for _ in 0..20 {
            saver.tend().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(held(), want);
    }
}

#[test]
fn hostile_objects_are_read_in_time_and_as_from_a_file() {
    let ports: Vec<_> =
        (0..10_000).map(|at| json!({"name": format!("p{at}"), "port": at % 65_535 + 1})).collect();
    let same: Vec<_> = (0..10_000).map(|_| json!({"port": 80})).collect();
    let endpoints: Vec<_> = (0..100_000u32)
        .map(|at| json!({"addresses": [format!("10.{}.{}.{}", at >> 16, at >> 8 & 255, at & 255)]}))
        .collect();
    let slice = json!({"metadata": {"name": "s", "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
        "ports": [{"port": 80}], "endpoints": endpoints});
    for (name, kind, object) in [
        ("10,000 ports", Kind::Service, json!({"metadata": {"name": "s"}, "spec": {"ports": ports}})),
        ("one port 10,000 times", Kind::Service, json!({"metadata": {"name": "s"}, "spec": {"ports": same}})),
        ("100,000 endpoints", Kind::EndpointSlice, slice),
    ] {
        let begun = Instant::now();
        let reading = from_server(kind, &object).expect("a name");
        // Far over what it takes, far below what a cost that grows with the square would take.
        assert!(begun.elapsed() < Duration::from_secs(10), "{name}: {:?}", begun.elapsed());
        let (of_file, problems) = from_file(kind, &object);
        assert!(problems > 0 || reading.object == of_file, "{name}");
        assert!(reading.problems.len() <= 9, "{name}");
    }
}

#[test]
fn a_field_that_is_not_understood_costs_the_field_and_is_told() {
    let object = json!({"metadata": {"name": "web"}, "spec": {"clusterIP": "10.96.0.1",
        "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81, "protocol": "QUIC"}]}});
    let reading = from_server(Kind::Service, &object).expect("a name");
    let Some(Object::Service(service)) = &reading.object else { panic!("{reading:?}") };
    assert_eq!(service.ports.len(), 1);
    assert_eq!(
        service.notes,
        ["spec.ports[1].protocol: `QUIC` is not known; one of TCP, UDP, SCTP is expected"]
    );
    let nameless = json!({"metadata": {}});
    assert_eq!(from_server(Kind::Service, &nameless), None);
}
