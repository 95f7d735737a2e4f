//! One write to the cluster: the requests that a step takes, decided on the object as the server then has it. Not here: which
//! step, when, and what becomes of a failure (`writer`).

use std::sync::Arc;

use serde_json::Value;

use super::ApiServer;
use super::ask::{Ask, ask};
use super::fault::{Fault, FaultKind};
use super::leader::stamp;
use super::notify::{self, Notice};
use super::steps::{self, Step};
use crate::model::ObjectKey;
use crate::outcome::{Outcome, PoolOutcome};

/// What a write is about.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Target {
    /// An AddressPool by its name.
    Pool(String),
    /// A Service.
    Service(ObjectKey),
}

/// What became of it, which is what is to be written.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    /// Of a pool.
    Pool(PoolOutcome),
    /// Of a Service.
    Service(Outcome),
}

/// How a write went.
pub(super) struct Done {
    /// What it was about.
    pub(super) target: Target,
    /// Which one; none of a pool, which has only one.
    pub(super) step: Option<Step>,
    /// What is to be told besides, of the object with this uid, or why it failed.
    pub(super) result: Result<Option<(Notice, String)>, Fault>,
}

/// One write, to its end.
pub(super) async fn write(
    server: Arc<ApiServer>,
    target: Target,
    step: Option<Step>,
    wanted: Wanted,
) -> Done {
    let result = match (&target, &wanted) {
        (Target::Service(key), Wanted::Service(outcome)) => {
            write_service(&server, key, step.expect("a Service has steps"), outcome).await
        }
        (Target::Pool(name), Wanted::Pool(outcome)) => write_pool(&server, name, outcome).await,
        _ => Ok(None),
    };
    Done { target, step, result }
}

async fn write_service(
    server: &ApiServer,
    key: &ObjectKey,
    step: Step,
    outcome: &Outcome,
) -> Result<Option<(Notice, String)>, Fault> {
    let path = format!("/api/v1/namespaces/{}/services/{}", key.namespace, key.name);
    let uid = outcome.service.as_ref().map(|service| service.upkeep.uid.clone());
    if step == Step::Tell {
        let patch = Ask::Strategic(steps::status(outcome, &stamp()));
        let wrote = ask(server, &format!("{path}/status"), &patch).await;
        return Ok(unless_gone(wrote)?.and_then(|_| notify::of_status(outcome)).zip(uid));
    }
    let Some(object) = unless_gone(ask(server, &path, &Ask::Get).await)? else { return Ok(None) };
    if object["metadata"]["uid"].as_str() != uid.as_deref() {
        // Another object by now; its own outcome comes.
        return Ok(None);
    }
    let Some(patch) = steps::finalizers(&object, step == Step::Hold) else { return Ok(None) };
    let wrote = unless_gone(ask(server, &path, &Ask::Merge(patch)).await)?;
    let released = wrote.filter(|_| step == Step::Release).map(|_| notify::of_release());
    Ok(released.zip(uid))
}

async fn write_pool(
    server: &ApiServer,
    name: &str,
    outcome: &PoolOutcome,
) -> Result<Option<(Notice, String)>, Fault> {
    let path = format!("/apis/fairlead.dev/v1alpha1/addresspools/{name}/status");
    let Some(object) = unless_gone(ask(server, &path, &Ask::Get).await)? else { return Ok(None) };
    let Some(patch) = steps::pool_status(outcome, &object, &stamp()) else { return Ok(None) };
    let wrote = unless_gone(ask(server, &path, &Ask::Merge(patch)).await)?;
    let uid = object["metadata"]["uid"].as_str().map(str::to_owned);
    Ok(wrote.and_then(|_| notify::of_pool(outcome, &object)).zip(uid))
}

/// What is gone needs no write.
fn unless_gone(answer: Result<Value, Fault>) -> Result<Option<Value>, Fault> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(fault) if fault.kind == FaultKind::NotServed => Ok(None),
        Err(fault) => Err(fault),
    }
}
