//! The contract's example, and one row a kind of fault: exact line, path and words.

mod cross;

use tables::{Answers, PortId, RejectForm, Serves, Vlan};

use super::*;
use crate::probe::Question;

const GOOD: &str = include_str!("../../../deploy/config/fairlead.yaml");

const SMALL: &str = "\
apiVersion: fairlead.dev/v1alpha1
kind: GatewayConfig
ports:
- name: outside
  device: net_null0
  addresses: [192.0.2.1/24]
kubernetes:
  manifests: /etc/fairlead/manifests
";

fn faults(text: &str) -> Vec<String> {
    let refused = GatewayConfig::parse("f.yaml", text).expect_err("refused");
    refused.to_string().lines().map(str::to_owned).collect()
}

#[test]
fn a_lease_has_a_name_that_kubernetes_takes() {
    let lease = |text: &str| {
        let text = format!(
            "apiVersion: fairlead.dev/v1alpha1\nkind: GatewayConfig\nports: [{{name: a, device: net_null0}}]\nkubernetes: {{inCluster: true, lease: {text}}}\n"
        );
        GatewayConfig::parse("f", &text)
            .map(|config| config.kubernetes.lease)
            .map_err(|refused| refused.to_string())
    };
    let named = lease("{name: edge}").expect("good");
    assert_eq!((named.namespace.as_str(), named.name.as_str()), ("fairlead-system", "edge"));
    assert!(lease("{name: ../edge}").expect_err("bad").contains("cannot name an object"));
    assert!(lease("{holder: a}").expect_err("bad").contains("unknown key"));
}

#[test]
fn the_shipped_example_is_good() {
    let config = GatewayConfig::parse("fairlead.yaml", GOOD).unwrap_or_else(|refused| panic!("{refused}"));
    assert_eq!(config.ports.len(), 2);
}

#[test]
fn every_key_but_ports_and_source_has_a_default() {
    let config = GatewayConfig::parse("f.yaml", SMALL).expect("good");
    assert_eq!(config.ports[0].mtu, 1500);
    assert!(config.ports[0].tap);
    assert_eq!((config.ports[0].serves, config.protection), (Serves::ALL, Limits::default()));
    assert_eq!(config.workers, Workers::default());
    assert_eq!(config.forwarding, ForwardingConfig::default());
    assert_eq!(config.admin.socket, PathBuf::from("/run/fairlead/admin.sock"));
    assert_eq!(config.metrics.listen.port(), 9472);
    assert_eq!(config.kubernetes.source, Source::Manifests("/etc/fairlead/manifests".into()));
    assert_eq!(config.state_dir, PathBuf::from("/var/lib/fairlead"));
}

#[test]
fn limits_and_frontends_of_ports_are_read() {
    let text = SMALL.replace("device: net_null0", "device: net_null0\n  serves: [VIP, NodePort]");
    let more = "protection: {newFlows: {perSource: 100}, kernel: {icmp: 7}}\n";
    let config = GatewayConfig::parse("f.yaml", &format!("{text}{more}")).expect("good");
    let serves = Serves { vip: true, node_port: true, cluster_ip: false };
    let kernel = tables::KernelRates { icmp: 7, ..Default::default() };
    assert_eq!(config.ports[0].serves, serves);
    assert_eq!(config.protection, Limits { flows_per_source: 100, flows_per_service: 0, kernel });
    assert_eq!(
        faults(&format!(
            "{SMALL}protection: {{newFlows: {{perSource: -1}}, kernel: {{icmp: 0, ping: 3}}}}\n"
        )),
        [
            "f.yaml:9: protection.newFlows.perSource: `-1` is not valid; a number from 0 to 100000000 is expected",
            "f.yaml:9: protection.kernel.ping: unknown key; one of neighbors, icmp, opens, routing, sessions, other is expected",
            "f.yaml:9: protection.kernel.icmp: `0` is not valid; a number from 1 to 100000000 is expected",
        ]
    );
}

#[test]
fn answers_are_read() {
    let read = |keys: &str| {
        GatewayConfig::parse("f.yaml", &format!("{SMALL}forwarding: {{{keys}}}\n"))
            .map(|config| config.forwarding.answers)
            .map_err(|refused| refused.to_string())
    };
    let default = Answers { echo: true, reject: RejectForm::Auto, takes_midstream: true };
    assert_eq!(read(""), Ok(default));
    assert_eq!(read("answerEcho: true, reject: auto, midstream: balance"), Ok(default));
    assert_eq!(
        read("answerEcho: false, reject: silent, midstream: refuse"),
        Ok(Answers { echo: false, reject: RejectForm::Silent, takes_midstream: false })
    );
    assert_eq!(read("reject: icmp"), Ok(Answers { reject: RejectForm::Icmp, ..default }));
    for (bad, says) in [
        ("answerEcho: maybe", "f.yaml:9: forwarding.answerEcho: not a boolean; true or false is expected"),
        (
            "reject: rst",
            "f.yaml:9: forwarding.reject: `rst` is not known; one of auto, icmp, silent is expected",
        ),
        (
            "midstream: no",
            "f.yaml:9: forwarding.midstream: `no` is not known; one of balance, refuse is expected",
        ),
    ] {
        assert_eq!(read(bad), Err(says.to_owned()));
    }
}

#[test]
fn health_checks_and_slow_start_are_read() {
    let read = |more: &str| {
        GatewayConfig::parse("f.yaml", &format!("{SMALL}{more}")).map_err(|refused| refused.to_string())
    };
    let config = read(
        "healthChecks: {check: http /up port=8081, interval: 2s, fall: 5}\nforwarding: {slowStart: 30s}\n",
    );
    let config = config.expect("good");
    let (second, pace) = (std::time::Duration::from_secs(1), config.health_checks.pace);
    assert_eq!((pace.interval, pace.timeout, pace.rise, pace.fall), (2 * second, second, 2, 5));
    assert_eq!((config.health_checks.port, config.forwarding.slow_start), (Some(8081), Some(30 * second)));
    assert_eq!(
        read("healthChecks: {interval: 1m}\n").map(|config| config.health_checks.question),
        Ok(Question::None)
    );
    for (bad, says) in [
        (
            "healthChecks: {check: ping}",
            "f.yaml:10: healthChecks.check: `ping` is not known; none, auto, tcp",
        ),
        (
            "healthChecks: {interval: 5}",
            "f.yaml:10: healthChecks.interval: is not usable; a duration from 100ms to 1h",
        ),
        ("healthChecks: {timeout: 6s}", "the timeout is longer than the interval"),
        ("healthChecks: {rise: 0}", "healthChecks.rise"),
        ("healthChecks: {retries: 1}", "unknown key"),
        (
            "forwarding: {slowStart: 2h}",
            "forwarding.slowStart: is not usable; none or a duration from 1s to 1h",
        ),
    ] {
        let said = read(&format!("# A comment.\n{bad}\n")).expect_err(bad);
        assert!(said.contains(says), "{bad}: {said}");
    }
}

#[test]
fn all_faults_are_reported_with_their_lines() {
    let text = "\
apiVersion: fairlead.dev/v1
kind: GatewayConfig
ports:
- name: a-name-of-sixteen
  device: net_null0
  addresses: [192.0.2.0/24, 300.1.1.1/8]
  mtu: 100
  colour: red
workers: {count: 0, idle: nap}
kubernetes:
  manifests: /m
  podCIDRs: [10.1.2.3/16]
pools:
- name: p
  ranges: [192.0.2.9-192.0.2.1]
forwarding:
  snatPorts: 80-60999
  timeouts:
    udp: fast
metrics: {listen: localhost}
stateDir: lib
";
    let got = faults(text);
    let want = [
        "f.yaml:1: apiVersion: `fairlead.dev/v1` is not known; fairlead.dev/v1alpha1 is expected",
        "f.yaml:4: ports[0].name: `a-name-of-sixteen` cannot name a network device; 1 to 15 letters, digits, `-`, `_` or `.` are expected (the kernel mirror takes this name)",
        "f.yaml:6: ports[0].addresses[0]: 192.0.2.0/24 is the subnet's own or broadcast address; a host's address is expected",
        "f.yaml:6: ports[0].addresses[1]: `300.1.1.1/8` is not valid; an address with its prefix length such as 192.0.2.1/24 is expected",
        "f.yaml:7: ports[0].mtu: `100` is not valid; a number from 576 to 9600 is expected",
        "f.yaml:8: ports[0].colour: unknown key; one of name, device, parent, vlan, addresses, mtu, mssClamp, serves, tap is expected",
        "f.yaml:9: workers.count: `0` is not valid; a number from 1 to 64 is expected",
        "f.yaml:9: workers.idle: `nap` is not known; one of poll, sleep is expected",
        "f.yaml:12: kubernetes.podCIDRs[0]: 10.1.2.3/16 has host bits; 10.1.0.0/16 is expected",
        "f.yaml:15: pools[0].ranges[0]: `192.0.2.9-192.0.2.1` is not a range; first and last address of one family such as 192.0.2.100-192.0.2.199 are expected",
        "f.yaml:17: forwarding.snatPorts: `80-60999` is not usable; first and last port of at least 1,024 from 1024 on, such as 1024-60999, are expected",
        "f.yaml:19: forwarding.timeouts.udp: `fast` is not usable; a duration from 1s to 14d such as 30s, 2h or 1h30m is expected",
        "f.yaml:20: metrics.listen: `localhost` is not valid; an address with a port such as 127.0.0.1:9472 or [::1]:9472 is expected",
        "f.yaml:21: stateDir: `lib` is not an absolute path; a path from `/` on is expected",
    ];
    assert_eq!(got, want);
}

#[test]
fn a_broken_document_names_its_line() {
    assert!(faults("a: [\n")[0].starts_with("f.yaml:2: "));
    assert_eq!(faults(""), ["f.yaml:1: 0 documents; exactly one document is expected"]);
    assert!(faults("[]\n")[0].starts_with("f.yaml:1: not a map; keys apiVersion"));
    assert!(faults("kind: GatewayConfig\n").iter().any(|line| line.contains("`ports` is missing")));
}

#[test]
fn an_unreadable_file_is_one_clear_sentence() {
    let refused = GatewayConfig::load(Path::new("/nonexistent/f.yaml")).expect_err("refused");
    assert!(refused.to_string().starts_with("/nonexistent/f.yaml:1: No such file"), "{refused}");
}

#[test]
fn the_range_of_node_ports_is_the_api_servers() {
    let parse = |range: &str| {
        let text = SMALL.replace("manifests: /etc", &format!("nodePortRange: {range}\n  manifests: /etc"));
        GatewayConfig::parse("f.yaml", &text).map(|config| config.kubernetes.node_port_range)
    };
    assert_eq!(
        GatewayConfig::parse("f.yaml", SMALL).expect("good").kubernetes.node_port_range,
        NODE_PORT_RANGE
    );
    assert_eq!(parse("20000-22767"), Ok((20_000, 22_767)));
    for bad in ["0-10", "9-8", "many", "[1, 2]"] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_pool_says_who_may_have_its_addresses_and_which() {
    for (keys, want) in [
        ("", (true, false)),
        (", autoAssign: false", (false, false)),
        (", avoidBuggyIPs: true", (true, true)),
    ] {
        let text = format!("{SMALL}pools: [{{name: p, cidrs: [203.0.113.0/24]{keys}}}]\n");
        let pool = GatewayConfig::parse("f.yaml", &text).expect("good").pools.remove(0);
        assert_eq!((pool.auto_assign, pool.avoid_buggy_ips), want, "{keys}");
    }
}

#[test]
fn a_proxy_name_is_a_labels_value_and_needs_an_api_server() {
    let with = |source: &str, name: &str| {
        SMALL.replace("manifests: /etc/fairlead/manifests", &format!("{source}\n  serviceProxyName: {name}"))
    };
    let config = GatewayConfig::parse("f.yaml", &with("inCluster: true", "fair-lead.1")).expect("good");
    assert_eq!(config.kubernetes.service_proxy_name.as_deref(), Some("fair-lead.1"));
    assert_eq!(
        faults(&with("manifests: /m", "fairlead")),
        [
            "f.yaml:9: kubernetes.serviceProxyName: manifests are followed whole; `kubeconfig` or `inCluster` beside it is expected"
        ]
    );
    for bad in ["a,b", "-a", "'a=b'", "\"\""] {
        let faults = faults(&with("inCluster: true", bad));
        assert!(
            matches!(&faults[..], [one] if one.starts_with("f.yaml:9: kubernetes.serviceProxyName: ")),
            "{faults:?}"
        );
    }
}
