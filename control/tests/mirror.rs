//! The mirror and netlink against the real kernel, in a network namespace of the test's own. Needs root; without it each
//! test says so and passes.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use control::mirror::{Device, Devices, Listeners, MirrorPort, Pump, Statics, WorkerRings};
use control::netlink::{self, Link, Resolver};
use control::network::{Network, NetworkPort, RouteHop};
use cpu::Watch;
use nix::sched::{CloneFlags, unshare};
use packet::MacAddr;
use tables::PortId;
use tables::punt::{FRAME_LEN_MAX, FrameReceiver, FrameSender, Message, frame_ring};
use tokio::sync::watch;
use tokio::time::timeout;

const PORT_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const HOST_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
const WAIT: Duration = Duration::from_secs(3);

/// Runs `test` on one thread inside a fresh network namespace.
fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        if unshare(CloneFlags::CLONE_NEWNET).is_err() {
            eprintln!("skipped: a network namespace needs root");
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    });
    thread.join().unwrap();
}

/// Runs `ip` in the thread's namespace: a child process inherits it.
fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn port() -> MirrorPort {
    MirrorPort {
        port: 0,
        name: "outside".into(),
        mac: PORT_MAC,
        mtu: 1400,
        addresses: vec!["10.0.0.1/24".parse().unwrap(), "fd00::1/64".parse().unwrap()],
    }
}

async fn follow(link: Link) -> (Resolver, watch::Receiver<Arc<Network>>) {
    let port = port();
    let whole = NetworkPort::new(0, &port.name, port.mac, port.addresses);
    let ports = vec![NetworkPort { mtu: port.mtu, ..whole }];
    netlink::follow(ports, &[link]).await.unwrap()
}

/// Waits until the kernel asks for [`HOST`] by ARP.
async fn arp_request(device: &Device) {
    let mut frame = [0; 2048];
    timeout(WAIT, async {
        loop {
            let length = device.read(&mut frame).await.unwrap();
            if length >= 42
                && frame[12..14] == [8, 6]
                && frame[20..22] == [0, 1]
                && frame[38..42] == [10, 0, 0, 2]
            {
                return;
            }
        }
    })
    .await
    .expect("the kernel asks by ARP");
}

fn arp_reply() -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(PORT_MAC.0);
    frame.extend(HOST_MAC.0);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
    frame.extend(HOST_MAC.0);
    frame.extend([10, 0, 0, 2]);
    frame.extend(PORT_MAC.0);
    frame.extend([10, 0, 0, 1]);
    frame
}

async fn until(network: &mut watch::Receiver<Arc<Network>>, what: &str, holds: impl Fn(&Network) -> bool) {
    let found = timeout(WAIT, network.wait_for(|network| holds(network))).await;
    assert!(found.is_ok(), "{what}");
}

/// The same for what tells nobody when it changes: looks again each millisecond.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let found = timeout(WAIT, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(found.await.is_ok(), "{what}");
}

fn mac(network: &Network) -> Option<Option<MacAddr>> {
    network.neighbors.iter().find(|one| one.address == HOST).map(|one| one.mac)
}

#[test]
fn a_tap_has_its_ports_name_mac_mtu_and_addresses_and_goes_with_its_owner() {
    in_namespace(|| async {
        let devices = Devices::create(&[port()]).await.unwrap();
        let link = ip("link show dev outside");
        assert!(
            link.contains("02:00:00:00:00:01") && link.contains("mtu 1400") && link.contains(",UP"),
            "{link}"
        );
        let addresses = ip("address show dev outside");
        assert!(addresses.contains("10.0.0.1/24") && addresses.contains("fd00::1/64"), "{addresses}");
        assert!(!addresses.contains("fd00::1/64 scope global tentative"), "{addresses}");
        drop(devices);
        // A child of another test holds what it was forked with until it is another program.
        eventually("nothing is left behind", || !ip("link show").contains("outside")).await;
    });
}

#[test]
fn a_name_that_is_taken_is_refused_in_one_sentence() {
    in_namespace(|| async {
        ip("link add outside type veth peer name far");
        let refused = Devices::create(&[port()]).await.err().unwrap().to_string();
        assert!(refused.starts_with("port outside: cannot make its TAP"), "{refused}");
    });
}

#[test]
fn a_next_hop_is_resolved_through_the_kernel_kept_and_asked_for_again_when_deleted() {
    in_namespace(|| async {
        let devices = Devices::create(&[port()]).await.unwrap();
        let device = devices.all()[0].clone();
        let (resolver, mut network) = follow(device.link).await;
        resolver.resolve(0, HOST);
        arp_request(&device).await;
        until(&mut network, "it is listed while it is asked for", |n| mac(n) == Some(None)).await;
        device.write(&arp_reply()).unwrap();
        until(&mut network, "the answer is there", |n| mac(n) == Some(Some(HOST_MAC))).await;
        assert!(ip("neigh show 10.0.0.2 dev outside").contains("managed"), "the kernel keeps it alive");

        ip("neigh del 10.0.0.2 dev outside");
        arp_request(&device).await;
        assert_eq!(mac(&network.borrow()), Some(Some(HOST_MAC)), "the old MAC serves on");
        ip("neigh change 10.0.0.2 dev outside nud failed");
        until(&mut network, "failed", |n| mac(n) == Some(None)).await;
    });
}

#[test]
fn routes_over_the_tap_are_followed_and_others_ignored() {
    in_namespace(|| async {
        let mut devices = Devices::create(&[port()]).await.unwrap();
        let device = devices.all()[0].clone();
        let (_resolver, mut network) = follow(device.link).await;
        assert_eq!(network.borrow().routes, [], "connected subnets follow from the addresses");
        ip("link add other type veth peer name far");
        ip("link set other up");
        ip("link set far up");
        ip("route add 10.8.0.0/16 dev other");
        ip("route add 10.9.0.0/16 via 10.0.0.2");
        until(&mut network, "a route by hand", |n| n.routes.len() == 1).await;
        let first = network.borrow().routes[0];
        assert_eq!(
            (first.to, first.hop),
            ("10.9.0.0/16".parse().unwrap(), RouteHop::Via { gateway: HOST, port: 0 })
        );
        ip("route del 10.9.0.0/16");
        until(&mut network, "gone", |n| n.routes.is_empty()).await;

        let gateway: IpAddr = "fd00::2".parse().unwrap();
        devices
            .set_statics(Statics {
                routes: vec![("fd01::/64".parse().unwrap(), gateway)],
                neighbors: vec![(0, gateway, HOST_MAC)],
            })
            .await;
        until(&mut network, "a configured route and neighbour", |n| {
            n.routes.iter().any(|route| route.hop == RouteHop::Via { gateway, port: 0 })
                && n.neighbors.iter().any(|one| one.address == gateway && one.mac == Some(HOST_MAC))
        })
        .await;
        devices.set_statics(Statics::default()).await;
        until(&mut network, "both gone", |n| n.routes.is_empty() && n.neighbors.is_empty()).await;
    });
}

#[test]
fn the_kernel_reaches_pods_and_we_do_not_learn_our_own_routes() {
    in_namespace(|| async {
        let mut devices = Devices::create(&[port()]).await.unwrap();
        let (_resolver, mut network) = follow(devices.all()[0].link).await;
        let (v4, v6) = ("10.244.1.0/24".parse().unwrap(), "fd44:1::/64".parse().unwrap());
        let far: IpAddr = "10.0.0.3".parse().unwrap();
        devices
            .set_pod_routes([(v4, (0, HOST)), (v6, (0, "fd00::2".parse().unwrap()))].into_iter().collect())
            .await;
        assert!(ip("route get 10.244.1.7").contains("via 10.0.0.2 dev outside src 10.0.0.1"));
        assert!(ip("-6 route get fd44:1::7").contains("via fd00::2 dev outside"));
        assert!(ip("route show proto 70").contains("10.244.1.0/24"));

        devices.set_pod_routes([(v4, (0, far))].into_iter().collect()).await;
        let shown = ip("route show proto 70");
        assert!(shown.contains("via 10.0.0.3") && !shown.contains("10.0.0.2"), "{shown}");
        assert_eq!(ip("-6 route show proto 70"), "");

        // Somebody else's route for the same pods goes before, and is the only one that we hear of.
        ip("route add 10.244.1.0/24 via 10.0.0.9");
        assert!(ip("route get 10.244.1.7").contains("via 10.0.0.9"));
        until(&mut network, "the other's route", |n| n.routes.len() == 1).await;
        devices.set_pod_routes(Default::default()).await;
        ip("route del 10.244.1.0/24");
        until(&mut network, "no route", |n| n.routes.is_empty()).await;
        assert_eq!(ip("route show 10.244.1.0/24"), "");
    });
}

/// A worker's ends of its rings, of which the first calls, and control's.
fn rings(watch: &Watch) -> (FrameSender, FrameReceiver, WorkerRings) {
    let (mut punt, from_worker) = frame_ring(1 << 16);
    punt.call(Arc::clone(watch.bell()));
    let (to_worker, injected) = frame_ring(1 << 16);
    (punt, injected, WorkerRings { punt: from_worker, inject: to_worker })
}

#[test]
fn frames_and_requests_pass_between_rings_and_tap() {
    in_namespace(|| async {
        let devices = Devices::create(&[port()]).await.unwrap();
        let (resolver, mut network) = follow(devices.all()[0].link).await;
        let watch = Watch::new().unwrap();
        let (mut punt, mut injected, rings) = rings(&watch);
        let (bypasses, (hear, mut heard)) = (tokio::sync::mpsc::channel(1).0, tokio::sync::mpsc::channel(4));
        let listeners = Listeners { resolver: Some(resolver), bypasses, heard: hear };
        let pump = Pump::start(devices.all(), vec![rings], listeners, watch).unwrap();
        punt.resolve(PortId(0), HOST).unwrap();
        let mut buffer = [0; FRAME_LEN_MAX];
        eventually("the kernel's ARP request is injected", || {
            injected.receive(&mut buffer) == Some(Message::Frame { port: PortId(0), len: 42 })
                && buffer[38..42] == [10, 0, 0, 2]
        })
        .await;
        let reply = arp_reply();
        punt.frame(PortId(0), [&reply[..20], &reply[20..]].into_iter()).unwrap();
        until(&mut network, "the punted reply reached the kernel", |n| mac(n) == Some(Some(HOST_MAC))).await;
        assert!(heard.try_recv().is_err(), "nobody listened");

        let voice = pump.voice();
        voice.listen(true);
        for _ in 0..2 {
            // By then the thread waits to be called, for longer than this test does.
            tokio::time::sleep(Duration::from_millis(300)).await;
            punt.frame(PortId(0), [&reply[..]].into_iter()).unwrap();
            let heard = timeout(WAIT, heard.recv()).await.expect("it is told to those who listen").unwrap();
            assert_eq!(
                (heard.address, heard.mac, heard.port, heard.probes),
                (HOST, HOST_MAC, PortId(0), false)
            );
        }
        // The kernel sends on its own as well; ours is as long as nothing that it sends.
        assert!(voice.say(PortId(0), &[7; 1_000]));
        eventually("what is said beside the kernel is injected", || {
            matches!(injected.receive(&mut buffer), Some(Message::Frame { len: 1_000, .. }))
        })
        .await;
    });
}
