//! The command line: what may be said, and nothing about what happens then.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

/// Gateway appliance of a bare-metal Kubernetes cluster.
#[derive(Debug, Parser)]
#[command(name = "fairlead", version, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Each subcommand is one file of `src/`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the appliance.
    Run(RunArgs),
    /// Show what the running appliance does.
    Show(ShowArgs),
    /// Make the running appliance read its configuration again.
    Reload(SocketArgs),
    /// Check the configuration and manifests without running anything.
    Check(CheckArgs),
    /// Say what would happen to a packet.
    Trace(TraceArgs),
    /// Write packets of the running appliance to a file for Wireshark or tcpdump.
    Capture(CaptureArgs),
    /// Watch rates of ports and workers, and what is dropped.
    Top(TopArgs),
}

/// `fairlead top`.
#[derive(Args, Debug)]
pub(crate) struct TopArgs {
    #[command(flatten)]
    pub(crate) appliance: SocketArgs,
    /// How long rates are measured, and how often they are told, such as 2s or 500ms.
    #[arg(short, long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    pub(crate) interval: Duration,
    /// Tell once, and end.
    #[arg(long)]
    pub(crate) once: bool,
    /// How to print it; json is one object a line.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

/// A time in which rates mean something.
fn interval(text: &str) -> Result<Duration, String> {
    let time = control::config::parse_duration(text).map_err(|error| error.to_string())?;
    let range = Duration::from_millis(100)..=Duration::from_secs(3600);
    if range.contains(&time) { Ok(time) } else { Err("expected a time from 100ms to 1h".to_owned()) }
}

/// A time in which a flow may be said to be in use.
fn recently(text: &str) -> Result<Duration, String> {
    let time = control::config::parse_duration(text).map_err(|error| error.to_string())?;
    let range = Duration::from_millis(1)..=Duration::from_secs(86_400);
    if range.contains(&time) { Ok(time) } else { Err("expected a time from 1ms to 24h".to_owned()) }
}

/// `fairlead capture`. What is said of the packets must all hold.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("what").required(true).multiple(true).args(["drops", "service", "filter", "stop"]))]
pub(crate) struct CaptureArgs {
    /// Dropped packets, each with its reason as a comment.
    #[arg(long)]
    pub(crate) drops: bool,
    /// Packets to and from a Service, on both sides of the translation.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub(crate) service: Option<String>,
    /// Packets for which all of this holds, such as 'host 192.0.2.7 and port 80 and tcp'. Words: host ADDRESS, net CIDR,
    /// port NUMBER, tcp, udp, sctp, icmp, arp, service NAMESPACE/NAME, reason REASON.
    #[arg(long, value_name = "EXPR")]
    pub(crate) filter: Option<String>,
    /// End the capture that is running, whoever began it.
    #[arg(long, conflicts_with_all = ["drops", "service", "filter", "write"])]
    pub(crate) stop: bool,
    /// The file, in pcapng; `-` is standard output.
    #[arg(short, long, value_name = "FILE", required_unless_present = "stop")]
    pub(crate) write: Option<PathBuf>,
    /// End after so many packets [default: at Ctrl-C].
    #[arg(short, long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) count: u64,
    /// End after so long, such as 30s [default: at Ctrl-C].
    #[arg(short, long, value_name = "TIME", value_parser = control::config::parse_duration)]
    pub(crate) duration: Option<Duration>,
    /// Bytes of each packet; 0: all of it.
    #[arg(short, long, value_name = "BYTES", default_value_t = 256)]
    pub(crate) snap_len: u16,
    /// Of the packets that match, one in so many.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) one_in: u32,
    /// At most so many packets a second.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: u32,
    #[command(flatten)]
    pub(crate) appliance: SocketArgs,
}

/// `fairlead check`.
#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// The configuration [default: /etc/fairlead/config.yaml, unless only --manifests is given].
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// A directory of manifests, or a single file.
    #[arg(long, value_name = "PATH")]
    pub(crate) manifests: Option<PathBuf>,
}

/// `fairlead trace`.
#[derive(Args, Debug)]
pub(crate) struct TraceArgs {
    /// Packets, such as 'tcp 203.0.113.2:40000 > 192.0.2.10:80'; IPv6 addresses in brackets. With `midstream` at its end:
    /// from the middle of a connection of which nothing is known. A ping: 'icmp 203.0.113.2 > 192.0.2.10'.
    #[arg(value_name = "PACKET")]
    pub(crate) packet: Vec<String>,
    /// A file with one packet a line, as JSON: {"src":..., "sport":..., "dst":..., "dport":..., "proto":"TCP"}.
    #[arg(long, value_name = "FILE")]
    pub(crate) packets: Option<PathBuf>,
    /// The manifests to ask [default: those of --config].
    #[arg(long, value_name = "PATH", conflicts_with = "live")]
    pub(crate) manifests: Option<PathBuf>,
    /// The configuration: ports, pools and policies [default: none of them].
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Ask the running appliance instead of files.
    #[arg(long)]
    pub(crate) live: bool,
    /// The appliance's admin socket [default: that of --config, else /run/fairlead/admin.sock].
    #[arg(long, value_name = "FILE", requires = "live")]
    pub(crate) socket: Option<PathBuf>,
    /// How to print it; json is one object a line.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

/// `fairlead run`.
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = control::config::DEFAULT_PATH)]
    pub(crate) config: PathBuf,
}

/// How to find the running appliance.
#[derive(Args, Clone, Debug)]
pub(crate) struct SocketArgs {
    /// The appliance's admin socket [default: that of --config, else /run/fairlead/admin.sock].
    #[arg(long, value_name = "FILE")]
    pub(crate) socket: Option<PathBuf>,
    /// The appliance's configuration, to find its socket.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// `fairlead show`.
#[derive(Args, Debug)]
pub(crate) struct ShowArgs {
    /// What to list.
    #[arg(value_enum)]
    pub(crate) kind: Kind,
    #[command(flatten)]
    pub(crate) appliance: SocketArgs,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    /// Only this namespace [default: all].
    #[arg(short, long, value_name = "NS", conflicts_with = "all_namespaces")]
    pub(crate) namespace: Option<String>,
    /// Every namespace; this is the default.
    #[arg(short = 'A', long)]
    pub(crate) all_namespaces: bool,
    /// At most so many flows; whether there are more is told on standard error.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(crate) limit: u32,
    /// Only flows with a packet in the last so long, such as 5s.
    #[arg(long, value_name = "TIME", value_parser = recently)]
    pub(crate) used_within: Option<Duration>,
}

/// What `show` can list.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Kind {
    /// Service ports, their addresses and backends.
    Services,
    /// Backends of every service port.
    Backends,
    /// Flows in the workers' tables.
    Flows,
    /// The appliance's ports.
    Ports,
    /// Workers: their cores, their packets, and what brings these to them.
    Workers,
    /// Packet counters of every worker.
    Counters,
    /// Dropped packets by reason.
    Drops,
    /// Routes in force.
    Routes,
    /// Next hops and hosts on the link.
    Neighbors,
    /// Address pools and who has what.
    Pools,
    /// Where cluster state comes from, and what is wrong with it.
    Sources,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(crate) enum Output {
    /// Columns for people.
    #[default]
    Table,
    /// More columns.
    Wide,
    /// For programs.
    Json,
}

impl Kind {
    /// The admin API's word for it.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Backends => "backends",
            Self::Flows => "flows",
            Self::Ports => "ports",
            Self::Workers => "workers",
            Self::Counters => "counters",
            Self::Drops => "drops",
            Self::Routes => "routes",
            Self::Neighbors => "neighbors",
            Self::Pools => "pools",
            Self::Sources => "sources",
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn an_interval_of_rates_is_neither_nothing_nor_forever() {
        for (text, want) in
            [("1s", Some(1000)), ("100ms", Some(100)), ("99ms", None), ("2h", None), ("0", None)]
        {
            assert_eq!(interval(text).ok(), want.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn a_flow_is_in_use_if_it_was_used_within_a_day_at_most() {
        for (text, want) in [("5s", Some(5000)), ("24h", Some(86_400_000)), ("25h", None), ("5", None)] {
            assert_eq!(recently(text).ok(), want.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
