//! An API server's part towards the appliance, as far as it goes: lists in pages, watches, and changes of slices at a rate.
//! A real one gives a thousand changes a second only with a cluster that makes them; what the appliance does with them is the
//! same. It plays on the generator's core, as everything here that is not the device's worker.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use cpu::affinity::{CpuSet, set_current};
use perf::{
    Random,
    objects::{SERVICES, service, slice},
};
use serde_json::{Value, json};

use crate::{
    Result,
    bench::CORES,
    traffic::{BACKENDS, NUMBERED_VIP},
};

/// Changes a second.
pub(crate) const CHANGES: u32 = 1000;
/// Services that change.
const CHANGED: usize = 512;
/// Longest line of a request's head, and most of them.
const HEAD_LINE_MAX: u64 = 16 << 10;
const HEAD_LINES_MAX: usize = 100;

/// A running one; it ends with the bench.
#[derive(Debug)]
pub(crate) struct Api {
    at: SocketAddr,
    changing: Arc<AtomicBool>,
}

impl Api {
    /// Starts one on a port of its own.
    pub(crate) fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (at, changing) = (listener.local_addr()?, Arc::new(AtomicBool::new(false)));
        let shared = Arc::clone(&changing);
        thread::spawn(move || {
            // Connections' threads inherit it.
            set_current(&CpuSet::from_iter([CORES[0]])).ok();
            for stream in listener.incoming().flatten() {
                let changing = Arc::clone(&shared);
                // Who asks goes away when it likes.
                thread::spawn(move || answer(stream, &changing).ok());
            }
        });
        Ok(Self { at, changing })
    }

    /// Lets slices change, or stops them.
    pub(crate) fn change(&self, on: bool) {
        self.changing.store(on, Relaxed);
    }

    /// What the appliance needs to know.
    pub(crate) fn kubeconfig(&self) -> String {
        format!(
            "apiVersion: v1
kind: Config
current-context: wire
contexts: [{{name: wire, context: {{cluster: wire, user: wire}}}}]
clusters: [{{name: wire, cluster: {{server: 'http://{}'}}}}]
users: [{{name: wire, user: {{}}}}]
",
            self.at
        )
    }
}

/// One request and its answer; then the connection ends.
fn answer(stream: TcpStream, changing: &AtomicBool) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut head = BufReader::new(&stream);
    let mut request = String::new();
    head.by_ref().take(HEAD_LINE_MAX).read_line(&mut request)?;
    for _ in 0..HEAD_LINES_MAX {
        let mut line = String::new();
        if head.by_ref().take(HEAD_LINE_MAX).read_line(&mut line)? <= 2 {
            break;
        }
    }
    let mut words = request.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let word = |name: &str| {
        query
            .split('&')
            .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
            .and_then(|value| value.parse().ok())
    };
    let kind = Kind::of(path).filter(|_| method == "GET");
    match kind {
        None if path == "/version" => say(&stream, "200 OK", &json!({"major": "1", "minor": "34"})),
        None => say(&stream, "403 Forbidden", &json!({"kind": "Status", "code": 403, "reason": "Forbidden"})),
        Some(kind) if query.contains("watch=") => {
            (&stream).write_all(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n",
            )?;
            if kind == Kind::Slice { changes(&stream, changing) } else { until_closed(&stream) }
        }
        Some(kind) => {
            let (from, limit) = (word("continue").unwrap_or(0), word("limit").unwrap_or(u32::MAX));
            let end = kind.count().min(from.saturating_add(limit));
            let next = if end < kind.count() { end.to_string() } else { String::new() };
            let items: Vec<_> = (from..end).map(|number| kind.object(number, 0)).collect();
            say(
                &stream,
                "200 OK",
                &json!({"metadata": {"resourceVersion": "1", "continue": next}, "items": items}),
            )
        }
    }
}

fn say(mut stream: &TcpStream, status: &str, body: &Value) -> io::Result<()> {
    let body = body.to_string();
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    stream.write_all(format!("{head}Connection: close\r\n\r\n{body}").as_bytes())
}

fn until_closed(mut stream: &TcpStream) -> io::Result<()> {
    while stream.read(&mut [0; 64])? > 0 {}
    Ok(())
}

/// Changes of slices, one after the other, for as long as they are wanted and read.
fn changes(mut stream: &TcpStream, changing: &AtomicBool) -> io::Result<()> {
    let events = events();
    let (mut begun, mut told) = (Instant::now(), 0);
    for event in events.iter().cycle() {
        while !changing.load(Relaxed) {
            thread::sleep(Duration::from_millis(5));
            (begun, told) = (Instant::now(), 0);
        }
        stream.write_all(event.as_bytes())?;
        told += 1;
        thread::sleep((Duration::from_secs(1) / CHANGES * told).saturating_sub(begun.elapsed()));
    }
    Ok(())
}

/// Lines of a watch, made beforehand so that they cost little: each of some Services gets another endpoint, and then the
/// old one back.
fn events() -> Vec<String> {
    let mut random = Random::new(7);
    let numbers = (0..CHANGED).map(|_| random.next() % u64::from(SERVICES));
    let numbers: Vec<_> =
        numbers.map(|number| u32::try_from(number).expect("below the number of Services")).collect();
    let event = |number: u32, turn: u32| {
        let mut object = Kind::Slice.object(number, turn);
        object["metadata"]["resourceVersion"] = "2".into();
        format!("{}\n", json!({"type": "MODIFIED", "object": object}))
    };
    let turns = [1, 0].into_iter();
    turns.flat_map(|turn| numbers.iter().map(move |number| event(*number, turn))).collect()
}

/// What is listed.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Kind {
    Service,
    Slice,
    /// A kind without objects.
    Other,
}

impl Kind {
    fn of(path: &str) -> Option<Self> {
        match path {
            "/api/v1/services" => Some(Self::Service),
            "/apis/discovery.k8s.io/v1/endpointslices" => Some(Self::Slice),
            "/api/v1/nodes"
            | "/api/v1/namespaces"
            | "/apis/networking.k8s.io/v1/servicecidrs"
            | "/apis/fairlead.dev/v1alpha1/addresspools" => Some(Self::Other),
            _ => None,
        }
    }

    const fn count(self) -> u32 {
        if matches!(self, Self::Other) { 0 } else { SERVICES + 1 }
    }

    /// The last one is the generator's.
    fn object(self, number: u32, turn: u32) -> Value {
        let mut object = match (self, number == SERVICES) {
            (Self::Service, false) => service(number),
            (Self::Service, true) => {
                json!({"metadata": {"name": "numbered"}, "spec": {"clusterIP": "10.96.0.12",
                "externalIPs": [NUMBERED_VIP], "ports": [{"port": 80, "protocol": "UDP", "targetPort": 8080}]}})
            }
            (_, false) => slice(number, turn),
            (_, true) => {
                let endpoint =
                    |n| json!({"addresses": [format!("10.244.0.{n}")], "conditions": {"ready": true}});
                json!({"metadata": {"name": "numbered", "labels": {"kubernetes.io/service-name": "numbered"}},
                    "addressType": "IPv4", "ports": [{"name": "", "port": 8080, "protocol": "UDP"}],
                    "endpoints": (1..=BACKENDS).map(endpoint).collect::<Vec<_>>()})
            }
        };
        object["metadata"]["namespace"] = "default".into();
        object
    }
}
