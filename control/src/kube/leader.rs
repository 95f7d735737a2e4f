//! Takes and renews the Lease for as long as the appliance runs, and says whether it leads.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::ApiServer;
use super::ask::{Ask, ask};
use super::fault::{Fault, FaultKind};
use super::lease::{DEADLINE, Election, Move};
use crate::state_dir::StateDir;

/// Between two looks at the Lease.
const INTERVAL: Duration = Duration::from_secs(2);

/// The file in the state directory that keeps our name.
const IDENTITY: &str = "identity";

/// Which Lease, and who we are in it.
#[derive(Clone, Debug)]
pub struct LeaseName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Our name in it: the same after a restart, and nobody else's.
    pub identity: String,
}

impl LeaseName {
    fn collection(&self) -> String {
        format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", self.namespace)
    }

    fn path(&self) -> String {
        format!("{}/{}", self.collection(), self.name)
    }
}

/// Runs for the Lease until nobody listens to `leads`, or `stop` says so; then the Lease is given back.
pub(super) async fn run(
    server: Arc<ApiServer>,
    name: LeaseName,
    leads: watch::Sender<bool>,
    mut stop: watch::Receiver<bool>,
) {
    let mut election = Election::new(name.identity.clone());
    let mut told = None;
    while !leads.is_closed() && !*stop.borrow() {
        let begun = Instant::now();
        // A renewal that takes longer than the rest of our lead is none.
        let turn = tokio::time::timeout(DEADLINE / 2, turn(&server, &name, &mut election)).await;
        let fault = match turn {
            Ok(Ok(())) => None,
            Ok(Err(fault)) => Some(fault),
            Err(_) => Some(Fault::new(FaultKind::Unreachable, "no answer in time")),
        };
        if fault.as_ref().map(|fault| fault.kind) != told {
            if let Some(fault) = &fault {
                tracing::warn!(lease = %name.path(), %fault, "the Lease of the writer is out of reach");
            }
            told = fault.map(|fault| fault.kind);
        }
        tell(&leads, &name, election.leads(Instant::now()));
        tokio::select! {
            () = lapse(&election, &leads, &name, begun + INTERVAL) => {}
            _ = stop.changed() => break,
        }
    }
    leads.send_replace(false);
    release(&server, &name, &mut election).await;
}

/// Waits for the next look, and says so if our lead ends before.
async fn lapse(election: &Election, leads: &watch::Sender<bool>, name: &LeaseName, until: Instant) {
    loop {
        let now = Instant::now();
        tell(leads, name, election.leads(now));
        if now >= until {
            return;
        }
        sleep_until(until.min(now + INTERVAL / 8)).await;
    }
}

fn tell(leads: &watch::Sender<bool>, name: &LeaseName, now: bool) {
    let changed = leads.send_if_modified(|before| std::mem::replace(before, now) != now);
    if changed {
        let what = if now {
            "this appliance decides about addresses"
        } else {
            "another appliance decides about addresses"
        };
        tracing::info!(lease = %name.path(), identity = %name.identity, "{what}");
    }
}

async fn turn(server: &ApiServer, name: &LeaseName, election: &mut Election) -> Result<(), Fault> {
    let lease = match ask(server, &name.path(), &Ask::Get).await {
        Ok(lease) => Some(lease),
        Err(fault) if fault.kind == FaultKind::NotServed => None,
        Err(fault) => return Err(fault),
    };
    let asked = Instant::now();
    let made = election.decide(lease.as_ref(), (&name.namespace, &name.name), &stamp(), asked);
    let (path, request) = match made {
        Move::Create(lease) => (name.collection(), Ask::Create(lease)),
        Move::Replace(lease) => (name.path(), Ask::Replace(lease)),
        Move::Wait => return Ok(()),
    };
    match ask(server, &path, &request).await {
        Ok(_) => election.made(asked),
        // Somebody else was faster.
        Err(fault) if fault.kind == FaultKind::Conflict => {}
        Err(fault) => return Err(fault),
    }
    Ok(())
}

/// Best effort: without it the next leader waits until the Lease runs out.
async fn release(server: &ApiServer, name: &LeaseName, election: &mut Election) {
    let given_back = async {
        let lease = ask(server, &name.path(), &Ask::Get).await.ok()?;
        ask(server, &name.path(), &Ask::Replace(election.released(&lease)?)).await.ok()
    };
    if tokio::time::timeout(INTERVAL, given_back).await.is_err() {
        tracing::warn!(lease = %name.path(), "the Lease could not be given back; it runs out by itself");
    }
}

/// Our name in Leases and events: the host's, and what no other appliance has; the same after a restart.
///
/// # Errors
/// When it cannot be kept in the stateDir.
pub fn identity(state: &StateDir) -> io::Result<String> {
    if let Some(known) =
        state.read(IDENTITY)?.and_then(|bytes| String::from_utf8(bytes).ok()).filter(|name| !name.is_empty())
    {
        return Ok(known);
    }
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host
        .trim()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.'))
        .take(50)
        .collect();
    let name = format!("{host}-{:08x}", RandomState::new().hash_one(IDENTITY) >> 32);
    state.write(IDENTITY, name.as_bytes())?;
    Ok(name)
}

/// The present in the server's format of times with microseconds.
pub(super) fn stamp() -> String {
    k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}
