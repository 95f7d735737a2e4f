//! Addresses for Services of type LoadBalancer, from the configured pools: a pure state machine over its own memory.
//! A Service keeps its address for as long as it exists and the address is in a pool, across restarts too. Not here:
//! the file that keeps [`Assignments`], and the Service's status.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use packet::Family;

use crate::config::PoolConfig;
use crate::model::{IpMode, ObjectKey, Service, ServiceType};

/// What every Service was given: at most one address a family. This is what must survive a restart.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Assignments(BTreeMap<ObjectKey, BTreeSet<IpAddr>>);

impl Assignments {
    /// One line an address, `NAMESPACE/NAME ADDRESS`, sorted.
    #[must_use]
    pub fn to_text(&self) -> String {
        let lines = self
            .0
            .iter()
            .flat_map(|(key, addresses)| addresses.iter().map(move |at| format!("{key} {at}\n")));
        lines.collect()
    }

    /// Reads what [`Self::to_text`] wrote.
    ///
    /// # Errors
    /// At the first line that is not one, with its number.
    pub fn from_text(text: &str) -> Result<Self, String> {
        let mut all: BTreeMap<ObjectKey, BTreeSet<IpAddr>> = BTreeMap::new();
        for (number, line) in (1..).zip(text.lines()) {
            let entry = line.split_once(' ').and_then(|(key, address)| {
                let (namespace, name) = key.split_once('/')?;
                Some((ObjectKey::new(namespace, name), address.parse().ok()?))
            });
            let (key, address) = entry
                .ok_or_else(|| format!("line {number}: `{line}`; NAMESPACE/NAME ADDRESS is expected"))?;
            all.entry(key).or_default().insert(address);
        }
        Ok(Self(all))
    }

    /// The addresses of one Service.
    pub fn of(&self, key: &ObjectKey) -> impl Iterator<Item = IpAddr> {
        self.0.get(key).into_iter().flatten().copied()
    }
}

/// How full a pool is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PoolUse {
    /// Name.
    pub name: String,
    /// Addresses in it, saturating.
    pub size: u128,
    /// Addresses given out, with their Services.
    pub used: Vec<(IpAddr, ObjectKey)>,
    /// Whether Services get an address from it without asking.
    pub auto_assign: bool,
}

/// What a Service got this time.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Assigned {
    /// Its addresses, at most one a family.
    pub addresses: Vec<IpAddr>,
    /// Why it lacks one, a sentence each.
    pub problems: Vec<String>,
}

/// The allocator.
#[derive(Debug, Default)]
pub struct Ipam {
    pools: Vec<PoolConfig>,
    class: String,
    holders: HashMap<IpAddr, ObjectKey>,
    assigned: Assignments,
    /// Holders from before the restart whose Service was not seen yet: they yield when a pool is full.
    unseen: BTreeSet<ObjectKey>,
    /// Where the search for a free address starts, by range; nothing below is free.
    lowest_free: HashMap<IpAddr, IpAddr>,
}

impl Ipam {
    /// An allocator over pools that do not overlap, which remembers what it gave before.
    #[must_use]
    pub fn new(pools: Vec<PoolConfig>, class: String, before: Assignments) -> Self {
        let mut ipam = Self { pools, class, ..Self::default() };
        for (key, addresses) in before.0 {
            for address in addresses {
                if ipam.pool_of(address).is_some() && !ipam.holders.contains_key(&address) {
                    ipam.hold(&key, address);
                    ipam.unseen.insert(key.clone());
                }
            }
        }
        ipam
    }

    /// What is given out now.
    #[must_use]
    pub fn assignments(&self) -> &Assignments {
        &self.assigned
    }

    /// How full the pools are, in the order of the configuration.
    #[must_use]
    pub fn pools(&self) -> Vec<PoolUse> {
        let mut uses: Vec<_> = self.pools.iter().map(empty_use).collect();
        for (key, addresses) in &self.assigned.0 {
            for address in addresses {
                if let Some(index) = self.pools.iter().position(|pool| holds(pool, *address)) {
                    uses[index].used.push((*address, key.clone()));
                }
            }
        }
        uses
    }

    /// The Service is there, so that nobody takes its addresses before its own turn to be assigned.
    pub fn exists(&mut self, key: &ObjectKey) {
        self.unseen.remove(key);
    }

    /// Gives a Service that exists what it should have, and takes back what it should not.
    pub fn assign(&mut self, service: &Service) -> Assigned {
        self.unseen.remove(&service.key);
        if !self.is_ours(service) {
            self.release(&service.key);
            return Assigned::default();
        }
        let mut given = Assigned::default();
        let families: Vec<_> =
            [Family::V4, Family::V6].into_iter().filter(|family| service.families.contains(family)).collect();
        for address in self.assigned.of(&service.key).collect::<Vec<_>>() {
            if !families.contains(&Family::of(address)) || self.pool_of(address).is_none() {
                self.drop_address(&service.key, address);
            }
        }
        for family in families {
            match self.choose(service, family) {
                Ok(Some(address)) => given.addresses.push(address),
                Ok(None) => {}
                Err(problem) => given.problems.push(problem),
            }
        }
        given
    }

    /// The Service is gone, or is none of ours any more.
    pub fn release(&mut self, key: &ObjectKey) {
        self.unseen.remove(key);
        for address in self.assigned.of(key).collect::<Vec<_>>() {
            self.drop_address(key, address);
        }
    }

    /// Type LoadBalancer and the class that is configured: none asks for none (KEP-1959).
    fn is_ours(&self, service: &Service) -> bool {
        service.kind == ServiceType::LoadBalancer
            && service.load_balancer_class.as_deref().unwrap_or_default() == self.class
            && service.proxy_name.is_none()
    }

    /// The address for one family; none when pools are not how it gets one.
    fn choose(&mut self, service: &Service, family: Family) -> Result<Option<IpAddr>, String> {
        let status =
            service.ingress.iter().find(|at| at.mode == IpMode::Vip && Family::of(at.address) == family);
        let asked = service.requested_ip.filter(|address| Family::of(*address) == family);
        let have = self.assigned.of(&service.key).find(|address| Family::of(*address) == family);
        if let Some(ingress) = status {
            return Ok(self.adopt(&service.key, have, ingress.address));
        }
        if let Some(asked) = asked {
            return self.grant(&service.key, have, asked).map(Some);
        }
        if have.is_some() {
            return Ok(have);
        }
        if self.pools.is_empty() {
            return Ok(None);
        }
        let free = self.lowest_free(family).or_else(|| self.evict(family));
        let address = free.ok_or_else(|| {
            format!("no free {family:?} address in a pool with autoAssign; add addresses under `pools`")
        })?;
        self.hold(&service.key, address);
        Ok(Some(address))
    }

    /// The status names an address already: it is kept from others when it is ours to give.
    fn adopt(&mut self, key: &ObjectKey, have: Option<IpAddr>, address: IpAddr) -> Option<IpAddr> {
        if have == Some(address) {
            return have;
        }
        if let Some(old) = have {
            self.drop_address(key, old);
        }
        self.yield_unseen(address);
        if self.pool_of(address).is_none() || self.holders.contains_key(&address) {
            return None;
        }
        self.hold(key, address);
        Some(address)
    }

    /// `spec.loadBalancerIP`: this one or none.
    fn grant(&mut self, key: &ObjectKey, have: Option<IpAddr>, asked: IpAddr) -> Result<IpAddr, String> {
        if have == Some(asked) {
            return Ok(asked);
        }
        self.yield_unseen(asked);
        if self.pool_of(asked).is_none() {
            return Err(format!(
                "loadBalancerIP {asked} is in no pool; add it to `pools` or ask for another"
            ));
        }
        if let Some(holder) = self.holders.get(&asked) {
            return Err(format!("loadBalancerIP {asked} belongs to {holder}; ask for another"));
        }
        if let Some(old) = have {
            self.drop_address(key, old);
        }
        self.hold(key, asked);
        Ok(asked)
    }

    /// A Service that was not seen since the start yields an address that one here names.
    fn yield_unseen(&mut self, address: IpAddr) {
        if let Some(holder) = self.holders.get(&address).cloned()
            && self.unseen.contains(&holder)
        {
            self.drop_address(&holder, address);
        }
    }

    fn pool_of(&self, address: IpAddr) -> Option<&PoolConfig> {
        self.pools.iter().find(|pool| holds(pool, address))
    }

    fn lowest_free(&mut self, family: Family) -> Option<IpAddr> {
        for pool in self.pools.iter().filter(|pool| pool.auto_assign) {
            for &(first, last) in pool.ranges.iter().filter(|(first, _)| Family::of(*first) == family) {
                let mut at = self.lowest_free.get(&first).copied().unwrap_or(first);
                // Ends at the latest after every holder was passed.
                let passed = |at| self.holders.contains_key(&at) || is_avoided(pool, at);
                while passed(at) && at < last {
                    at = next(at);
                }
                let found = !passed(at);
                self.lowest_free.insert(first, at);
                if found {
                    return Some(at);
                }
            }
        }
        None
    }

    /// Takes an address of a Service that was not seen since the start.
    fn evict(&mut self, family: Family) -> Option<IpAddr> {
        let mut taken = None;
        for key in &self.unseen {
            let of_family = |address: &IpAddr| Family::of(*address) == family;
            let usable = |address: &IpAddr| self.pool_of(*address).is_some_and(|pool| pool.auto_assign);
            if let Some(address) = self.assigned.of(key).filter(of_family).find(usable) {
                taken = Some((key.clone(), address));
                break;
            }
        }
        let (key, address) = taken?;
        self.drop_address(&key, address);
        Some(address)
    }

    fn hold(&mut self, key: &ObjectKey, address: IpAddr) {
        self.holders.insert(address, key.clone());
        self.assigned.0.entry(key.clone()).or_default().insert(address);
    }

    fn drop_address(&mut self, key: &ObjectKey, address: IpAddr) {
        self.holders.remove(&address);
        if let Some(addresses) = self.assigned.0.get_mut(key) {
            addresses.remove(&address);
            if addresses.is_empty() {
                self.assigned.0.remove(key);
                self.unseen.remove(key);
            }
        }
        for (first, lowest) in &mut self.lowest_free {
            if Family::of(*first) == Family::of(address) && *first <= address && address < *lowest {
                *lowest = address;
            }
        }
    }
}

fn holds(pool: &PoolConfig, address: IpAddr) -> bool {
    !is_avoided(pool, address) && pool.ranges.iter().any(|(first, last)| (first..=last).contains(&&address))
}

/// In the pool's ranges, yet never given out.
fn is_avoided(pool: &PoolConfig, address: IpAddr) -> bool {
    pool.avoid_buggy_ips && matches!(address, IpAddr::V4(address) if matches!(address.octets()[3], 0 | 255))
}

fn empty_use(pool: &PoolConfig) -> PoolUse {
    let size = pool.ranges.iter().fold(0u128, |sum, range| sum.saturating_add(size(pool, *range)));
    PoolUse { name: pool.name.clone(), size, used: Vec::new(), auto_assign: pool.auto_assign }
}

/// The addresses of one range that may be given out, saturating.
fn size(pool: &PoolConfig, (first, last): (IpAddr, IpAddr)) -> u128 {
    let all = (bits(last) - bits(first)).saturating_add(1);
    if !pool.avoid_buggy_ips || first.is_ipv6() {
        return all;
    }
    // Below `end`, which is not counted itself.
    let avoided = |end: u128| end / 256 * 2 + u128::from(!end.is_multiple_of(256));
    all - (avoided(bits(last) + 1) - avoided(bits(first)))
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The address after this one; the callers stop at a range's last.
fn next(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits().wrapping_add(1)).into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits().wrapping_add(1)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pools() -> Vec<PoolConfig> {
        let range = |first: &str, last: &str| (first.parse().unwrap(), last.parse().unwrap());
        let auto = vec![range("203.0.113.1", "203.0.113.2"), range("2001:db8::1", "2001:db8::ffff")];
        let asked = vec![range("198.51.100.1", "198.51.100.9")];
        vec![
            PoolConfig { name: "auto".into(), ranges: auto, auto_assign: true, avoid_buggy_ips: false },
            PoolConfig { name: "asked".into(), ranges: asked, auto_assign: false, avoid_buggy_ips: false },
        ]
    }

    fn service(name: &str) -> Service {
        Service {
            key: ObjectKey::new("default", name),
            kind: ServiceType::LoadBalancer,
            families: vec![Family::V4],
            ..Service::default()
        }
    }

    fn ipam() -> Ipam {
        Ipam::new(pools(), String::new(), Assignments::default())
    }

    fn texts(given: &Assigned) -> Vec<String> {
        given.addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn addresses_are_given_in_order_and_kept() {
        let mut ipam = ipam();
        assert_eq!(texts(&ipam.assign(&service("a"))), ["203.0.113.1"]);
        assert_eq!(texts(&ipam.assign(&service("b"))), ["203.0.113.2"]);
        assert_eq!(texts(&ipam.assign(&service("a"))), ["203.0.113.1"]);
        let full = ipam.assign(&service("c"));
        assert!(full.addresses.is_empty() && full.problems[0].contains("no free"));
        ipam.release(&service("a").key);
        assert_eq!(texts(&ipam.assign(&service("c"))), ["203.0.113.1"]);
    }

    #[test]
    fn a_dual_stack_service_gets_one_of_each_family() {
        let both = Service { families: vec![Family::V6, Family::V4], ..service("a") };
        assert_eq!(texts(&ipam().assign(&both)), ["203.0.113.1", "2001:db8::1"]);
    }

    #[test]
    fn a_restart_keeps_addresses_even_of_services_that_come_later() {
        let mut before = ipam();
        before.assign(&service("a"));
        before.assign(&service("b"));
        let text = before.assignments().to_text();
        let mut after = Ipam::new(pools(), String::new(), Assignments::from_text(&text).expect("own text"));
        let full = after.assign(&service("c"));
        assert_eq!(texts(&full), ["203.0.113.1"], "a was not seen yet and yields when all else is taken");
        assert_eq!(texts(&after.assign(&service("b"))), ["203.0.113.2"]);
    }

    #[test]
    fn a_service_that_exists_keeps_its_address_whoever_is_assigned_first() {
        let mut before = ipam();
        before.assign(&service("b"));
        before.assign(&service("c"));
        let mut after = Ipam::new(pools(), String::new(), before.assignments().clone());
        ["a", "b", "c"].iter().for_each(|name| after.exists(&service(name).key));
        assert!(after.assign(&service("a")).problems[0].contains("no free"));
        assert_eq!(texts(&after.assign(&service("b"))), ["203.0.113.1"]);
    }

    #[test]
    fn a_requested_address_is_granted_when_pooled_and_free() {
        let mut ipam = ipam();
        let ask = |name: &str, address: &str| Service { requested_ip: address.parse().ok(), ..service(name) };
        assert_eq!(texts(&ipam.assign(&ask("a", "198.51.100.5"))), ["198.51.100.5"]);
        assert!(ipam.assign(&ask("b", "198.51.100.5")).problems[0].contains("belongs to default/a"));
        assert!(ipam.assign(&ask("b", "192.0.2.1")).problems[0].contains("in no pool"));
        assert_eq!(texts(&ipam.assign(&ask("a", "203.0.113.2"))), ["203.0.113.2"], "it moves");
        assert_eq!(texts(&ipam.assign(&ask("b", "198.51.100.5"))), ["198.51.100.5"]);
    }

    #[test]
    fn addresses_that_confuse_devices_are_passed_over_where_that_is_wished() {
        let pool = |first: &str, last: &str| PoolConfig {
            ranges: vec![(first.parse().unwrap(), last.parse().unwrap())],
            avoid_buggy_ips: true,
            ..pools().remove(0)
        };
        let of = |pool: PoolConfig| Ipam::new(vec![pool], String::new(), Assignments::default());
        let mut ipam = of(pool("203.0.113.254", "203.0.114.1"));
        assert_eq!(ipam.pools()[0].size, 2);
        assert_eq!(texts(&ipam.assign(&service("a"))), ["203.0.113.254"]);
        assert_eq!(texts(&ipam.assign(&service("b"))), ["203.0.114.1"]);
        assert!(ipam.assign(&service("c")).problems[0].contains("no free"));
        let asks = Service { requested_ip: "203.0.113.255".parse().ok(), ..service("d") };
        assert!(ipam.assign(&asks).problems[0].contains("in no pool"));
        for (first, last, size) in [
            ("203.0.113.0", "203.0.113.0", 0),
            ("203.0.113.0", "203.0.113.255", 254),
            ("203.0.113.1", "203.0.114.255", 508),
            ("255.255.255.0", "255.255.255.255", 254),
            ("2001:db8::", "2001:db8::ff", 256),
        ] {
            assert_eq!(of(pool(first, last)).pools()[0].size, size, "{first}-{last}");
        }
    }

    #[test]
    fn a_status_address_is_honoured_and_kept_from_others() {
        let mut ipam = ipam();
        let address = "203.0.113.1".parse().unwrap();
        let ingress = vec![crate::model::Ingress { address, mode: IpMode::Vip }];
        assert_eq!(texts(&ipam.assign(&Service { ingress, ..service("a") })), ["203.0.113.1"]);
        assert_eq!(texts(&ipam.assign(&service("b"))), ["203.0.113.2"]);
    }

    #[test]
    fn only_services_of_our_class_get_addresses() {
        let classed = Service { load_balancer_class: Some("example.com/lb".into()), ..service("a") };
        assert_eq!(ipam().assign(&classed), Assigned::default());
        let mut classy = Ipam::new(pools(), "example.com/lb".into(), Assignments::default());
        assert_eq!(texts(&classy.assign(&classed)), ["203.0.113.1"]);
        assert_eq!(classy.assign(&service("b")), Assigned::default());
        let plain = Service { kind: ServiceType::ClusterIp, ..classed };
        assert_eq!(classy.assign(&plain), Assigned::default());
        assert_eq!(classy.assignments(), &Assignments::default(), "released with the type");
    }

    #[test]
    fn bad_state_is_refused_with_its_line() {
        assert!(Assignments::from_text("a/b 1.2.3.4\nnonsense\n").expect_err("bad").starts_with("line 2"));
    }

    #[test]
    fn addresses_that_left_the_pools_are_given_up() {
        let before = Assignments::from_text("default/a 192.0.2.77\n").expect("good");
        let mut ipam = Ipam::new(pools(), String::new(), before);
        assert_eq!(texts(&ipam.assign(&service("a"))), ["203.0.113.1"]);
    }

    proptest::proptest! {
        #[test]
        fn nobody_shares_an_address(steps in proptest::collection::vec((0u8..5, proptest::bool::ANY), 0..40)) {
            let mut ipam = ipam();
            for (name, present) in steps {
                let service = service(&name.to_string());
                if present { ipam.assign(&service); } else { ipam.release(&service.key); }
                let all: Vec<_> = ipam.assigned.0.values().flatten().collect();
                let distinct: BTreeSet<_> = all.iter().collect();
                proptest::prop_assert_eq!(all.len(), distinct.len());
                proptest::prop_assert_eq!(all.len(), ipam.holders.len());
            }
        }
    }
}
