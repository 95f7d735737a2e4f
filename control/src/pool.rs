//! A pool of addresses for Services of type LoadBalancer, and the label selectors that say whose Services may have one.
//! Pure values, the same from the configuration and from an AddressPool object. Not here: who has which address (`ipam`).

pub(crate) mod read;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use packet::Family;
use serde::{Deserialize, Serialize};

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// Addresses and to whom they are given.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Pool {
    /// Unique name.
    pub name: String,
    /// Inclusive ranges, first and last of one family, in the order they were written (`cidrs` first).
    pub ranges: Vec<(IpAddr, IpAddr)>,
    /// Whether a Service gets an address from here without asking for it.
    pub auto_assign: bool,
    /// Whether IPv4 addresses that end in .0 or .255 are left out: some old devices take them for broadcasts.
    pub avoid_buggy_ips: bool,
    /// Which Services may have an address; none: all.
    pub services: Option<Selector>,
    /// In which namespaces they are; none: all.
    pub namespaces: Option<Selector>,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            name: String::new(),
            ranges: Vec::new(),
            auto_assign: true,
            avoid_buggy_ips: false,
            services: None,
            namespaces: None,
        }
    }
}

impl Pool {
    /// Whether the pool may give this address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.gives(address) && self.ranges.iter().any(|(first, last)| (first..=last).contains(&&address))
    }

    /// Whether an address of one of the ranges is not left out.
    #[must_use]
    pub fn gives(&self, address: IpAddr) -> bool {
        !(self.avoid_buggy_ips && is_buggy(address))
    }

    /// Whether a Service with these labels, in a namespace with those, may have an address.
    #[must_use]
    pub fn admits(&self, service: &Labels, namespace: &Labels) -> bool {
        let matches = |selector: &Option<Selector>, labels: &Labels| {
            selector.as_ref().is_none_or(|selector| selector.matches(labels))
        };
        matches(&self.services, service) && matches(&self.namespaces, namespace)
    }

    /// Whether it is meant for some Services only.
    #[must_use]
    pub fn is_selective(&self) -> bool {
        self.services.is_some() || self.namespaces.is_some()
    }

    /// Addresses of a family that it may give, saturating.
    #[must_use]
    pub fn size(&self, family: Family) -> u128 {
        let ranges = self.ranges.iter().filter(|(first, _)| Family::of(*first) == family);
        ranges.fold(0u128, |sum, (first, last)| sum.saturating_add(self.range_size(*first, *last)))
    }

    fn range_size(&self, first: IpAddr, last: IpAddr) -> u128 {
        let (IpAddr::V4(low), IpAddr::V4(high)) = (first, last) else {
            return (bits(last) - bits(first)).saturating_add(1);
        };
        let (low, high) = (u64::from(low.to_bits()), u64::from(high.to_bits()));
        let buggy = if self.avoid_buggy_ips {
            // Numbers up to `n` that end in .0, and in .255: each 256 has one of both.
            let up_to = |n: u64| n / 256 + 1 + (n + 1) / 256;
            up_to(high) - low.checked_sub(1).map_or(0, up_to)
        } else {
            0
        };
        u128::from(high - low + 1 - buggy)
    }
}

fn is_buggy(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if matches!(address.octets()[3], 0 | 255))
}

/// The address as a number of its family.
pub(crate) fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// First and last address of a CIDR; the sentence says what is wrong.
///
/// # Errors
/// When the text is no CIDR, or has host bits.
pub fn cidr(text: &str) -> Result<(IpAddr, IpAddr), String> {
    let net: IpNet = text
        .trim()
        .parse()
        .map_err(|_| format!("`{text}` is no CIDR; one such as 203.0.113.0/26 is expected"))?;
    if net.addr() != net.network() {
        return Err(format!("{net} has host bits; {} is expected", net.trunc()));
    }
    Ok((net.network(), net.broadcast()))
}

/// First and last address of a range; the sentence says what is wrong.
///
/// # Errors
/// When the text is not two addresses of one family in ascending order.
pub fn range(text: &str) -> Result<(IpAddr, IpAddr), String> {
    let ends = text.split_once('-').and_then(|(first, last)| {
        Some((IpAddr::from_str(first.trim()).ok()?, IpAddr::from_str(last.trim()).ok()?))
    });
    ends.filter(|(first, last)| Family::of(*first) == Family::of(*last) && first <= last).ok_or_else(|| {
        format!(
            "`{text}` is not a range; first and last address of one family such as 192.0.2.100-192.0.2.199 are expected"
        )
    })
}

/// A label selector: all labels and all requirements must fit.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Selector {
    /// `matchLabels`.
    pub labels: Labels,
    /// `matchExpressions`.
    pub expressions: Vec<Requirement>,
}

impl Selector {
    /// Whether an object with these labels is meant; an empty selector means all.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.expressions.iter().all(|requirement| requirement.fits(labels))
    }
}

/// One of `matchExpressions`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// What its value must be.
    pub operator: Operator,
    /// The values of `In` and `NotIn`; empty otherwise.
    pub values: BTreeSet<String>,
}

impl Requirement {
    /// A requirement as the API server admits it; the sentence says what is wrong.
    ///
    /// # Errors
    /// When the operator is unknown, or values are there without need or lacking.
    pub fn new(key: String, operator: &str, values: BTreeSet<String>) -> Result<Self, String> {
        let operator = match operator {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            other => {
                return Err(format!(
                    "operator `{other}` is not known; In, NotIn, Exists or DoesNotExist is expected"
                ));
            }
        };
        let wants_values = matches!(operator, Operator::In | Operator::NotIn);
        if wants_values == values.is_empty() {
            let expected = if wants_values { "at least one value is expected" } else { "none is expected" };
            return Err(format!("operator {operator:?} with {} values; {expected}", values.len()));
        }
        Ok(Self { key, operator, values })
    }

    /// As Kubernetes has it: a label that is not there is not in any set.
    fn fits(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        let listed = || value.is_some_and(|value| self.values.contains(value));
        match self.operator {
            Operator::In => listed(),
            Operator::NotIn => !listed(),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

/// What a requirement asks of a label.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Operator {
    /// One of the values.
    In,
    /// None of the values, or no such label.
    NotIn,
    /// Any value.
    Exists,
    /// No such label.
    DoesNotExist,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn need(key: &str, operator: &str, values: &[&str]) -> Result<Requirement, String> {
        Requirement::new(key.into(), operator, values.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn selectors_match_as_kubernetes_has_it() {
        let web = labels(&[("app", "web"), ("tier", "front")]);
        for (name, selector, want) in [
            ("empty", Selector::default(), true),
            ("a label", Selector { labels: labels(&[("app", "web")]), ..Selector::default() }, true),
            ("another value", Selector { labels: labels(&[("app", "db")]), ..Selector::default() }, false),
        ] {
            assert_eq!(selector.matches(&web), want, "{name}");
        }
        for (key, operator, values, want) in [
            ("app", "In", &["db", "web"][..], true),
            ("app", "NotIn", &["db", "web"], false),
            ("zone", "In", &["a"], false),
            ("zone", "NotIn", &["a"], true),
            ("tier", "Exists", &[], true),
            ("zone", "Exists", &[], false),
            ("tier", "DoesNotExist", &[], false),
            ("zone", "DoesNotExist", &[], true),
        ] {
            let expressions = vec![need(key, operator, values).expect("good")];
            let selector = Selector { labels: labels(&[("app", "web")]), expressions };
            assert_eq!(selector.matches(&web), want, "{key} {operator} {values:?}");
        }
    }

    #[test]
    fn requirements_that_the_api_server_refuses_are_refused() {
        for (operator, values, want) in [
            ("in", &["a"][..], "`in` is not known"),
            ("In", &[], "In with 0 values"),
            ("Exists", &["a"], "Exists with 1 values"),
        ] {
            assert!(need("app", operator, values).expect_err(operator).contains(want));
        }
    }

    #[test]
    fn ranges_and_cidrs_are_read_or_refused() {
        let two = |first: &str, last: &str| Ok((first.parse().unwrap(), last.parse().unwrap()));
        assert_eq!(cidr("203.0.113.0/30"), two("203.0.113.0", "203.0.113.3"));
        assert_eq!(range("2001:db8::1 - 2001:db8::9"), two("2001:db8::1", "2001:db8::9"));
        assert!(cidr("203.0.113.1/30").expect_err("host bits").contains("203.0.113.0/30 is expected"));
        for bad in ["", "192.0.2.1", "192.0.2.9-192.0.2.1", "192.0.2.1-2001:db8::1"] {
            assert!(range(bad).is_err() && cidr(bad).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn the_size_is_the_number_of_addresses_given(first in 0u32..700, length in 0u32..700, avoid: bool) {
            let base = u32::from(std::net::Ipv4Addr::new(198, 51, 100, 0)) - 300;
            let at = |offset: u32| IpAddr::from(std::net::Ipv4Addr::from(base + offset));
            let ranges = vec![(at(first), at(first + length))];
            let pool = Pool { ranges, avoid_buggy_ips: avoid, ..Pool::default() };
            let counted = (0..2000).filter(|offset| pool.contains(at(*offset))).count() as u128;
            proptest::prop_assert_eq!(pool.size(Family::V4), counted);
            proptest::prop_assert_eq!(pool.size(Family::V6), 0);
        }
    }
}
