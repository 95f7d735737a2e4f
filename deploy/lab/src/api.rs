//! The API server by its own protocol: many writes at a time, and a change of one object beside a watch that tells when it
//! was announced. What a person would do is `kubectl`'s.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::stream::{self, StreamExt, TryStreamExt};
use kube::api::{DynamicObject, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Request;
use kube::{Client, Config};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::time::timeout;

/// Requests that are under way at the same time.
const AT_ONCE: usize = 16;
/// Longest wait for the announcement of a change.
const ANNOUNCED: Duration = Duration::from_secs(20);

/// A way to the API server. Connections belong to the namespace of the thread that asks.
pub struct Api {
    runtime: Runtime,
    client: Client,
}

/// When a change was on its way.
#[derive(Clone, Copy, Debug)]
pub struct Changed {
    /// The request was sent.
    pub sent: Instant,
    /// The API server had answered it, or a watch had told of it, whichever was first.
    pub told: Instant,
}

impl Api {
    /// The server that a kubeconfig names, with its credentials.
    ///
    /// # Errors
    /// When the file makes no client.
    pub fn connect(kubeconfig: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let config = Kubeconfig::read_from(kubeconfig)?;
        let client = runtime.block_on(async {
            let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
            Client::try_from(config).context("a client")
        })?;
        Ok(Self { runtime, client })
    }

    /// Creates objects in a collection, such as `/api/v1/namespaces/default/services`, some at the same time.
    ///
    /// # Errors
    /// The first that the server refuses.
    pub fn create(&self, collection: &str, objects: impl Iterator<Item = Value>) -> Result<()> {
        let post = |object: Value| async move {
            let body = object.to_string().into_bytes();
            let request = Request::new(collection).create(&PostParams::default(), body)?;
            let created = self.client.request::<Value>(request).await;
            created.map(drop).with_context(|| format!("{collection}: {}", object["metadata"]["name"]))
        };
        self.runtime.block_on(stream::iter(objects).map(post).buffer_unordered(AT_ONCE).try_collect())
    }

    /// Puts an object in the place of the one that has its name, while a watch of its own looks at it.
    ///
    /// # Errors
    /// When there is none, the server refuses, or no watch tells of it in time.
    pub fn change(&self, collection: &str, object: &Value) -> Result<Changed> {
        let changed = async { timeout(ANNOUNCED, self.watched_change(collection, object)).await };
        self.runtime.block_on(changed).with_context(|| format!("{collection}: no watch told of a change"))?
    }

    async fn watched_change(&self, collection: &str, object: &Value) -> Result<Changed> {
        let name = object["metadata"]["name"].as_str().context("an object without a name")?;
        let only = WatchParams::default().fields(&format!("metadata.name={name}")).disable_bookmarks();
        // From version 0 on, so that the first event is the object as it is: then the watch stands.
        let watch = Request::new(collection).watch(&only, "0")?;
        let mut events = std::pin::pin!(self.client.request_events::<DynamicObject>(watch).await?);
        let before = modified(events.next().await.context("the watch ended")??)?;
        let put = Request::new(collection).replace(
            name,
            &PostParams::default(),
            object.to_string().into_bytes(),
        )?;
        let sent = Instant::now();
        let answered = async {
            let after: DynamicObject = self.client.request(put).await?;
            anyhow::Ok((after.metadata.resource_version, Instant::now()))
        };
        let announced = async {
            let event = events.next().await.context("the watch ended")??;
            anyhow::Ok((modified(event)?, Instant::now()))
        };
        let ((answer, answered), (event, announced)) = tokio::try_join!(answered, announced)?;
        if answer == before || event != answer {
            bail!("version {before:?} became {answer:?}, a watch tells of {event:?}");
        }
        Ok(Changed { sent, told: answered.min(announced) })
    }
}

/// The version of the object that is there.
fn modified(event: WatchEvent<DynamicObject>) -> Result<Option<String>> {
    match event {
        WatchEvent::Added(object) | WatchEvent::Modified(object) => Ok(object.metadata.resource_version),
        other => bail!("a watch tells: {other:?}"),
    }
}
