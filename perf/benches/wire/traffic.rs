//! What the generator sends, what the appliance is told, and what must come of both.

use std::{collections::HashSet, fmt::Write as _, net::Ipv4Addr, path::Path};

use packet::{
    AnyKey, MacAddr, parse,
    testkit::{PacketBuilder, assert_valid_checksums},
};

use crate::Result;

/// Flows of the generator: 10.254.0.0:1000 to 10.253.0.n:1001 (constants of testpmd).
pub(crate) const FLOWS: u32 = 1024;
pub(crate) const METRICS: &str = "127.0.0.1:19472";
/// Where flowgen sends to (a constant of testpmd).
pub(crate) const GATEWAY_MAC: &str = "00:01:02:03:04:01";
/// The generator's own address, which is the backends' neighbour.
pub(crate) const PEER_MAC: &str = "02:00:00:00:00:02";
pub(crate) const BACKENDS: u8 = 64;

/// Where flow `n` of the generator goes to.
pub(crate) fn vip(n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 253, 0, 0).to_bits() + n)
}

/// A capture of one frame of each flow, as flowgen makes them but with UDP checksums.
pub(crate) fn capture_of_flows() -> Vec<u8> {
    // The header of pcap-savefile(5): magic, version 2.4, zone, accuracy, longest frame, Ethernet.
    let header = [0xa1b2_c3d4, 2 | 4 << 16, 0, 0, 65_535, 1_u32];
    let mut bytes: Vec<u8> = header.into_iter().flat_map(u32::to_le_bytes).collect();
    for n in 0..FLOWS {
        let builder = PacketBuilder::udp("10.254.0.0:1000", &format!("{}:1001", vip(n)));
        let frame = builder.macs(mac(GATEWAY_MAC), mac(PEER_MAC)).ttl(64).payload(&[0; 18]).build();
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
pub(crate) fn check(frames: &[&[u8]]) -> Result<usize> {
    let (mut count, mut clients) = (0, HashSet::new());
    for frame in frames {
        let parsed = parse(frame, frame.len()).map_err(|error| format!("a broken frame: {error:?}"))?;
        // The appliance announces its addresses, too.
        let Some(AnyKey::V4(key)) = parsed.key() else { continue };
        assert_valid_checksums(frame);
        let [a, b, c, d] = key.dst.octets();
        let to_backend = [a, b, c] == [10, 244, 0] && (1..=BACKENDS).contains(&d) && key.dport == 8080;
        let ends = [mac(PEER_MAC).0, mac(GATEWAY_MAC).0].concat();
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

pub(crate) fn config(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "apiVersion: fairlead.dev/v1alpha1
kind: GatewayConfig
ports:
- name: wire
  device: net_memif0,role=server,id=0,socket={folder}/wire.sock,socket-abstract=no,mac={GATEWAY_MAC}
  addresses: [10.0.0.1/24]
  tap: false
workers: {{cores: [1], idle: poll}}
dpdk: {{memoryMiB: 256}}
kubernetes:
  manifests: {folder}/manifests
  externalIPAllow: [10.253.0.0/16]
forwarding: {{mode: snat, flowsPerWorker: 65536}}
routes:
- {{to: 10.244.0.0/16, via: 10.0.0.11}}
neighbors:
- {{address: 10.0.0.11, mac: \"{PEER_MAC}\", port: wire}}
admin: {{socket: {folder}/admin.sock}}
metrics: {{listen: \"{METRICS}\"}}
stateDir: {folder}/state
"
    )
}

/// One Service on every address the generator sends to.
pub(crate) fn manifests() -> String {
    let addresses: Vec<_> = (0..FLOWS).map(|n| vip(n).to_string()).collect();
    let mut text = format!(
        "apiVersion: v1
kind: Service
metadata: {{name: web, namespace: default}}
spec:
  type: ClusterIP
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10]
  ipFamilies: [IPv4]
  externalIPs: [{}]
  ports: [{{name: dgram, port: 1001, protocol: UDP, targetPort: 8080}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-1, namespace: default, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{name: dgram, port: 8080, protocol: UDP}}]
endpoints:
",
        addresses.join(", ")
    );
    for n in 1..=BACKENDS {
        writeln!(text, "- {{addresses: [10.244.0.{n}], conditions: {{ready: true}}}}")
            .expect("text takes text");
    }
    text
}
