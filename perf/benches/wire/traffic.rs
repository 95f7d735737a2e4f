//! What the generator sends, what the appliance is told, and what must come of both.

use std::{collections::HashSet, fmt::Write as _, net::Ipv4Addr, path::Path};

use packet::{
    AnyKey, MacAddr, parse,
    testkit::{PacketBuilder, assert_valid_checksums},
};

use perf::{links::Wire, objects::POD_NETWORK};

use crate::Result;

/// Flows of the generator: 10.254.0.0:1000 to 10.253.0.n:1001 (constants of testpmd).
pub(crate) const FLOWS: u32 = 1024;
pub(crate) const METRICS: &str = "127.0.0.1:19472";
/// Enough for millions of flows from one address, each with a port within 32 tries.
pub(crate) const BACKENDS: u8 = 250;
/// Where our own generator's clients go to.
pub(crate) const NUMBERED_VIP: &str = "203.0.113.10";

/// Where flow `n` of the generator goes to.
pub(crate) fn vip(n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 253, 0, 0).to_bits() + n)
}

/// A capture of one frame of each flow, as flowgen makes them but with UDP checksums.
pub(crate) fn capture_of_flows(wire: &Wire) -> Vec<u8> {
    // The header of pcap-savefile(5): magic, version 2.4, zone, accuracy, longest frame, Ethernet.
    let header = [0xa1b2_c3d4, 2 | 4 << 16, 0, 0, 65_535, 1_u32];
    let mut bytes: Vec<u8> = header.into_iter().flat_map(u32::to_le_bytes).collect();
    for n in 0..FLOWS {
        let builder = PacketBuilder::udp("10.254.0.0:1000", &format!("{}:1001", vip(n)));
        let frame =
            builder.macs(mac(wire.gateway_mac(0)), mac(wire.peer_mac(0))).ttl(64).payload(&[0; 18]).build();
        let len = u32::try_from(frame.len()).expect("a short frame");
        bytes.extend([0, 0, len, len].into_iter().flat_map(u32::to_le_bytes));
        bytes.extend(frame);
    }
    bytes
}

fn mac(text: &str) -> MacAddr {
    text.parse().expect("a constant address")
}

/// Each frame that is part of a flow is translated as it should be, and every flow is there; how many frames.
pub(crate) fn check(frames: &[&[u8]], wire: &Wire) -> Result<usize> {
    let (mut count, mut clients) = (0, HashSet::new());
    for frame in frames {
        let parsed = parse(frame, frame.len()).map_err(|error| format!("a broken frame: {error:?}"))?;
        // The appliance announces its addresses, too.
        let Some(AnyKey::V4(key)) = parsed.key() else { continue };
        assert_valid_checksums(frame);
        let [a, b, c, d] = key.dst.octets();
        let to_backend = [a, b, c] == [10, 244, 0] && (1..=BACKENDS).contains(&d) && key.dport == 8080;
        let ends = [mac(wire.peer_mac(0)).0, mac(wire.gateway_mac(0)).0].concat();
        if key.src != Ipv4Addr::new(10, 0, 0, 1) || !to_backend || parsed.ttl != 63 || frame[..12] != ends {
            return Err(format!("a frame that is not translated: {key:?}, TTL {}", parsed.ttl).into());
        }
        clients.insert((key.sport, key.dst));
        count += 1;
    }
    if clients.len() != FLOWS as usize {
        return Err(format!("{} flows came back of {FLOWS}", clients.len()).into());
    }
    Ok(count)
}

/// The appliance on one link, where clients and backends are one neighbour, or on two; it follows the manifests, or with
/// `api` the API server.
pub(crate) fn config(wire: &Wire, path: &Path, links: usize, api: bool) -> String {
    let folder = path.display();
    let source = if api {
        format!("kubeconfig: {folder}/kubeconfig")
    } else {
        format!("manifests: {folder}/manifests")
    };
    let port = |link: usize, name, address| {
        let device = wire.gateway(path, link);
        format!(
            "- name: {name}
  device: {device}
  addresses: [{address}]
  tap: false
"
        )
    };
    let inside = links - 1;
    let mut ports = port(inside, "inside", "10.0.0.1/24");
    if links == 2 {
        ports.insert_str(0, &port(0, "outside", "192.0.2.1/24"));
    }
    let mut text = format!(
        "apiVersion: fairlead.dev/v1alpha1
kind: GatewayConfig
ports:
{ports}workers: {{cores: [1], idle: poll}}
dpdk: {{memoryMiB: 256, args: [{args}]}}
kubernetes:
  {source}
  externalIPAllow: [10.253.0.0/16, 203.0.113.0/24]
forwarding: {{mode: snat, flowsPerWorker: {flows}}}
admin: {{socket: {folder}/admin.sock}}
metrics: {{listen: \"{METRICS}\"}}
stateDir: {folder}/state
routes:
- {{to: 10.244.0.0/16, via: 10.0.0.11}}
- {{to: {POD_NETWORK}, via: 10.0.0.11}}
",
        args = wire.gateway_args().join(", "),
        // Four million without recycling, or what flowgen has and more.
        flows = if links == 2 { 4_500_000 } else { 65_536 }
    );
    let mut neighbors =
        format!("neighbors:\n- {{address: 10.0.0.11, mac: \"{}\", port: inside}}\n", wire.peer_mac(inside));
    if links == 2 {
        text += "- {to: 198.18.0.0/15, via: 192.0.2.254}\n";
        neighbors += &format!("- {{address: 192.0.2.254, mac: \"{}\", port: outside}}\n", wire.peer_mac(0));
    }
    text + &neighbors
}

/// A Service on every address that flowgen sends to, and two on that of our own generator.
pub(crate) fn manifests() -> String {
    let flowgens: Vec<_> = (0..FLOWS).map(|n| vip(n).to_string()).collect();
    service("dgram", "10.96.0.10", &flowgens, ("UDP", 1001))
        + &service("stream", "10.96.0.11", &[NUMBERED_VIP.to_owned()], ("TCP", 80))
        + &service("numbered", "10.96.0.12", &[NUMBERED_VIP.to_owned()], ("UDP", 80))
}

fn service(name: &str, cluster_ip: &str, addresses: &[String], (protocol, port): (&str, u16)) -> String {
    let mut text = format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default}}
spec:
  type: ClusterIP
  clusterIP: {cluster_ip}
  clusterIPs: [{cluster_ip}]
  ipFamilies: [IPv4]
  externalIPs: [{}]
  ports: [{{name: main, port: {port}, protocol: {protocol}, targetPort: 8080}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: default, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: main, port: 8080, protocol: {protocol}}}]
endpoints:
",
        addresses.join(", ")
    );
    for n in 1..=BACKENDS {
        writeln!(text, "- {{addresses: [10.244.0.{n}], conditions: {{ready: true}}}}")
            .expect("text takes text");
    }
    text + "---\n"
}
