//! `lab`: the namespaces by hand, and the demo.

#![forbid(unsafe_code)]

mod demo;
mod figures;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use lab::appliance::Options;
use lab::controlplane;
use lab::kubernetes::KubeLab;
use lab::plan::PLACES;
use lab::{Lab, LabOptions};

const USAGE: &str = "usage:
  lab demo [kubernetes] [--keep]   walk through a lab with real traffic, or one with Kubernetes; --keep leaves it running
  lab figures [PART...]            measure changes of a real cluster through the appliance and kube-proxy; prints a table
  lab up NAME                      make a lab with the appliance in it and leave it running
  lab kubernetes NAME              make a lab with Kubernetes in it and a router in the appliance's place, and leave it running
  lab down NAME                    end it: processes, namespaces, files
  lab plan NAME                    how to look around in it
The appliance is $FAIRLEAD_BIN, else target/release/fairlead.";

fn main() -> ExitCode {
    lab::run_if_asked();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["demo"] => demo::run(false),
        ["demo", "--keep"] => demo::run(true),
        ["demo", "kubernetes"] => demo::kubernetes::run(false),
        ["demo", "kubernetes", "--keep"] => demo::kubernetes::run(true),
        ["figures", parts @ ..] => figures::run(parts),
        ["up", name] => up(name),
        ["kubernetes", name] => kubernetes(name),
        ["down", name] => down(name),
        ["plan", name] => {
            println!("{}", demo::look_around(name));
            Ok(true)
        }
        _ => Err(anyhow::anyhow!("{USAGE}")),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn up(name: &str) -> Result<bool> {
    let lab = start(name)?;
    let appliance = lab.appliance(&options()?)?;
    println!("{}", demo::look_around(name));
    appliance.release();
    lab.release();
    Ok(true)
}

fn kubernetes(name: &str) -> Result<bool> {
    need_root()?;
    let lab = KubeLab::up(name, &controlplane::assets()?)?;
    lab.kernel_router()?;
    println!("{}\n  end it          lab down {name}", demo::kubernetes::machines(name));
    lab.release();
    Ok(true)
}

fn down(name: &str) -> Result<bool> {
    match lab::down(name)? {
        0 => println!("there is no lab called {name}"),
        count => println!("ended lab {name}: {count} namespaces"),
    }
    Ok(true)
}

fn need_root() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("namespaces need root; run it as root");
    }
    Ok(())
}

fn start(name: &str) -> Result<Lab> {
    need_root()?;
    Lab::up(&LabOptions { name: name.to_owned(), c1_tx_offload: false })
}

fn options() -> Result<Options> {
    let named = std::env::var_os("FAIRLEAD_BIN")
        .map_or_else(|| PathBuf::from("target/release/fairlead"), PathBuf::from);
    let binary = named
        .canonicalize()
        .with_context(|| format!("no fairlead program at {}; build it with: make build", named.display()))?;
    Ok(Options { binary, tap: true, mode: "auto", kubeconfig: None, place: PLACES[0] })
}
