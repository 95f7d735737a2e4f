//! The configured source of cluster state, as events for the applier.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use control::admin::view;
use control::apply::SourceEvent;
use control::config::{GatewayConfig, Source};
use control::kube::{self, Access, ApiServer, Counters};
use control::manifests::{FileReport, Manifests};
use control::state_dir::StateDir;
use tokio::sync::mpsc;

/// Events that may wait; a source that is ahead waits for the applier.
const EVENTS_MAX: usize = 64;

/// A source that is followed.
pub(super) struct Followed {
    /// What the applier reads.
    pub(super) events: mpsc::Receiver<SourceEvent>,
    /// The API server; none with manifests.
    pub(super) api: Option<Api>,
}

/// The API server that is followed.
pub(super) struct Api {
    /// How it is reached.
    pub(super) server: Arc<ApiServer>,
    /// What is counted about it.
    pub(super) counters: Arc<Counters>,
}

/// Starts to follow the source; to be called within the runtime.
pub(super) fn follow(config: &GatewayConfig, state: &Arc<StateDir>) -> Result<Followed> {
    let (out, events) = mpsc::channel(EVENTS_MAX);
    let api = match (&config.kubernetes.source, Access::of(&config.kubernetes.source)) {
        (Source::Manifests(root), _) => {
            follow_manifests(root, out)?;
            None
        }
        (_, access) => access.map(|access| {
            let proxy_name = config.kubernetes.service_proxy_name.as_deref();
            let server = Arc::new(ApiServer::new(access));
            let counters = kube::follow(Arc::clone(&server), proxy_name, Arc::clone(state), out);
            Api { server, counters }
        }),
    };
    Ok(Followed { events, api })
}

fn follow_manifests(root: &Path, events: mpsc::Sender<SourceEvent>) -> Result<()> {
    let mut manifests = Manifests::new(root);
    manifests
        .follow()
        .context("cannot follow the manifests; is fs.inotify.max_user_instances large enough?")?;
    tokio::spawn(pump(manifests, events));
    Ok(())
}

/// Ends when the applier does, or when inotify fails; then the last state stays in force.
async fn pump(mut manifests: Manifests, events: mpsc::Sender<SourceEvent>) {
    let changes = manifests.load();
    let mut told = Vec::new();
    if events.send(SourceEvent::Changes(changes)).await.is_err()
        || !report(&manifests, &mut told, &events).await
        || events.send(SourceEvent::Synced).await.is_err()
    {
        return;
    }
    loop {
        let changes = match manifests.changed().await {
            Ok(changes) => changes,
            Err(error) => {
                tracing::error!(%error, "the manifests can no longer be followed; their last state stays in force");
                return;
            }
        };
        if !changes.is_empty() && events.send(SourceEvent::Changes(changes)).await.is_err() {
            return;
        }
        if !report(&manifests, &mut told, &events).await {
            return;
        }
    }
}

/// Logs what is newly wrong and passes the state of every file on if it differs; false when nobody listens.
async fn report(
    manifests: &Manifests,
    told: &mut Vec<view::Source>,
    events: &mpsc::Sender<SourceEvent>,
) -> bool {
    let sources: Vec<_> = manifests.report().into_iter().map(source).collect();
    if sources == *told {
        return true;
    }
    for source in sources.iter().filter(|source| !source.error.is_empty() && !told.contains(source)) {
        tracing::warn!(
            file = source.name,
            error = source.error,
            "the last good content of this file stays in force"
        );
    }
    told.clone_from(&sources);
    events.send(SourceEvent::Status(sources)).await.is_ok()
}

fn source(report: FileReport) -> view::Source {
    let state = if report.good { view::Source::OK } else { view::Source::BROKEN };
    view::Source {
        last_contact_seconds: None,
        name: report.file,
        state: state.into(),
        objects: report.objects as u64,
        ignored: report.ignored.values().map(|count| *count as u64).sum(),
        error: report.problems.join("\n"),
    }
}
