//! A worker on memory ports, stepped by hand: what control, the kernel and the wire would do, the test does.

use std::sync::Arc;

use cpu::Level;
use tables::{
    DropReason, Millis, PortId, PortSet, Tables, WorkerId,
    capture::{CaptureReceiver, capture_ring},
    command::{CommandSender, command_rings},
    counters::{Counts, WorkerCounters},
    flow::FlowTableConfig,
    publish::{Publisher, mailboxes},
    punt::{FRAME_LEN_MAX, FrameReceiver, FrameSender, Message, frame_ring},
    tcp_state::Timeouts,
};

use crate::{
    idle::IdleMode,
    io::{
        Capabilities, PortIo,
        mem::{MemBuf, MemPort},
    },
    worker::{Worker, WorkerConfig, WorkerLinks},
};

/// What differs between rigs.
#[derive(Clone, Copy, Debug)]
pub struct RigConfig {
    /// Which worker it is.
    pub worker: WorkerId,
    /// The processor's instructions that it uses.
    pub level: Level,
    /// Flows the table holds.
    pub flows: u32,
    /// Ports with a kernel mirror.
    pub mirrored: PortSet,
    /// What the ports' devices do.
    pub capabilities: Capabilities,
    /// Bytes of each ring between it and the kernel.
    pub ring_bytes: usize,
}

impl Default for RigConfig {
    fn default() -> Self {
        Self {
            worker: WorkerId(0),
            level: Level::of_this_processor(),
            flows: 1024,
            mirrored: PortSet::ALL,
            capabilities: Capabilities::default(),
            ring_bytes: 1 << 20,
        }
    }
}

/// A worker and the other ends of everything it holds.
pub struct Rig<P: PortIo = MemPort> {
    /// The worker.
    pub worker: Worker<P>,
    /// Control's publishing end.
    pub publisher: Publisher<Tables>,
    /// What the worker shows to control.
    pub counters: Arc<WorkerCounters>,
    /// The kernel's ends.
    pub kernel: FrameReceiver,
    /// Frames for the worker to send.
    pub inject: FrameSender,
    /// Control's questions.
    pub commands: CommandSender,
    /// Packets that control wanted to see.
    pub captured: CaptureReceiver,
    /// The simulated time.
    pub now: Millis,
    frame: Box<[u8; FRAME_LEN_MAX]>,
}

impl Rig {
    /// A worker that has `tables` and ports for these.
    #[must_use]
    pub fn new(config: &RigConfig, tables: Tables) -> Self {
        let devices = tables.ports().iter().filter(|port| port.vlan.is_none());
        let lanes = devices.map(|_| MemPort::new(config.capabilities)).collect();
        Self::with_ports(config, tables, lanes)
    }

    /// Lets a frame arrive at a port, without a turn.
    pub fn push(&mut self, port: PortId, frame: &[u8]) {
        assert!(self.port(port).push(frame), "a frame fits a buffer");
    }

    /// Frames sent out of a port since the last call.
    pub fn sent(&mut self, port: PortId) -> Vec<Vec<u8>> {
        let port = self.port(port);
        let mut frames = Vec::new();
        while let Some(buf) = port.pop() {
            frames.push(buf.to_vec());
            port.recycle(buf);
        }
        frames
    }

    /// Lets one frame arrive, and gives what was sent, by port.
    pub fn exchange(&mut self, port: PortId, frame: &[u8]) -> Vec<(PortId, Vec<u8>)> {
        self.push(port, frame);
        self.settle();
        self.all_sent()
    }

    /// Like [`Rig::exchange`], with a prepared buffer.
    pub fn exchange_buf(&mut self, port: PortId, buf: MemBuf) -> Vec<(PortId, Vec<u8>)> {
        self.port(port).push_buf(buf);
        self.settle();
        self.all_sent()
    }

    /// Frames sent since the last call, by port.
    pub fn all_sent(&mut self) -> Vec<(PortId, Vec<u8>)> {
        (0..PortId::LIMIT)
            .map(PortId)
            .take_while(|&port| self.worker.port_mut(port).is_some())
            .collect::<Vec<_>>()
            .into_iter()
            .flat_map(|port| self.sent(port).into_iter().map(move |frame| (port, frame)))
            .collect()
    }
}

impl<P: PortIo> Rig<P> {
    /// A worker that has `tables`, and these for the ports with a device.
    #[must_use]
    pub fn with_ports(config: &RigConfig, tables: Tables, lanes: Vec<P>) -> Self {
        let ports = tables.ports().len();
        let (publisher, mut subscribers) = mailboxes(1, tables);
        let counters = Arc::new(WorkerCounters::new(ports));
        let (punt, kernel) = frame_ring(config.ring_bytes);
        let (inject_sender, inject) = frame_ring(config.ring_bytes);
        let (commands, desk) = command_rings(8, 64);
        let (capture, captured) = capture_ring(config.ring_bytes);
        let links = WorkerLinks {
            tables: subscribers.pop().expect("one worker"),
            counters: Arc::clone(&counters),
            punt,
            inject,
            commands: desk,
            capture,
            watch: None,
        };
        let flows = FlowTableConfig {
            flows: config.flows,
            ipv6: true,
            secret: 0x5eed,
            timeouts: Timeouts::default(),
        };
        let config_ = WorkerConfig {
            id: config.worker,
            level: config.level,
            flows,
            affinity_clients: 1024,
            mirrored: config.mirrored,
            idle: IdleMode::Poll,
        };
        let worker = Worker::new(&config_, links, lanes).expect("memory for a small flow table");
        let (now, frame) = (Millis(1_000), Box::new([0; FRAME_LEN_MAX]));
        Self { worker, publisher, counters, kernel, inject: inject_sender, commands, captured, now, frame }
    }

    /// The wire of a port.
    pub fn port(&mut self, port: PortId) -> &mut P {
        self.worker.port_mut(port).expect("a port of this rig")
    }

    /// One turn of the worker.
    pub fn turn(&mut self) -> usize {
        self.worker.poll(self.now)
    }

    /// Turns until nothing happens.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            if self.turn() == 0 {
                return;
            }
        }
        panic!("the worker does not come to rest");
    }

    /// What the kernel was told since the last call, frames with their bytes.
    pub fn punted(&mut self) -> Vec<(Message, Vec<u8>)> {
        let mut messages = Vec::new();
        while let Some(message) = self.kernel.receive(&mut self.frame) {
            let len = if let Message::Frame { len, .. } = message { len } else { 0 };
            messages.push((message, self.frame[..len].to_vec()));
        }
        messages
    }

    /// Publishes new tables and lets the worker take them.
    pub fn publish(&mut self, tables: Tables) {
        self.publisher.publish(tables);
        self.settle();
    }

    /// The worker's counters.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        self.worker.counts()
    }

    /// Packets dropped for a reason.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.counts().dropped_for(reason)
    }
}
