//! What a Service asks of the pools: addresses, a pool, others to share with. Our annotations go before MetalLB's, those
//! before `spec.loadBalancerIP`.

use std::net::IpAddr;

use packet::{Family, Protocol};

use crate::model::{Service, TrafficPolicy};

/// A Service's requests, read.
#[derive(Debug, Default)]
pub(super) struct Wish {
    /// At most one address a family.
    ips: Vec<IpAddr>,
    /// The pool it wants.
    pub(super) pool: Option<String>,
    /// With whom it would share.
    pub(super) share: Option<Share>,
    /// What is wrong with the requests, a sentence each. Then nothing new is given: whoever asks for one address does
    /// not want any other.
    pub(super) faults: Vec<String>,
}

impl Wish {
    pub(super) fn of(service: &Service, metallb: bool) -> Self {
        let mut wish = Self::default();
        let ours = &service.asks;
        let theirs = if metallb { Some(&service.asks_metallb) } else { None };
        let pick = |ours: &Option<String>, theirs: Option<&Option<String>>| {
            let text = ours.as_ref().or_else(|| theirs.and_then(Option::as_ref));
            text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
        };
        match pick(&ours.ips, theirs.map(|asks| &asks.ips)) {
            Some(list) => wish.read_ips(&list, service),
            None => wish.ips.extend(service.requested_ip),
        }
        wish.pool = pick(&ours.pool, theirs.map(|asks| &asks.pool));
        let key = pick(&ours.sharing_key, theirs.map(|asks| &asks.sharing_key));
        wish.share = key.map(|key| Share::new(key, service));
        wish
    }

    fn read_ips(&mut self, list: &str, service: &Service) {
        let what = "the annotation that asks for addresses (fairlead.dev/ips)";
        for text in list.split(',').map(str::trim) {
            let Ok(address) = text.parse::<IpAddr>() else {
                let expected = "addresses such as 203.0.113.9 or 203.0.113.9,2001:db8::9 are expected";
                self.faults.push(format!("{what}: `{text}` is no address; {expected}"));
                continue;
            };
            let family = Family::of(address);
            if self.ip(family).is_some() {
                self.faults.push(format!("{what}: two {} addresses; one a family is expected", name(family)));
            } else if !service.families.contains(&family) {
                let families = "take it out, or add the family to spec.ipFamilies";
                self.faults.push(format!(
                    "{what}: the Service has no {}, so {address} is of no use; {families}",
                    name(family)
                ));
            } else {
                self.ips.push(address);
            }
        }
    }

    /// The address it wants in a family.
    pub(super) fn ip(&self, family: Family) -> Option<IpAddr> {
        self.ips.iter().copied().find(|address| Family::of(*address) == family)
    }
}

/// A family's name.
pub(super) fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// With whom a Service may have one address together.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Share {
    /// The sharing key.
    pub(super) key: String,
    /// For externalTrafficPolicy Local the selector: an address announced where one Service's pods are must lead to
    /// those of the other too.
    backends: Option<String>,
    ports: Vec<(Protocol, u16)>,
}

impl Share {
    fn new(key: String, service: &Service) -> Self {
        let selector = || {
            let pairs = service.selector.iter().map(|(key, value)| format!("{key}={value}"));
            pairs.collect::<Vec<_>>().join(",")
        };
        let local = service.external_policy == TrafficPolicy::Local;
        let ports = service.ports.iter().map(|port| (port.protocol, port.port)).collect();
        Self { key, backends: local.then(selector), ports }
    }

    /// Why one Service cannot be given an address that another one has; none when it can. As MetalLB has it: they may
    /// have it together, and no port of one protocol is both's.
    pub(super) fn clash(one: Option<&Self>, other: Option<&Self>) -> Option<&'static str> {
        Self::parts(one, other).or_else(|| {
            let both = one?.ports.iter().any(|port| other.is_some_and(|other| other.ports.contains(port)));
            both.then_some("both have a port of one number and protocol")
        })
    }

    /// Why two Services cannot have one address together, whatever their ports: as MetalLB has it, they need one key, and
    /// both externalTrafficPolicy Cluster or both Local and the same selector.
    pub(super) fn parts(one: Option<&Self>, other: Option<&Self>) -> Option<&'static str> {
        let (Some(one), Some(other)) = (one, other) else { return Some("it has no sharing key in common") };
        if one.key != other.key {
            return Some("it has no sharing key in common");
        }
        (one.backends != other.backends)
            .then_some("externalTrafficPolicy is not Cluster for both, nor Local for both with one selector")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AddressRequest, ServicePort};

    fn service(ips: &str) -> Service {
        let asks = AddressRequest { ips: Some(ips.into()), ..AddressRequest::default() };
        Service { asks, families: vec![Family::V4, Family::V6], ..Service::default() }
    }

    #[test]
    fn addresses_are_read_or_the_fault_is_told() {
        let both = Wish::of(&service(" 203.0.113.9 , 2001:db8::9"), false);
        assert_eq!(both.ip(Family::V4), "203.0.113.9".parse().ok());
        assert_eq!(both.ip(Family::V6), "2001:db8::9".parse().ok());
        for (ips, want) in [
            ("203.0.113.9,", "`` is no address"),
            ("web", "`web` is no address"),
            ("203.0.113.9,203.0.113.10", "two IPv4 addresses"),
        ] {
            let wish = Wish::of(&service(ips), false);
            assert!(wish.faults[0].contains(want), "{ips}: {:?}", wish.faults);
        }
        let one = Service { families: vec![Family::V4], ..service("2001:db8::9") };
        assert!(Wish::of(&one, false).faults[0].contains("no IPv6"));
    }

    #[test]
    fn metallbs_words_are_heard_only_where_told_and_after_ours() {
        let text = |text: &str| Some(text.to_owned());
        let theirs =
            AddressRequest { ips: text("203.0.113.1"), pool: text("theirs"), sharing_key: text("k") };
        let asks = AddressRequest { pool: text("ours"), ..AddressRequest::default() };
        let requested_ip = "203.0.113.2".parse().ok();
        let service = Service {
            asks,
            asks_metallb: theirs,
            requested_ip,
            families: vec![Family::V4],
            ..Service::default()
        };
        let deaf = Wish::of(&service, false);
        assert_eq!(
            (deaf.ip(Family::V4), deaf.pool.as_deref(), deaf.share),
            (requested_ip, Some("ours"), None)
        );
        let hears = Wish::of(&service, true);
        assert_eq!(hears.ip(Family::V4), "203.0.113.1".parse().ok());
        assert_eq!((hears.pool.as_deref(), hears.share.map(|share| share.key)), (Some("ours"), text("k")));
    }

    #[test]
    fn the_rule_of_sharing() {
        let share = |key: &str, policy, app: &str, port| {
            let selector = [("app".to_owned(), app.to_owned())].into();
            let ports =
                vec![ServicePort { name: String::new(), protocol: Protocol::Tcp, port, node_port: None }];
            Share::new(
                key.into(),
                &Service { external_policy: policy, selector, ports, ..Service::default() },
            )
        };
        let (cluster, local) = (TrafficPolicy::Cluster, TrafficPolicy::Local);
        let base = share("k", cluster, "a", 80);
        for (other, want) in [
            (share("k", cluster, "b", 81), None),
            (share("k", cluster, "b", 80), Some("port")),
            (share("other", cluster, "b", 81), Some("key")),
            (share("k", local, "a", 81), Some("Cluster")),
        ] {
            let clash = Share::clash(Some(&base), Some(&other));
            assert!(
                want.map_or(clash.is_none(), |want| clash.is_some_and(|why| why.contains(want))),
                "{other:?}"
            );
            assert_eq!(clash, Share::clash(Some(&other), Some(&base)));
        }
        let locals = |app| Share::clash(Some(&share("k", local, "a", 80)), Some(&share("k", local, app, 81)));
        assert!(locals("a").is_none() && locals("b").is_some());
        assert!(Share::clash(Some(&base), None).is_some() && Share::clash(None, None).is_some());
    }
}
