//! Moves frames between the workers' rings and the TAPs.
//!
//! A thread of its own polls the workers' rings every 100 us while frames come, and after a tenth of a second without any
//! waits until a worker calls: a system call of the worker's, some ten times a second at most. The kernel's frames come by
//! tasks that sleep until there is one. Everything is bounded; what does not fit is dropped and counted, as on a wire.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cpu::{Bell, Watch, Woken};
use tables::punt::{FRAME_LEN_MAX, FrameReceiver, FrameSender, Message};
use tables::{PortId, ServiceId};
use tokio::sync::mpsc;

use super::Device;
use crate::inquiry::{self, Heard};
use crate::netlink::Resolver;

/// Between two looks at the rings while frames come.
const NAP: Duration = Duration::from_micros(100);
/// Without a frame for so long, it waits to be called.
const IDLE_AFTER: Duration = Duration::from_millis(100);
/// The longest wait: should a call be lost, the kernel hears late, not never.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Messages taken from one worker before the next has its turn.
const TURN: usize = 64;

/// Flows of a Service port whose replies take another way, as a worker told.
pub type Bypass = (ServiceId, u32);

/// Where the workers' messages go that are not frames.
pub struct Listeners {
    /// Asks the kernel for next hops; none without a mirror.
    pub resolver: Option<Resolver>,
    /// Learns of replies that take another way.
    pub bypasses: mpsc::Sender<Bypass>,
    /// Learns who has which address, while somebody asks.
    pub heard: mpsc::Sender<Heard>,
}

/// Speaks on the ports' segments, beside the kernel; cheap to clone.
#[derive(Clone)]
pub struct Voice {
    senders: Arc<[Arc<Mutex<FrameSender>>]>,
    listens: Arc<AtomicBool>,
}

impl Voice {
    /// Speaks by these workers; a port's frames all go by one of them, in order.
    #[must_use]
    pub fn new(senders: Vec<FrameSender>) -> Self {
        let senders = senders.into_iter().map(|sender| Arc::new(Mutex::new(sender))).collect();
        Self { senders, listens: Arc::default() }
    }

    /// Sends a frame by a port; false when the worker's ring is full.
    pub fn say(&self, port: PortId, frame: &[u8]) -> bool {
        self.sender(port).is_some_and(|sender| {
            let mut sender = sender.lock().unwrap_or_else(PoisonError::into_inner);
            sender.frame(port, [frame].into_iter()).is_ok()
        })
    }

    fn sender(&self, port: PortId) -> Option<&Arc<Mutex<FrameSender>>> {
        self.senders.get(port.index().checked_rem(self.senders.len())?)
    }

    /// Whether what hosts say of their addresses is told from now on.
    pub fn listen(&self, on: bool) {
        self.listens.store(on, Ordering::Relaxed);
    }
}

/// Control's ends of one worker's rings.
pub struct WorkerRings {
    /// What the worker hands to the kernel.
    pub punt: FrameReceiver,
    /// What the kernel sends by the worker.
    pub inject: FrameSender,
}

/// Frames moved and lost, all ports together.
#[derive(Debug, Default)]
pub struct PumpCounters {
    /// Given to the kernel.
    pub to_kernel: AtomicU64,
    /// Not given to the kernel, whose queue is full.
    pub to_kernel_dropped: AtomicU64,
    /// Taken from the kernel.
    pub from_kernel: AtomicU64,
    /// Taken from the kernel and lost: the worker's ring is full.
    pub from_kernel_dropped: AtomicU64,
}

/// The running pump; it ends when dropped.
pub struct Pump {
    counters: Arc<PumpCounters>,
    voice: Voice,
    stop: Arc<AtomicBool>,
    bell: Arc<Bell>,
    punt: Option<JoinHandle<()>>,
    inject: Vec<tokio::task::JoinHandle<()>>,
}

impl Pump {
    /// Starts the thread and the tasks. A port's frames from the kernel all go by one worker, in order. Whoever fills a ring
    /// calls by the bell of `watch`.
    ///
    /// # Errors
    /// When no thread can be made.
    pub fn start(
        devices: &[Device],
        rings: Vec<WorkerRings>,
        listeners: Listeners,
        watch: Watch,
    ) -> io::Result<Self> {
        let counters = Arc::new(PumpCounters::default());
        let stop = Arc::new(AtomicBool::new(false));
        let (receivers, senders) = rings.into_iter().map(|ring| (ring.punt, ring.inject)).unzip();
        let voice = Voice::new(senders);
        let inject = devices.iter().filter_map(|device| {
            let sender = voice.sender(PortId(device.link.port))?;
            Some(tokio::spawn(inject(device.clone(), Arc::clone(sender), Arc::clone(&counters))))
        });
        let inject = inject.collect();
        let punter = Punter {
            receivers,
            devices: devices.iter().map(|device| (PortId(device.link.port), device.clone())).collect(),
            listeners,
            listens: Arc::clone(&voice.listens),
            counters: Arc::clone(&counters),
        };
        let (stopped, bell) = (Arc::clone(&stop), Arc::clone(watch.bell()));
        let punt = thread::Builder::new()
            .name("fairlead-punt".into())
            .spawn(move || punter.run(&stopped, &watch))?;
        Ok(Self { counters, voice, stop, bell, punt: Some(punt), inject })
    }

    /// What was moved so far.
    #[must_use]
    pub fn counters(&self) -> &Arc<PumpCounters> {
        &self.counters
    }

    /// Speaks by the ports beside the kernel.
    #[must_use]
    pub fn voice(&self) -> Voice {
        self.voice.clone()
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.inject.iter().for_each(tokio::task::JoinHandle::abort);
        if let Some(punt) = self.punt.take() {
            self.bell.ring();
            // A panic in it was reported when it happened.
            let _ = punt.join();
        }
    }
}

struct Punter {
    receivers: Vec<FrameReceiver>,
    devices: BTreeMap<PortId, Device>,
    listeners: Listeners,
    listens: Arc<AtomicBool>,
    counters: Arc<PumpCounters>,
}

impl Punter {
    fn run(mut self, stop: &AtomicBool, watch: &Watch) {
        let mut buffer = [0; FRAME_LEN_MAX];
        let mut busy_at = Instant::now();
        let mut listens = false;
        while !stop.load(Ordering::Relaxed) {
            if self.turn(&mut buffer) {
                watch.bell().ignore();
                (busy_at, listens) = (Instant::now(), false);
            } else if busy_at.elapsed() < IDLE_AFTER {
                thread::sleep(NAP);
            } else if listens {
                listens = watch.wait(WAIT_MAX) == Woken::Late;
            } else {
                // One more look, for what came before it was to be heard.
                watch.bell().listen();
                listens = true;
            }
        }
    }

    /// One turn for each worker; true when there was anything.
    fn turn(&mut self, buffer: &mut [u8; FRAME_LEN_MAX]) -> bool {
        let mut any = false;
        for worker in 0..self.receivers.len() {
            for _ in 0..TURN {
                let Some(message) = self.receivers[worker].receive(buffer) else { break };
                any = true;
                self.take(message, buffer);
            }
        }
        any
    }

    fn take(&self, message: Message, buffer: &[u8; FRAME_LEN_MAX]) {
        match message {
            Message::Frame { port, len } => {
                let frame = &buffer[..len];
                if self.listens.load(Ordering::Relaxed)
                    && let Some(heard) = inquiry::read(port, frame)
                {
                    // Who is that far behind asks again.
                    let _ = self.listeners.heard.try_send(heard);
                }
                // Without a TAP it came for those who listen.
                let Some(device) = self.devices.get(&port) else { return };
                let written = device.write(frame).is_ok();
                let counter =
                    if written { &self.counters.to_kernel } else { &self.counters.to_kernel_dropped };
                counter.fetch_add(1, Ordering::Relaxed);
            }
            Message::Resolve { port, address } => {
                if let Some(resolver) =
                    self.listeners.resolver.as_ref().filter(|_| self.devices.contains_key(&port))
                {
                    resolver.resolve(port.0, address);
                }
            }
            Message::ReplyBypass { service, flows } => {
                // When the applier is that far behind, the worker's own total still tells.
                let _ = self.listeners.bypasses.try_send((service, flows));
            }
        }
    }
}

async fn inject(device: Device, sender: Arc<Mutex<FrameSender>>, counters: Arc<PumpCounters>) {
    let mut buffer = vec![0; FRAME_LEN_MAX];
    loop {
        let length = match device.read(&mut buffer).await {
            Ok(length) => length,
            Err(error) => {
                tracing::error!(port = %device.name, %error, "the TAP is gone; the kernel no longer reaches this port");
                return;
            }
        };
        let frame = [&buffer[..length]].into_iter();
        let sent =
            sender.lock().unwrap_or_else(PoisonError::into_inner).frame(PortId(device.link.port), frame);
        let counter = if sent.is_ok() { &counters.from_kernel } else { &counters.from_kernel_dropped };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
