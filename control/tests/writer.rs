//! What is written to an API server, by one that answers as it is told to: in which order, what happens when it refuses,
//! and that only the holder of the Lease writes.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use control::apply::Election;
use control::kube::{self, Access, ApiServer, LeaseName, Writing};
use control::metrics::Metrics;
use control::model::{Ingress, IpMode, ObjectKey, Service, ServiceType, Upkeep};
use control::outcome::{Batch, Outcome, PoolOutcome};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

const SERVICE: &str = "/api/v1/namespaces/shop/services/web";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/fairlead-system/leases/fairlead";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/fairlead-system/leases";
const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/shop/events";
const POOL: &str = "/apis/fairlead.dev/v1alpha1/addresspools/public/status";

/// What the server has, what it was told, and what it answers instead of doing it.
#[derive(Default)]
struct World {
    objects: BTreeMap<String, Value>,
    seen: Vec<(String, Value)>,
    instead: BTreeMap<String, VecDeque<u16>>,
}

type Shared = Arc<Mutex<World>>;

async fn answer(State(world): State<Shared>, method: Method, uri: Uri, body: Bytes) -> (StatusCode, String) {
    let mut world = world.lock().unwrap();
    let (path, body) = (uri.path().to_owned(), serde_json::from_slice(&body).unwrap_or(Value::Null));
    let key = format!("{method} {path}");
    if !path.ends_with("/fairlead") && !path.ends_with("/leases") {
        world.seen.push((key.clone(), body.clone()));
    }
    if let Some(code) = world.instead.get_mut(&key).and_then(VecDeque::pop_front) {
        return (
            StatusCode::from_u16(code).unwrap(),
            json!({"code": code, "message": "as told"}).to_string(),
        );
    }
    let known = world.objects.get(&path).cloned();
    match method {
        Method::POST if path == LEASES => {
            world.objects.insert(LEASE.into(), body.clone());
            (StatusCode::CREATED, body.to_string())
        }
        Method::POST => (StatusCode::CREATED, body.to_string()),
        Method::PUT => {
            world.objects.insert(path, body.clone());
            (StatusCode::OK, body.to_string())
        }
        _ => {
            known.map_or((StatusCode::NOT_FOUND, String::new()), |known| (StatusCode::OK, known.to_string()))
        }
    }
}

/// A writer in front of such a server.
struct Stand {
    world: Shared,
    election: Election,
    writing: Writing,
    metrics: Metrics,
    _files: tempfile::TempDir,
}

impl Stand {
    async fn new(objects: &[(&str, Value)], instead: &[(&str, &[u16])]) -> Self {
        let world = World {
            objects: objects.iter().map(|(path, object)| ((*path).to_owned(), object.clone())).collect(),
            instead: instead
                .iter()
                .map(|(key, codes)| ((*key).to_owned(), codes.iter().copied().collect()))
                .collect(),
            ..World::default()
        };
        let world = Arc::new(Mutex::new(world));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(Arc::clone(&world));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let files = tempfile::tempdir().unwrap();
        let kubeconfig = files.path().join("kubeconfig");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: c, cluster: {{server: \"{url}\"}}}}]\nusers: [{{name: u, user: {{token: t}}}}]\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n"
        );
        std::fs::write(&kubeconfig, text).unwrap();
        let server = Arc::new(ApiServer::new(Access::Kubeconfig(kubeconfig)));
        let lease = LeaseName {
            namespace: "fairlead-system".into(),
            name: "fairlead".into(),
            identity: "gw-1".into(),
        };
        let mut metrics = Metrics::new(Vec::new(), Vec::new(), None);
        let (election, writing) = kube::write(server, lease, metrics.add_writer());
        Self { world, election, writing, metrics, _files: files }
    }

    async fn leads(&mut self) {
        let leads = self.election.leads.wait_for(|leads| *leads);
        tokio::time::timeout(Duration::from_secs(20), leads).await.expect("in time").expect("it runs");
    }

    fn put(&self, outcome: Outcome) {
        let services = [(ObjectKey::new("shop", "web"), outcome)].into();
        self.election.outcomes.put(Batch { services, ..Batch::default() });
    }

    fn seen(&self) -> Vec<(String, Value)> {
        self.world.lock().unwrap().seen.clone()
    }

    /// Waits until the server was asked so often, and then a little for what should not come.
    async fn asked(&self, times: usize) -> Vec<(String, Value)> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.seen().len() < times && Instant::now() < deadline {
            sleep(Duration::from_millis(5)).await;
        }
        sleep(Duration::from_millis(100)).await;
        self.seen()
    }
}

fn keys(seen: &[(String, Value)]) -> Vec<&str> {
    seen.iter().map(|(key, _)| key.as_str()).collect()
}

/// Ours, with or without the finalizer, with these addresses in its status and given.
fn outcome(finalizer: bool, status: &[&str], given: &[&str]) -> Outcome {
    let ingress = |text: &&str| Ingress { address: text.parse().unwrap(), mode: IpMode::Vip };
    let service = Service {
        key: ObjectKey::new("shop", "web"),
        kind: ServiceType::LoadBalancer,
        ingress: status.iter().map(ingress).collect(),
        upkeep: Upkeep { uid: "u".into(), finalizer, ..Upkeep::default() },
        ..Service::default()
    };
    Outcome {
        service: Some(Arc::new(service)),
        ours: true,
        addresses: given.iter().map(|text| text.parse().unwrap()).collect(),
        pools: vec!["public".into()],
        ..Outcome::default()
    }
}

fn service(finalizers: &Value) -> Value {
    json!({"metadata": {"name": "web", "uid": "u", "resourceVersion": "7", "finalizers": finalizers}})
}

#[tokio::test]
async fn a_new_service_is_held_then_told_then_announced() {
    let status = format!("{SERVICE}/status");
    let mut stand = Stand::new(&[(SERVICE, service(&json!(["a"]))), (&status, json!({}))], &[]).await;
    stand.leads().await;
    stand.put(outcome(false, &[], &[]));
    let seen = stand.asked(2).await;
    assert_eq!(keys(&seen), [format!("GET {SERVICE}"), format!("PATCH {SERVICE}")]);
    assert_eq!(seen[1].1["metadata"]["finalizers"], json!(["a", "fairlead.dev/load-balancer"]));
    assert_eq!(seen[1].1["metadata"]["resourceVersion"], "7");
    stand.put(outcome(true, &[], &["192.0.2.1"]));
    let seen = stand.asked(4).await.split_off(2);
    assert_eq!(keys(&seen), [format!("PATCH {SERVICE}/status"), format!("POST {EVENTS}")]);
    assert_eq!(seen[0].1["status"]["loadBalancer"]["ingress"], json!([{"ip": "192.0.2.1", "ipMode": "VIP"}]));
    assert_eq!(
        (&seen[1].1["reason"], &seen[1].1["note"]),
        (&json!("IPAllocated"), &json!("192.0.2.1 of pool public"))
    );
    stand.put(outcome(true, &["192.0.2.1"], &["192.0.2.1"]));
    assert_eq!(stand.asked(4).await.len(), 4, "nothing is written twice");
}

/// What became of the Service may be told anew before the server's news of the finalizer is here. A delay would be a second
/// each time; the machine may stand still during one.
#[tokio::test]
async fn old_news_after_a_step_does_not_delay_the_next() {
    let mut times = Vec::new();
    while times.len() < 3 && !times.iter().any(|told| *told < Duration::from_millis(600)) {
        times.push(told_after_old_news().await);
    }
    assert!(times.iter().any(|told| *told < Duration::from_millis(600)), "told after {times:?}");
}

async fn told_after_old_news() -> Duration {
    let status = format!("{SERVICE}/status");
    let mut stand = Stand::new(&[(SERVICE, service(&json!([]))), (&status, json!({}))], &[]).await;
    stand.leads().await;
    stand.put(outcome(false, &[], &["192.0.2.1"]));
    assert_eq!(stand.asked(2).await.len(), 2);
    stand.put(outcome(false, &[], &["192.0.2.1"]));
    assert_eq!(stand.asked(2).await.len(), 2, "the finalizer is on its way");
    let begun = Instant::now();
    stand.put(outcome(true, &[], &["192.0.2.1"]));
    let seen = stand.asked(3).await;
    assert_eq!(keys(&seen)[2], format!("PATCH {SERVICE}/status"));
    begun.elapsed()
}

#[tokio::test]
async fn what_was_given_is_taken_back_before_the_finalizer_goes() {
    let held = service(&json!(["fairlead.dev/load-balancer"]));
    let mut stand = Stand::new(&[(SERVICE, held), (&format!("{SERVICE}/status"), json!({}))], &[]).await;
    stand.leads().await;
    stand.put(Outcome { ours: false, ..outcome(true, &["192.0.2.1"], &[]) });
    let seen = stand.asked(1).await;
    assert_eq!(keys(&seen), [format!("PATCH {SERVICE}/status")]);
    assert_eq!(seen[0].1["status"]["loadBalancer"], json!({"ingress": null}));
    stand.put(Outcome { ours: false, ..outcome(true, &[], &[]) });
    let seen = stand.asked(4).await.split_off(1);
    let want = [format!("GET {SERVICE}"), format!("PATCH {SERVICE}"), format!("POST {EVENTS}")];
    assert_eq!(keys(&seen), want);
    assert_eq!(seen[1].1["metadata"]["finalizers"], json!([]));
    assert_eq!((&seen[2].1["type"], &seen[2].1["reason"]), (&json!("Normal"), &json!("DeletedLoadBalancer")));
}

#[tokio::test]
async fn a_refused_write_is_tried_again_and_told_meanwhile() {
    let status = format!("PATCH {SERVICE}/status");
    let objects = [(&*format!("{SERVICE}/status"), json!({}))];
    let mut stand = Stand::new(&objects, &[(&status, &[409, 500, 403])]).await;
    stand.leads().await;
    let key = ObjectKey::new("shop", "web");
    stand.put(outcome(true, &[], &["192.0.2.1"]));
    let deadline = Instant::now() + Duration::from_secs(10);
    let fault = loop {
        if let Some(fault) = stand.election.outcomes.fault(&key) {
            break fault;
        }
        assert!(Instant::now() < deadline, "nothing is told");
        sleep(Duration::from_millis(5)).await;
    };
    assert!(fault.contains("not written to its status") && fault.contains("as told"), "{fault}");
    let seen = stand.asked(6).await;
    let (events, writes): (Vec<_>, Vec<_>) =
        seen.into_iter().partition(|(key, _)| *key == format!("POST {EVENTS}"));
    assert_eq!(keys(&writes), [&*status; 4]);
    let reasons: Vec<_> = events.iter().map(|(_, event)| &event["reason"]).collect();
    assert_eq!(reasons, ["SyncLoadBalancerFailed", "IPAllocated"]);
    assert_eq!(stand.election.outcomes.fault(&key), None);
    let text = stand.metrics.text();
    for result in ["conflict", "server", "forbidden", "ok"] {
        let series =
            format!("fairlead_kubernetes_writes_total{{kind=\"service_status\",result=\"{result}\"}} 1");
        assert!(text.contains(&series), "{series}\n{text}");
    }
    assert!(text.contains("fairlead_kubernetes_leader 1"));
}

#[tokio::test]
async fn what_is_gone_is_written_no_more() {
    let mut stand = Stand::new(&[], &[]).await;
    stand.leads().await;
    stand.put(outcome(true, &[], &["192.0.2.1"]));
    assert_eq!(keys(&stand.asked(1).await), [format!("PATCH {SERVICE}/status")]);
    sleep(Duration::from_millis(600)).await;
    assert_eq!(stand.seen().len(), 1, "404 is an answer");
    let other = json!({"metadata": {"name": "web", "uid": "another", "finalizers": []}});
    stand.world.lock().unwrap().objects.insert(SERVICE.into(), other);
    stand.put(outcome(false, &[], &[]));
    assert_eq!(
        keys(&stand.asked(2).await.split_off(1)),
        [format!("GET {SERVICE}")],
        "not another of the same name"
    );
}

#[tokio::test]
async fn warnings_are_told_once() {
    let mut stand = Stand::new(&[], &[]).await;
    stand.leads().await;
    let lacks = || Outcome { lacks: vec!["no free IPv4 address".into()], ..outcome(true, &[], &[]) };
    stand.put(lacks());
    let seen = stand.asked(1).await;
    assert_eq!(keys(&seen), [format!("POST {EVENTS}")]);
    assert_eq!((&seen[0].1["type"], &seen[0].1["reason"]), (&json!("Warning"), &json!("AllocationFailed")));
    stand.put(lacks());
    assert_eq!(stand.asked(1).await.len(), 1);
    // What traffic has shown, of a Service that is there and of one that is not.
    let shown = |name: &str| (ObjectKey::new("shop", name), "port 80: replies take another way".to_owned());
    let warnings = [shown("web"), shown("unknown")].into();
    stand.election.outcomes.put(Batch { warnings, ..Batch::default() });
    let event = &stand.asked(2).await.split_off(1)[0].1;
    let told = (&event["reason"], &event["note"], &event["regarding"]["name"]);
    assert_eq!(
        told,
        (&json!("LoadBalancerFailed"), &json!("port 80: replies take another way"), &json!("web"))
    );
}

#[tokio::test]
async fn a_refused_pool_is_told_why_in_its_status_and_by_an_event() {
    let object = json!({"metadata": {"name": "public", "uid": "u-pool"}});
    let mut stand = Stand::new(&[(POOL, object)], &[]).await;
    stand.leads().await;
    let pool = PoolOutcome { generation: Some(1), count: None, refused: "overlaps".into() };
    stand.election.outcomes.put(Batch { pools: [("public".to_owned(), pool)].into(), ..Batch::default() });
    let seen = stand.asked(3).await;
    // What is in no namespace has its events in this one.
    let events = EVENTS.replace("/shop/", "/default/");
    assert_eq!(keys(&seen), [format!("GET {POOL}"), format!("PATCH {POOL}"), format!("POST {events}")]);
    assert_eq!(seen[1].1["status"]["conditions"][0]["message"], "overlaps");
    let event = &seen[2].1;
    assert_eq!((&event["type"], &event["reason"]), (&json!("Warning"), &json!("PoolRefused")));
    assert_eq!((&event["note"], &event["regarding"]["uid"]), (&json!("overlaps"), &json!("u-pool")));
}

#[tokio::test]
async fn who_does_not_hold_the_lease_writes_nothing_and_who_goes_gives_it_back() {
    let lease = |holder: &str| {
        let spec = json!({"holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:00.000000Z"});
        json!({"metadata": {"name": "fairlead", "resourceVersion": "1"}, "spec": spec})
    };
    let stand = Stand::new(&[(LEASE, lease("gw-2"))], &[]).await;
    stand.put(outcome(false, &[], &[]));
    sleep(Duration::from_millis(500)).await;
    assert_eq!((stand.seen(), *stand.election.leads.borrow()), (Vec::new(), false));
    let mut stand = Stand::new(&[(LEASE, lease("gw-1"))], &[]).await;
    stand.leads().await;
    stand.writing.end().await;
    let world = stand.world.lock().unwrap();
    assert_eq!(world.objects[LEASE]["spec"]["holderIdentity"], Value::Null);
    assert!(!*stand.election.leads.borrow());
}
