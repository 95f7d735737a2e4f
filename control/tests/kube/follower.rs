//! A follower of the scripted API server, with what it told, and the objects that it is shown.

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

use crate::server::{CIDRS, NODES, SERVICES, SLICES, Server};

/// Longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A follower with what it told so far.
pub(crate) struct Follower {
    events: mpsc::Receiver<SourceEvent>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) folder: tempfile::TempDir,
    state: Arc<StateDir>,
    /// Kind and name to a mark of the object; what was told last.
    pub(crate) seen: BTreeMap<String, String>,
    /// Every change as `+name` or `-name`.
    pub(crate) told: Vec<String>,
    /// How often an old state was announced, before anything of it.
    pub(crate) stale: usize,
    pub(crate) synced: usize,
    pub(crate) rows: Vec<view::Source>,
}

impl Follower {
    pub(crate) fn new(url: &str) -> Self {
        Self::with(url, None, tempfile::tempdir().expect("folder"))
    }

    pub(crate) fn with(url: &str, proxy_name: Option<&str>, folder: tempfile::TempDir) -> Self {
        Self::of(&format!("server: '{url}'"), proxy_name, folder)
    }

    /// `cluster` is what the kubeconfig says of it.
    pub(crate) fn of(cluster: &str, proxy_name: Option<&str>, folder: tempfile::TempDir) -> Self {
        let kubeconfig = folder.path().join("kubeconfig");
        let text = format!(
            "current-context: c\ncontexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n\
             clusters: [{{name: k, cluster: {{{cluster}}}}}]\nusers: [{{name: u, user: {{tokenFile: token}}}}]\n"
        );
        std::fs::write(&kubeconfig, text).expect("written");
        std::fs::write(folder.path().join("token"), "first").expect("written");
        let state = Arc::new(StateDir::open(&folder.path().join("state")).expect("a state directory"));
        let (out, events) = mpsc::channel(64);
        let server = Arc::new(ApiServer::new(Access::Kubeconfig(kubeconfig)));
        let counters = follow(server, proxy_name, Arc::clone(&state), out);
        let (seen, told, rows) = Default::default();
        Self { events, counters, folder, state, seen, told, stale: 0, synced: 0, rows }
    }

    /// Ends; its folder is left for another one.
    pub(crate) async fn end(self) -> tempfile::TempDir {
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

    pub(crate) fn take(&mut self, event: SourceEvent) {
        match event {
            SourceEvent::Changes(changes) => changes.iter().for_each(|change| self.note(change)),
            SourceEvent::Status(rows) => self.rows = rows,
            SourceEvent::Synced => self.synced += 1,
            SourceEvent::Stale => {
                assert_eq!((self.told.len(), self.synced), (0, 0), "it must be known before what is stale");
                self.stale += 1;
            }
            SourceEvent::Current => {}
        }
    }

    pub(crate) fn note(&mut self, change: &Change) {
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
    pub(crate) async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
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

    pub(crate) async fn until_synced(&mut self) {
        self.until("synced", |it| it.synced > 0).await;
    }

    pub(crate) async fn until_seen(&mut self, name: &str) {
        self.until(name, |it| it.seen.contains_key(name)).await;
    }

    /// Whatever comes within a while.
    pub(crate) async fn listen(&mut self, for_ms: u64) {
        let deadline = Instant::now() + Duration::from_millis(for_ms);
        while let Ok(Some(event)) =
            timeout(deadline.saturating_duration_since(Instant::now()), self.events.recv()).await
        {
            self.take(event);
        }
    }

    pub(crate) fn row(&self, name: &str) -> &view::Source {
        self.rows.iter().find(|row| row.name == name).expect("a row for every kind")
    }

    pub(crate) fn metrics(&self) -> String {
        let mut metrics = Metrics::new(Vec::new(), Vec::new(), None);
        metrics.add(Box::new(KubernetesCollector(Arc::clone(&self.counters))));
        metrics.text()
    }

    pub(crate) fn metric(&self, series: &str) -> f64 {
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

pub(crate) fn service(name: &str, port: u16) -> Value {
    json!({"metadata": {"namespace": "shop", "name": name}, "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": port}]}})
}

pub(crate) fn slice(name: &str, address: &str) -> Value {
    json!({"metadata": {"namespace": "shop", "name": name, "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": [{"addresses": [address]}]})
}

pub(crate) fn node(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"podCIDRs": ["10.1.0.0/24"]}})
}

pub(crate) async fn small_world() -> Server {
    let server = Server::start().await;
    server.put(SERVICES, service("web", 80));
    server.put(SLICES, slice("web-1", "10.1.0.1"));
    server.put(NODES, node("n1"));
    server.put(CIDRS, json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/16"]}}));
    server
}
