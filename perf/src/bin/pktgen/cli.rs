//! The command line.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use clap::{Args, Parser, ValueEnum};
use packet::{MacAddr, Protocol};
use perf::load::{Plan, Popularity, RFC2544, Sizes, Ways};

/// Plays the clients and the backends of a gateway on two DPDK ports, and tells what came of what it sent.
///
/// The gateway has the Service's address, its clients over a neighbour outside and its backends over one inside; those
/// neighbours are the two ports here.
#[derive(Debug, Parser)]
#[command(name = "pktgen", version)]
pub(crate) struct Cli {
    /// Device of the clients' link, a PCI address or a vdev string.
    #[arg(long, value_name = "DEVICE")]
    pub(crate) outside: String,
    /// Device of the backends' link.
    #[arg(long, value_name = "DEVICE")]
    pub(crate) inside: String,
    /// The gateway's Ethernet address outside.
    #[arg(long, value_name = "MAC")]
    pub(crate) gateway_outside: MacAddr,
    /// The gateway's Ethernet address inside.
    #[arg(long, value_name = "MAC")]
    pub(crate) gateway_inside: MacAddr,
    /// What is sent.
    #[arg(long, value_enum, default_value_t = Kind::Established)]
    pub(crate) traffic: Kind,
    /// Flows that are opened first; of `connections`, those that are open at once.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=4_000_000))]
    pub(crate) flows: u32,
    /// How long it sends, at each rate and size.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=604_800))]
    pub(crate) seconds: u64,
    #[command(flatten)]
    pub(crate) load: Load,
    /// How results are printed, a line each.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
    /// The core that sends and receives.
    #[arg(long, value_name = "CORE", default_value_t = 0)]
    pub(crate) core: u16,
    /// The core of the rest, which sleeps meanwhile.
    #[arg(long, value_name = "CORE", default_value_t = 1)]
    pub(crate) main_core: u16,
    /// Memory for packets.
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    pub(crate) memory_mib: u32,
    /// Seconds that the gateway gets for its start once the links are up.
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub(crate) settle: u64,
    /// Keep the links up after the result until standard input ends.
    #[arg(long)]
    pub(crate) hold: bool,
}

/// What `numbered` and `connections` send, and when.
#[derive(Debug, Args)]
#[command(next_help_heading = "Numbered traffic and connections")]
pub(crate) struct Load {
    /// Packets (of `connections`: connections) a second, such as 250000, 250k or 1.5M; else as many as are taken.
    #[arg(long, value_name = "RATE", value_parser = rate)]
    rate: Option<f64>,
    /// Bytes of frames with check sequence from 64 to 1518, `imix` (64:7,594:4,1518:1), a mix of SIZE:SHARE pairs, or `rfc2544`
    /// for its seven sizes and imix; several are played in turn; else the shortest there can be.
    #[arg(long, value_name = "SIZES", value_parser = sizes)]
    size: Vec<Vec<Sizes>>,
    /// The Service's address and port.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "203.0.113.10:80")]
    service: SocketAddr,
    /// The first of 65,536 addresses of clients [default: 198.18.0.0 or 2001:db8:18::].
    #[arg(long, value_name = "ADDRESS")]
    clients: Option<IpAddr>,
    /// UDP or TCP; connections are TCP's.
    #[arg(long, value_enum, default_value_t = Transport::Udp)]
    protocol: Transport,
    /// How often each flow sends: `uniform`, `zipf` or `zipf:EXPONENT`.
    #[arg(long, value_name = "HOW", default_value = "uniform")]
    popularity: Popularity,
    /// Which way frames go.
    #[arg(long, value_enum, default_value_t = Direction::Both)]
    ways: Direction,
    /// One frame in as many is checked in every byte: addresses, ports, checksums, payload; 1 checks all.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..))]
    check_every: u64,
    /// Send at this share of as many as are taken, which is measured first.
    #[arg(long, value_name = "SHARE", value_parser = share, conflicts_with_all = ["rate", "ramp", "every", "search"])]
    share: Option<f64>,
    /// Search for the greatest rate without loss by halving (RFC 2544).
    #[arg(long, conflicts_with_all = ["rate", "ramp", "every"])]
    search: bool,
    /// When the search ends: how near its ends are.
    #[arg(long, value_name = "SHARE", default_value_t = 0.01, value_parser = share)]
    precision: f64,
    /// Share of frames that may be lost in a search; 0 is RFC 2544's.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    accept_loss: f64,
    /// A trial of a search that lost is made so many times in all: what a host does to a machine now and then is not the
    /// gateway's.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10))]
    tries: u32,
    /// Rates one after the other: FROM:TO:STEPS, such as 100k:2M:20.
    #[arg(long, value_name = "RATES", value_parser = ramp, conflicts_with_all = ["rate", "every"])]
    ramp: Option<Ramp>,
    /// A soak: a result each so many seconds of all those it sends.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    every: Option<u64>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Kind {
    /// Packets of opened TCP flows of 64 bytes both ways, as fast as they are taken.
    Established,
    /// Each packet the first of a new TCP flow, as fast as they are taken.
    New,
    /// The frames of `established` to a device that knows no flow.
    Frames,
    /// Frames with number and time: loss, order, damage and latency are known.
    Numbered,
    /// The same to a device that knows no flow and sends frames back where they came from.
    NumberedFrames,
    /// Whole TCP connections: handshake, request, response, close.
    Connections,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Text,
    /// An object a line.
    Json,
    /// A line of names, then one a result.
    Csv,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Transport {
    Tcp,
    Udp,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Direction {
    /// From clients and from backends, half of the rate each.
    Both,
    /// From clients only.
    In,
    /// From backends only.
    Out,
}

/// Rates from one to another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ramp {
    from: f64,
    to: f64,
    steps: u16,
}

/// Which rates numbered traffic has.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Course {
    /// One after the other.
    Rates(Vec<Option<f64>>),
    /// The greatest with no more loss than this, within a precision.
    Search { precision: f64, accept_loss: f64, tries: u32 },
    /// A share of as many as are taken.
    Share(f64),
    /// One, with a result each time.
    Soak(Option<f64>, Duration),
}

impl Load {
    /// The rate, if there is one.
    pub(crate) fn rate(&self) -> Option<f64> {
        self.rate
    }

    /// Which rates there are.
    pub(crate) fn course(&self) -> Course {
        if let Some(share) = self.share {
            return Course::Share(share);
        }
        match (self.search, self.ramp, self.every) {
            (true, ..) => {
                let Self { precision, accept_loss, tries, .. } = *self;
                Course::Search { precision, accept_loss, tries }
            }
            (_, Some(Ramp { from, to, steps }), _) => {
                let step = |n: u16| from + (to - from) * f64::from(n) / f64::from((steps - 1).max(1));
                Course::Rates((0..steps).map(|n| Some(step(n))).collect())
            }
            (_, _, Some(seconds)) => Course::Soak(self.rate, Duration::from_secs(seconds)),
            _ => Course::Rates(vec![self.rate]),
        }
    }

    /// The sizes in turn, if some were named.
    fn sizes(&self) -> impl Iterator<Item = &Sizes> {
        self.size.iter().flatten()
    }

    /// What is sent, a plan for each of the sizes.
    pub(crate) fn plans(&self, kind: Kind, flows: u32) -> Vec<Plan> {
        let plan = |sizes: &Sizes| Plan { sizes: sizes.clone(), ..self.shortest(kind, flows) };
        if self.size.is_empty() {
            return vec![self.shortest(kind, flows)];
        }
        self.sizes().map(plan).collect()
    }

    /// What is sent, in the shortest frames there can be.
    fn shortest(&self, kind: Kind, flows: u32) -> Plan {
        let first: IpAddr = if self.service.is_ipv4() {
            Ipv4Addr::new(198, 18, 0, 0).into()
        } else {
            Ipv6Addr::new(0x2001, 0xdb8, 0x18, 0, 0, 0, 0, 0).into()
        };
        let tcp = kind == Kind::Connections || self.protocol == Transport::Tcp;
        let plan = Plan {
            service: self.service,
            protocol: if tcp { Protocol::Tcp } else { Protocol::Udp },
            clients: self.clients.unwrap_or(first),
            flows,
            sizes: Sizes::of(RFC2544[0]),
            popularity: self.popularity,
            ways: match self.ways {
                Direction::Both => Ways::Both,
                Direction::In => Ways::In,
                Direction::Out => Ways::Out,
            },
            check_every: self.check_every,
            frames_only: kind == Kind::NumberedFrames,
        };
        Plan { sizes: Sizes::of(plan.min_size()), ..plan }
    }
}

/// A number of packets a second, with `k` or `M` behind it or not.
fn rate(text: &str) -> Result<f64, String> {
    let (number, factor) = match text.strip_suffix(['k', 'M']) {
        Some(number) if text.ends_with('k') => (number, 1e3),
        Some(number) => (number, 1e6),
        None => (text, 1.0),
    };
    let rate = number.parse::<f64>().ok().map(|number| number * factor);
    rate.filter(|rate| (1.0..=1e9).contains(rate))
        .ok_or_else(|| "expected a number from 1 to 1000M a second, such as 250000, 250k or 1.5M".to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..1.0).contains(share));
    share.ok_or_else(|| "expected a share from 0 to less than 1".to_owned())
}

fn sizes(text: &str) -> Result<Vec<Sizes>, String> {
    if text == "rfc2544" {
        return Ok(RFC2544.into_iter().map(Sizes::of).chain([Sizes::imix()]).collect());
    }
    text.parse().map(|sizes| vec![sizes]).map_err(|error: perf::load::SizesError| error.to_string())
}

fn ramp(text: &str) -> Result<Ramp, String> {
    let wrong = || "expected FROM:TO:STEPS, with 2 to 1000 steps, such as 100k:2M:20".to_owned();
    let mut parts = text.split(':');
    let mut part = || parts.next().ok_or_else(wrong);
    let (from, to, steps) = (rate(part()?)?, rate(part()?)?, part()?.parse::<u16>().map_err(|_| wrong())?);
    if parts.next().is_some() || !(2..=1000).contains(&steps) {
        return Err(wrong());
    }
    Ok(Ramp { from, to, steps })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Cli, clap::Error> {
        let links = "pktgen --outside a --inside b --gateway-outside 02:00:00:00:00:01 --gateway-inside 02:00:00:00:00:02";
        Cli::try_parse_from(links.split(' ').chain(words.split(' ').filter(|word| !word.is_empty())))
    }

    #[test]
    fn courses_of_rates() {
        for (words, want) in [
            ("", Course::Rates(vec![None])),
            ("--rate 1.5M", Course::Rates(vec![Some(1.5e6)])),
            ("--ramp 100k:200k:3", Course::Rates(vec![Some(1e5), Some(1.5e5), Some(2e5)])),
            ("--rate 10k --every 60", Course::Soak(Some(1e4), Duration::from_secs(60))),
            ("--search --precision 0.02", Course::Search { precision: 0.02, accept_loss: 0.0, tries: 1 }),
            ("--share 0.5", Course::Share(0.5)),
        ] {
            assert_eq!(parse(words).unwrap().load.course(), want, "{words}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_is_expected() {
        for (words, said) in [
            ("--rate 0", "from 1 to 1000M"),
            ("--rate 2000M", "from 1 to 1000M"),
            ("--rate fast", "such as 250000"),
            ("--rate 1k --search", "cannot be used with"),
            ("--ramp 1k:2k:1", "2 to 1000 steps"),
            ("--ramp 1k:2k", "FROM:TO:STEPS"),
            ("--size 20", "from 64 to 1518"),
            ("--accept-loss 1", "less than 1"),
            ("--popularity pareto", "zipf:EXPONENT"),
            ("--flows 5000000", "4000000"),
            ("--service nowhere", "invalid socket address"),
        ] {
            let error = parse(words).unwrap_err().to_string();
            assert!(error.contains(said), "{words}: {error}");
        }
    }

    #[test]
    fn a_plan_of_the_words() {
        let cli =
            parse("--size rfc2544 --size 76 --service [2001:db8::10]:53 --protocol tcp --ways in").unwrap();
        let plans = cli.load.plans(Kind::Numbered, 7);
        assert_eq!((plans.len(), plans[0].sizes.min(), plans[8].sizes.min(), plans[0].flows), (9, 64, 76, 7));
        let plan = &plans[0];
        assert!(plan.clients.is_ipv6() && plan.protocol == Protocol::Tcp && plan.ways == Ways::In);
        let connections = &parse("").unwrap().load.plans(Kind::Connections, 7)[0];
        assert!(connections.protocol == Protocol::Tcp && connections.clients.is_ipv4());
        assert_eq!((connections.sizes.min(), connections.check()), (76, Ok(())));
    }
}
