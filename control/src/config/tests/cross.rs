//! Faults between keys.

use super::*;

#[test]
fn faults_between_keys_are_found() {
    for (added, want) in [
        (
            "routes: [{to: 10.9.0.0/16, via: 10.0.0.1}]",
            "f.yaml:9: routes[0].via: 10.0.0.1 is in no subnet of a port; a neighbour of the appliance is expected",
        ),
        (
            "routes: [{to: 2001:db8::/32, via: 192.0.2.9}]",
            "f.yaml:9: routes[0].via: 2001:db8::/32 and 192.0.2.9 differ in family; one family is expected",
        ),
        (
            "routes: [{to: 10.9.0.0/16, via: [192.0.2.8, 192.0.2.9, 192.0.2.8]}]",
            "f.yaml:9: routes[0].via: 192.0.2.8 stands twice; every next hop once is expected",
        ),
        (
            "routes: [{to: 10.9.0.0/16, via: []}]",
            "f.yaml:9: routes[0].via: 0 next hops; 1 to 16 are expected",
        ),
        (
            "routes: [{to: 10.9.0.0/16, via: [192.0.2.8], blackhole: true}]",
            "f.yaml:9: routes[0].via: a blackhole has no next hop; either `via` or `blackhole: true` is expected",
        ),
        (
            "routes: [{to: 10.9.0.0/16, blackhole: false}]",
            "f.yaml:9: routes[0]: `via` is missing; a value is expected",
        ),
        (
            "neighbors: [{address: 192.0.2.9, mac: \"02:00:00:00:00:0b\", port: inside}]",
            "f.yaml:9: neighbors[0].port: there is no port `inside`; one of outside is expected",
        ),
        (
            "neighbors: [{address: 192.0.2.9, mac: \"03:00:00:00:00:0b\", port: outside}]",
            "f.yaml:9: neighbors[0].mac: a group's or nobody's address; the Ethernet address of one station is expected",
        ),
        (
            "pools: [{name: a, cidrs: [203.0.113.0/26]}, {name: b, ranges: [203.0.113.60-203.0.113.70]}]",
            "f.yaml:9: pools[1]: 203.0.113.60-203.0.113.70 overlaps 203.0.113.0-203.0.113.63 of pools[0]; every address in one pool only is expected",
        ),
        (
            "pools: [{name: a, cidrs: [192.0.2.0/30]}]",
            "f.yaml:9: pools[0]: 192.0.2.0-192.0.2.3 holds 192.0.2.1, an address of a port; addresses that nobody has are expected",
        ),
        (
            "forwarding: {snatPorts: 30000-33000}",
            "f.yaml:9: forwarding: 30000-33000 without kubernetes.nodePortRange 30000-32767 leaves 233 ports; at least 1,024 ports for snatPorts are expected",
        ),
        (
            "workers: {count: 2, cores: [1]}",
            "f.yaml:9: workers.cores: `count` and `cores` together; one of them is expected",
        ),
        (
            "workers: {cores: [1, 1]}",
            "f.yaml:9: workers.cores[1]: core 1 stands twice; one worker a core is expected",
        ),
    ] {
        assert_eq!(faults(&format!("{SMALL}{added}\n")), [want], "{added}");
    }
}

#[test]
fn a_bad_key_hides_no_fault_between_the_others() {
    let text = "\
apiVersion: fairlead.dev/v1alpha1
kind: GatewayConfig
kind: GatewayConfig
ports:
- {name: a, device: net_null0, mtu: 9, addresses: [192.0.2.1/24]}
- {name: a, device: net_null0}
- {device: net_null0, addresses: [192.0.2.1/24]}
kubernetes: {manifests: /m}
pools:
- {cidrs: [192.0.2.0/30]}
- {name: p, ranges: [192.0.2.2-192.0.2.9, bad]}
routes:
- {to: 10.9.0.0/16, via: 10.0.0.1}
- {to: 10.9.0.0/16, via: nowhere}
- {via: 10.0.0.1}
neighbors:
- {address: 192.0.2.9, mac: \"02:00:00:00:00:0b\", port: b}
";
    let got = faults(text);
    let want = [
        "f.yaml:3: key `kind` stands here and on line 2; each key once is expected",
        "f.yaml:5: ports[0].mtu: `9` is not valid; a number from 576 to 9600 is expected",
        "f.yaml:6: ports[1].name: `a` is the name of ports[0] too; a unique name is expected",
        "f.yaml:6: ports[1].device: ports[0] has this device too; one port a device is expected",
        "f.yaml:7: ports[2]: `name` is missing; a value is expected",
        "f.yaml:7: ports[2].device: ports[1] has this device too; one port a device is expected",
        "f.yaml:7: ports[2].addresses: 192.0.2.1 is an address of ports[0] too; every address once is expected",
        "f.yaml:10: pools[0]: `name` is missing; a value is expected",
        "f.yaml:10: pools[0]: 192.0.2.0-192.0.2.3 holds 192.0.2.1, an address of a port; addresses that nobody has are expected",
        "f.yaml:11: pools[1].ranges[1]: `bad` is not a range; first and last address of one family such as 192.0.2.100-192.0.2.199 are expected",
        "f.yaml:11: pools[1]: 192.0.2.2-192.0.2.9 overlaps 192.0.2.0-192.0.2.3 of pools[0]; every address in one pool only is expected",
        "f.yaml:13: routes[0].via: 10.0.0.1 is in no subnet of a port; a neighbour of the appliance is expected",
        "f.yaml:14: routes[1].via: `nowhere` is not valid; an address such as 192.0.2.1 or 2001:db8::1 is expected",
        "f.yaml:14: routes[1].to: routes[0] is for 10.9.0.0/16 too; one route a destination is expected",
        "f.yaml:15: routes[2]: `to` is missing; a value is expected",
        "f.yaml:15: routes[2].via: 10.0.0.1 is in no subnet of a port; a neighbour of the appliance is expected",
    ];
    assert_eq!(got, want, "a port without a name may be `b`, so neighbors[0] is not judged");
}

#[test]
fn a_vlan_is_a_port_of_its_own_behind_those_with_a_device() {
    let text = "\
apiVersion: fairlead.dev/v1alpha1
kind: GatewayConfig
ports:
- {name: wan.100, parent: wan, vlan: 100, addresses: [\"2001:db8::1/64\"]}
- {name: wan, device: net_null0, mtu: 9000}
- {name: lan.100, parent: lan, vlan: 100, mtu: 1400, serves: [ClusterIP], tap: false}
- {name: lan, device: net_null1}
kubernetes: {manifests: /m}
";
    let config = GatewayConfig::parse("f.yaml", text).unwrap_or_else(|refused| panic!("{refused}"));
    let ports: Vec<_> =
        config.ports.iter().map(|port| (port.name.as_str(), port.mtu, config.vlan_of(port))).collect();
    let vlan = |parent| Some(Vlan { parent: PortId(parent), id: 100 });
    let want =
        [("wan", 9000, None), ("lan", 1500, None), ("wan.100", 9000, vlan(0)), ("lan.100", 1400, vlan(1))];
    assert_eq!(ports, want);
    let devices: Vec<_> = config.devices().map(|(port, device)| (port.name.as_str(), device)).collect();
    assert_eq!(devices, [("wan", "net_null0"), ("lan", "net_null1")]);
    assert!(!config.ports[3].tap && !config.ports[3].serves.vip && config.ports[2].serves.vip);
}

#[test]
fn a_vlan_has_a_parent_with_a_device_that_takes_its_packets() {
    let text = "\
apiVersion: fairlead.dev/v1alpha1
kind: GatewayConfig
ports:
- {name: wan, device: net_null0, mtu: 1000}
- {name: a, parent: wan, vlan: 0}
- {name: b, parent: wan}
- {name: c, vlan: 7, device: net_null1}
- {name: d, parent: wan, vlan: 7, device: net_null2}
- {name: e, parent: d, vlan: 8}
- {name: f, parent: wan, vlan: 7}
- {name: g, parent: wan, vlan: 9, mtu: 1500}
- {name: h, parent: wan, vlan: 10, addresses: [\"2001:db8::1/64\"]}
- {name: i}
kubernetes: {manifests: /m}
";
    let want = [
        "f.yaml:5: ports[1].vlan: `0` is not valid; a number from 1 to 4094 is expected",
        "f.yaml:6: ports[2]: `vlan` is missing; a value is expected",
        "f.yaml:7: ports[3].vlan: `vlan` without `parent`; the name of the port that carries it is expected",
        "f.yaml:8: ports[4].device: `device` and `parent` together; one of them is expected",
        "f.yaml:9: ports[5].parent: `d` is no such port; one of wan, c, i, a port with a device, is expected",
        "f.yaml:10: ports[6].vlan: ports[4] has this VLAN of wan too; one port a VLAN is expected",
        "f.yaml:11: ports[7].mtu: 1500 is more than wan has, which carries it; at most 1000 is expected",
        "f.yaml:12: ports[8].addresses: the 1000 bytes of wan are too few for IPv6; an mtu of at least 1280 there is expected",
        "f.yaml:13: ports[9]: `device` is missing; a value is expected",
    ];
    assert_eq!(faults(text), want);
}

#[test]
fn there_are_at_most_64_ports() {
    let with = |vlans: u16| {
        let vlan = |id| format!("- {{name: v{id}, parent: wan, vlan: {id}}}\n");
        let vlans: String = (1..=vlans).map(vlan).collect();
        let text =
            "apiVersion: fairlead.dev/v1alpha1\nkind: GatewayConfig\nkubernetes: {manifests: /m}\nports:\n";
        format!("{text}- {{name: wan, device: net_null0}}\n{vlans}")
    };
    assert_eq!(GatewayConfig::parse("f.yaml", &with(63)).expect("good").ports.len(), 64);
    assert_eq!(faults(&with(64)), ["f.yaml:4: ports: 65 ports; at most 64 are expected"]);
}

#[test]
fn exactly_one_source_is_expected() {
    for (source, good) in [
        ("manifests: /m", true),
        ("kubeconfig: /k", true),
        ("inCluster: true", true),
        ("inCluster: false", false),
        ("nodeName: n", false),
        ("manifests: /m\n  inCluster: true", false),
    ] {
        let text = SMALL.replace("manifests: /etc/fairlead/manifests", source);
        let got = GatewayConfig::parse("f.yaml", &text);
        assert_eq!(got.is_ok(), good, "{source}: {got:?}");
    }
}
