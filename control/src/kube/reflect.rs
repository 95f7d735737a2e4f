//! One kind, followed: listed in pages, then watched from there on, for as long as the process lives. A watch that ends is
//! resumed where it was; a version that the server forgot is listed again; nothing that happens ends the following.
//! Not here: what becomes of the objects (`source`), whether the server is there (`contact`).

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::time::{Duration, Instant, sleep};

use super::contact::Contact;
use super::fault::{Fault, FaultKind};
use super::json::Json;
use super::kind::Kind;
use super::pause::Pause;
use super::request::{self, Event, Query};
use crate::manifests::object::{Id, Object, Reading};
use crate::yaml::At;

/// Objects of a page.
const PAGE: u32 = 500;
/// Most objects of a kind.
const OBJECTS_MAX: usize = 1_000_000;
/// A watch that ends sooner than this without an event has failed, whatever the server says.
const SHORT: Duration = Duration::from_secs(1);

/// What a follower tells.
#[derive(Debug)]
pub(super) enum Seen {
    /// An object as it is now.
    Changed(Kind, Reading),
    /// An object is gone.
    Deleted(Kind, Id),
    /// The kind cannot be followed now; what is known stays.
    Failing(Kind, Fault),
    /// Every object there is.
    Listed(Kind, Vec<Reading>),
    /// The kind is watched: what is known is what there is.
    Watching(Kind),
}

/// The follower of one kind.
#[derive(Debug)]
pub(super) struct Reflector {
    kind: Kind,
    contact: Arc<Contact>,
    proxy_name: Option<String>,
    out: mpsc::Sender<Seen>,
    returned: watch::Receiver<Option<Instant>>,
    /// Which of the kind's resources this server has.
    resource: usize,
    /// Whether the kind was there when it was last listed.
    served: bool,
    /// Whether this server knows our field selector.
    by_fields: bool,
    page: u32,
    /// Where a watch goes on; none: list first.
    version: Option<String>,
    pause: Pause,
    chance: RandomState,
    turns: u64,
}

/// Why a turn ended.
enum End {
    Fault(Fault),
    /// Nobody listens any more.
    Unheard,
}

impl From<Fault> for End {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Reflector {
    pub(super) fn new(
        kind: Kind,
        contact: Arc<Contact>,
        proxy_name: Option<String>,
        out: mpsc::Sender<Seen>,
    ) -> Self {
        let returned = contact.returned();
        Self {
            kind,
            contact,
            proxy_name,
            out,
            returned,
            resource: 0,
            served: false,
            by_fields: true,
            page: PAGE,
            version: None,
            pause: Pause::new(),
            chance: RandomState::new(),
            turns: 0,
        }
    }

    /// Follows until nobody listens.
    pub(super) async fn run(mut self) {
        loop {
            let turn = match self.version.clone() {
                None => self.list().await,
                Some(version) => self.watch(version).await,
            };
            let again = match turn {
                Ok(()) => Ok(()),
                Err(End::Fault(fault)) => self.recover(fault).await,
                Err(End::Unheard) => Err(End::Unheard),
            };
            if again.is_err() {
                return;
            }
        }
    }

    fn query(&self) -> Query {
        Query {
            path: self.kind.resources()[self.resource].path,
            labels: self.kind.labels(self.proxy_name.as_deref()),
            fields: self.kind.fields().filter(|_| self.by_fields).map(str::to_owned),
        }
    }

    async fn list(&mut self) -> Result<(), End> {
        let client = self.contact.server.client().await.map_err(Fault::from)?;
        let query = self.query();
        let (mut objects, mut count, mut token) = (Vec::new(), 0, None);
        let version = loop {
            let read = |object: Json<'_>| objects.extend(self.read(&object));
            let page = request::list(&client, &query, (self.page, token), read).await?;
            self.contact.counters.heard();
            count += page.objects;
            if count > OBJECTS_MAX {
                return Err(Fault::new(FaultKind::TooLarge, format!("over {OBJECTS_MAX} objects")).into());
            }
            token = page.next;
            if token.is_none() {
                break page.version;
            }
        };
        self.tell(Seen::Listed(self.kind, objects)).await?;
        self.served = true;
        self.version = Some(version);
        Ok(())
    }

    async fn watch(&mut self, version: String) -> Result<(), End> {
        let client = self.contact.server.client().await.map_err(Fault::from)?;
        let mut events = request::watch(&client, &self.query(), &version).await?;
        self.contact.counters.heard();
        self.returned.mark_unchanged();
        self.tell(Seen::Watching(self.kind)).await?;
        let begun = Instant::now();
        let mut told = false;
        loop {
            let line = tokio::select! {
                biased;
                line = events.next() => line?,
                // The server was away and is back: this stream may be a dead one.
                Ok(()) = self.returned.changed() => break,
            };
            self.contact.counters.heard();
            let Some(line) = line else {
                if !told && begun.elapsed() < SHORT {
                    return Err(Fault::new(FaultKind::Cut, "a watch that ends at once").into());
                }
                break;
            };
            let event = request::event(&line)?;
            told = true;
            self.pause.reset();
            self.take(event).await?;
        }
        self.pause.reset();
        self.contact.counters.watch_restarted(self.kind);
        Ok(())
    }

    async fn take(&mut self, event: Event<'_>) -> Result<(), End> {
        let (Event::Applied(object) | Event::Bookmark(object) | Event::Deleted(object)) = &event;
        let Some(version) = version_of(object) else {
            return Err(Fault::new(FaultKind::Malformed, "an event without a resourceVersion").into());
        };
        match &event {
            Event::Bookmark(_) => {}
            Event::Applied(object) => match self.read(object) {
                Some(reading) => self.tell(Seen::Changed(self.kind, reading)).await?,
                None => return Err(Fault::new(FaultKind::Malformed, "an object without a name").into()),
            },
            Event::Deleted(object) => match self.read(object) {
                Some(reading) => self.tell(Seen::Deleted(self.kind, reading.id)).await?,
                None => return Err(Fault::new(FaultKind::Malformed, "an object without a name").into()),
            },
        }
        self.version = Some(version);
        Ok(())
    }

    fn read(&self, Json(object): &Json<'_>) -> Option<Reading> {
        let mut reading = self.kind.read(self.kind.resources()[self.resource].version, object)?;
        // To everybody else the label says that a Service is another's.
        if let Some(Object::Service(service)) = &mut reading.object
            && service.proxy_name == self.proxy_name
        {
            Arc::make_mut(service).proxy_name = None;
        }
        Some(reading)
    }

    async fn tell(&self, seen: Seen) -> Result<(), End> {
        self.out.send(seen).await.map_err(|_| End::Unheard)
    }

    /// Does what a fault calls for and waits, but no longer than until the server comes back.
    async fn recover(&mut self, fault: Fault) -> Result<(), End> {
        self.contact.counters.fault(self.kind, fault.kind);
        if self.version.is_some() {
            self.contact.counters.watch_restarted(self.kind);
        }
        let adapted = self.adapt(&fault).await;
        self.turns += 1;
        let chance = self.chance.hash_one(self.turns);
        let wait = self.pause.after(&fault, self.contact.is_settling(), chance);
        match adapted {
            Adapted::Now => return Ok(()),
            Adapted::Absent => {
                self.tell(Seen::Listed(self.kind, Vec::new())).await?;
                self.tell(Seen::Watching(self.kind)).await?;
            }
            Adapted::Later => self.tell(Seen::Failing(self.kind, fault)).await?,
        }
        tokio::select! {
            () = sleep(wait) => {}
            Ok(()) = self.returned.changed() => self.pause.reset(),
        }
        Ok(())
    }

    async fn adapt(&mut self, fault: &Fault) -> Adapted {
        match fault.kind {
            FaultKind::Gone | FaultKind::Malformed => self.version = None,
            FaultKind::Forbidden => self.contact.server.doubted().await,
            FaultKind::Unauthorized => self.contact.server.refused().await,
            FaultKind::Cut | FaultKind::Server | FaultKind::Unreachable => self.contact.doubt(),
            FaultKind::TooLarge if self.page > 1 => {
                self.page /= 2;
                return Adapted::Now;
            }
            FaultKind::Refused if self.by_fields && self.kind.fields().is_some() => {
                self.by_fields = false;
                return Adapted::Now;
            }
            FaultKind::NotServed => return self.other_resource(),
            _ => {}
        }
        Adapted::Later
    }

    /// The next version of the kind; after the last one the kind is absent, and there are no objects of it.
    fn other_resource(&mut self) -> Adapted {
        // A server that starts does not know yet what it was taught.
        if self.kind.is_everywhere() || (self.served && self.contact.is_settling()) {
            return Adapted::Later;
        }
        self.version = None;
        self.served = false;
        self.resource = (self.resource + 1) % self.kind.resources().len();
        if self.resource == 0 { Adapted::Absent } else { Adapted::Now }
    }
}

enum Adapted {
    /// The server does not have the kind; it is asked again much later.
    Absent,
    /// The same is tried later.
    Later,
    /// Something else is tried at once.
    Now,
}

fn version_of(Json(object): &Json<'_>) -> Option<String> {
    let root = At::root(object);
    let metadata = root.field("metadata")?;
    let version = metadata.field("resourceVersion")?.scalar()?;
    (!version.is_empty()).then(|| version.to_owned())
}
