//! Packets captured on a busy appliance: a Service on both sides of its translation, and drops with their reasons.

use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::catalog::{self, Frontend};
use lab::process::until;
use lab::traffic;
use rustix::process::{Pid, Signal, kill_process};

use crate::Check;
use crate::world::World;

pub(crate) const CHECKS: &[Check] = &[
    ("a Service's packets are captured on both sides of the translation, beside other traffic", service),
    ("dropped packets are captured with their reasons, until Ctrl-C", drops),
    ("a second capture and a filter that means nothing are refused in a sentence", refused),
];

/// Longest time for a capture to begin, and for one that was told so to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Begins a capture; it has begun when its file is there.
fn begin(world: &World, arguments: &[&str], file: &Path) -> Result<Child> {
    let path = file.to_str().context("a path in UTF-8")?;
    let mut command = world.cli(&[&["capture", "-w", path], arguments].concat())?;
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    until("the capture begins", PATIENCE, || std::fs::metadata(file).is_ok_and(|found| found.len() > 0))?;
    Ok(child)
}

/// What it says at its end.
fn end(mut child: Child) -> Result<String> {
    let begun = Instant::now();
    while child.try_wait()?.is_none() {
        if begun.elapsed() > PATIENCE {
            child.kill()?;
            bail!("the capture did not end within {PATIENCE:?}");
        }
        thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{said}");
    Ok(said)
}

/// The file as tcpdump reads it, with the names of interfaces and directions.
fn read(world: &World, file: &Path) -> Result<String> {
    let path = file.to_str().context("a path in UTF-8")?;
    world.host("gw").run(&["tcpdump", "-n", "-r", path], PATIENCE)?.ok()
}

fn service(world: &mut World) -> Result<()> {
    let file = tempfile::tempdir()?;
    let file = file.path().join("web.pcapng");
    let web = catalog::web();
    let name = format!("{}/{}", web.service.namespace, web.service.name);
    let (target, other) = (
        web.target(Frontend::LoadBalancer, "http", false),
        catalog::web_local().target(Frontend::LoadBalancer, "", false),
    );
    // A flow that is there already goes the usual way until then.
    let child = begin(world, &["--service", &name, "-c", "40"], &file)?;
    for _ in 0..20 {
        traffic::who(world.host("c2"), other)?;
        let answer = traffic::who(world.host("c1"), target)?;
        ensure!(!answer.pod.is_empty(), "an answer without a name");
    }
    let said = end(child)?;
    ensure!(said.contains("40 packets written (all ports together: "), "{said}");
    let text = read(world, &file)?;
    ensure!(text.lines().filter(|line| line.contains(" IP ")).count() == 40, "{text}");
    let (vip, vip_local) = (target.ip().to_string(), other.ip().to_string());
    ensure!(text.contains("192.0.2.11.") && text.contains(&format!("> {vip}.80: Flags [S]")), "{text}");
    ensure!(text.contains("> 10.244."), "what leaves for a pod is there too:\n{text}");
    ensure!(!text.contains(&vip_local), "another Service's:\n{text}");
    Ok(())
}

fn drops(world: &mut World) -> Result<()> {
    let file = tempfile::tempdir()?;
    let file = file.path().join("drops.pcapng");
    let child = begin(world, &["--drops", "--filter", "host 192.0.2.11 and tcp", "-s", "0"], &file)?;
    let empty = std::fs::metadata(&file)?.len();
    let closed = (catalog::web().service.cluster_ip, 9);
    let refused =
        world.host("c1").within(|| std::net::TcpStream::connect_timeout(&closed.into(), PATIENCE))?;
    ensure!(refused.is_err(), "port 9 took a connection");
    traffic::who(world.host("c1"), catalog::web().target(Frontend::LoadBalancer, "http", false))?;
    until("the packet is written", PATIENCE, || {
        std::fs::metadata(&file).is_ok_and(|found| found.len() > empty)
    })?;
    let pid = Pid::from_raw(child.id().cast_signed()).context("a process id")?;
    kill_process(pid, Signal::INT)?;
    let said = end(child)?;
    ensure!(said.contains("1 packets written (all ports together: 1 captured"), "{said}");
    let text = read(world, &file)?;
    ensure!(text.contains(&format!("> {}.9: Flags [S]", closed.0)), "{text}");
    let bytes = std::fs::read(&file)?;
    let comment = b"dropped: VipPortUnknown: the clusterIP has no such port";
    ensure!(bytes.windows(comment.len()).any(|window| window == comment), "the reason is not in the file");
    Ok(())
}

fn refused(world: &mut World) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let first = begin(world, &["--drops"], &folder.path().join("first"))?;
    let second = folder.path().join("second");
    let ask = |arguments: &[&str]| -> Result<String> {
        let path = second.to_str().context("a path in UTF-8")?;
        let output = world.cli(&[&["capture", "-w", path], arguments].concat())?.output()?;
        ensure!(output.status.code() == Some(1), "{arguments:?}: {:?}", output.status);
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (arguments, says) in [
        (["--filter", "tcp"], "a capture is running, and there is one at a time"),
        (["--filter", "hosts 1.2.3.4"], "`hosts` is no word of a filter"),
        (["--service", "default/nobody"], "no Service default/nobody is served"),
    ] {
        let said = ask(&arguments)?;
        ensure!(said.contains(says), "{arguments:?}: {said}");
    }
    ensure!(!second.exists(), "a refused capture leaves no file");
    ensure!(world.ask(&["capture", "--stop"])?.contains("stopped"), "it says so");
    end(first).map(drop)
}
