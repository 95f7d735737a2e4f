//! `fairlead show`: asks the running appliance over its admin socket and prints the answer.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use control::admin::{client, view};
use control::config::{AdminConfig, GatewayConfig};
use serde::de::DeserializeOwned;

use crate::cli::{Kind, Output, ShowArgs, SocketArgs};
use crate::columns::Columns;
use crate::output;

/// Prints one listing.
///
/// # Errors
/// No appliance there, or it refuses.
pub(crate) fn run(args: &ShowArgs) -> Result<()> {
    let wide = args.output == Output::Wide;
    let columns = match args.kind {
        Kind::Services => table(args, |rows| services(rows, wide)),
        Kind::Backends => table(args, backends),
        Kind::Flows => table(args, |rows| flows(rows, wide)),
        Kind::Ports => table(args, |rows| ports(rows, wide)),
        Kind::Workers => table(args, |rows| workers(rows, wide)),
        Kind::Counters => table(args, counters),
        Kind::Drops => table(args, drops),
        Kind::Routes => table(args, routes),
        Kind::Neighbors => table(args, neighbors),
        Kind::Pools => table(args, |rows| pools(rows, wide)),
        Kind::Sources => table(args, sources),
    };
    match columns? {
        Some(columns) => output::print(&columns.to_string()),
        None => print_json(args),
    }
}

/// The socket to ask: `--socket`, else that of `--config`, else the default.
///
/// # Errors
/// Every fault of the configuration, a line each.
pub(crate) fn socket(args: &SocketArgs) -> Result<PathBuf> {
    match (&args.socket, &args.config) {
        (Some(socket), _) => Ok(socket.clone()),
        (None, Some(file)) => GatewayConfig::load(file)
            .map(|config| config.admin.socket)
            .map_err(|refused| anyhow!("{refused}")),
        (None, None) => Ok(AdminConfig::default().socket),
    }
}

/// Runs one future on a runtime of its own: these commands ask once and end.
pub(crate) fn block_on<F: Future>(future: F) -> Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    Ok(runtime.block_on(future))
}

/// The rows as columns; `None` when JSON was asked for.
fn table<T: DeserializeOwned>(
    args: &ShowArgs,
    columns: impl Fn(Vec<T>) -> Columns,
) -> Result<Option<Columns>> {
    if args.output == Output::Json {
        return Ok(None);
    }
    Ok(Some(columns(ask(args)?)))
}

/// The answer as it came: a field this version does not know is printed too.
fn print_json(args: &ShowArgs) -> Result<()> {
    let answer: serde_json::Value = ask(args)?;
    output::print(&format!("{}\n", serde_json::to_string_pretty(&answer)?))
}

fn ask<T: DeserializeOwned>(args: &ShowArgs) -> Result<T> {
    let mut path = format!("/v1/{}?limit={}", args.kind.path(), args.limit);
    if let Some(namespace) = &args.namespace {
        path.push_str("&namespace=");
        path.push_str(namespace);
    }
    if let Some(time) = args.used_within {
        path.push_str(&format!("&usedWithinMs={}", millis(time)));
    }
    let socket = socket(&args.appliance)?;
    if args.kind != Kind::Flows {
        return Ok(block_on(client::get(&socket, &path))??);
    }
    let (flows, more) = block_on(client::list(&socket, &path))??;
    if more {
        output::note(&format!("more than these {} flows match; --limit says how many are shown", args.limit));
    }
    Ok(flows)
}

/// As the API has it.
pub(crate) fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

fn services(rows: Vec<view::Service>, wide: bool) -> Columns {
    let heads =
        ["NAMESPACE", "NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "MODE", "BACKENDS", "PROBLEMS"];
    let mut columns =
        if wide { Columns::new(&[&heads[..], &["ADDRESSES"]].concat()) } else { Columns::new(&heads) };
    for row in rows {
        let active = row.backends.iter().filter(|backend| backend.state == "Active").count();
        let external = row.load_balancer_ips.iter().chain(&row.external_ips);
        let node_port = if row.node_port == 0 { String::new() } else { format!(":{}", row.node_port) };
        let mut cells = vec![
            row.namespace,
            row.name,
            row.kind,
            join(&row.cluster_ips),
            join(external),
            format!("{}{node_port}/{}", row.port, row.protocol),
            row.mode,
            format!("{active}/{}", row.backends.len()),
            if wide { row.problems.join("; ") } else { count(row.problems.len()) },
        ];
        if wide {
            cells.push(join(row.backends.iter().map(|backend| &backend.address)));
        }
        columns.row(cells);
    }
    columns
}

fn backends(rows: Vec<view::Backend>) -> Columns {
    let mut columns = Columns::new(&[
        "NAMESPACE",
        "SERVICE",
        "PORT",
        "ADDRESS",
        "PROTOCOL",
        "STATE",
        "WEIGHT",
        "HEALTH",
        "NODE",
    ]);
    for row in rows {
        columns.row(vec![
            row.namespace,
            row.service,
            row.port_name,
            row.address,
            row.protocol,
            row.state,
            row.weight.to_string(),
            row.health,
            row.node,
        ]);
    }
    columns
}

fn flows(rows: Vec<view::Flow>, wide: bool) -> Columns {
    let heads = ["WORKER", "PROTOCOL", "CLIENT", "VIP", "BACKEND", "PHASE", "IDLE"];
    let mut columns = if wide {
        Columns::new(&[&heads[..], &["SOURCE", "MODE", "SERVICE"]].concat())
    } else {
        Columns::new(&heads)
    };
    for row in rows {
        let mut cells = vec![
            row.worker.to_string(),
            row.protocol,
            row.client,
            row.vip,
            row.backend,
            row.phase,
            idle(row.idle_ms),
        ];
        if wide {
            cells.extend([row.source, row.mode, row.service]);
        }
        columns.row(cells);
    }
    columns
}

fn ports(rows: Vec<view::Port>, wide: bool) -> Columns {
    let heads = ["NAME", "MAC", "MTU", "ADDRESSES", "RX-PACKETS", "TX-PACKETS"];
    let mut columns = if wide {
        Columns::new(&[&heads[..], &["RX-BYTES", "TX-BYTES", "TAP", "DEVICE"]].concat())
    } else {
        Columns::new(&heads)
    };
    for row in rows {
        let mut cells = vec![
            row.name,
            row.mac,
            row.mtu.to_string(),
            row.addresses.join(","),
            row.rx_packets.to_string(),
            row.tx_packets.to_string(),
        ];
        if wide {
            cells.extend([
                row.rx_bytes.to_string(),
                row.tx_bytes.to_string(),
                row.tap.to_string(),
                row.device,
            ]);
        }
        columns.row(cells);
    }
    columns
}

fn workers(rows: Vec<view::Worker>, wide: bool) -> Columns {
    let heads = ["WORKER", "CORE", "IDLE", "RX-PACKETS", "HANDED-OVER", "TAKEN-OVER", "FLOWS", "RSS"];
    let mut columns =
        if wide { Columns::new(&[&heads[..], &["NO-RSS"]].concat()) } else { Columns::new(&heads) };
    for row in rows {
        let mut cells = vec![
            row.worker.to_string(),
            row.core.to_string(),
            row.idle,
            row.rx_packets.to_string(),
            row.handoff_out_packets.to_string(),
            row.handoff_in_packets.to_string(),
            row.flows.to_string(),
            join(&row.rss_ports),
        ];
        if wide {
            cells.push(row.no_rss.join("; "));
        }
        columns.row(cells);
    }
    columns
}

fn counters(rows: Vec<view::Counter>) -> Columns {
    let mut columns = Columns::new(&["WORKER", "COUNTER", "VALUE"]);
    for row in rows {
        columns.row(vec![row.worker.to_string(), row.name, row.value.to_string()]);
    }
    columns
}

fn drops(rows: Vec<view::Drops>) -> Columns {
    let mut columns = Columns::new(&["WORKER", "REASON", "PACKETS", "MEANING"]);
    for row in rows {
        columns.row(vec![row.worker.to_string(), row.reason, row.packets.to_string(), row.text]);
    }
    columns
}

fn routes(rows: Vec<view::Route>) -> Columns {
    let mut columns = Columns::new(&["TO", "VIA", "PORT", "ORIGIN", "IN-FORCE"]);
    for row in rows {
        let via = if row.blackhole { "blackhole".to_owned() } else { join(row.via.iter()) };
        columns.row(vec![row.to, via, row.port, row.origin, row.in_force.to_string()]);
    }
    columns
}

fn neighbors(rows: Vec<view::Neighbor>) -> Columns {
    let mut columns = Columns::new(&["ADDRESS", "PORT", "MAC", "STATE"]);
    for row in rows {
        columns.row(vec![row.address.to_string(), row.port, row.mac.unwrap_or_default(), row.state]);
    }
    columns
}

fn pools(rows: Vec<view::Pool>, wide: bool) -> Columns {
    let heads = ["NAME", "AUTO-ASSIGN", "USED", "ADDRESSES", "RANGES", "PROBLEM"];
    let mut columns =
        if wide { Columns::new(&[&heads[..], &["ASSIGNMENTS"]].concat()) } else { Columns::new(&heads) };
    for row in rows {
        let mut cells = vec![
            row.name,
            row.auto_assign.to_string(),
            row.used.to_string(),
            row.addresses.to_string(),
            row.ranges.join(","),
            row.problem,
        ];
        if wide {
            cells.push(join(row.assignments.iter().map(|one| format!("{}={}", one.address, one.service))));
        }
        columns.row(cells);
    }
    columns
}

fn sources(rows: Vec<view::Source>) -> Columns {
    let mut columns = Columns::new(&["NAME", "STATE", "OBJECTS", "IGNORED", "LAST-CONTACT", "ERROR"]);
    for row in rows {
        let contact = row.last_contact_seconds.map_or_else(String::new, |seconds| format!("{seconds}s"));
        columns.row(vec![
            row.name,
            row.state,
            row.objects.to_string(),
            row.ignored.to_string(),
            contact,
            row.error,
        ]);
    }
    columns
}

fn join<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(",")
}

fn count(items: usize) -> String {
    if items == 0 { String::new() } else { items.to_string() }
}

/// Idle time in the largest unit that keeps two digits of meaning.
fn idle(ms: u32) -> String {
    match ms {
        0..10_000 => format!("{ms}ms"),
        10_000..600_000 => format!("{}s", ms / 1000),
        600_000..36_000_000 => format!("{}m", ms / 60_000),
        _ => format!("{}h", ms / 3_600_000),
    }
}
