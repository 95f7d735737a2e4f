//! The HTTP listener for machines: `/metrics`, `/healthz`, `/readyz`. Read only, plain text, on `metrics.listen`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::health::{Liveness, Stuck};
use crate::metrics::{CONTENT_TYPE, Metrics};
use crate::workers::Workers;

/// Whether the appliance is ready, and whether its workers go round.
pub struct Health {
    workers: Workers,
    liveness: Mutex<Liveness>,
    ready: watch::Receiver<bool>,
}

impl Health {
    /// Of these workers; `ready` turns true once the first full state is programmed on every worker.
    #[must_use]
    pub fn new(workers: Workers, ready: watch::Receiver<bool>) -> Self {
        let liveness = Liveness::new(workers.counters().len(), Instant::now());
        Self { workers, liveness: Mutex::new(liveness), ready }
    }

    /// Looks at every worker.
    ///
    /// # Errors
    /// A worker that does not go round.
    pub fn check(&self) -> Result<(), Stuck> {
        let turns = self.workers.counts().into_iter().map(|counts| counts.turns.turns);
        self.liveness.lock().unwrap_or_else(PoisonError::into_inner).check(turns, Instant::now())
    }

    /// True once the first full state is programmed on every worker.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }
}

struct Shared {
    metrics: Arc<Metrics>,
    health: Arc<Health>,
}

/// Answers on `listener` until the task is aborted.
pub async fn serve(listener: TcpListener, metrics: Arc<Metrics>, health: Arc<Health>) {
    // axum keeps accepting whatever happens to a connection; it returns only when aborted.
    let _ = axum::serve(listener, router(metrics, health)).await;
}

/// The three pages.
pub fn router(metrics: Arc<Metrics>, health: Arc<Health>) -> Router {
    Router::new()
        .route("/metrics", get(serve_metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(Arc::new(Shared { metrics, health }))
}

async fn serve_metrics(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], shared.metrics.text())
}

async fn healthz(State(shared): State<Arc<Shared>>) -> (StatusCode, String) {
    match shared.health.check() {
        Ok(()) => (StatusCode::OK, "ok\n".into()),
        Err(stuck) => (StatusCode::SERVICE_UNAVAILABLE, format!("{stuck}\n")),
    }
}

async fn readyz(State(shared): State<Arc<Shared>>) -> (StatusCode, &'static str) {
    if shared.health.is_ready() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the first full state is not programmed yet\n")
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use http_body_util::BodyExt;
    use tables::command::command_rings;
    use tables::counters::WorkerCounters;
    use tower::ServiceExt;

    use super::*;

    async fn ask(router: &Router, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn pages_follow_the_appliances_state() {
        let counters = Arc::new(WorkerCounters::new(0));
        let (sender, _desk) = command_rings(1, 1);
        let workers = Workers::new(vec![(counters, sender)]);
        let (set_ready, ready) = watch::channel(false);
        let metrics = Metrics::new(workers.counters(), Vec::new(), None);
        let router = router(Arc::new(metrics), Arc::new(Health::new(workers, ready)));
        assert_eq!(ask(&router, "/healthz").await, (StatusCode::OK, "ok\n".into()));
        assert_eq!(ask(&router, "/readyz").await.0, StatusCode::SERVICE_UNAVAILABLE);
        set_ready.send_replace(true);
        assert_eq!(ask(&router, "/readyz").await, (StatusCode::OK, "ok\n".into()));
        let (status, text) = ask(&router, "/metrics").await;
        assert!(
            status == StatusCode::OK && text.contains("fairlead_rx_packets_total{worker=\"0\"} 0"),
            "{text}"
        );
        assert_eq!(ask(&router, "/other").await.0, StatusCode::NOT_FOUND);
    }
}
