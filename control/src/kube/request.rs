//! Lists and watches over HTTP: pages, lines, and every way they end. Bounded in bytes and in silence.
//! The library's own list and watch know neither status codes before a stream nor bounds, hence these. Source:
//! Kubernetes API concepts, "Efficient detection of changes". Not here: when to ask, and what objects mean.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::Bytes;
use kube::Client;
use kube::api::{ListParams, WatchParams};
use kube::client::Body;
use serde::Deserialize;
use tokio::time::timeout;

use super::fault::{Fault, FaultKind, Status};
use super::json::Json;

/// Until an answer begins. A list is made before its answer begins, so it gets longer.
const LIST_START: Duration = Duration::from_secs(60);
const WATCH_START: Duration = Duration::from_secs(10);
/// Longest silence within a list.
const LIST_SILENCE: Duration = Duration::from_secs(30);
/// Longest silence of a watch: a server sends a bookmark about every minute.
const WATCH_SILENCE: Duration = Duration::from_secs(150);
/// How long a server keeps a watch.
const WATCH_SECONDS: u32 = 290;
/// Largest page; a larger one is asked for in smaller pages.
const PAGE_BYTES_MAX: usize = 64 << 20;
/// Largest event. etcd takes objects of 1.5 MiB in a form that is shorter than JSON.
const LINE_BYTES_MAX: usize = 16 << 20;
/// Largest error.
const ERROR_BYTES_MAX: usize = 64 << 10;

/// What is asked for.
#[derive(Clone, Debug)]
pub(super) struct Query {
    pub(super) path: &'static str,
    pub(super) labels: Option<String>,
    pub(super) fields: Option<String>,
}

/// What a part of a list said besides its objects.
#[derive(Debug)]
pub(super) struct Page {
    /// How many objects it held.
    pub(super) objects: usize,
    /// Where a watch goes on from.
    pub(super) version: String,
    /// What to ask the next page with; none: this was the last.
    pub(super) next: Option<String>,
}

/// What a watch tells.
#[derive(Debug)]
pub(super) enum Event<'t> {
    /// An object that is new or changed.
    Applied(Json<'t>),
    /// Nothing up to the version of this object.
    Bookmark(Json<'t>),
    /// An object that is gone, as it was.
    Deleted(Json<'t>),
}

/// A watch in progress.
#[derive(Debug)]
pub(super) struct Watch {
    body: Body,
    buffer: Vec<u8>,
    /// Bytes of `buffer` without a line end.
    searched: usize,
}

/// Asks for a page of at most `limit` objects, each of which is given to `read`.
pub(super) async fn list(
    client: &Client,
    query: &Query,
    (limit, token): (u32, Option<String>),
    read: impl FnMut(Json<'_>),
) -> Result<Page, Fault> {
    let params = ListParams {
        label_selector: query.labels.clone(),
        field_selector: query.fields.clone(),
        limit: Some(limit),
        continue_token: token,
        ..ListParams::default()
    };
    let request = kube::core::Request::new(query.path).list(&params).map_err(refused)?;
    let mut body = send(client, request, LIST_START).await?;
    let text = collect(&mut body, PAGE_BYTES_MAX).await?;
    page(&text, read)
}

/// Begins to watch from a version on.
pub(super) async fn watch(client: &Client, query: &Query, version: &str) -> Result<Watch, Fault> {
    let params = WatchParams {
        label_selector: query.labels.clone(),
        field_selector: query.fields.clone(),
        timeout: Some(WATCH_SECONDS),
        bookmarks: true,
        send_initial_events: false,
    };
    let request = kube::core::Request::new(query.path).watch(&params, version).map_err(refused)?;
    let body = send(client, request, WATCH_START).await?;
    Ok(Watch { body, buffer: Vec::new(), searched: 0 })
}

/// Whether the server answers within `patience`, be it with a refusal. One that says it fails does not, and neither does
/// one that does not know us: that is for the caller to mend.
pub(super) async fn is_there(client: &Client, patience: Duration) -> Result<(), Fault> {
    let request = Request::get("/version").body(Vec::new()).map_err(refused)?;
    match send(client, request, patience).await {
        Err(fault) if fault.kind.is_refusal() => Ok(()),
        answer => answer.map(drop),
    }
}

impl Watch {
    /// The line of the next event; none when the server ended the watch in order. Safe to cancel.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        loop {
            let new = &self.buffer[self.searched..];
            if let Some(end) = new.iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(self.searched + end + 1);
                let line = std::mem::replace(&mut self.buffer, rest);
                self.searched = 0;
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            if self.searched > LINE_BYTES_MAX {
                return Err(too_large("an event", LINE_BYTES_MAX));
            }
            match frame(&mut self.body, WATCH_SILENCE).await? {
                Some(bytes) => self.buffer.extend_from_slice(&bytes),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Fault::new(FaultKind::Cut, "in the middle of an event")),
            }
        }
    }
}

pub(super) async fn send(
    client: &Client,
    request: Request<Vec<u8>>,
    patience: Duration,
) -> Result<Body, Fault> {
    let answer = timeout(patience, client.send(request.map(Body::from))).await;
    let answer = answer.map_err(|_| silent(patience))?.map_err(|error| unreachable(&error))?;
    let status = answer.status();
    let (head, mut body) = answer.into_parts();
    if status.is_success() {
        return Ok(body);
    }
    let text = collect(&mut body, ERROR_BYTES_MAX).await.unwrap_or_default();
    Err(Fault::of_answer(status.as_u16(), &head.headers, &text))
}

pub(super) async fn collect(body: &mut Body, bytes_max: usize) -> Result<Vec<u8>, Fault> {
    let mut text = Vec::new();
    while let Some(bytes) = frame(body, LIST_SILENCE).await? {
        if text.len() + bytes.len() > bytes_max {
            return Err(too_large("an answer", bytes_max));
        }
        text.extend_from_slice(&bytes);
    }
    Ok(text)
}

async fn frame(body: &mut Body, patience: Duration) -> Result<Option<Bytes>, Fault> {
    loop {
        match timeout(patience, body.frame()).await {
            Err(_) => return Err(silent(patience)),
            Ok(None) => return Ok(None),
            Ok(Some(Err(error))) => return Err(Fault::new(FaultKind::Cut, chain(&error))),
            // Trailers say nothing here.
            Ok(Some(Ok(frame))) => {
                if let Ok(bytes) = frame.into_data() {
                    return Ok(Some(bytes));
                }
            }
        }
    }
}

fn page(text: &[u8], read: impl FnMut(Json<'_>)) -> Result<Page, Fault> {
    #[derive(Deserialize)]
    struct List<'t> {
        metadata: Metadata,
        /// Null when empty.
        #[serde(borrow)]
        items: Option<Vec<Json<'t>>>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Metadata {
        resource_version: String,
        r#continue: Option<String>,
    }
    let list: List<'_> = serde_json::from_slice(text).map_err(malformed)?;
    let next = list.metadata.r#continue.filter(|token| !token.is_empty());
    if list.metadata.resource_version.is_empty() && next.is_none() {
        return Err(Fault::new(FaultKind::Malformed, "a list without a resourceVersion"));
    }
    let items = list.items.unwrap_or_default();
    let objects = items.len();
    items.into_iter().for_each(read);
    Ok(Page { objects, version: list.metadata.resource_version, next })
}

/// One line of a watch. Its type comes first to nobody's guarantee, so the line is read twice.
pub(super) fn event(line: &[u8]) -> Result<Event<'_>, Fault> {
    #[derive(Deserialize)]
    struct Type {
        r#type: String,
    }
    #[derive(Deserialize)]
    struct Carrying<T> {
        object: T,
    }
    fn object<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T, Fault> {
        serde_json::from_slice::<Carrying<T>>(line).map(|carrying| carrying.object).map_err(malformed)
    }
    let Type { r#type } = serde_json::from_slice(line).or_else(|error| {
        // A server that refuses late writes a bare status into the stream.
        serde_json::from_slice::<Status>(line)
            .map_err(|_| malformed(error))
            .and_then(|status| Err(Fault::of_status(&status)))
    })?;
    match r#type.as_str() {
        "ADDED" | "MODIFIED" => object(line).map(Event::Applied),
        "DELETED" => object(line).map(Event::Deleted),
        "BOOKMARK" => object(line).map(Event::Bookmark),
        "ERROR" => Err(Fault::of_status(&object::<Status>(line)?)),
        other => Err(Fault::new(FaultKind::Malformed, format!("an event of type `{other}`"))),
    }
}

pub(super) fn refused(error: impl std::fmt::Display) -> Fault {
    Fault::new(FaultKind::Refused, error)
}

fn malformed(error: serde_json::Error) -> Fault {
    Fault::new(FaultKind::Malformed, error)
}

fn silent(patience: Duration) -> Fault {
    Fault::new(FaultKind::Unreachable, format!("no answer within {} s", patience.as_secs()))
}

fn too_large(what: &str, bytes: usize) -> Fault {
    Fault::new(FaultKind::TooLarge, format!("{what} of over {} MiB", bytes >> 20))
}

fn unreachable(error: &kube::Error) -> Fault {
    let kind = if matches!(error, kube::Error::Auth(_)) { FaultKind::Access } else { FaultKind::Unreachable };
    Fault::new(kind, chain(error))
}

/// The innermost cause: the outer ones only say which layer passed it on.
fn chain(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    // Bounded, should a source ever be its own.
    for _ in 0..16 {
        match innermost.source() {
            Some(source) => innermost = source,
            None => break,
        }
    }
    innermost.to_string()
}
