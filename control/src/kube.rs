//! Cluster state from a Kubernetes API server, followed through everything that can befall it.
//! `client` reaches the server, `contact` knows whether it answers, `reflect` follows one kind by lists and watches
//! (`request`, `pause`), `source` joins the kinds and keeps the last state in a file (`saved`). Objects are read by the
//! same code as manifests. `lease` and `leader` choose the appliance that decides about addresses, `writer` tells the
//! cluster what was decided (`write`, `steps`, `notify`, `ask`). No Kubernetes type leaves this module.

mod ask;
mod client;
mod contact;
mod counters;
mod fault;
mod json;
mod kind;
mod leader;
mod lease;
mod notify;
mod pause;
mod reflect;
mod request;
mod saved;
mod source;
mod steps;
#[cfg(test)]
mod tests;
mod write;
mod writer;

use std::fmt;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

pub use client::{Access, AccessError, ApiServer};
pub use counters::{Counters, KubernetesCollector};
pub use leader::{LeaseName, identity};

use crate::apply::{Election, SourceEvent};
use crate::metrics::WriterMetrics;
use crate::outcome::Outcomes;
use crate::state_dir::StateDir;
use contact::Contact;
use kind::Kind;
use reflect::Reflector;
use source::Source;
use writer::Writer;

/// Sightings that may wait; followers that are ahead then wait themselves, and the server with them.
const SEEN_MAX: usize = 1024;

/// Follows the API server until nobody listens to `events`; to be called within the runtime. Services are those for
/// `proxy_name`, without one those for no proxy in particular.
#[must_use]
pub fn follow(
    server: Arc<ApiServer>,
    proxy_name: Option<&str>,
    state: Arc<StateDir>,
    events: mpsc::Sender<SourceEvent>,
) -> Arc<Counters> {
    let counters = Arc::new(Counters::new());
    let name = Named { server: &server, proxy_name }.to_string();
    let contact = Arc::new(Contact::new(server, Arc::clone(&counters)));
    let (out, seen) = mpsc::channel(SEEN_MAX);
    for kind in Kind::ALL {
        let reflector =
            Reflector::new(kind, Arc::clone(&contact), proxy_name.map(str::to_owned), out.clone());
        tokio::spawn(reflector.run());
    }
    let heartbeat = tokio::spawn(contact.run());
    let source = Source::new(Arc::clone(&counters), state, name, events);
    tokio::spawn(async move {
        source.run(seen).await;
        heartbeat.abort();
    });
    counters
}

/// Decides about addresses together with the other appliances of the Lease, and writes the decisions down while this
/// appliance holds it; to be called within the runtime.
#[must_use]
pub fn write(server: Arc<ApiServer>, lease: LeaseName, metrics: WriterMetrics) -> (Election, Writing) {
    let outcomes = Arc::new(Outcomes::default());
    let (lead, leads) = watch::channel(false);
    let (stop, stopped) = watch::channel(false);
    let writer = Writer::new(Arc::clone(&server), Arc::clone(&outcomes), metrics, lease.identity.clone());
    tokio::spawn(writer.run(leads.clone()));
    let leader = tokio::spawn(leader::run(server, lease, lead, stopped));
    (Election { leads, outcomes }, Writing { stop, leader })
}

/// The running election and writer.
#[derive(Debug)]
pub struct Writing {
    stop: watch::Sender<bool>,
    leader: JoinHandle<()>,
}

impl Writing {
    /// Ends both and gives the Lease back, so that another appliance need not wait until it runs out.
    pub async fn end(self) {
        self.stop.send_replace(true);
        if self.leader.await.is_err() {
            tracing::error!("the election had failed");
        }
    }
}

/// What a file of state is of.
struct Named<'a> {
    server: &'a ApiServer,
    proxy_name: Option<&'a str>,
}

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.server.access() {
            Access::InCluster => f.write_str("inCluster")?,
            Access::Kubeconfig(path) => write!(f, "kubeconfig {}", path.display())?,
        }
        self.proxy_name.map_or(Ok(()), |name| write!(f, " for {name}"))
    }
}
