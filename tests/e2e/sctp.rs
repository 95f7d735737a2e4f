//! SCTP through Services, with a real stack at both ends: `sctp.c`, over raw sockets, as the kernels at hand have none of their
//! own. While such a socket is open a kernel answers nothing itself (else it would send `protocol unreachable`).

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::catalog::{self, Entry, Frontend};
use lab::manifests::{Member, ServicePort};
use lab::plan::{self, CLIENTS};
use lab::process::{self, Daemon, until};
use serde_json::Value;

use crate::Check;
use crate::world::World;

pub(crate) const CHECKS: &[Check] = &[(
    "SCTP associations carry bytes both ways, end, and are remembered for as long as their phase says",
    associations,
)];

const PORT: u16 = 3868;
const PODS: [&str; 2] = ["web-1", "web-2"];
/// Longest wait for an answer, and for what the sweep of the flows brings about.
const PATIENCE: Duration = Duration::from_secs(15);

fn associations(world: &mut World) -> Result<()> {
    let program = compile(world)?;
    let _servers = PODS.map(|pod| servers(world, &program, pod)).into_iter().collect::<Result<Vec<_>>>()?;
    let refusals = || -> Result<Vec<String>> {
        PODS.iter()
            .map(|pod| world.host(pod).script("nstat -asz IcmpOutDestUnreachs Icmp6OutDestUnreachs"))
            .collect()
    };
    let before = refusals()?;
    for mode in ["snat", "dnat"] {
        let entry = entry(mode);
        for entry in [entry.over_ipv6(), entry] {
            world.lab.manifests.service(&entry.service, &entry.members)?;
            until("the Service is served", PATIENCE, || world.shown_service(&entry.service.name).is_ok())?;
            through(world, &program, &entry).with_context(|| entry.service.name.clone())?;
            world.lab.manifests.delete(&entry.service)?;
        }
    }
    ensure!(refusals()? == before, "a pod's kernel answered beside its server");
    Ok(())
}

fn compile(world: &World) -> Result<PathBuf> {
    let program = world.lab.dir().join("sctp");
    let mut compile = Command::new("cc");
    compile.args(["-O1", "-Wall", "-Werror", "-o"]).arg(&program);
    compile.arg("tests/e2e/sctp.c").args(["-lusrsctp", "-lpthread"]);
    process::run(&mut compile, "", Duration::from_secs(60))?.ok()?;
    Ok(program)
}

/// A server of each family in a pod.
fn servers(world: &World, program: &Path, pod: &'static str) -> Result<[Daemon; 2]> {
    let plan = plan::pod(pod);
    let start = |own: IpAddr| -> Result<Daemon> {
        let mut command = world.host(pod).command(program.to_str().context("an odd path")?);
        command.args(["server", &own.to_string(), &PORT.to_string(), pod]);
        let log = world.lab.dir().join(format!("sctp-{pod}-{}.log", if own.is_ipv4() { 4 } else { 6 }));
        let server = Daemon::start("an SCTP server", &mut command, &log)?;
        until("it listens", PATIENCE, || server.log_tail(1).contains("listening"))?;
        Ok(server)
    };
    Ok([start(plan.address().into())?, start(plan.address6().into())?])
}

fn entry(mode: &'static str) -> Entry {
    let mut entry = catalog::echo();
    let service = &mut entry.service;
    service.name = format!("sctp-{mode}");
    service.mode = Some(mode);
    let number = if mode == "snat" { 41 } else { 42 };
    service.cluster_ip = [10, 3, 241, 150 + number].into();
    service.load_balancer_ip = Some([203, 0, 113, number].into());
    service.ports = vec![ServicePort {
        name: "sctp",
        protocol: "SCTP",
        port: PORT,
        target: PORT,
        node_port: 32_800 + u16::from(number),
    }];
    entry.members = PODS.map(Member::ready).to_vec();
    entry
}

/// The associations of a client with one Service.
fn through(world: &World, program: &Path, entry: &Entry) -> Result<()> {
    let vip = entry.target(Frontend::LoadBalancer, "sctp", false);
    let own: IpAddr = if vip.is_ipv4() { CLIENTS[0].address().into() } else { CLIENTS[0].address6().into() };
    let begin = || -> Result<Client> {
        let client = Client::start(world, program, (own, vip))?;
        let seen: Vec<_> = client.greeting.split_whitespace().collect();
        ensure!(PODS.contains(&seen[0]), "who is that: {}", client.greeting);
        let keeps = seen[1].parse::<IpAddr>()? == own;
        ensure!(keeps == (entry.service.mode == Some("dnat")), "the pod saw {}", client.greeting);
        Ok(client)
    };
    let phases = |phases: &[&str]| {
        let seen = || phases_at(world, vip).unwrap_or_default();
        until("the flows are so", PATIENCE, || seen() == phases)
            .with_context(|| format!("{:?}, not {phases:?}", seen()))
    };
    let mut open = begin()?;
    open.ask("send 300000", "echoed 300000")?;
    phases(&["established"])?;
    let mut ends = begin()?;
    ends.ask("send 20000", "echoed 20000")?;
    ends.ask("shutdown", "closed")?;
    phases(&["closed-by-client", "established"])?;
    let mut aborts = begin()?;
    aborts.ask("send 100", "echoed 100")?;
    aborts.ask("abort", "aborted")?;
    phases(&["closed-by-client", "established", "reset"])?;
    // Who ended is forgotten after this, and so is who was reset; the open one goes on.
    world.forwarding("timeouts: {tcpTransient: 1s}, ")?;
    let checked = phases(&["established"]).and_then(|()| open.ask("send 5000", "echoed 5000"));
    world.forwarding("")?;
    checked?;
    open.ask("shutdown", "closed")
}

/// The phases of the flows at a VIP, sorted.
fn phases_at(world: &World, vip: SocketAddr) -> Result<Vec<String>> {
    let text = world.ask(&["show", "flows", "-n", "shop", "--limit", "100000", "-o", "json"])?;
    let all: Value = serde_json::from_str(&text)?;
    let rows = all.as_array().context("no list")?.iter();
    let mut phases: Vec<_> = rows
        .filter(|row| row["protocol"] == "SCTP" && row["vip"] == vip.to_string())
        .filter_map(|row| row["phase"].as_str().map(str::to_owned))
        .collect();
    phases.sort();
    Ok(phases)
}

/// A client with one association.
struct Client {
    child: Child,
    lines: Receiver<String>,
    greeting: String,
}

impl Client {
    fn start(world: &World, program: &Path, (own, server): (IpAddr, SocketAddr)) -> Result<Self> {
        let mut command = world.host("c1").command(program.to_str().context("an odd path")?);
        command.args(["client", &own.to_string(), &server.ip().to_string(), &server.port().to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = BufReader::new(child.stdout.take().context("piped above")?);
        let (sender, lines) = channel();
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut client = Self { child, lines, greeting: String::new() };
        client.greeting = client.hear().context("no association")?;
        Ok(client)
    }

    fn hear(&self) -> Result<String> {
        self.lines.recv_timeout(PATIENCE).context("no answer in time")
    }

    fn ask(&mut self, order: &str, expected: &str) -> Result<()> {
        writeln!(self.child.stdin.as_mut().context("piped at the start")?, "{order}")?;
        let heard = self.hear().with_context(|| order.to_owned())?;
        ensure!(heard == expected, "{order}: {heard}");
        Ok(())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
