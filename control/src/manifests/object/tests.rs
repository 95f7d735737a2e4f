use std::net::IpAddr;

use packet::Family;

use super::value::{ip, net};
use super::*;
use crate::model::{ServicePort, ServiceType, SlicePort, TrafficPolicy};

fn one_service(text: &str) -> Service {
    let content = read(text);
    assert_eq!(content.problems, [], "{text}");
    match content.objects.into_values().next().expect("one object").1 {
        Object::Service(service) => (*service).clone(),
        other => panic!("{other:?}"),
    }
}

fn faults(text: &str) -> Vec<String> {
    read(text).problems.iter().map(|problem| format!("{}: {problem}", problem.line)).collect()
}

const HEAD: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n";

#[test]
fn a_service_gets_the_servers_defaults() {
    let service = one_service(&format!("{HEAD}spec:\n  clusterIP: 10.96.0.10\n  ports: [{{port: 80}}]\n"));
    assert_eq!(service.key, ObjectKey::new("default", "web"));
    assert_eq!(service.kind, ServiceType::ClusterIp);
    assert_eq!(service.families, [Family::V4]);
    assert_eq!(service.cluster_ips, ["10.96.0.10".parse::<IpAddr>().unwrap()]);
    let port = ServicePort { name: String::new(), protocol: Protocol::Tcp, port: 80, node_port: None };
    assert_eq!(service.ports, [port]);
    assert_eq!(service.affinity_timeout_s, None);
    assert_eq!(service.external_policy, TrafficPolicy::Cluster);
}

#[test]
fn affinity_lasts_three_hours_unless_told() {
    for (config, want) in [("", 10_800), ("  sessionAffinityConfig: {clientIP: {timeoutSeconds: 5}}\n", 5)] {
        let text = format!(
            "{HEAD}spec:\n  sessionAffinity: ClientIP\n{config}  ports: [{{port: 80, targetPort: http}}]\n"
        );
        assert_eq!(one_service(&text).affinity_timeout_s, Some(want));
    }
}

#[test]
fn addresses_of_old_objects_are_read_liberally() {
    for (text, want) in [
        ("172.30.0.041", Some("172.30.0.41")),
        (" 10.0.0.1 ", Some("10.0.0.1")),
        ("::ffff:10.0.0.1", Some("10.0.0.1")),
        ("10.0.0", None),
        ("10.0.0.256", None),
        ("10.0.0.1.2", None),
        ("2001:db8::1", Some("2001:db8::1")),
    ] {
        assert_eq!(ip(text), want.map(|want| want.parse().unwrap()), "{text}");
    }
    assert_eq!(net(" 010.1.2.3/8 "), Some("10.0.0.0/8".parse().unwrap()));
}

#[test]
fn slices_take_null_lists_and_absent_conditions() {
    let text = "\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}, {name: none}]
endpoints:
- addresses: [10.1.0.1, 10.1.0.2]
  conditions: {ready: null, serving: false}
  nodeName: n1
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-2, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: null
ports: null
";
    let content = read(text);
    assert_eq!(content.problems, []);
    let id = Id::EndpointSlice(ObjectKey::new("default", "web-1"));
    let Some((1, Object::EndpointSlice(slice))) = content.objects.get(&id) else { panic!("{content:?}") };
    assert_eq!(slice.ports, [SlicePort { name: String::new(), protocol: Protocol::Tcp, port: 8080 }]);
    let endpoint = &slice.endpoints[0];
    assert_eq!(endpoint.address.to_string(), "10.1.0.1");
    assert_eq!((endpoint.ready, endpoint.serving, endpoint.terminating), (true, false, false));
    assert_eq!(content.objects.len(), 2);
}

#[test]
fn slices_without_owner_headless_or_by_name_are_left_out() {
    for (labels, kind) in [
        ("{}", "IPv4"),
        ("{kubernetes.io/service-name: web, service.kubernetes.io/headless: \"\"}", "IPv4"),
        ("{kubernetes.io/service-name: web}", "FQDN"),
    ] {
        let text = format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: x, labels: {labels}}}\naddressType: {kind}\nendpoints: []\n"
        );
        let content = read(&text);
        assert!(content.objects.is_empty() && content.problems.is_empty(), "{labels} {kind}: {content:?}");
    }
}

#[test]
fn lists_of_any_kind_are_opened_and_foreign_kinds_counted() {
    let text = "\
{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [
 {\"apiVersion\": \"v1\", \"kind\": \"Node\", \"metadata\": {\"name\": \"n1\"}},
 {\"apiVersion\": \"apps/v1\", \"kind\": \"Deployment\", \"metadata\": {\"name\": \"d\"}},
 {\"apiVersion\": \"serving.knative.dev/v1\", \"kind\": \"Service\", \"metadata\": {\"name\": \"k\"}},
 {\"apiVersion\": \"v1\", \"kind\": \"ServiceList\", \"items\": [
  {\"metadata\": {\"name\": \"web\"}, \"spec\": {\"ports\": [{\"port\": 80, \"targetPort\": 8080}]}}]}]}";
    let content = read(text);
    assert_eq!(content.problems, []);
    assert_eq!(content.objects.len(), 2);
    assert_eq!(content.ignored, BTreeMap::from([("Deployment".into(), 1), ("Service".into(), 1)]));
}

#[test]
fn faults_name_line_object_path_and_expectation() {
    let text = "\
apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: shop
spec:
  type: Loadbalancer
  clusterIP: 10.96.0.300
  ports:
  - port: 0
    protocol: ICMP
  - name: b
---
kind: Service
---
apiVersion: v1
kind: Node
metadata: {name: n}
spec: {podCIDRs: [10.1.0.0/33]}
";
    assert_eq!(
        faults(text),
        [
            "7: Service shop/web: spec.type: `Loadbalancer` is not known; one of ClusterIP, NodePort, LoadBalancer, ExternalName is expected",
            "8: Service shop/web: spec.clusterIP: `10.96.0.300` is not valid; an IP address is expected",
            "10: Service shop/web: spec.ports[0].port: `0` is not valid; a number from 1 to 65535 is expected",
            "11: Service shop/web: spec.ports[0].protocol: `ICMP` is not known; one of TCP, UDP, SCTP is expected",
            "12: Service shop/web: spec.ports[1]: `port` is missing; a number from 1 to 65535 is expected",
            "14: no `apiVersion` and `kind`; a Kubernetes object is expected",
            "19: Node n: spec.podCIDRs[0]: `10.1.0.0/33` is not valid; a CIDR such as 10.0.0.0/8 is expected",
        ]
    );
}

#[test]
fn a_service_asks_for_addresses_in_two_vocabularies() {
    let text = HEAD.replace(
        "{name: web}",
        "{name: web, labels: {tier: edge}, annotations: {fairlead.dev/ips: \"203.0.113.9,2001:db8::9\", fairlead.dev/pool: p, fairlead.dev/sharing-key: k, metallb.io/loadBalancerIPs: 203.0.113.8, metallb.io/address-pool: q, metallb.io/allow-shared-ip: l}}",
    );
    let spec = "spec: {ports: [{port: 80}], selector: {app: web}, ipFamilyPolicy: RequireDualStack}\n";
    let service = one_service(&format!("{text}{spec}"));
    let told = |asks: &crate::model::AddressRequest| {
        [&asks.ips, &asks.pool, &asks.sharing_key].map(|text| text.clone().unwrap_or_default())
    };
    assert_eq!(told(&service.asks), ["203.0.113.9,2001:db8::9", "p", "k"]);
    assert_eq!(told(&service.asks_metallb), ["203.0.113.8", "q", "l"]);
    assert_eq!((&service.labels["tier"], &service.selector["app"]), (&"edge".into(), &"web".into()));
    assert_eq!(service.family_policy, crate::model::FamilyPolicy::RequireDualStack);
}

#[test]
fn a_key_that_stands_twice_does_not_end_the_report() {
    let text = format!("{HEAD}spec:\n  type: A\n  type: B\n---\n{HEAD}spec: {{type: C}}\n---\nkind: [\n");
    let lines: Vec<_> = read(&text).problems.iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [5, 6, 8, 11, 14], "{:?}", faults(&text));
}

#[test]
fn what_the_server_keeps_of_a_service_is_read() {
    let text = HEAD.replace(
        "{name: web}",
        "{name: web, uid: u-1, deletionTimestamp: 2026-01-01T00:00:00Z, finalizers: [a, fairlead.dev/load-balancer]}",
    );
    let status = "status: {conditions: [{type: LoadBalancerPortsError, status: \"True\"}]}\n";
    let upkeep = one_service(&format!("{text}spec: {{ports: [{{port: 80}}]}}\n{status}")).upkeep;
    let want = crate::model::Upkeep { uid: "u-1".into(), deleting: true, finalizer: true, ports_error: true };
    assert_eq!(upkeep, want);
    let other = text
        .replace("fairlead.dev/load-balancer", "fairlead.dev/other")
        .replace(", deletionTimestamp: 2026-01-01T00:00:00Z", "");
    let status = status.replace("True", "False");
    let upkeep = one_service(&format!("{other}spec: {{ports: [{{port: 80}}]}}\n{status}")).upkeep;
    assert_eq!(upkeep, crate::model::Upkeep { uid: "u-1".into(), ..Default::default() });
}

#[test]
fn an_object_twice_in_a_file_is_a_fault() {
    let text = format!("{HEAD}spec: {{}}\n---\n{HEAD}spec: {{}}\n");
    assert_eq!(
        faults(&text),
        ["6: Service default/web: stands on line 1 of this file too; every object once is expected"]
    );
}

proptest::proptest! {
    /// Damaged files are read or refused, and a refusal names a line of the file.
    #[test]
    fn damage_is_refused_or_harmless(cuts in proptest::collection::vec((0usize..600, 0usize..12), 1..4)) {
        let mut text = format!(
            "{HEAD}spec:\n  clusterIPs: [10.96.0.10, \"fd96::1\"]\n  ports: [{{name: a, port: 80, nodePort: 30080}}]\n  sessionAffinity: ClientIP\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: s\n  labels: {{kubernetes.io/service-name: web}}\naddressType: IPv4\nports: [{{name: a, port: 1}}]\nendpoints:\n- addresses: [10.1.0.1]\n  conditions: {{ready: true}}\n  hints: {{forZones: [{{name: z}}]}}\n"
        );
        for (at, len) in cuts {
            let at = at.min(text.len());
            let end = (at + len).min(text.len());
            text.replace_range(at..end, "");
        }
        let lines = text.lines().count() + 1;
        for problem in read(&text).problems {
            proptest::prop_assert!((1..=lines).contains(&problem.line), "{problem:?} of {lines} lines");
        }
    }
}
