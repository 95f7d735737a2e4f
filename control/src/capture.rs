//! Captures: what is wanted goes to every worker, what they show comes back as pcapng, for as long as somebody reads it.
//!
//! One capture at a time. It ends at its count or time, when it is stopped, or when its reader is gone or stuck; then the
//! workers look at nothing any more. Not here: which packets match (`tables::capture`), files (the command).

pub mod filter;
pub mod pcapng;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::body::Bytes;
use tables::capture::{CAPTURED_LEN_MAX, CaptureCounts, CaptureReceiver, CaptureSpec, Captured};
use tables::punt::FRAME_LEN_MAX;
use tokio::sync::futures::Notified;
use tokio::sync::{Mutex, Notify, OwnedMutexGuard, mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};

use self::filter::FilterError;
use crate::admin::view;
use crate::workers::{NoAnswer, Workers};

/// Between two looks at the workers' rings.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);
/// A piece of the file is sent once it is as large as this, in bytes.
const PIECE_LEN: usize = 64 << 10;
/// Pieces that may wait for the reader.
const PIECES_MAX: usize = 16;
/// A reader that takes nothing for so long is gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is to be captured, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// Which packets.
    pub spec: CaptureSpec,
    /// Ends after so many packets; 0: any number.
    pub count: u64,
    /// Ends after so long.
    pub duration: Option<Duration>,
}

/// The content type of a capture.
pub const CONTENT_TYPE: &str = "application/x-pcapng";

impl Default for view::Capture {
    fn default() -> Self {
        Self {
            drops: false,
            service: String::new(),
            filter: String::new(),
            snap_len: 256,
            one_in: 1,
            per_second: 10_000,
            count: 0,
            duration_ms: 0,
        }
    }
}

impl view::Capture {
    /// What the words mean.
    ///
    /// # Errors
    /// [`FilterError`], for the first that means nothing.
    pub fn order(&self) -> Result<Order, FilterError> {
        let service =
            if self.service.is_empty() { String::new() } else { format!("service {}", self.service) };
        let filter = filter::parse(&format!("{service} {}", self.filter))?;
        let frame_len_max = u16::try_from(FRAME_LEN_MAX).unwrap_or(u16::MAX);
        let spec = CaptureSpec {
            // A reason is that of a drop.
            passing: !self.drops && filter.reason.is_none(),
            filter,
            snap_len: if self.snap_len == 0 { frame_len_max } else { self.snap_len.min(frame_len_max) },
            one_in: self.one_in.max(1),
            per_second: self.per_second.max(1),
        };
        let duration = (self.duration_ms > 0).then(|| Duration::from_millis(self.duration_ms));
        Ok(Order { spec, count: self.count, duration })
    }
}

/// Why there is no capture.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CaptureError {
    /// One at a time.
    #[error(
        "a capture is running, and there is one at a time; wait for its end, or end it by `fairlead capture --stop`"
    )]
    Busy,
    /// A worker is stuck.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
}

/// The workers' rings of captured packets; cheap to clone.
#[derive(Clone)]
pub struct Captures {
    workers: Workers,
    rings: Arc<Mutex<Vec<CaptureReceiver>>>,
    /// By port.
    names: Arc<[String]>,
    stop: Arc<Notify>,
}

impl Captures {
    /// The rings of the workers in their order, and the names of the ports in theirs.
    #[must_use]
    pub fn new(workers: Workers, rings: Vec<CaptureReceiver>, names: Vec<String>) -> Self {
        Self { workers, rings: Arc::new(Mutex::new(rings)), names: names.into(), stop: Arc::default() }
    }

    /// Begins a capture; what comes is a pcapng file, piece by piece.
    ///
    /// # Errors
    /// [`CaptureError`].
    pub async fn start(&self, order: Order) -> Result<mpsc::Receiver<Bytes>, CaptureError> {
        let rings = Arc::clone(&self.rings).try_lock_owned().map_err(|_| CaptureError::Busy)?;
        let (pieces, file) = mpsc::channel(PIECES_MAX);
        let (begun, answer) = oneshot::channel();
        let session = Session {
            workers: self.workers.clone(),
            rings,
            names: Arc::clone(&self.names),
            order,
            pieces,
            clock: None,
            written: 0,
        };
        // A task of its own: however its reader ends, the workers are told that nothing is wanted any more.
        let stop = Arc::clone(&self.stop);
        tokio::spawn(session.run(begun, stop));
        answer.await.unwrap_or(Err(CaptureError::Busy)).map(|()| file)
    }

    /// Ends the capture that is running, in order; true if one was.
    #[must_use]
    pub fn stop(&self) -> bool {
        let running = self.rings.try_lock().is_err();
        self.stop.notify_waiters();
        running
    }
}

/// A capture that is running.
struct Session {
    workers: Workers,
    rings: OwnedMutexGuard<Vec<CaptureReceiver>>,
    names: Arc<[String]>,
    order: Order,
    pieces: mpsc::Sender<Bytes>,
    /// What the workers' clock must be put on by, in nanoseconds, to be the time of day: as of the first packet.
    clock: Option<u64>,
    written: u64,
}

impl Session {
    async fn run(mut self, begun: oneshot::Sender<Result<(), CaptureError>>, stop: Arc<Notify>) {
        let mut buffer = Box::new([0; CAPTURED_LEN_MAX]);
        // What came after the end of an earlier one.
        for ring in self.rings.iter_mut() {
            while ring.receive(&mut buffer).is_some() {}
        }
        let before = self.counts();
        // From here on no request to stop is missed.
        let stopped = stop.notified();
        let armed = self.workers.capture(Some(self.share())).await;
        if begun.send(armed.map_err(CaptureError::from)).is_ok() && armed.is_ok() {
            self.follow(&mut buffer, stopped).await;
        }
        if let Err(error) = self.workers.capture(None).await {
            tracing::warn!(%error, "a worker may go on capturing packets for nobody, until the next capture ends");
        }
        let mut last = Vec::new();
        self.read(&mut buffer, &mut last, usize::MAX);
        pcapng::statistics(&mut last, difference(self.counts(), before), now_ns());
        // Nobody may be there to read it.
        let _ = timeout(PATIENCE, self.pieces.send(last.into())).await;
    }

    /// What each worker is told: its part of the rate.
    fn share(&self) -> CaptureSpec {
        let workers = u32::try_from(self.rings.len()).unwrap_or(u32::MAX).max(1);
        let CaptureSpec { per_second, .. } = self.order.spec;
        CaptureSpec { per_second: per_second.div_ceil(workers), ..self.order.spec }
    }

    async fn follow(&mut self, buffer: &mut [u8; CAPTURED_LEN_MAX], stopped: Notified<'_>) {
        let until = self.order.duration.map(|duration| Instant::now() + duration);
        let mut piece = pcapng::beginning(&self.names, self.order.spec.snap_len);
        tokio::pin!(stopped);
        loop {
            self.read(buffer, &mut piece, PIECE_LEN);
            let full = piece.len() >= PIECE_LEN;
            if !piece.is_empty() {
                let sent = self.pieces.send(std::mem::take(&mut piece).into());
                if !matches!(timeout(PATIENCE, sent).await, Ok(Ok(()))) {
                    return;
                }
            }
            if self.is_complete() || until.is_some_and(|until| until <= Instant::now()) {
                return;
            }
            let pause = if full { Duration::ZERO } else { LOOK_INTERVAL };
            tokio::select! {
                () = &mut stopped => return,
                () = self.pieces.closed() => return,
                () = sleep(pause) => {}
            }
        }
    }

    /// Writes what waits in the rings, until the piece is as large as said.
    fn read(&mut self, buffer: &mut [u8; CAPTURED_LEN_MAX], piece: &mut Vec<u8>, until: usize) {
        for at in 0..self.rings.len() {
            while piece.len() < until && !self.is_complete() {
                let Some(captured) = self.rings[at].receive(buffer) else { break };
                let time_ns = self.time_of(&captured);
                pcapng::packet(piece, &captured, captured.frame(buffer), time_ns);
                self.written += 1;
            }
        }
    }

    fn is_complete(&self) -> bool {
        self.order.count > 0 && self.written >= self.order.count
    }

    /// The time of day. The difference between two packets is the workers' own; the first one is off by a look's interval.
    fn time_of(&mut self, captured: &Captured) -> u64 {
        let ahead = *self.clock.get_or_insert_with(|| now_ns().wrapping_sub(captured.time_ns));
        captured.time_ns.wrapping_add(ahead)
    }

    fn counts(&self) -> CaptureCounts {
        self.rings.iter().map(CaptureReceiver::counts).fold(CaptureCounts::default(), |sum, one| {
            CaptureCounts {
                taken: sum.taken + one.taken,
                over_rate: sum.over_rate + one.over_rate,
                lost: sum.lost + one.lost,
            }
        })
    }
}

fn difference(now: CaptureCounts, before: CaptureCounts) -> CaptureCounts {
    CaptureCounts {
        taken: now.taken - before.taken,
        over_rate: now.over_rate - before.over_rate,
        lost: now.lost - before.lost,
    }
}

/// Nanoseconds since 1970; a clock before that is broken.
fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
