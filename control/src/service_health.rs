//! healthCheckNodePort: an HTTP server for each Service that has one, on the appliance's own nodePort addresses, by which a
//! load balancer before the appliance learns whether it has endpoints of the Service. Any path and method get the same answer.
//! Invariant: everything is bounded; a port that cannot be had is a warning and tried again. Not here: who counts
//! (`compile`). Source: k8s.io/kubernetes pkg/proxy/healthcheck/service_health.go.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::compile::HealthChecks;
use crate::http::Health;
use crate::metrics::ControlMetrics;
use crate::model::ObjectKey;

/// Listeners, of all Services together.
const LISTENERS_MAX: usize = 1024;
/// Connections of one listener; further ones wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 64;
/// How long one connection may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Until a port that could not be had is tried again, such as an IPv6 address that is still being checked.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// After the kernel has refused a connection to us, for want of file descriptors say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where one Service is asked.
type Place = (ObjectKey, SocketAddr);

/// Follows what is wanted until aborted.
pub async fn serve(wanted: watch::Receiver<HealthChecks>, health: Arc<Health>, metrics: ControlMetrics) {
    let mut follow = wanted.clone();
    let mut servers = Servers { wanted, health, open: BTreeMap::new(), refused: BTreeSet::new() };
    loop {
        let places = places(&follow.borrow_and_update());
        servers.follow(places).await;
        metrics.health_listeners.set(servers.open.len() as u64);
        metrics.health_refused.set(servers.refused.len() as u64);
        let again = !servers.refused.is_empty();
        tokio::select! {
            changed = follow.changed() => if changed.is_err() { return },
            () = sleep(RETRY_INTERVAL), if again => {}
        }
    }
}

fn places(wanted: &HealthChecks) -> BTreeSet<Place> {
    let of_service = |(key, check): (&ObjectKey, &crate::compile::HealthCheck)| {
        let at = |address: &_| (key.clone(), SocketAddr::new(*address, check.port));
        wanted.addresses.iter().map(at).collect::<Vec<_>>()
    };
    wanted.services.iter().flat_map(of_service).collect()
}

struct Servers {
    wanted: watch::Receiver<HealthChecks>,
    health: Arc<Health>,
    open: BTreeMap<Place, Listening>,
    /// Told once, until they can be had.
    refused: BTreeSet<Place>,
}

/// A listener's task; it ends when dropped.
struct Listening(JoinHandle<()>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Servers {
    async fn follow(&mut self, places: BTreeSet<Place>) {
        self.open.retain(|place, _| places.contains(place));
        self.refused.retain(|place| places.contains(place));
        for place in places {
            if self.open.contains_key(&place) {
                continue;
            }
            match self.open(&place).await {
                Ok(listening) => {
                    self.refused.remove(&place);
                    self.open.insert(place, listening);
                }
                Err(error) => {
                    let ((service, at), what) =
                        (&place, "its health check is not answered there; tried again every 2 s");
                    if !self.refused.contains(&place) {
                        tracing::warn!(%service, %at, %error, "healthCheckNodePort cannot be had: {what}");
                    }
                    self.refused.insert(place);
                }
            }
        }
    }

    async fn open(&self, (key, at): &Place) -> io::Result<Listening> {
        if self.open.len() == LISTENERS_MAX {
            return Err(io::Error::other(format!("over {LISTENERS_MAX} listeners")));
        }
        let listener = TcpListener::bind(at).await?;
        let asked = Asked { key: key.clone(), wanted: self.wanted.clone(), health: Arc::clone(&self.health) };
        Ok(Listening(tokio::spawn(listen(listener, Arc::new(asked)))))
    }
}

/// What an answer is made of.
struct Asked {
    key: ObjectKey,
    wanted: watch::Receiver<HealthChecks>,
    health: Arc<Health>,
}

async fn listen(listener: TcpListener, asked: Arc<Asked>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let permit = Arc::clone(&permits).acquire_owned().await.expect("nobody closes it");
        let Ok((stream, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let asked = Arc::clone(&asked);
        tokio::spawn(async move {
            answer(stream, &asked).await;
            drop(permit);
        });
    }
}

/// One question, one answer: a prober that keeps connections open would see the state of their beginning.
async fn answer(stream: TcpStream, asked: &Asked) {
    let service = service_fn(|_| std::future::ready(Ok::<_, Infallible>(asked.response())));
    let served = http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service);
    // A prober that hangs up or takes too long learns nothing, and nobody else need know.
    let _ = timeout(PATIENCE, served).await;
}

impl Asked {
    fn response(&self) -> Response<Full<Bytes>> {
        let endpoints = self.wanted.borrow().services.get(&self.key).map_or(0, |check| check.endpoints);
        let healthy = self.health.is_ready() && self.health.check().is_ok();
        response(&self.key, endpoints, healthy)
    }
}

fn response(key: &ObjectKey, endpoints: usize, healthy: bool) -> Response<Full<Bytes>> {
    let body = serde_json::json!({
        "service": {"namespace": key.namespace, "name": key.name},
        "localEndpoints": endpoints,
        "serviceProxyHealthy": healthy,
    });
    let good = endpoints > 0 && healthy;
    Response::builder()
        .status(if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE })
        .header(CONTENT_TYPE, "application/json")
        .header(X_CONTENT_TYPE_OPTIONS, "nosniff")
        .header("X-Load-Balancing-Endpoint-Weight", endpoints)
        .body(Full::new(Bytes::from(body.to_string())))
        .expect("constant names and a number")
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use tables::command::command_rings;
    use tables::counters::WorkerCounters;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::compile::HealthCheck;
    use crate::metrics::Metrics;
    use crate::workers::Workers;

    const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    struct World {
        wanted: watch::Sender<HealthChecks>,
        ready: watch::Sender<bool>,
        metrics: Metrics,
        server: JoinHandle<()>,
    }

    impl World {
        fn new() -> Self {
            let (sender, _desk) = command_rings(1, 1);
            let workers = Workers::new(vec![(Arc::new(WorkerCounters::new(0)), sender)]);
            let (ready, is_ready) = watch::channel(true);
            let health = Arc::new(Health::new(workers, is_ready));
            let (wanted, follow) = watch::channel(HealthChecks::default());
            let metrics = Metrics::new(Vec::new(), Vec::new(), None);
            let server = tokio::spawn(serve(follow, health, metrics.control.clone()));
            Self { wanted, ready, metrics, server }
        }

        fn want(&self, checks: &[(&str, u16, usize)]) {
            let check = |(name, port, endpoints): &(&str, u16, usize)| {
                (ObjectKey::new("shop", *name), HealthCheck { port: *port, endpoints: *endpoints })
            };
            let services = checks.iter().map(check).collect();
            self.wanted.send_replace(HealthChecks { addresses: [LOOPBACK].into(), services });
        }

        /// Waits until so many listeners are open and so many refused.
        async fn settled(&self, open: u64, refused: u64) {
            for _ in 0..600 {
                let control = &self.metrics.control;
                if (control.health_listeners.get(), control.health_refused.get()) == (open, refused) {
                    return;
                }
                sleep(Duration::from_millis(10)).await;
            }
            panic!("not {open} open and {refused} refused");
        }
    }

    /// A port that is free now.
    fn free_port() -> u16 {
        let listener = std::net::TcpListener::bind((LOOPBACK, 0)).expect("some port");
        listener.local_addr().expect("bound").port()
    }

    async fn ask(port: u16, request: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect((LOOPBACK, port)).await?;
        stream.write_all(format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        // To the end: the connection is closed after one answer.
        stream.read_to_string(&mut answer).await?;
        Ok(answer.to_ascii_lowercase())
    }

    #[tokio::test]
    async fn any_path_and_method_tell_the_state_of_now() {
        let (world, port) = (World::new(), free_port());
        world.want(&[("web", port, 3)]);
        world.settled(1, 0).await;
        for request in ["GET /healthz", "GET /", "POST /any/path?x=1"] {
            let answer = ask(port, request).await.expect("answered");
            assert!(answer.starts_with("http/1.1 200 "), "{answer}");
            for part in [
                "content-type: application/json\r\n",
                "x-content-type-options: nosniff\r\n",
                "x-load-balancing-endpoint-weight: 3\r\n",
            ] {
                assert!(answer.contains(part), "{part} in {answer}");
            }
            let body = answer.split_once("\r\n\r\n").expect("a body").1;
            let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
            assert_eq!(body["service"], serde_json::json!({"namespace": "shop", "name": "web"}));
            assert_eq!((&body["localendpoints"], &body["serviceproxyhealthy"]), (&3.into(), &true.into()));
        }
        world.want(&[("web", port, 0)]);
        assert!(ask(port, "GET /").await.expect("answered").starts_with("http/1.1 503 "));
        world.want(&[("web", port, 1)]);
        world.ready.send_replace(false);
        let answer = ask(port, "GET /").await.expect("answered");
        assert!(
            answer.starts_with("http/1.1 503 ") && answer.contains("\"serviceproxyhealthy\":false"),
            "{answer}"
        );
        world.server.abort();
    }

    #[tokio::test]
    async fn listeners_come_and_go_with_their_services() {
        let (world, one, two) = (World::new(), free_port(), free_port());
        world.want(&[("web", one, 1)]);
        world.settled(1, 0).await;
        world.want(&[("web", two, 1)]);
        world.settled(1, 0).await;
        for _ in 0..100 {
            if ask(one, "GET /").await.is_err() {
                break;
            }
            sleep(Duration::from_millis(10)).await;
        }
        assert!(ask(one, "GET /").await.is_err(), "the old port is closed");
        assert!(ask(two, "GET /").await.expect("the new one").starts_with("http/1.1 200 "));
        world.want(&[]);
        world.settled(0, 0).await;
        world.server.abort();
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_had_once_it_is_free() {
        let world = World::new();
        let taken = std::net::TcpListener::bind((LOOPBACK, 0)).expect("some port");
        let port = taken.local_addr().expect("bound").port();
        world.want(&[("web", port, 1)]);
        world.settled(0, 1).await;
        drop(taken);
        world.settled(1, 0).await;
        assert!(ask(port, "GET /").await.expect("answered").starts_with("http/1.1 200 "));
        world.server.abort();
    }
}
