//! The source as a whole against a scripted API server: what it tells, and what it makes of every fault.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may")]

mod faults;
mod follower;
mod scale;
mod server;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use follower::{Follower, node, service, slice, small_world};
use server::{CIDRS, Instead, NAMESPACES, NODES, POOLS, SERVICES, SLICES};

#[tokio::test]
async fn lists_are_read_in_pages_and_then_every_change_is_told_once() {
    let server = small_world().await;
    for number in 0..1200 {
        server.put(SERVICES, service(&format!("s{number}"), 80));
    }
    let mut follower = Follower::new(&server.url());
    follower.until_synced().await;
    assert_eq!(follower.seen.len(), 1204);
    let pages =
        server.asked().iter().filter(|asked| asked.starts_with(SERVICES) && !asked.contains("watch")).count();
    assert_eq!(pages, 3);
    follower.told.clear();
    server.put(SLICES, slice("web-1", "10.1.0.2"));
    server.delete(SERVICES, "shop", "s7");
    // Kubelets write their Nodes all the time, and nothing of it is ours.
    let mut beating = node("n1");
    beating["status"] = json!({"conditions": [{"type": "Ready", "status": "True"}]});
    server.put(NODES, beating);
    server.put(NODES, node("n2"));
    follower.until("all", |it| it.told.len() >= 3).await;
    follower.listen(300).await;
    follower.told.sort();
    assert_eq!(follower.told, ["+node n2", "+slice shop/web-1", "-svc shop/s7"]);
    assert_eq!(follower.synced, 1);
    follower.until("shown", |it| it.row("Node").objects == 2).await;
    assert_eq!((follower.row("Service").state.as_str(), follower.row("Service").objects), ("Ok", 1200));
    assert_eq!((follower.metric("connected"), follower.metric("stale")), (1.0, 0.0));
    assert_eq!(follower.metric("objects{kind=\"Node\"}"), 2.0);
}

#[tokio::test]
async fn only_what_is_ours_is_asked_for() {
    let server = small_world().await;
    let mut labelled = service("web", 80);
    labelled["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "fairlead"});
    server.put(SERVICES, labelled);
    for (proxy_name, selector) in [
        (None, "labelSelector=%21service.kubernetes.io%2Fservice-proxy-name"),
        (Some("fairlead"), "labelSelector=service.kubernetes.io%2Fservice-proxy-name%3Dfairlead"),
    ] {
        let mut follower = Follower::with(&server.url(), proxy_name, tempfile::tempdir().expect("folder"));
        follower.until_synced().await;
        let asked = server.asked();
        let list = asked.iter().rev().find(|asked| asked.starts_with(SERVICES)).expect("asked");
        assert!(list.contains(selector) && list.contains("fieldSelector=spec.clusterIP%21%3DNone"), "{list}");
        let headless = "labelSelector=%21service.kubernetes.io%2Fheadless";
        assert!(asked.iter().any(|asked| asked.starts_with(SLICES) && asked.contains(headless)), "{asked:?}");
    }
}

#[tokio::test]
async fn nothing_is_told_before_every_kind_was_listed() {
    let server = small_world().await;
    // So late that a machine which stands still for seconds does not bring it before its time.
    server.instead(NODES, false, Instead::Late(Duration::from_secs(4)));
    let mut follower = Follower::new(&server.url());
    follower.listen(400).await;
    assert_eq!((follower.told.len(), follower.synced), (0, 0));
    assert_eq!(follower.row("Service").state, "Waiting");
    server.put(SERVICES, service("late", 80));
    follower.until_synced().await;
    assert_eq!(follower.seen.len(), 5, "what changed meanwhile is in it: {:?}", follower.seen);
}

#[tokio::test]
async fn an_older_server_is_asked_in_its_own_way() {
    const OLD_CIDRS: &str = "/apis/networking.k8s.io/v1beta1/servicecidrs";
    for beta in [true, false] {
        let server = small_world().await;
        server.deny(CIDRS, 404);
        server.deny(POOLS, 404);
        if beta {
            server.put(OLD_CIDRS, json!({"metadata": {"name": "beta"}, "spec": {"cidrs": ["10.97.0.0/16"]}}));
        } else {
            server.deny(OLD_CIDRS, 404);
        }
        let unknown = r#"{"code":400,"message":"field label not supported: spec.clusterIP"}"#;
        server.instead(SERVICES, false, Instead::Status(400, None, unknown.into()));
        let mut follower = Follower::new(&server.url());
        follower.until_synced().await;
        follower
            .until("content", |it| it.rows.iter().all(|row| row.state == "Ok" && row.error.is_empty()))
            .await;
        assert_eq!(follower.seen.contains_key("cidr beta"), beta);
        assert_eq!(follower.seen.len(), 3 + usize::from(beta));
        let asked = server.asked();
        let last = asked.iter().rev().find(|asked| asked.starts_with(SERVICES)).expect("asked");
        assert!(!last.contains("fieldSelector"), "{last}");
    }
}

#[tokio::test]
async fn namespaces_and_pools_are_followed_and_a_bad_pool_says_why() {
    let server = small_world().await;
    server.put(NAMESPACES, json!({"metadata": {"name": "shop", "labels": {"team": "a"}}}));
    server.put(
        POOLS,
        json!({"metadata": {"name": "good", "generation": 3}, "spec": {"cidrs": ["203.0.113.0/28"]}}),
    );
    server.put(POOLS, json!({"metadata": {"name": "bad"}, "spec": {"cidrs": ["203.0.113.0/33"]}}));
    let mut follower = Follower::new(&server.url());
    follower.until_synced().await;
    assert!(follower.seen.contains_key("namespace shop") && follower.seen.contains_key("pool good"));
    follower.until("told", |it| it.row("AddressPool").error.contains("203.0.113.0/33")).await;
    assert_eq!(follower.row("AddressPool").state, "Ok");
}

/// A proxy on loopback that tunnels (CONNECT), or passes requests on as they are; counts those who come.
async fn proxy(server: SocketAddr, came: Arc<AtomicUsize>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            came.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = client.read_u8().await else { return };
                    head.push(byte);
                }
                let mut upstream = TcpStream::connect(server).await.unwrap();
                if head.starts_with(b"CONNECT ") {
                    client.write_all(b"HTTP/1.1 200 tunnel\r\n\r\n").await.unwrap();
                } else {
                    upstream.write_all(&head).await.unwrap();
                }
                // Whichever side ends first ends both.
                let _ = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn a_server_behind_a_proxy_is_followed_through_it() {
    let server = small_world().await;
    let came = Arc::new(AtomicUsize::new(0));
    let address = server.url().trim_start_matches("http://").parse().unwrap();
    let by = proxy(address, Arc::clone(&came)).await;
    // Nobody is at the address that the kubeconfig names but by way of the proxy.
    let cluster = format!("server: 'http://127.0.0.1:1', proxy-url: 'http://{by}'");
    let mut follower = Follower::of(&cluster, None, tempfile::tempdir().expect("folder"));
    follower.until_synced().await;
    server.put(SERVICES, service("after", 80));
    follower.until_seen("svc shop/after").await;
    assert!(came.load(Ordering::Relaxed) > 0);
}
