//! What systemd is told. Without systemd (no `NOTIFY_SOCKET`) nothing happens.

use std::sync::Arc;

use control::http::Health;
use sd_notify::NotifyState;

/// The first full state is programmed on every worker.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// A reload has begun; `ready` ends it.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "cannot tell systemd about the reload"),
    }
}

/// The end has begun.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Feeds the watchdog twice as often as asked, as long as every worker goes round.
pub(super) async fn watchdog(health: Arc<Health>) {
    let Some(period) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = tokio::time::interval(period / 2);
    loop {
        ticks.tick().await;
        match health.check() {
            Ok(()) => tell(&[NotifyState::Watchdog]),
            Err(stuck) => tracing::error!(%stuck, "the watchdog is not fed"),
        }
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot tell systemd");
    }
}
