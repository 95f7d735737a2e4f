//! Flows over the admin API: whether a list has all that match, whose they are, and how many are in use.

use std::net::Ipv4Addr;

use packet::FlowKey;
use tables::capture::capture_ring;
use tables::flow::{FlowTable, FlowTableConfig, NewFlow};
use tables::tcp_state::Timeouts;
use tables::{BackendId, Millis, NatMode, ServiceId};

use super::*;

/// A worker at time 1000 with three flows of the Service, used at 900, and two of none, used at 0.
fn workers(service: ServiceId) -> Workers {
    let config = FlowTableConfig { flows: 64, ipv6: false, secret: 7, timeouts: Timeouts::default() };
    let mut flows = FlowTable::new(&config).unwrap();
    for sport in 1..=5 {
        let (service, used) = if sport <= 3 { (service, 900) } else { (ServiceId::NONE, 0) };
        let (src, dst) = (Ipv4Addr::new(198, 51, 100, 1), Ipv4Addr::new(203, 0, 113, 0));
        let original = FlowKey { src, dst, sport, dport: 80, protocol: Protocol::Tcp };
        let reply = FlowKey { src: Ipv4Addr::new(10, 244, 1, 7), sport: 8080, ..original.reversed() };
        let flow = NewFlow { original, reply, service, backend: BackendId::NONE, mode: NatMode::Dnat };
        flows.insert(&flow, Millis(used)).unwrap();
    }
    let (sender, mut desk) = command_rings(2, 64);
    let (mut capture, _) = capture_ring(0);
    tokio::spawn(async move {
        loop {
            desk.step((&mut flows, &mut capture), 8, Millis(1000));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    Workers::new(vec![(Arc::new(WorkerCounters::new(1)), sender)])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_flows_tells_whether_it_has_all_that_match() {
    let folder = tempfile::tempdir().unwrap();
    let appliance = Appliance::start(folder.path(), &format!("{CONFIG}{POOLS}"));
    appliance.send(load_balancer("web")).await;
    let service = appliance.addressed(1).await[0].ids[0];
    let socket = folder.path().join("admin.sock");
    let admin = Admin { workers: workers(service), ..appliance.admin() };
    let listener = bind(&socket).unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, router(admin)).await });

    for (query, listed, more) in [
        ("", 5, false),
        ("?limit=5", 5, false),
        ("?limit=4", 4, true),
        ("?namespace=default&limit=3", 3, false),
        ("?namespace=default&limit=2", 2, true),
        ("?namespace=other", 0, false),
        ("?usedWithinMs=100", 3, false),
        ("?usedWithinMs=99", 0, false),
    ] {
        let path = format!("/v1/flows{query}");
        let (flows, told): (Vec<view::Flow>, bool) = client::list(&socket, &path).await.unwrap();
        assert_eq!((flows.len(), told), (listed, more), "{query}");
    }

    let row = |service: &str, flows| view::ServiceFlows { service: service.into(), flows, seen: flows };
    let web = row("default/web:80", 3);
    for (query, services) in [("", vec![row("", 2), web.clone()]), ("?usedWithinMs=100", vec![web])] {
        let path = format!("/v1/flows/services{query}");
        let sample: view::FlowSample = client::get(&socket, &path).await.unwrap();
        assert_eq!(sample, view::FlowSample { one_in: 1, services }, "{query}");
    }
    server.abort();
    appliance.stop();
}
