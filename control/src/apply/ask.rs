//! Questions to the applier from elsewhere in the process, answered on its thread between two changes.

use tables::Tables;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::bypass::Bypassed;
use crate::admin::view;
use crate::compile::Compiler;
use crate::config::GatewayConfig;
use crate::network::Network;
use crate::outcome::Outcomes;

/// Asks the applier; cheap to clone.
#[derive(Clone)]
pub struct Control {
    pub(super) requests: mpsc::Sender<Request>,
}

/// The applier has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the appliance is shutting down")]
pub struct Ended;

/// What may be looked at between two changes.
pub struct Look<'a> {
    /// The configuration in force.
    pub config: &'a GatewayConfig,
    /// The tables published last.
    pub tables: &'a Tables,
    /// Services, pools and the model.
    pub compiler: &'a Compiler,
    /// Ports, kernel routes and neighbours.
    pub network: &'a Network,
    /// How the sources are.
    pub sources: &'a [view::Source],
    /// Services whose replies take another way.
    pub(crate) bypassed: &'a Bypassed,
    /// When this look is.
    pub(crate) now: Instant,
    /// What could not be told to the cluster; none where nothing is told.
    pub outcomes: Option<&'a Outcomes>,
}

/// What to do with the state in force.
pub(super) type See = Box<dyn FnOnce(&Look<'_>) + Send>;

/// What waits for the applier's thread.
pub(super) enum Request {
    Look(See),
    Reload(oneshot::Sender<Result<view::Reload, String>>),
}

impl Control {
    /// Looks at the state in force. `see` runs on the applier's thread: make it short.
    ///
    /// # Errors
    /// When the applier has ended.
    pub async fn look<T: Send + 'static>(
        &self,
        see: impl FnOnce(&Look<'_>) -> T + Send + 'static,
    ) -> Result<T, Ended> {
        let (answer, seen) = oneshot::channel();
        // Nobody waits any more when the answer cannot be sent.
        let see: See = Box::new(move |look| drop(answer.send(see(look))));
        self.requests.send(Request::Look(see)).await.map_err(|_| Ended)?;
        seen.await.map_err(|_| Ended)
    }

    /// Reads the configuration again and brings what can change into force.
    ///
    /// # Errors
    /// Every fault of the new configuration, a line each; the running one stays.
    pub async fn reload(&self) -> Result<view::Reload, String> {
        let (answer, done) = oneshot::channel();
        self.requests.send(Request::Reload(answer)).await.map_err(|_| Ended.to_string())?;
        done.await.map_err(|_| Ended.to_string())?
    }
}
