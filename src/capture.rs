//! `fairlead capture`: has the running appliance capture packets, and writes what comes to a file.

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use control::admin::client::{self, Pieces};
use control::admin::view;
use control::capture::pcapng::Blocks;
use tokio::signal::ctrl_c;

use crate::cli::CaptureArgs;
use crate::show::{block_on, socket};

/// Captures until the end that was asked for, or Ctrl-C.
///
/// # Errors
/// No appliance there, it refuses, or the file cannot be written.
pub(crate) fn run(args: &CaptureArgs) -> Result<()> {
    let socket = socket(&args.appliance)?;
    if args.stop {
        return block_on(stop(&socket))?
            .map(|was| println!("{}", if was { "stopped" } else { "none was running" }));
    }
    let path = args.write.as_deref().unwrap_or(Path::new("-"));
    block_on(capture(args, &socket, path))?
}

async fn stop(socket: &Path) -> Result<bool> {
    let stopped: view::Stopped = client::post(socket, "/v1/capture/stop", &()).await?;
    Ok(stopped.running)
}

async fn capture(args: &CaptureArgs, socket: &Path, path: &Path) -> Result<()> {
    if path == Path::new("-") && io::stdout().is_terminal() {
        bail!("a capture is no text for a terminal; name a file (-w FILE), or pipe it on");
    }
    // Asked before the file is touched: one that is refused costs no earlier file.
    let pieces = client::follow(socket, "/v1/capture", &wanted(args)).await?;
    let file: Box<dyn Write> = if path == Path::new("-") {
        Box::new(io::stdout().lock())
    } else {
        Box::new(File::create(path).with_context(|| format!("cannot write {}", path.display()))?)
    };
    eprintln!("capturing; Ctrl-C ends it");
    let blocks =
        write(pieces, file, socket).await.with_context(|| format!("capture to {}", path.display()))?;
    let end = blocks.end.unwrap_or_else(|| "the appliance broke off: the file may end in the middle".into());
    eprintln!("{} packets written ({end})", blocks.packets);
    Ok(())
}

fn wanted(args: &CaptureArgs) -> view::Capture {
    let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    view::Capture {
        drops: args.drops,
        service: args.service.clone().unwrap_or_default(),
        filter: args.filter.clone().unwrap_or_default(),
        snap_len: args.snap_len,
        one_in: args.one_in,
        per_second: args.rate,
        count: args.count,
        duration_ms: args.duration.map_or(0, millis),
    }
}

/// Writes every piece as it comes. At the first Ctrl-C the appliance is asked to end the capture, so that the file is whole.
async fn write(mut pieces: Pieces, mut file: impl Write, socket: &Path) -> Result<Blocks> {
    let (mut blocks, mut interrupted) = (Blocks::default(), false);
    loop {
        let piece = tokio::select! {
            piece = pieces.next() => piece?,
            asked = ctrl_c(), if !interrupted => {
                asked.context("cannot wait for Ctrl-C")?;
                interrupted = true;
                stop(socket).await?;
                continue;
            }
        };
        let Some(piece) = piece else { return Ok(blocks) };
        if !blocks.take(&piece) {
            bail!("the appliance sent something else than a capture; are both the same version?");
        }
        match file.write_all(&piece).and_then(|()| file.flush()) {
            // Whoever read it has seen enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(blocks),
            written => written?,
        }
    }
}
