//! The lab itself, with the kernel's router in the appliance's place: what fails here is not the appliance's fault.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use lab::echo::EchoClient;
use lab::plan::{self, Container};
use lab::traffic;

use crate::Check;
use crate::world::World;

pub(crate) const CHECKS: &[Check] = &[
    ("clients, nodes and pods reach every pod's servers", servers_answer),
    ("RTMP and iperf3 work pod to client", streams_work),
];

fn direct(pod: &str, container: Container) -> SocketAddr {
    SocketAddr::new(plan::pod(pod).address().into(), container.port())
}

fn servers_answer(world: &mut World) -> Result<()> {
    for (host, address) in [("c1", "192.0.2.11"), ("n1", "10.0.0.11"), ("tool-1", "10.244.1.61")] {
        let from = world.host(host);
        let answer = traffic::who(from, direct("web-2", Container::Web))?;
        ensure!((answer.pod.as_str(), answer.client.as_str()) == ("web-2", address), "{host}: {answer:?}");
        let node_port = SocketAddr::new(plan::NODES[1].address().into(), plan::NODE_PORT);
        ensure!(traffic::who(from, node_port)?.pod == "web-2", "{host}: a node's own nodePort");
        traffic::dns_who(from, direct("dns-1", Container::Dns), false)?;
        traffic::dns_truncated(from, direct("dns-2", Container::Dns))?;
        traffic::mqtt(from, world.host("c2"), direct("mqtt-1", Container::Mqtt), host)?;
        from.within(|| EchoClient::connect(direct("web-1", Container::Echo))?.exchange(10_000))??;
    }
    Ok(())
}

fn streams_work(world: &mut World) -> Result<()> {
    let (c1, c2) = (world.host("c1"), world.host("c2"));
    traffic::rtmp(c1, c2, direct("rtmp-1", Container::Rtmp), "direct", world.lab.dir())?;
    traffic::iperf(c1, direct("iperf-1", Container::Iperf), 1, &[])?;
    Ok(())
}
