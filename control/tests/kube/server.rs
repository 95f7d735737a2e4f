//! A scripted API server on loopback: lists in pages, watches with a history, and every fault that a test wants.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::stream::{self, Stream, StreamExt};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

type Error = std::io::Error;
type Answer = Response<BoxBody<Bytes, Error>>;

/// What the next matching request gets instead of the truth.
#[derive(Clone, Debug)]
pub(crate) enum Instead {
    /// A status with headers and a body.
    Status(u16, Option<(&'static str, &'static str)>, String),
    /// These bytes as the whole stream, then an orderly end.
    Text(String),
    /// These bytes, then the connection is cut.
    Cut(String),
    /// The truth, later.
    Late(Duration),
}

#[derive(Debug, Default)]
struct World {
    version: u64,
    /// Objects by path of their collection, then by namespace and name.
    objects: BTreeMap<String, BTreeMap<String, Value>>,
    /// Version and line, by path.
    history: BTreeMap<String, Vec<(u64, String)>>,
    /// Versions up to here are forgotten.
    forgotten: u64,
    /// Path and whether it is for watches, with what to do, in order.
    script: VecDeque<(String, bool, Instead)>,
    /// Collections that do not exist, or may not be read: status by path.
    denied: BTreeMap<String, u16>,
    token: Option<String>,
    asked: Vec<String>,
}

impl World {
    fn remember(&mut self, path: &str, line: String) {
        self.history.entry(path.to_owned()).or_default().push((self.version, line));
    }
}

/// The server; it is gone when dropped.
pub(crate) struct Server {
    world: Arc<Mutex<World>>,
    changed: watch::Sender<u64>,
    address: SocketAddr,
    /// How connections are encrypted; none: they are not.
    tls: Option<TlsAcceptor>,
    serving: Option<JoinHandle<()>>,
}

pub(crate) const SERVICES: &str = "/api/v1/services";
pub(crate) const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
pub(crate) const NAMESPACES: &str = "/api/v1/namespaces";
pub(crate) const POOLS: &str = "/apis/fairlead.dev/v1alpha1/addresspools";
pub(crate) const NODES: &str = "/api/v1/nodes";
pub(crate) const CIDRS: &str = "/apis/networking.k8s.io/v1/servicecidrs";

impl Server {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut server =
            Self { world: Arc::default(), changed: watch::Sender::new(0), address, tls: None, serving: None };
        server.serve(listener);
        server
    }

    /// Every connection breaks; new ones are encrypted so.
    pub(crate) async fn encrypt(&mut self, tls: TlsAcceptor) {
        self.go_away().await;
        self.tls = Some(tls);
        self.come_back().await;
    }

    pub(crate) fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Every connection breaks, and no new one is taken.
    pub(crate) async fn go_away(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            let _ = serving.await;
        }
    }

    pub(crate) async fn come_back(&mut self) {
        let listener = TcpListener::bind(self.address).await.expect("the port is still ours");
        self.serve(listener);
    }

    fn serve(&mut self, listener: TcpListener) {
        let (world, changed) = (Arc::clone(&self.world), self.changed.subscribe());
        let tls = self.tls.clone();
        self.serving = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let _ = stream.set_nodelay(true);
                let (world, changed) = (Arc::clone(&world), changed.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let (world, changed) = (Arc::clone(&world), changed.clone());
                    async move { Ok::<_, Infallible>(answer(&world, changed, &request).await) }
                });
                let tls = tls.clone();
                // Whoever does not like the certificate, or goes, ends the connection: that is no matter of the server's.
                connections.spawn(async move {
                    let http = hyper::server::conn::http1::Builder::new();
                    let Some(tls) = tls else {
                        return drop(http.serve_connection(TokioIo::new(stream), service).await);
                    };
                    if let Ok(stream) = tls.accept(stream).await {
                        drop(http.serve_connection(TokioIo::new(stream), service).await);
                    }
                });
            }
        }));
    }

    fn edit<T>(&self, edit: impl FnOnce(&mut World) -> T) -> T {
        let result = edit(&mut self.world.lock().expect("no panic before"));
        self.changed.send_modify(|turn| *turn += 1);
        result
    }

    /// Writes an object, new or not.
    pub(crate) fn put(&self, path: &str, mut object: Value) {
        self.edit(|world| {
            world.version += 1;
            object["metadata"]["resourceVersion"] = world.version.to_string().into();
            let objects = world.objects.entry(path.to_owned()).or_default();
            let old = objects.insert(key(&object), object.clone());
            let kind = if old.is_some() { "MODIFIED" } else { "ADDED" };
            let line = json!({"type": kind, "object": object}).to_string();
            world.remember(path, line);
        });
    }

    pub(crate) fn delete(&self, path: &str, namespace: &str, name: &str) {
        self.edit(|world| {
            world.version += 1;
            let objects = world.objects.entry(path.to_owned()).or_default();
            let mut object = objects.remove(&format!("{namespace}/{name}")).expect("it exists");
            object["metadata"]["resourceVersion"] = world.version.to_string().into();
            let line = json!({"type": "DELETED", "object": object}).to_string();
            world.remember(path, line);
        });
    }

    /// Versions up to now can no longer be watched from, and watches in progress are told so.
    pub(crate) fn compact(&self) {
        self.edit(|world| {
            world.forgotten = world.version;
            world.history.clear();
        });
    }

    /// Versions up to now are not kept; nobody was promised them.
    pub(crate) fn forget_history(&self) {
        self.edit(|world| world.history.clear());
    }

    /// The next list (or watch) of a path gets this.
    pub(crate) fn instead(&self, path: &str, watch: bool, what: Instead) {
        self.edit(|world| world.script.push_back((path.to_owned(), watch, what)));
    }

    /// Every request for a path is answered by a status; 200 lifts it.
    pub(crate) fn deny(&self, path: &str, status: u16) {
        self.edit(|world| {
            world.denied.insert(path.to_owned(), status);
        });
    }

    /// Only this bearer token is let in.
    pub(crate) fn demand(&self, token: &str) {
        self.edit(|world| world.token = Some(token.to_owned()));
    }

    /// Every request so far as path and query, heartbeats left out.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.edit(|world| world.asked.clone())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
        }
    }
}

fn key(object: &Value) -> String {
    let metadata = &object["metadata"];
    let namespace = metadata["namespace"].as_str().unwrap_or_default();
    format!("{namespace}/{}", metadata["name"].as_str().expect("a name"))
}

async fn answer(
    world: &Arc<Mutex<World>>,
    changed: watch::Receiver<u64>,
    request: &Request<Incoming>,
) -> Answer {
    let path = request.uri().path().to_owned();
    let query = parameters(request.uri().query().unwrap_or_default());
    let watches = query.contains_key("watch");
    if path == "/version" {
        return status(if admits(world, request) { 200 } else { 401 }, None, "{}");
    }
    let instead = {
        let mut world = world.lock().expect("no panic before");
        world.asked.push(request.uri().to_string());
        let at = world.script.iter().position(|(at, watch, _)| *at == path && *watch == watches);
        at.and_then(|at| world.script.remove(at)).map(|(_, _, what)| what)
    };
    match instead {
        Some(Instead::Status(code, header, body)) => return status(code, header, &body),
        Some(Instead::Text(text)) => return streamed(stream::iter([Ok(text)])),
        Some(Instead::Cut(text)) => {
            // Not before what came first has left.
            let cut = async {
                sleep(Duration::from_millis(50)).await;
                Err(Error::other("cut"))
            };
            return streamed(stream::iter([Ok(text)]).chain(stream::once(cut)));
        }
        Some(Instead::Late(delay)) => sleep(delay).await,
        None => {}
    }
    if request.headers().get("authorization").is_some_and(|given| given == "Bearer") {
        return status(403, None, r#"{"code":403,"message":"User \"system:anonymous\" cannot list"}"#);
    }
    if !admits(world, request) {
        return status(401, None, r#"{"code":401,"message":"Unauthorized"}"#);
    }
    if let Some(code) = denied(world, &path) {
        return status(
            code,
            None,
            &json!({"code": code, "message": format!("no {path} for you")}).to_string(),
        );
    }
    if watches { watched(world, changed, &path, &query) } else { listed(world, &path, &query) }
}

fn admits(world: &Mutex<World>, request: &Request<Incoming>) -> bool {
    let given = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    let world = world.lock().expect("no panic before");
    world.token.as_ref().is_none_or(|token| given == Some(&format!("Bearer {token}")))
}

fn denied(world: &Mutex<World>, path: &str) -> Option<u16> {
    world.lock().expect("no panic before").denied.get(path).copied().filter(|code| *code != 200)
}

fn listed(world: &Mutex<World>, path: &str, query: &BTreeMap<String, String>) -> Answer {
    let world = world.lock().expect("no panic before");
    let skip = query.get("continue").map_or(0, |token| token.parse().expect("a token of ours"));
    let limit = query.get("limit").map_or(usize::MAX, |limit| limit.parse().expect("a number"));
    let all = world.objects.get(path);
    let items: Vec<_> = all.into_iter().flat_map(BTreeMap::values).skip(skip).take(limit).collect();
    let rest = all.map_or(0, BTreeMap::len).saturating_sub(skip + items.len());
    let token = if rest > 0 { (skip + items.len()).to_string() } else { String::new() };
    let metadata = json!({"resourceVersion": world.version.to_string(), "continue": token});
    // An empty list is null, as the real server writes some of them.
    let items = if items.is_empty() { Value::Null } else { json!(items) };
    status(200, None, &json!({"kind": "List", "metadata": metadata, "items": items}).to_string())
}

fn watched(
    world: &Arc<Mutex<World>>,
    changed: watch::Receiver<u64>,
    path: &str,
    query: &BTreeMap<String, String>,
) -> Answer {
    let from: u64 = query["resourceVersion"].parse().expect("a version of ours");
    let state = (Arc::clone(world), changed, path.to_owned(), from, false);
    streamed(stream::unfold(state, |(world, mut changed, path, from, ended)| async move {
        if ended {
            return None;
        }
        loop {
            changed.borrow_and_update();
            let next = {
                let world = world.lock().expect("no panic before");
                if from < world.forgotten {
                    let status = json!({"type": "ERROR", "object": {"code": 410, "message": "too old"}});
                    Some((from, status.to_string(), true))
                } else {
                    let history = world.history.get(&path).map_or(&[][..], Vec::as_slice);
                    let next = history.partition_point(|(version, _)| *version <= from);
                    history.get(next).map(|(version, line)| (*version, line.clone(), false))
                }
            };
            if let Some((version, line, ended)) = next {
                return Some((Ok(line + "\n"), (world, changed, path, version, ended)));
            }
            if changed.changed().await.is_err() {
                return None;
            }
        }
    }))
}

fn streamed(lines: impl Stream<Item = Result<String, Error>> + Send + Sync + 'static) -> Answer {
    let frames = lines.map(|line| line.map(|line| Frame::data(Bytes::from(line))));
    Response::new(BoxBody::new(StreamBody::new(frames)))
}

fn status(code: u16, header: Option<(&'static str, &'static str)>, body: &str) -> Answer {
    let mut answer = Response::builder().status(code);
    if let Some((name, value)) = header {
        answer = answer.header(name, value);
    }
    let body = Full::new(Bytes::from(body.to_owned())).map_err(|never: Infallible| match never {});
    answer.body(BoxBody::new(body)).expect("a good answer")
}

/// What tests need of a query string: no names of ours are escaped, values may be.
fn parameters(query: &str) -> BTreeMap<String, String> {
    let pairs = query.trim_start_matches('&').split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
