//! What one endpoint change costs in a cluster of 10,000 Services of 25 endpoints with the real API server: from the watch
//! event until every worker has it, and, of the same changes in the same run, what kube-proxy needs for them.
//!
//! The lab's control plane has the objects; our source, applier and two shipped workers follow it on one node, with the
//! account that is shipped, and kube-proxy on another. The clock starts when the API server has answered the write or a
//! watch beside has told of it, whichever was first. It stops for us when both workers have taken tables (which are
//! then looked into), for kube-proxy when the first connection that reached the new endpoint was made. Needs root and
//! `KUBEBUILDER_ASSETS`; takes a quarter of an hour, most of it kube-proxy's.

#[path = "../engine/mod.rs"]
mod engine;
mod proxy;

use std::{
    collections::HashSet,
    fs,
    net::{IpAddr, Ipv4Addr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use control::{
    apply::Control,
    kube::{Access, ApiServer, follow},
};
use hdrhistogram::Histogram;
use lab::{
    api::{Api, Changed},
    controlplane,
    kubernetes::KubeLab,
};
use packet::Protocol;
use perf::{
    Options, Report, Row, Unit,
    objects::{self, CIDRS, ENDPOINTS, SERVICE_LIST, SERVICES, SLICE_LIST, newcomer, slice, vip},
};
use tables::Tables;
use tokio::{runtime::Runtime, sync::mpsc, time::timeout};

use engine::{Engine, resident_bytes};
use proxy::Proxy;

/// The lab's name.
const NAME: &str = "cluster";
/// Where our part runs: the API server is on the same segment.
const HOST: &str = "n2";
/// Longest wait for the first full state.
const READY: Duration = Duration::from_secs(120);
/// Between two changes, so that none is gathered with the one before.
const PAUSE: Duration = Duration::from_millis(20);
/// The same where kube-proxy follows: it waits a second between two writes of its rules.
const REST: Duration = Duration::from_secs(2);

fn main() -> Result<()> {
    lab::run_if_asked();
    let options = Options::from_process();
    lab::down(NAME)?;
    let assets = controlplane::assets()?;
    let lab = KubeLab::up(NAME, &assets)?;
    let kubeconfig = lab.install()?;
    let mut report = Report::new("cluster");
    let api = Api::connect(&lab.plane.admin_kubeconfig())?;
    lab.share(HOST).within(|| -> Result<()> {
        let services = options.pick(SERVICES, 100);
        fill(&lab, &api, services)?;
        let bench = Bench::start(api, services, &kubeconfig, &mut report)?;
        let turns = options.pick(20, 2);
        bench.beside(Proxy::start(&lab, &assets)?, turns, &mut report)?;
        bench.alone(turns + 1..=turns + options.pick(500, 20), &mut report)?;
        bench.engine.stop();
        Ok(())
    })??;
    report.finish().context("the results")
}

/// Writes all objects.
fn fill(lab: &KubeLab, api: &Api, services: u32) -> Result<()> {
    api.create(CIDRS, [objects::service_cidr()].into_iter())?;
    lab.kubectl().wait(&["wait", "servicecidr/many", "--for=condition=Ready", "--timeout=30s"], READY)?;
    let begun = Instant::now();
    api.create(SLICE_LIST, (0..services).map(|number| slice(number, 0)))?;
    api.create(SERVICE_LIST, (0..services).map(objects::service))?;
    eprintln!("{services} Services of {ENDPOINTS} endpoints written in {:.0?}", begun.elapsed());
    Ok(())
}

/// Times in nanoseconds.
struct Times(Histogram<u64>);

impl Times {
    fn new() -> Self {
        Self(Histogram::new_with_bounds(1, 1 << 40, 3).expect("constant bounds are valid"))
    }

    fn add(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    fn row(&self, case: &str) -> Row {
        Row::from_histogram(case, Unit::Us, &self.0, |ns| ns as f64 / 1000.0)
    }
}

/// Our part.
struct Bench {
    api: Api,
    engine: Engine,
    control: Control,
    runtime: Runtime,
    services: u32,
}

impl Bench {
    /// Starts it against the full cluster and waits until it is ready.
    fn start(api: Api, services: u32, kubeconfig: &Path, report: &mut Report) -> Result<Self> {
        let (before, worked, begun) = (resident_bytes(), processor_time(), Instant::now());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let server = Arc::new(ApiServer::new(Access::Kubeconfig(PathBuf::from(kubeconfig))));
        let config = format!(
            "apiVersion: fairlead.dev/v1alpha1
kind: GatewayConfig
ports: [{{name: outside, device: net_null0, addresses: [192.0.2.1/24], tap: false}}]
workers: {{count: {}}}
kubernetes: {{kubeconfig: {}}}
routes: [{{to: 10.0.0.0/8, via: 192.0.2.9}}]
",
            engine::WORKERS,
            kubeconfig.display()
        );
        let (engine, control, mut ready) = Engine::start(&config, |state| {
            let (out, source) = mpsc::channel(64);
            let _inside = runtime.enter();
            drop(follow(server, None, state, out));
            source
        })?;
        runtime.block_on(async { timeout(READY, ready.wait_for(|ready| *ready)).await.map(drop) })?;
        let mut first = Times::new();
        first.add(begun.elapsed());
        report.push(first.row("from the first request to ready, the API server's lists included"));
        let mut own = Times::new();
        own.add(processor_time() - worked);
        report.push(own.row("our own processor time of that"));
        report.push(Row::value(
            "memory of it, with the cluster's objects and all tables",
            Unit::Bytes,
            resident_bytes() - before,
        ));
        let bench = Self { api, engine, control, runtime, services };
        ensure!(bench.has(0, None)?, "the tables lack what the API server has");
        Ok(bench)
    }

    /// The Service of a turn: others lie between, so that no turn finds warm what the one before has touched.
    fn number(&self, turn: u32) -> u32 {
        turn * 7919 % self.services
    }

    /// One endpoint of a Service becomes this turn's: when the API server told of it, and when every worker had it.
    fn change(&self, turn: u32) -> Result<(Changed, Instant)> {
        let object = slice(self.number(turn), turn);
        let taken = self.engine.publications();
        let (changed, seen) = thread::scope(|scope| {
            let writing = scope.spawn(|| self.api.change(SLICE_LIST, &object));
            let seen = self.engine.taken(&taken).then(Instant::now);
            (writing.join(), seen)
        });
        let changed = changed.map_err(|_| anyhow!("the writer panicked"))??;
        let seen = seen.context("a worker takes no tables")?;
        ensure!(
            self.has(self.number(turn), Some(newcomer(turn)))?,
            "turn {turn}: the tables lack the endpoint"
        );
        Ok((changed, seen))
    }

    /// The changes that kube-proxy follows too.
    fn beside(&self, mut proxy: Proxy, turns: u32, report: &mut Report) -> Result<()> {
        let (mut all, mut ours, mut theirs) = (Times::new(), Times::new(), Times::new());
        let begun = Instant::now();
        proxy.leads(vip(0), None)?;
        let mut first = Times::new();
        first.add(begun.elapsed());
        report.push(first.row("kube-proxy: from its start to the first connection"));
        let before = proxy.syncs()?;
        for turn in 1..=turns {
            thread::sleep(REST);
            let (changed, seen) = self.change(turn)?;
            all.add(seen.saturating_duration_since(changed.sent));
            ours.add(seen.saturating_duration_since(changed.told));
            let led = proxy.leads(vip(self.number(turn)), Some(newcomer(turn)))?;
            theirs.add(led.saturating_duration_since(changed.told));
        }
        let after = proxy.syncs()?;
        report.push(ours.row(&format!("{turns} changes beside kube-proxy: watch event to every worker")));
        report.push(all.row("the same, from the sending of the request"));
        report.push(theirs.row("kube-proxy, the same changes: watch event to the first connection"));
        let mean_us = (after.1 - before.1) / (after.0 - before.0) * 1e6;
        report.push(Row::value(
            "kube-proxy, mean time of writing its rules by its own metrics",
            Unit::Us,
            mean_us,
        ));
        proxy.end()
    }

    /// Changes that nobody else follows.
    fn alone(&self, turns: RangeInclusive<u32>, report: &mut Report) -> Result<()> {
        let (mut all, mut ours) = (Times::new(), Times::new());
        let count = turns.clone().count();
        for turn in turns {
            thread::sleep(PAUSE);
            let (changed, seen) = self.change(turn)?;
            all.add(seen.saturating_duration_since(changed.sent));
            ours.add(seen.saturating_duration_since(changed.told));
        }
        report.push(ours.row(&format!("{count} changes, kube-proxy ended: watch event to every worker")));
        report.push(all.row("the same, from the sending of the request"));
        Ok(())
    }

    /// Whether a Service has all its endpoints in the tables in force, among them this one.
    fn has(&self, number: u32, wanted: Option<Ipv4Addr>) -> Result<bool> {
        let look = self.control.look(move |look| {
            let backends = backends(look.tables, vip(number));
            backends.len() == ENDPOINTS as usize
                && wanted.is_none_or(|wanted| backends.contains(&wanted.into()))
        });
        Ok(self.runtime.block_on(look)?)
    }
}

/// Of all threads of this process, to a hundredth of a second.
fn processor_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // utime and stime, the 12th and 13th after the name in parentheses.
    let fields = stat.rsplit_once(')').map(|(_, after)| after.split_whitespace().skip(11).take(2));
    let ticks: u64 = fields.into_iter().flatten().filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// Where a Service's flows may go by these tables.
fn backends(tables: &Tables, vip: Ipv4Addr) -> HashSet<IpAddr> {
    let frontend = tables.index.vip(vip.into(), Protocol::Tcp, 80);
    let service = frontend.and_then(|frontend| tables.service(frontend.service));
    let pools = service.into_iter().flat_map(|service| &service.pools);
    let backends = pools.flat_map(|pool| pool.backends.iter()).filter_map(|id| tables.backend(*id));
    backends.map(|backend| backend.address).collect()
}
