//! What the appliance says about itself at `/metrics`, and the identity that its counters obey.

use anyhow::{Context, Result};

/// A parsed page of Prometheus text.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    samples: Vec<(String, String, f64)>,
}

impl Metrics {
    /// Parses the text format; comments are skipped.
    ///
    /// # Errors
    /// On a line that is no sample.
    pub fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let samples = lines.map(parse_sample).collect::<Result<_>>()?;
        Ok(Self { samples })
    }

    /// Sum over all samples of a name.
    pub fn sum(&self, name: &str) -> f64 {
        self.sum_where(name, "")
    }

    /// Sum over the samples of a name whose labels contain `label`, such as `reason="NoRoute"`.
    pub fn sum_where(&self, name: &str, label: &str) -> f64 {
        let matching = self.samples.iter().filter(|(n, labels, _)| n == name && labels.contains(label));
        matching.map(|(_, _, value)| value).sum()
    }

    /// Whether there is a sample of this name whose labels contain `label`.
    pub fn has(&self, name: &str, label: &str) -> bool {
        self.samples.iter().any(|(n, labels, _)| n == name && labels.contains(label))
    }

    /// Whether anything but the workers' own turns differs between this page and a later one.
    pub fn moved(&self, later: &Self) -> bool {
        let rests = |(name, _, _): &&(String, String, f64)| !name.starts_with("fairlead_loop_");
        self.samples.iter().filter(rests).ne(later.samples.iter().filter(rests))
    }

    /// Table versions that every worker has taken.
    pub fn generation(&self) -> f64 {
        self.sum("fairlead_tables_programmed_generation")
    }

    /// Both sides of `rx + injected + originated + handoff_in = tx + punted + consumed + dropped + handoff_out + held`
    /// over all workers. They are equal when no packet is on its way.
    pub fn identity(&self) -> (f64, f64) {
        let total = |names: &[&str]| -> f64 {
            names.iter().map(|name| self.sum(&format!("fairlead_{name}_packets_total"))).sum()
        };
        let came = total(&["rx", "injected", "originated", "handoff_in"]);
        let went = total(&["tx", "punted", "consumed", "dropped", "handoff_out"]);
        (came, went + self.sum("fairlead_held_packets"))
    }

    /// Drops by reason since `earlier`, those that rose only.
    pub fn drops_since(&self, earlier: &Self) -> Vec<(String, f64)> {
        let name = "fairlead_dropped_packets_total";
        let rows = self.samples.iter().filter(|(n, _, _)| n == name);
        rows.map(|(_, labels, value)| (labels.clone(), value - earlier.sum_where(name, labels)))
            .filter(|(_, rise)| *rise > 0.0)
            .collect()
    }
}

fn parse_sample(line: &str) -> Result<(String, String, f64)> {
    let (name, rest) = match line.find('{') {
        Some(open) => {
            let close = line.rfind('}').with_context(|| format!("no closing brace: {line}"))?;
            (&line[..open], (&line[open + 1..close], &line[close + 1..]))
        }
        None => {
            let (name, value) = line.split_once(' ').with_context(|| format!("no value: {line}"))?;
            (name, ("", value))
        }
    };
    let (labels, value) = rest;
    let value = value.split_whitespace().next().with_context(|| format!("no value: {line}"))?;
    Ok((name.to_owned(), labels.to_owned(), value.parse().with_context(|| format!("no number: {line}"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_is_read_from_the_text() {
        let text = "# HELP x y\nfairlead_rx_packets_total{worker=\"0\"} 7\nfairlead_originated_packets_total{worker=\"0\"} 1\n\
                    fairlead_tx_packets_total{worker=\"0\"} 5\nfairlead_held_packets{worker=\"0\"} 1\n\
                    fairlead_dropped_packets_total{worker=\"0\",reason=\"NoRoute\"} 2\n# EOF\n";
        let metrics = Metrics::parse(text).unwrap();
        assert_eq!(metrics.identity(), (8.0, 8.0));
        assert_eq!(metrics.sum_where("fairlead_dropped_packets_total", "reason=\"NoRoute\""), 2.0);
        assert_eq!(metrics.drops_since(&Metrics::default()).len(), 1);
        assert!(Metrics::parse("nonsense").is_err());
    }
}
