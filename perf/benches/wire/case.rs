//! What goes over the wire, who forwards it, and which of its figures are told.

use std::fmt::{self, Display};

use perf::{
    Options, Unit,
    links::Wire,
    load::Outcome,
    median,
    objects::SERVICES,
    rounds::{Fit, Run},
};

use crate::{metrics::Account, traffic::FLOWS};

/// New flows until the appliance's table is full and places are used again.
const FILLED: f64 = 4e6;
/// Width of a generator's slice.
const SLICE_S: f64 = 0.02;
/// Slices from which on a rate with recycling is one.
const STEADY: usize = 50;
/// Seconds that 10,000 Services may take to be listed and compiled.
const LOADING_S: u64 = 15;
/// Flows of numbered frames.
const NUMBERED: u32 = 1024;

/// What goes over the wire.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum Case {
    /// Datagrams from clients that nobody answers.
    OneWay,
    /// Packets of so many established flows.
    BothWays(u32),
    /// Each packet the first of a flow.
    New,
    /// Numbered datagrams of 64 bytes at half of what the device takes at most.
    Latency,
    /// Numbered datagrams of this size at the greatest rate without loss.
    LossFree(&'static str),
    /// Numbered datagrams of 64 bytes at 0.7 of what the device takes at most, with 10,000 Services that change or do not.
    Publications,
}

/// What came of a run beside its rate.
#[derive(Clone, Debug, Default)]
pub(crate) struct Detail {
    /// Of numbered frames.
    pub(crate) outcome: Option<Outcome>,
    /// New flows a second until the table was full, in millions.
    pub(crate) filling: Option<f64>,
    /// The same from then on.
    pub(crate) recycling: Option<f64>,
    /// What the appliance counted of a run.
    pub(crate) account: Option<Account>,
}

/// A figure of a case.
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) unit: Unit,
    pub(crate) of: fn(&Fit, &Detail) -> Option<f64>,
}

impl Case {
    /// All that can be played over the wire, with the rounds of each.
    pub(crate) fn all(options: &Options, wire: &Wire) -> Vec<(Self, usize)> {
        let rounds: usize = options.pick(11, 2);
        let (few, fewer) = (rounds.div_ceil(2), rounds.div_ceil(4));
        let sizes: &[&str] =
            options.pick(&["64", "128", "256", "512", "1024", "1280", "1518", "imix"], &["64", "imix"]);
        let mut all = vec![
            (Self::OneWay, rounds),
            (Self::BothWays(1024), rounds),
            (Self::BothWays(100_000), few),
            (Self::BothWays(1_000_000), few),
            (Self::New, fewer),
            (Self::Latency, few),
            (Self::Publications, fewer),
        ];
        all.extend(sizes.iter().map(|size| (Self::LossFree(size), fewer)));
        if wire.elsewhere().is_some() {
            // Those are between processes of this machine.
            all.retain(|(case, _)| !matches!(case, Self::OneWay | Self::Publications));
        }
        all
    }

    /// Who forwards it.
    pub(crate) const fn devices(self, wire: &Wire) -> &'static [Device] {
        match (self, wire.elsewhere()) {
            (_, Some(nic)) if nic.is_macswap => &[Device::Elsewhere { is_macswap: true }],
            (_, Some(_)) => &[Device::Elsewhere { is_macswap: false }],
            (Self::New, None) => &[Device::Appliance],
            (Self::Publications, None) => &[Device::Changing, Device::Appliance],
            (_, None) => &[Device::Appliance, Device::Macswap],
        }
    }

    pub(crate) const fn links(self) -> usize {
        if matches!(self, Self::OneWay) { 1 } else { 2 }
    }

    /// The cluster is big, and an API server's.
    pub(crate) const fn is_big(self) -> bool {
        matches!(self, Self::Publications)
    }

    /// The generator's words for it, but for links.
    pub(crate) fn words(self, device: Device, options: &Options) -> Vec<String> {
        let gateway = device.is_gateway();
        let numbered = if gateway { "numbered" } else { "numbered-frames" };
        let flows = self.flows().unwrap_or(1);
        let seconds = match self {
            Self::New => options.pick(34, 8),
            Self::LossFree(_) => 1,
            Self::Publications => options.pick(10, 3),
            _ => options.pick(4, 3),
        };
        let words = match self {
            Self::OneWay => String::new(),
            Self::BothWays(_) if gateway => "--traffic established".to_owned(),
            Self::BothWays(_) => "--traffic frames".to_owned(),
            Self::New => "--traffic new".to_owned(),
            Self::Latency => format!("--traffic {numbered} --share 0.5"),
            Self::Publications => format!("--traffic {numbered} --share 0.7 --settle {LOADING_S}"),
            Self::LossFree(size) => {
                let precision = options.pick(0.01, 0.05);
                format!("--traffic {numbered} --size {size} --search --tries 3 --precision {precision}")
            }
        };
        let words = format!("{words} --flows {flows} --seconds {seconds} --output json --hold");
        words.split_whitespace().map(str::to_owned).collect()
    }

    /// Flows that are opened first; of new ones nobody knows.
    pub(crate) const fn flows(self) -> Option<u32> {
        match self {
            Self::OneWay => Some(FLOWS),
            Self::BothWays(flows) => Some(flows),
            Self::New => None,
            Self::Latency | Self::LossFree(_) | Self::Publications => Some(NUMBERED),
        }
    }

    /// Takes what the generator said: slices into the run, the rest apart.
    pub(crate) fn take(self, said: &serde_json::Value, run: &mut Run) -> serde_json::Result<Detail> {
        run.slices = serde_json::from_value(said["slices"].clone())?;
        let mut detail = Detail::default();
        match self {
            Self::OneWay | Self::BothWays(_) => {}
            Self::New => {
                let mut count = 0.0;
                let full = run.slices.iter().position(|rate| {
                    count += rate * 1e6 * SLICE_S;
                    count >= FILLED
                });
                if let Some(full) = full {
                    let mut after = run.slices.split_off(full + 1);
                    detail.filling = Some(FILLED / 1e6 / (SLICE_S * run.slices.len() as f64));
                    if after.len() >= STEADY {
                        detail.recycling = median(&mut after.clone());
                        std::mem::swap(&mut run.slices, &mut after);
                    }
                }
            }
            Self::Latency | Self::LossFree(_) | Self::Publications => {
                let outcome: Outcome = serde_json::from_value(said.clone())?;
                if self == Self::Publications {
                    // It is not compared by its rate, which the changes take their part of on the generator's core.
                    run.slices = vec![outcome.pps / 1e6];
                }
                detail.outcome = Some(outcome);
            }
        }
        Ok(detail)
    }

    /// What is told of it.
    pub(crate) fn figures(self) -> Vec<Figure> {
        let figure = |name, unit, of| Figure { name, unit, of };
        match self {
            Self::OneWay | Self::BothWays(_) => {
                vec![figure("", Unit::MillionPerSecond, |fit, _| Some(fit.rate))]
            }
            Self::New => vec![
                figure(", filling to 4 M", Unit::MillionPerSecond, |_, detail| detail.filling),
                figure(", steady with recycling", Unit::MillionPerSecond, |_, detail| detail.recycling),
            ],
            Self::Latency => vec![
                figure(", half of its maximum", Unit::MillionPerSecond, |_, detail| {
                    Some(detail.outcome.as_ref()?.pps / 1e6)
                }),
                figure(", p50", Unit::Us, |_, detail| Some(detail.outcome.as_ref()?.latency_us.p50)),
                figure(", p90", Unit::Us, |_, detail| Some(detail.outcome.as_ref()?.latency_us.p90)),
                figure(", p99", Unit::Us, |_, detail| Some(detail.outcome.as_ref()?.latency_us.p99)),
                figure(", p99.9", Unit::Us, |_, detail| Some(detail.outcome.as_ref()?.latency_us.p999)),
                figure(", max", Unit::Us, |_, detail| Some(detail.outcome.as_ref()?.latency_us.max)),
            ],
            Self::Publications => vec![
                figure(", frames that came back", Unit::MillionPerSecond, |_, detail| {
                    Some(detail.outcome.as_ref()?.pps / 1e6)
                }),
                figure(", share sent of 0.7 of its maximum", Unit::Ratio, |_, detail| {
                    let outcome = detail.outcome.as_ref()?;
                    Some(outcome.sent as f64 / outcome.seconds / outcome.asked_pps?)
                }),
                figure(", publications a second", Unit::Count, |_, detail| {
                    Some(detail.account?.publications)
                }),
                figure(", frames it received", Unit::Count, |_, detail| Some(detail.account?.received)),
                figure(", frames that its driver missed", Unit::Count, |_, detail| {
                    Some(detail.account?.missed(detail.outcome.as_ref()?))
                }),
                figure(", frames it dropped", Unit::Count, |_, detail| Some(detail.account?.dropped)),
                figure(", frames it dropped as its peer took no more", Unit::Count, |_, detail| {
                    Some(detail.account?.full)
                }),
                figure(", frames neither sent nor dropped", Unit::Count, |_, detail| {
                    Some(detail.account?.imbalance)
                }),
            ],
            Self::LossFree(_) => {
                vec![figure("", Unit::MillionPerSecond, |_, detail| Some(detail.outcome.as_ref()?.pps / 1e6))]
            }
        }
    }
}

impl Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OneWay => write!(f, "one way, {FLOWS} flows"),
            Self::BothWays(flows) => write!(f, "both ways, {flows} flows"),
            Self::New => f.write_str("new flows"),
            Self::Latency => f.write_str("latency, 64 bytes"),
            Self::LossFree(size) => write!(f, "loss-free, {size} bytes"),
            Self::Publications => write!(f, "publications, {SERVICES} Services"),
        }
    }
}

/// What forwards.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum Device {
    Appliance,
    /// The appliance, while slices of its cluster change.
    Changing,
    Macswap,
    /// What there is at the other end of the cables.
    Elsewhere {
        is_macswap: bool,
    },
}

impl Device {
    /// One that this bench starts.
    pub(crate) const fn is_appliance(self) -> bool {
        matches!(self, Self::Appliance | Self::Changing)
    }

    /// It translates.
    const fn is_gateway(self) -> bool {
        !matches!(self, Self::Macswap | Self::Elsewhere { is_macswap: true })
    }
}

impl Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Appliance => "appliance, full NAT",
            Self::Changing => "appliance, full NAT, 1,000 changes a second",
            Self::Macswap => "testpmd macswap",
            Self::Elsewhere { is_macswap: false } => "gateway elsewhere",
            Self::Elsewhere { is_macswap: true } => "macswap elsewhere",
        })
    }
}
