//! The state of an earlier run: what of it is served, and when the appliance is ready.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use control::apply::SourceEvent;
use control::inquiry::Heard;
use control::model::{Change, Ingress, IpMode, ObjectKey};
use packet::MacAddr;
use tables::PortId;
use tables::punt::{FRAME_LEN_MAX, Message};
use tokio::time::timeout;

use crate::{Appliance, CONFIG, WAIT, address_of, load_balancer, network};

/// A Service whose status names these addresses, with an endpoint.
fn with_status(name: &str, addresses: &[&str]) -> Vec<Change> {
    let mut changes = load_balancer(name);
    let ingress = |text: &&str| Ingress { address: text.parse().unwrap(), mode: IpMode::Vip };
    for change in &mut changes {
        if let Change::Service(_, Some(service)) = change {
            Arc::make_mut(service).ingress = addresses.iter().map(ingress).collect();
        }
    }
    changes
}

impl Appliance {
    /// Waits for a probe; its target.
    async fn asked(&mut self) -> IpAddr {
        let mut frame = [0; FRAME_LEN_MAX];
        let probe = async {
            loop {
                if let Some(Message::Frame { port: PortId(0), len }) = self.said.receive(&mut frame) {
                    return control::inquiry::read(PortId(0), &frame[..len]).unwrap();
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let probe = timeout(WAIT, probe).await.expect("the segment is asked");
        assert!(probe.probes && probe.mac == network().ports[0].mac, "{probe:?}");
        probe.address
    }

    async fn hear(&self, address: IpAddr) {
        let mac = MacAddr([2, 0, 0, 0, 0, 0x99]);
        self.heard.send(Heard { port: PortId(0), address, mac, probes: false }).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_address_is_served_after_its_segment_was_asked_and_not_while_another_host_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut appliance = Appliance::start(folder.path(), CONFIG);
    let held = "192.0.2.60".parse().unwrap();
    appliance.source.send(SourceEvent::Stale).await.unwrap();
    let services = [with_status("held", &["192.0.2.60"]), with_status("free", &["192.0.2.61"])];
    appliance.send([services.concat(), with_status("routed", &["203.0.113.9"])].concat()).await;
    appliance.source.send(SourceEvent::Synced).await.unwrap();
    while appliance.asked().await != held {}
    assert_eq!(address_of(&appliance.addressed(1).await, "routed"), "203.0.113.9".parse::<IpAddr>().unwrap());
    assert!(!*appliance.ready.borrow(), "what is asked for is not served yet");
    appliance.hear(held).await;
    appliance.ready().await;
    let services = appliance.addressed(2).await;
    assert_eq!(address_of(&services, "free"), "192.0.2.61".parse::<IpAddr>().unwrap());
    let lacking = services.iter().find(|service| service.name == "held").unwrap();
    let told =
        lacking.problems.iter().any(|told| told.contains("02:00:00:00:00:99 behind port outside has it"));
    assert!(told && lacking.load_balancer_ips.is_empty(), "{lacking:?}");
    assert!(appliance.metrics.text().contains("fairlead_addresses_held_elsewhere 1\n"));

    // The API server is back and says whose it is.
    appliance.source.send(SourceEvent::Current).await.unwrap();
    let services = appliance.addressed(3).await;
    assert_eq!(address_of(&services, "held"), held);
    assert!(services.iter().all(|service| service.problems.is_empty()), "{services:?}");
    assert!(appliance.metrics.text().contains("fairlead_addresses_held_elsewhere 0\n"));
    appliance.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_comes_when_a_service_in_doubt_is_gone_before_the_state_is_confirmed() {
    let folder = tempfile::tempdir().unwrap();
    let mut appliance = Appliance::start(folder.path(), CONFIG);
    appliance.source.send(SourceEvent::Stale).await.unwrap();
    appliance.send(with_status("held", &["192.0.2.60"])).await;
    appliance.source.send(SourceEvent::Synced).await.unwrap();
    appliance.asked().await;
    appliance.send(vec![Change::Service(ObjectKey::new("default", "held"), None)]).await;
    // In tables of its own: nothing is left to be compiled when the state is confirmed.
    let gone = async {
        while !appliance.services().await.is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(WAIT, gone).await.expect("it is gone");
    appliance.source.send(SourceEvent::Current).await.unwrap();
    appliance.ready().await;
    appliance.stop();
}
