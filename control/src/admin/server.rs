//! The admin API's server: the socket and the routes. What is listed is made in `show`, what a reload does in `apply`.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{AppendHeaders, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tables::Tables;
use tables::command::FlowFilter;
use tables::flow::FlowView;
use tokio::net::UnixListener;

use super::{show, view};
use crate::apply::{Control, Look};
use crate::capture::{self, CaptureError, Captures};
use crate::workers::{Layout, Workers};

/// Flows listed when nobody says how many.
const FLOWS_DEFAULT: u32 = 1000;

/// Answers trace questions from the tables in force; given by the binary, because the code that answers is the dataplane's.
pub type Tracer = Arc<dyn Fn(&Tables, serde_json::Value) -> Result<serde_json::Value, String> + Send + Sync>;

/// What the API reaches.
#[derive(Clone)]
pub struct Admin {
    /// Model, tables, configuration.
    pub control: Control,
    /// Counters and flows.
    pub workers: Workers,
    /// Where the workers are.
    pub layout: Arc<Layout>,
    /// Packets that people want to see.
    pub captures: Captures,
    /// Trace questions.
    pub tracer: Tracer,
}

/// A query string.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wanted {
    namespace: Option<String>,
    limit: Option<u32>,
    address: Option<IpAddr>,
    used_within_ms: Option<u32>,
}

impl Wanted {
    fn filter(&self) -> FlowFilter {
        let (address, used_within_ms) = (self.address, self.used_within_ms);
        FlowFilter { address, used_within_ms, ..FlowFilter::default() }
    }
}

/// Takes the socket over: parent made, stale socket replaced, mode 0660.
///
/// # Errors
/// When something else than a dead socket is in the way, or the folder cannot be written.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the path exists and is no socket"));
        }
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process answers there"));
        }
        Ok(_) => fs::remove_file(path)?,
        Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Answers on `listener` until the task is aborted.
pub async fn serve(listener: UnixListener, admin: Admin) {
    // axum keeps accepting whatever happens to a connection; it returns only when aborted.
    let _ = axum::serve(listener, router(admin)).await;
}

/// Every route of the API.
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/v1/services", get(services))
        .route("/v1/backends", get(backends))
        .route("/v1/flows", get(flows))
        .route("/v1/flows/services", get(services_of_flows))
        .route("/v1/ports", get(ports))
        .route("/v1/workers", get(workers))
        .route("/v1/counters", get(counters))
        .route("/v1/drops", get(drops))
        .route("/v1/routes", get(routes))
        .route("/v1/neighbors", get(neighbors))
        .route("/v1/pools", get(pools))
        .route("/v1/sources", get(sources))
        .route("/v1/reload", post(reload))
        .route("/v1/trace", post(trace))
        .route("/v1/flows/purge", post(purge))
        .route("/v1/capture", post(capture))
        .route("/v1/capture/stop", post(stop_capture))
        .with_state(admin)
}

/// What the API answers: JSON, or a refusal in one sentence.
type Answer<T> = Result<Json<T>, Refused>;

struct Refused(StatusCode, String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(view::Refusal { error: self.1 })).into_response()
    }
}

fn unavailable(error: impl ToString) -> Refused {
    Refused(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}

async fn look<T: Send + 'static>(
    admin: &Admin,
    see: impl FnOnce(&Look<'_>) -> T + Send + 'static,
) -> Result<T, Refused> {
    admin.control.look(see).await.map_err(unavailable)
}

async fn listed<T: Serialize + Send + 'static>(
    admin: &Admin,
    see: impl FnOnce(&Look<'_>) -> Vec<T> + Send + 'static,
) -> Answer<Vec<T>> {
    look(admin, see).await.map(Json)
}

async fn services(State(admin): State<Admin>, Query(wanted): Query<Wanted>) -> Answer<Vec<view::Service>> {
    listed(&admin, move |look| show::services(look, wanted.namespace.as_deref())).await
}

async fn backends(State(admin): State<Admin>, Query(wanted): Query<Wanted>) -> Answer<Vec<view::Backend>> {
    listed(&admin, move |look| show::backends(look, wanted.namespace.as_deref())).await
}

async fn routes(State(admin): State<Admin>) -> Answer<Vec<view::Route>> {
    listed(&admin, show::routes).await
}

async fn neighbors(State(admin): State<Admin>) -> Answer<Vec<view::Neighbor>> {
    listed(&admin, |look| show::neighbors(look.config, look.tables)).await
}

async fn pools(State(admin): State<Admin>) -> Answer<Vec<view::Pool>> {
    listed(&admin, show::pools).await
}

async fn sources(State(admin): State<Admin>) -> Answer<Vec<view::Source>> {
    listed(&admin, |look| look.sources.to_vec()).await
}

async fn ports(State(admin): State<Admin>) -> Answer<Vec<view::Port>> {
    let counts = admin.workers.counts();
    listed(&admin, move |look| show::ports(look.config, look.tables, &counts)).await
}

async fn workers(State(admin): State<Admin>) -> Answer<Vec<view::Worker>> {
    Ok(Json(show::workers(&admin.layout, &admin.workers)))
}

async fn counters(State(admin): State<Admin>) -> Answer<Vec<view::Counter>> {
    Ok(Json(show::counters(&admin.workers.counts())))
}

async fn drops(State(admin): State<Admin>) -> Answer<Vec<view::Drops>> {
    Ok(Json(show::drops(&admin.workers.counts())))
}

/// Flows, and in a header whether there are more than were asked for.
async fn flows(
    State(admin): State<Admin>,
    Query(wanted): Query<Wanted>,
) -> Result<(AppendHeaders<Option<(&'static str, &'static str)>>, Json<Vec<view::Flow>>), Refused> {
    let (filter, limit) = (wanted.filter(), wanted.limit.unwrap_or(FLOWS_DEFAULT));
    let ids = match wanted.namespace {
        Some(namespace) => Some(look(&admin, move |look| show::service_ids(look.tables, &namespace)).await?),
        None => None,
    };
    let keep = |flow: &FlowView| ids.as_ref().is_none_or(|ids| ids.contains(&flow.service));
    let listing = admin.workers.flows(filter, limit, keep).await.map_err(unavailable)?;
    let more = listing.more.then_some((view::MORE_HEADER, "true"));
    let rows = listed(&admin, move |look| {
        listing.flows.iter().map(|listed| show::flow(listed, look.tables)).collect()
    });
    Ok((AppendHeaders(more), rows.await?))
}

async fn services_of_flows(
    State(admin): State<Admin>,
    Query(wanted): Query<Wanted>,
) -> Answer<view::FlowSample> {
    let sample = admin.workers.sample(wanted.filter()).await.map_err(unavailable)?;
    look(&admin, move |look| show::flow_sample(&sample, look.tables)).await.map(Json)
}

async fn purge(State(admin): State<Admin>, Json(wanted): Json<view::Purge>) -> Answer<view::Purged> {
    let filter = FlowFilter { address: wanted.address, ..FlowFilter::default() };
    let flows = admin.workers.remove_flows(filter).await.map_err(unavailable)?;
    Ok(Json(view::Purged { flows }))
}

async fn reload(State(admin): State<Admin>) -> Answer<view::Reload> {
    admin.control.reload().await.map(Json).map_err(|error| Refused(StatusCode::UNPROCESSABLE_ENTITY, error))
}

async fn trace(
    State(admin): State<Admin>,
    Json(asked): Json<serde_json::Value>,
) -> Answer<serde_json::Value> {
    let tracer = Arc::clone(&admin.tracer);
    let answer = look(&admin, move |look| tracer(look.tables, asked)).await?;
    answer.map(Json).map_err(|error| Refused(StatusCode::UNPROCESSABLE_ENTITY, error))
}

/// A pcapng file, for as long as the capture goes on.
async fn capture(State(admin): State<Admin>, Json(wanted): Json<view::Capture>) -> Result<Response, Refused> {
    let order =
        wanted.order().map_err(|error| Refused(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()))?;
    if let Some(service) = order.spec.filter.service {
        let served = move |look: &Look<'_>| look.tables.services.iter().any(|port| service.names(&port.info));
        if !look(&admin, served).await? {
            let error = format!("no Service {service} is served; `fairlead show services` lists them");
            return Err(Refused(StatusCode::NOT_FOUND, error));
        }
    }
    let file = admin.captures.start(order).await.map_err(|error| match error {
        CaptureError::Busy => Refused(StatusCode::CONFLICT, error.to_string()),
        CaptureError::NoAnswer(_) => unavailable(error),
    })?;
    let pieces = futures_util::stream::unfold(file, |mut file| async move {
        let piece = file.recv().await?;
        Some((Ok::<_, Infallible>(piece), file))
    });
    Ok(([(CONTENT_TYPE, capture::CONTENT_TYPE)], Body::from_stream(pieces)).into_response())
}

async fn stop_capture(State(admin): State<Admin>) -> Answer<view::Stopped> {
    Ok(Json(view::Stopped { running: admin.captures.stop() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_socket_is_replaced_a_live_one_and_a_file_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/admin.sock");
        let first = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        bind(&path).unwrap();
        let file = folder.path().join("file");
        fs::write(&file, b"").unwrap();
        assert_eq!(bind(&file).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }
}
