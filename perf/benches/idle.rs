//! What a worker costs that sleeps when nothing arrives (`workers.idle: sleep`), and how late it sees what arrives then: a
//! question for its own address after a silence, until the answer is out. The port is two queues in memory: once as with a
//! driver that has no receive interrupts, once with a file that tells of a packet as a driver's does.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::channel,
    },
    thread,
    time::{Duration, Instant},
};

use cpu::{Level, TscClock, Watch};
use dataplane::{
    buf::PacketBuf,
    idle::IdleMode,
    io::mem::MemBuf,
    testkit::{Fixture, OUTSIDE, PipePort, Wire, pipe},
    worker::{Worker, WorkerConfig, WorkerLinks},
};
use hdrhistogram::Histogram;
use packet::{ether, testkit::PacketBuilder};
use perf::{Options, Random, Report, Row, Unit};
use tables::{
    PortSet, WorkerId, capture::capture_ring, command::command_rings, counters::WorkerCounters,
    flow::FlowTableConfig, publish::mailboxes, punt::frame_ring, tcp_state::Timeouts,
};

/// Silences before a question: while sleeps are short, and when they are long.
const SILENCES: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(100)];
/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> io::Result<()> {
    let options = Options::from_process();
    let mut report = Report::new("idle");
    for (name, mode, interrupts) in [
        ("poll", IdleMode::Poll, false),
        ("sleep", IdleMode::Sleep, false),
        ("sleep with interrupts", IdleMode::Sleep, true),
    ] {
        let running = Running::start(mode, interrupts)?;
        // Until it has said what it says by itself, and sleeps as long as it ever does.
        thread::sleep(Duration::from_millis(500));
        let (before, start) = (running.ran()?, Instant::now());
        thread::sleep(options.pick(Duration::from_secs(5), Duration::from_secs(1)));
        let share = (running.ran()? - before).as_secs_f64() / start.elapsed().as_secs_f64();
        report.push(Row::value(
            &format!("{name}: per cent of a core without work"),
            Unit::Ratio,
            100.0 * share,
        ));
        for silence in SILENCES {
            let mut times = Histogram::new_with_bounds(1, 1 << 36, 3).expect("constant bounds are valid");
            let mut random = Random::new(3);
            for _ in 0..options.pick(200, 20) {
                // Not in step with its sleeps.
                let more = Duration::from_micros(random.next() % 2000);
                thread::sleep(silence + more);
                let took = running.ask()?;
                times.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
            }
            let case = format!("{name}: answer after {} ms of silence", silence.as_millis());
            report.push(Row::from_histogram(&case, Unit::Us, &times, |ns| ns as f64 / 1e3));
        }
        running.stop();
    }
    report.finish()
}

/// A worker's thread, and the wire.
struct Running {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
    wire: Wire,
    /// Its thread in `/proc`.
    task: PathBuf,
}

impl Running {
    fn start(mode: IdleMode, interrupts: bool) -> io::Result<Self> {
        let (port, wire) = pipe(interrupts)?;
        let (tell, told) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let shared = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let task = Path::new("/proc").join(fs::read_link("/proc/thread-self").unwrap_or_default());
            tell.send(task).ok();
            work(mode, port, &shared);
        });
        let task = told.recv().map_err(io::Error::other)?;
        Ok(Self { stop, thread, wire, task })
    }

    /// How long the thread has run.
    fn ran(&self) -> io::Result<Duration> {
        let stat = fs::read_to_string(self.task.join("schedstat"))?;
        let ns = stat.split_whitespace().next().and_then(|field| field.parse().ok());
        Ok(Duration::from_nanos(ns.ok_or_else(|| io::Error::other("no time in schedstat"))?))
    }

    /// Asks for the worker's own address; the time until the answer is out.
    fn ask(&self) -> io::Result<Duration> {
        while self.wire.sent.try_recv().is_ok() {}
        let (asker, own) = ("192.0.2.2".parse(), "192.0.2.1".parse());
        let (Ok(asker), Ok(own)) = (asker, own) else { unreachable!("constant addresses") };
        let question = PacketBuilder::arp_request(Fixture::neighbor_mac(OUTSIDE, 2), asker, own).build();
        let start = Instant::now();
        let buf = MemBuf::from_frame(&question).ok_or_else(|| io::Error::other("a short frame"))?;
        if !self.wire.send(buf) {
            return Err(io::Error::other("the worker is gone"));
        }
        while start.elapsed() < PATIENCE {
            // Looked for without sleeping: waking up here is not to be measured.
            if self.wire.sent.try_recv().is_ok_and(|buf| answers(&buf)) {
                return Ok(start.elapsed());
            }
        }
        Err(io::Error::other("no answer"))
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the worker does not panic");
    }
}

/// An ARP reply, by its type and operation.
fn answers(buf: &MemBuf) -> bool {
    let head = buf.head();
    head.get(12..14) == Some(&ether::ARP.to_be_bytes()[..]) && head.get(20..22) == Some(&[0, 2][..])
}

fn work(mode: IdleMode, port: PipePort, stop: &AtomicBool) {
    let (_publisher, mut subscribers) = mailboxes(1, Fixture::data_centre().tables());
    let (_sender, commands) = command_rings(1, 1);
    let links = WorkerLinks {
        tables: subscribers.pop().expect("one worker"),
        counters: Arc::new(WorkerCounters::new(2)),
        punt: frame_ring(0).0,
        inject: frame_ring(0).1,
        commands,
        capture: capture_ring(0).0,
        watch: Watch::new().ok(),
    };
    let flows = FlowTableConfig { flows: 1024, ipv6: false, secret: 7, timeouts: Timeouts::default() };
    let config = WorkerConfig {
        id: WorkerId(0),
        level: Level::of_this_processor(),
        flows,
        affinity_clients: 64,
        mirrored: PortSet::NONE,
        idle: mode,
    };
    let mut worker = Worker::new(&config, links, vec![port]).expect("memory for a small flow table");
    worker.run(&TscClock::calibrate(), stop);
}
