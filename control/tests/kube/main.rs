//! The source as a whole against a scripted API server: what it tells, and what it makes of every fault.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may")]

mod scale;
mod server;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use control::admin::view;
use control::apply::SourceEvent;
use control::kube::{Access, ApiServer, Counters, KubernetesCollector, follow};
use control::metrics::Metrics;
use control::model::Change;
use control::state_dir::StateDir;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use server::{CIDRS, Instead, NAMESPACES, NODES, POOLS, SERVICES, SLICES, Server};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A follower with what it told so far.
struct Follower {
    events: mpsc::Receiver<SourceEvent>,
    counters: Arc<Counters>,
    folder: tempfile::TempDir,
    state: Arc<StateDir>,
    /// Kind and name to a mark of the object; what was told last.
    seen: BTreeMap<String, String>,
    /// Every change as `+name` or `-name`.
    told: Vec<String>,
    synced: usize,
    rows: Vec<view::Source>,
}

impl Follower {
    fn new(url: &str) -> Self {
        Self::with(url, None, tempfile::tempdir().expect("folder"))
    }

    fn with(url: &str, proxy_name: Option<&str>, folder: tempfile::TempDir) -> Self {
        let kubeconfig = folder.path().join("kubeconfig");
        let text = format!(
            "current-context: c\ncontexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n\
             clusters: [{{name: k, cluster: {{server: '{url}'}}}}]\nusers: [{{name: u, user: {{tokenFile: token}}}}]\n"
        );
        std::fs::write(&kubeconfig, text).expect("written");
        std::fs::write(folder.path().join("token"), "first").expect("written");
        let state = Arc::new(StateDir::open(&folder.path().join("state")).expect("a state directory"));
        let (out, events) = mpsc::channel(64);
        let server = Arc::new(ApiServer::new(Access::Kubeconfig(kubeconfig)));
        let counters = follow(server, proxy_name, Arc::clone(&state), out);
        let (seen, told, rows) = Default::default();
        Self { events, counters, folder, state, seen, told, synced: 0, rows }
    }

    /// Ends; its folder is left for another one.
    async fn end(self) -> tempfile::TempDir {
        let Self { events, state, folder, .. } = self;
        drop(events);
        let held = Arc::downgrade(&state);
        drop(state);
        // The followers let go of the folder when they notice.
        let deadline = Instant::now() + PATIENCE;
        while held.strong_count() > 0 {
            assert!(Instant::now() < deadline, "the state directory is still held");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        folder
    }

    fn take(&mut self, event: SourceEvent) {
        match event {
            SourceEvent::Changes(changes) => changes.iter().for_each(|change| self.note(change)),
            SourceEvent::Status(rows) => self.rows = rows,
            SourceEvent::Synced => self.synced += 1,
            SourceEvent::Stale | SourceEvent::Current => {}
        }
    }

    fn note(&mut self, change: &Change) {
        let (name, mark) = match change {
            Change::Service(key, it) => {
                (format!("svc {key}"), it.as_ref().map(|it| format!("{:?}", it.ports)))
            }
            Change::EndpointSlice(key, it) => {
                (format!("slice {key}"), it.as_ref().map(|it| format!("{:?}", it.endpoints)))
            }
            Change::AddressPool(name, it) => {
                (format!("pool {name}"), it.as_ref().map(|it| format!("{:?}", it.pool)))
            }
            Change::Namespace(name, it) => {
                (format!("namespace {name}"), it.as_ref().map(|it| format!("{:?}", it.labels)))
            }
            Change::Node(name, it) => {
                (format!("node {name}"), it.as_ref().map(|it| format!("{:?}", it.pod_cidrs)))
            }
            Change::ServiceCidr(name, it) => {
                (format!("cidr {name}"), it.as_ref().map(|it| format!("{:?}", it.cidrs)))
            }
        };
        self.told.push(format!("{}{name}", if mark.is_some() { '+' } else { '-' }));
        match mark {
            Some(mark) => self.seen.insert(name, mark),
            None => self.seen.remove(&name),
        };
    }

    /// Reads until it holds.
    async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            match timeout(left, self.events.recv()).await {
                Ok(Some(event)) => self.take(event),
                Ok(None) => panic!("{what}: the source ended"),
                Err(_) => panic!("{what}: not in time; told {:?}, rows {:?}", self.told, self.rows),
            }
        }
    }

    async fn until_synced(&mut self) {
        self.until("synced", |it| it.synced > 0).await;
    }

    async fn until_seen(&mut self, name: &str) {
        self.until(name, |it| it.seen.contains_key(name)).await;
    }

    /// Whatever comes within a while.
    async fn listen(&mut self, for_ms: u64) {
        let deadline = Instant::now() + Duration::from_millis(for_ms);
        while let Ok(Some(event)) =
            timeout(deadline.saturating_duration_since(Instant::now()), self.events.recv()).await
        {
            self.take(event);
        }
    }

    fn row(&self, name: &str) -> &view::Source {
        self.rows.iter().find(|row| row.name == name).expect("a row for every kind")
    }

    fn metrics(&self) -> String {
        let mut metrics = Metrics::new(Vec::new(), Vec::new(), None);
        metrics.add(Box::new(KubernetesCollector(Arc::clone(&self.counters))));
        metrics.text()
    }

    fn metric(&self, series: &str) -> f64 {
        let text = self.metrics();
        let line = text.lines().find(|line| line.starts_with(&format!("fairlead_kubernetes_{series} ")));
        line.unwrap_or_else(|| panic!("no {series}"))
            .rsplit(' ')
            .next()
            .expect("a value")
            .parse()
            .expect("a number")
    }
}

fn service(name: &str, port: u16) -> Value {
    json!({"metadata": {"namespace": "shop", "name": name}, "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": port}]}})
}

fn slice(name: &str, address: &str) -> Value {
    json!({"metadata": {"namespace": "shop", "name": name, "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": [{"addresses": [address]}]})
}

fn node(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"podCIDRs": ["10.1.0.0/24"]}})
}

async fn small_world() -> Server {
    let server = Server::start().await;
    server.put(SERVICES, service("web", 80));
    server.put(SLICES, slice("web-1", "10.1.0.1"));
    server.put(NODES, node("n1"));
    server.put(CIDRS, json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/16"]}}));
    server
}

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
    server.instead(NODES, false, Instead::Late(Duration::from_millis(600)));
    let mut follower = Follower::new(&server.url());
    follower.listen(400).await;
    assert_eq!((follower.told.len(), follower.synced), (0, 0));
    assert_eq!(follower.row("Service").state, "Waiting");
    server.put(SERVICES, service("late", 80));
    follower.until_synced().await;
    assert_eq!(follower.seen.len(), 5, "what changed meanwhile is in it: {:?}", follower.seen);
}

#[tokio::test]
async fn a_forgotten_version_is_listed_again_and_only_differences_are_told() {
    for by_status in [false, true] {
        let mut server = small_world().await;
        let mut follower = Follower::new(&server.url());
        follower.until_synced().await;
        follower.told.clear();
        if by_status {
            // The refusal of a new watch, not an event within one.
            server.go_away().await;
            let gone = r#"{"kind":"Status","code":410,"message":"The resourceVersion is too old."}"#;
            server.instead(SERVICES, true, Instead::Status(410, None, gone.into()));
            server.delete(SERVICES, "shop", "web");
            server.put(SERVICES, service("new", 80));
            server.come_back().await;
        } else {
            server.delete(SERVICES, "shop", "web");
            server.put(SERVICES, service("new", 80));
            server.compact();
            // Only a watch that is behind hears of it.
            server.put(SLICES, slice("web-2", "10.1.0.3"));
        }
        follower.until_seen("svc shop/new").await;
        follower.until("gone", |it| !it.seen.contains_key("svc shop/web")).await;
        follower.listen(200).await;
        let services: Vec<_> = follower.told.iter().filter(|told| told.contains("svc")).collect();
        assert_eq!(services.len(), 2, "{services:?}");
    }
}

#[tokio::test]
async fn a_cut_stream_goes_on_where_it_was() {
    let server = small_world().await;
    let half = "{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"name\":";
    server.instead(SERVICES, true, Instead::Cut(half.into()));
    server.instead(SERVICES, true, Instead::Cut(String::new()));
    server.instead(SERVICES, true, Instead::Text(half.into()));
    let mut follower = Follower::new(&server.url());
    follower.until_synced().await;
    server.put(SERVICES, service("after", 80));
    follower.until_seen("svc shop/after").await;
    let lists = server.asked().iter().filter(|it| it.starts_with(SERVICES) && !it.contains("watch")).count();
    assert_eq!(lists, 1, "no list again");
    assert!(follower.metric("errors_total{kind=\"Service\",error=\"cut\"}") >= 2.0);
    assert!(follower.metric("watch_restarts_total{kind=\"Service\"}") >= 3.0);
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_is_asked_for_again() {
    let server = small_world().await;
    server.instead(NODES, false, Instead::Text("<html>proxy error</html>".into()));
    server.instead(NODES, false, Instead::Text("{\"metadata\":{},\"items\":[]}".into()));
    let nonsense = [
        "{\"type\":\"ADDED\",\"object\":[]}\n",
        "{\"type\":\"SPILLED\",\"object\":{}}\n",
        "not even JSON\n",
        "{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"resourceVersion\":\"9\"}}}\n",
    ];
    for text in nonsense {
        server.instead(SLICES, true, Instead::Text(text.into()));
    }
    let mut follower = Follower::new(&server.url());
    follower.until_synced().await;
    server.put(SLICES, slice("web-2", "10.1.0.9"));
    follower.until_seen("slice shop/web-2").await;
    follower.until("followed", |it| it.row("EndpointSlice").state == "Ok").await;
    assert!(follower.metric("errors_total{kind=\"EndpointSlice\",error=\"malformed\"}") >= 1.0);
    assert_eq!(follower.metric("errors_total{kind=\"Node\",error=\"malformed\"}"), 2.0);
}

#[tokio::test]
async fn a_busy_or_failing_server_is_given_the_time_it_asks_for() {
    let server = small_world().await;
    let busy = "Too many requests, please try again later.";
    server.instead(NODES, false, Instead::Status(429, Some(("retry-after", "1")), busy.into()));
    server.instead(SERVICES, false, Instead::Status(500, None, "etcdserver: request timed out".into()));
    server.instead(SERVICES, false, Instead::Status(503, None, String::new()));
    let begun = Instant::now();
    let mut follower = Follower::new(&server.url());
    follower.until("said", |it| it.rows.iter().any(|row| row.error.contains("busy (429: Too many"))).await;
    follower.until_synced().await;
    let took = begun.elapsed();
    assert!((1000..3000).contains(&took.as_millis()), "{took:?}");
    assert_eq!(follower.metric("errors_total{kind=\"Service\",error=\"server\"}"), 2.0);
}

#[tokio::test]
async fn a_server_that_comes_back_is_followed_within_two_seconds() {
    let mut server = small_world().await;
    let mut follower = Follower::new(&server.url());
    follower.until_synced().await;
    server.go_away().await;
    // Long enough for a plain back-off to be at its longest.
    follower.until("noticed", |it| it.rows.iter().all(|row| row.state == "Stale")).await;
    follower.listen(9000).await;
    assert_eq!(follower.seen.len(), 4, "the last state stays");
    assert_eq!((follower.metric("connected"), follower.metric("stale")), (0.0, 1.0));
    assert!(follower.metric("last_contact_age_seconds") > 8.0);
    assert!(follower.row("Node").last_contact_seconds.expect("known") >= 8);
    assert!(follower.row("Node").error.contains("not reached"), "{:?}", follower.row("Node"));
    server.put(SLICES, slice("web-2", "10.1.0.9"));
    // A server that starts refuses for a moment what it will allow.
    for _ in 0..2 {
        server.instead(SLICES, true, Instead::Status(403, None, "{\"code\":403}".into()));
        server.instead(SLICES, true, Instead::Status(429, Some(("retry-after", "20")), String::new()));
    }
    server.come_back().await;
    let back = Instant::now();
    follower.until_seen("slice shop/web-2").await;
    let took = back.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    follower.until("followed", |it| it.rows.iter().all(|row| row.state == "Ok")).await;
    assert_eq!(follower.metric("stale"), 0.0);
}

#[tokio::test]
async fn a_rotated_token_is_taken_without_a_restart() {
    let server = small_world().await;
    server.demand("first");
    let mut follower = Follower::new(&server.url());
    follower.until_synced().await;
    server.demand("second");
    server.compact();
    server.put(SERVICES, service("new", 80));
    follower
        .until("refused", |it| it.rows.iter().any(|row| row.error.contains("credentials are not accepted")))
        .await;
    // Whoever writes it may empty it first.
    let token = follower.folder.path().join("token");
    std::fs::write(&token, "").expect("written");
    follower.until("nobody", |it| it.rows.iter().any(|row| row.error.contains("system:anonymous"))).await;
    std::fs::write(&token, "second").expect("written");
    let written = Instant::now();
    follower.until_seen("svc shop/new").await;
    assert!(written.elapsed() < Duration::from_secs(15), "{:?}", written.elapsed());
}

#[tokio::test]
async fn a_right_that_is_taken_away_leaves_the_last_state_until_it_is_given_back() {
    let mut server = small_world().await;
    let mut follower = Follower::new(&server.url());
    follower.until_synced().await;
    server.deny(NODES, 403);
    server.go_away().await;
    server.come_back().await;
    follower
        .until("told", |it| it.row("Node").error.contains("a right is missing (403: no /api/v1/nodes"))
        .await;
    assert_eq!((follower.row("Node").state.as_str(), follower.row("Node").objects), ("Stale", 1));
    server.put(SERVICES, service("meanwhile", 80));
    follower.until_seen("svc shop/meanwhile").await;
    server.put(NODES, node("n2"));
    server.deny(NODES, 200);
    follower.until_seen("node n2").await;
    follower.until("followed", |it| it.row("Node").state == "Ok").await;
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
async fn a_restart_without_the_server_serves_the_last_state_and_corrects_it_later() {
    let mut server = small_world().await;
    server.put(SERVICES, service("old", 80));
    let url = server.url();
    let mut first = Follower::new(&url);
    first.until_synced().await;
    let file = first.folder.path().join("state/kubernetes");
    let deadline = Instant::now() + PATIENCE;
    while !file.exists() {
        assert!(Instant::now() < deadline, "no file");
        first.listen(100).await;
    }
    let before = first.seen.clone();
    let folder = first.end().await;
    server.go_away().await;

    let begun = Instant::now();
    let mut second = Follower::with(&url, None, folder);
    second.until_synced().await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(second.seen, before);
    second.until("marked", |it| it.rows.iter().all(|row| row.state == "Stale")).await;
    assert_eq!(second.metric("stale"), 1.0);
    assert_eq!(second.metric("objects{kind=\"Service\"}"), 2.0);

    second.told.clear();
    server.delete(SERVICES, "shop", "old");
    server.put(SERVICES, service("new", 80));
    server.come_back().await;
    second.until("corrected", |it| it.told.len() == 2).await;
    second.told.sort();
    assert_eq!(second.told, ["+svc shop/new", "-svc shop/old"]);
    second.until("followed", |it| it.rows.iter().all(|row| row.state == "Ok")).await;
    assert_eq!(second.synced, 1);

    // A server that stumbles at the start is still asked before the file.
    server.delete(SERVICES, "shop", "new");
    server.instead(NODES, false, Instead::Status(500, None, "not yet".into()));
    let mut third = Follower::with(&url, None, second.end().await);
    third.until_synced().await;
    let gone = ["+svc shop/new", "+svc shop/old"];
    assert!(!third.told.iter().any(|told| gone.contains(&told.as_str())), "{:?}", third.told);

    // A file of another source is not used.
    let folder = third.end().await;
    server.go_away().await;
    let mut other = Follower::with(&url, Some("fairlead"), folder);
    other.listen(1500).await;
    assert_eq!((other.synced, other.told.len()), (0, 0));
    assert_eq!(other.row("Service").state, "Waiting");
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

#[tokio::test]
async fn a_missing_kubeconfig_is_waited_for() {
    let server = small_world().await;
    let folder = tempfile::tempdir().expect("folder");
    let mut follower = Follower::with(&server.url(), None, folder);
    let kubeconfig = follower.folder.path().join("kubeconfig");
    let aside = follower.folder.path().join("aside");
    // The client is made with the first request, which has not happened yet on this one thread.
    std::fs::rename(&kubeconfig, &aside).expect("renamed");
    follower
        .until("told", |it| it.rows.iter().any(|row| row.error.contains("kubeconfig: No such file")))
        .await;
    std::fs::rename(&aside, &kubeconfig).expect("renamed");
    follower.until_synced().await;
}

#[tokio::test]
async fn a_page_that_is_too_large_is_asked_for_in_smaller_ones() {
    let server = small_world().await;
    server.instead(SLICES, false, Instead::Text(" ".repeat(65 << 20)));
    let mut follower = Follower::new(&server.url());
    follower.until_synced().await;
    let asked = server.asked();
    let lists = asked.iter().filter(|asked| asked.starts_with(SLICES) && !asked.contains("watch"));
    let limits: Vec<_> =
        lists.map(|asked| asked.contains("limit=250&") || asked.ends_with("limit=250")).collect();
    assert_eq!(limits, [false, true]);
}

#[tokio::test]
async fn an_event_larger_than_any_object_is_not_taken_in() {
    let server = small_world().await;
    let huge = "x".repeat(18 << 20);
    server.instead(SERVICES, true, Instead::Text(huge));
    let mut follower = Follower::new(&server.url());
    follower.until_synced().await;
    server.put(SERVICES, service("after", 80));
    follower.until_seen("svc shop/after").await;
    assert_eq!(follower.metric("errors_total{kind=\"Service\",error=\"too_large\"}"), 1.0);
}
