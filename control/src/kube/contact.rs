//! Whether the API server answers: a light request every 2 seconds, four a second while it does not. A stream can be silent
//! for minutes, so without this a server that vanished would go unnoticed, and one that came back would be asked again
//! only when a back-off ends. Whoever waits is woken by the first answer after silence. Not here: what is followed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};

use super::client::ApiServer;
use super::counters::Counters;
use super::fault::{Fault, FaultKind};
use super::request;

/// Between two heartbeats.
const INTERVAL: Duration = Duration::from_secs(2);
/// Between two while there is no answer.
const SEEK_INTERVAL: Duration = Duration::from_millis(250);
/// For an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// For so long a server that came back may still refuse what it will allow.
const SETTLES_IN: Duration = Duration::from_secs(30);

/// The heartbeat, shared by all followers.
#[derive(Debug)]
pub(super) struct Contact {
    pub(super) server: Arc<ApiServer>,
    pub(super) counters: Arc<Counters>,
    doubted: Notify,
    returned: watch::Sender<Option<Instant>>,
}

impl Contact {
    pub(super) fn new(server: Arc<ApiServer>, counters: Arc<Counters>) -> Self {
        Self { server, counters, doubted: Notify::new(), returned: watch::Sender::new(None) }
    }

    /// Something failed in a way that makes the server's presence doubtful: ask it now.
    pub(super) fn doubt(&self) {
        self.doubted.notify_one();
    }

    /// Changes when the server answers after it did not.
    pub(super) fn returned(&self) -> watch::Receiver<Option<Instant>> {
        self.returned.subscribe()
    }

    /// Whether the server has only just come back.
    pub(super) fn is_settling(&self) -> bool {
        self.returned.borrow().is_some_and(|at| at.elapsed() < SETTLES_IN)
    }

    /// Beats until the task is aborted.
    pub(super) async fn run(self: Arc<Self>) {
        let mut lost = false;
        loop {
            match self.beat().await {
                Ok(()) => {
                    self.counters.heard();
                    self.counters.set_connected(true);
                    if std::mem::take(&mut lost) {
                        self.returned.send_replace(Some(Instant::now()));
                    }
                    tokio::select! {
                        () = sleep(INTERVAL) => {}
                        () = self.doubted.notified() => {}
                    }
                }
                Err(_) => {
                    lost = true;
                    self.counters.set_connected(false);
                    self.counters.silence();
                    sleep(SEEK_INTERVAL).await;
                }
            }
        }
    }

    async fn beat(&self) -> Result<(), Fault> {
        let result = match self.server.client().await {
            Ok(client) => request::is_there(&client, PATIENCE).await,
            Err(error) => Err(error.into()),
        };
        match result {
            Err(fault) if fault.kind == FaultKind::Unauthorized => self.server.refused().await,
            Err(fault) => {
                self.server.doubted().await;
                return Err(fault);
            }
            Ok(()) => {}
        }
        Ok(())
    }
}
