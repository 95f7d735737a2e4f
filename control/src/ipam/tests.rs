//! Tables of who gets what.

mod status;
mod twin;

use packet::Protocol;

use super::*;
use crate::model::{AddressRequest, FamilyPolicy, Ingress, ServicePort, TrafficPolicy, Upkeep};
use crate::pool::Selector;

fn pool(name: &str, ranges: &[(&str, &str)]) -> Pool {
    let ends = |(first, last): &(&str, &str)| (first.parse().unwrap(), last.parse().unwrap());
    Pool { name: name.into(), ranges: ranges.iter().map(ends).collect(), ..Pool::default() }
}

fn pools() -> Vec<Pool> {
    let by_name = Pool { auto_assign: false, ..pool("by-name", &[("198.51.100.5", "198.51.100.5")]) };
    vec![pool("public", &[("203.0.113.1", "203.0.113.2"), ("2001:db8::1", "2001:db8::2")]), by_name]
}

fn service(name: &str) -> Service {
    Service {
        key: ObjectKey::new("default", name),
        kind: ServiceType::LoadBalancer,
        families: vec![Family::V4],
        ports: vec![port(80)],
        ..Service::default()
    }
}

fn port(port: u16) -> ServicePort {
    ServicePort { name: String::new(), protocol: Protocol::Tcp, port, node_port: None }
}

fn asking(name: &str, ips: &str, pool: &str, sharing_key: &str) -> Service {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let asks = AddressRequest { ips: text(ips), pool: text(pool), sharing_key: text(sharing_key) };
    Service { asks, ..service(name) }
}

/// With an address in its status, and our finalizer on it.
fn written(name: &str, addresses: &[&str]) -> Service {
    let ingress = |text: &&str| Ingress { address: text.parse().unwrap(), mode: IpMode::Vip };
    let upkeep = Upkeep { finalizer: true, ..Upkeep::default() };
    Service { ingress: addresses.iter().map(ingress).collect(), upkeep, ..service(name) }
}

fn ipam_of(pools: &[Pool]) -> Ipam {
    let mut ipam = Ipam::new(Assignments::default());
    ipam.set(Rules::default(), pools, [].into_iter());
    ipam
}

fn ipam() -> Ipam {
    ipam_of(&pools())
}

fn leading(pools: &[Pool]) -> Ipam {
    let mut ipam = ipam_of(pools);
    ipam.set_allocation(Allocation::Lead);
    ipam
}

fn turn(ipam: &mut Ipam, service: &Service) -> Assigned {
    ipam.exists(service);
    ipam.assign(service, &Around { namespace: &Labels::new(), refused: &|_| None })
}

/// Its addresses, then what is told of it, joined.
fn said(ipam: &mut Ipam, service: &Service) -> String {
    let Assigned { addresses, lacks, warnings } = turn(ipam, service);
    let addresses = addresses.iter().map(ToString::to_string);
    addresses.chain(lacks).chain(warnings).collect::<Vec<_>>().join(" ")
}

fn restarted(before: &Ipam, pools: &[Pool]) -> Ipam {
    let text = before.assignments().to_text();
    let mut after = Ipam::new(Assignments::from_text(&text).expect("own text"));
    after.set(Rules::default(), pools, [].into_iter());
    after
}

#[test]
fn addresses_are_given_in_order_and_kept() {
    let mut ipam = ipam();
    assert_eq!(said(&mut ipam, &service("a")), "203.0.113.1");
    assert_eq!(said(&mut ipam, &service("b")), "203.0.113.2");
    assert_eq!(said(&mut ipam, &service("a")), "203.0.113.1");
    assert_eq!(said(&mut ipam, &service("c")), "no free IPv4 address in public; add addresses to a pool");
    ipam.take_hopeful();
    ipam.release(&service("a").key);
    assert_eq!(ipam.take_hopeful(), [service("c").key], "it is told of what became free");
    assert_eq!(said(&mut ipam, &service("c")), "203.0.113.1");
    assert!(ipam.take_hopeful().is_empty());
}

#[test]
fn a_restart_keeps_addresses_even_of_services_that_come_later() {
    let mut before = ipam();
    turn(&mut before, &service("a"));
    turn(&mut before, &service("b"));
    let mut after = restarted(&before, &pools());
    assert_eq!(
        said(&mut after, &service("c")),
        "203.0.113.1",
        "a was not seen yet and yields when all else is taken"
    );
    assert_eq!(said(&mut after, &service("b")), "203.0.113.2");
}

#[test]
fn a_service_that_exists_keeps_its_address_whoever_is_assigned_first() {
    let mut before = ipam();
    turn(&mut before, &service("b"));
    turn(&mut before, &service("c"));
    let mut after = restarted(&before, &pools());
    ["a", "b", "c"].iter().for_each(|name| after.exists(&service(name)));
    assert!(said(&mut after, &service("a")).contains("no free"));
    assert_eq!(said(&mut after, &service("b")), "203.0.113.1");
}

#[test]
fn a_requested_address_is_granted_when_pooled_and_free() {
    let mut ipam = ipam();
    let spec = |name: &str, address: &str| Service { requested_ip: address.parse().ok(), ..service(name) };
    let free = Service { asks: AddressRequest::default(), ..service("b") };
    assert_eq!(said(&mut ipam, &free), "203.0.113.1");
    for (name, asks, want) in [
        ("by spec.loadBalancerIP", spec("a", "198.51.100.5"), "198.51.100.5"),
        (
            "taken: what it has stays",
            spec("b", "198.51.100.5"),
            "203.0.113.1 198.51.100.5 cannot be given: it belongs to default/a, and it has no sharing key in common; ask for another; 203.0.113.1 stays until then",
        ),
        (
            "in no pool",
            spec("c", "192.0.2.1"),
            "192.0.2.1 cannot be given: it is in no pool; add it to one, or ask for another",
        ),
        ("it moves", asking("a", "203.0.113.2", "", ""), "203.0.113.2"),
        ("and leaves room", spec("b", "198.51.100.5"), "198.51.100.5"),
        (
            "not in the pool it names",
            asking("c", "203.0.113.1", "by-name", ""),
            "203.0.113.1 cannot be given: it is in pool public, and the Service asks for pool by-name",
        ),
        (
            "no such pool",
            asking("c", "", "publik", ""),
            "there is no pool publik; pools are: public, by-name",
        ),
        (
            "a named pool gives without autoAssign, when it has something",
            asking("c", "", "by-name", ""),
            "no free IPv4 address in by-name; add addresses to a pool",
        ),
    ] {
        assert_eq!(said(&mut ipam, &asks), want, "{name}");
    }
}

#[test]
fn a_faulty_request_gives_nothing_else_and_takes_nothing_away() {
    let mut ipam = ipam();
    assert!(said(&mut ipam, &asking("a", "nonsense", "", "")).contains("`nonsense` is no address"));
    assert!(ipam.assignments() == Assignments::default());
    assert_eq!(said(&mut ipam, &service("a")), "203.0.113.1");
    assert!(said(&mut ipam, &asking("a", "nonsense", "", "")).starts_with("203.0.113.1 the annotation"));
}

#[test]
fn families_follow_their_policy() {
    let both =
        |policy| Service { families: vec![Family::V6, Family::V4], family_policy: policy, ..service("a") };
    let (prefer, require) = (FamilyPolicy::PreferDualStack, FamilyPolicy::RequireDualStack);
    assert_eq!(said(&mut ipam(), &both(prefer)), "203.0.113.1 2001:db8::1");
    let v4_only = [pool("v4", &[("203.0.113.1", "203.0.113.1")])];
    assert_eq!(said(&mut ipam_of(&v4_only), &both(prefer)), "203.0.113.1", "one is as good");
    let told = said(&mut ipam_of(&v4_only), &both(require));
    assert!(told.starts_with("no pool gives IPv6") && told.contains("RequireDualStack"), "{told}");
    let mut later = ipam();
    assert_eq!(said(&mut later, &both(require)), "203.0.113.1 2001:db8::1");
    later.set(Rules::default(), &v4_only, [].into_iter());
    assert!(
        said(&mut later, &both(require))
            .starts_with("203.0.113.1 2001:db8::1 2001:db8::1 is in no pool any more")
    );
    let one = Service { families: vec![Family::V6], ..service("a") };
    assert!(said(&mut later, &one).starts_with("2001:db8::1 "), "the other family is given back");
}

#[test]
fn services_share_an_address_only_if_both_say_so() {
    let one = [pool("one", &[("203.0.113.1", "203.0.113.1")])];
    let on =
        |name: &str, number, key: &str| Service { ports: vec![port(number)], ..asking(name, "", "", key) };
    let mut ipam = ipam_of(&one);
    assert_eq!(said(&mut ipam, &on("a", 80, "k")), "203.0.113.1");
    assert_eq!(said(&mut ipam, &on("b", 81, "k")), "203.0.113.1");
    for (other, name) in [
        (on("c", 82, "x"), "another key"),
        (on("c", 82, ""), "no key"),
        (on("c", 80, "k"), "a port twice"),
        (Service { external_policy: TrafficPolicy::Local, ..on("c", 82, "k") }, "another policy"),
    ] {
        assert!(said(&mut ipam, &other).contains("no free"), "{name}");
    }
    assert_eq!(ipam.count_of("one").expect("known").used, [1, 0], "one address, however many have it");
    assert_eq!(said(&mut ipam, &on("c", 82, "k")), "203.0.113.1");
    let alone = Service { external_policy: TrafficPolicy::Local, ..on("b", 81, "k") };
    assert!(said(&mut ipam, &alone).contains("no free"), "who will no longer share must go");
    assert_eq!(said(&mut ipam, &on("b", 81, "k")), "203.0.113.1");
}

#[test]
fn a_port_that_clashes_later_costs_nobody_the_address() {
    let one = [pool("one", &[("203.0.113.1", "203.0.113.1")])];
    let on = |name: &str, numbers: &[u16]| Service {
        ports: numbers.iter().copied().map(port).collect(),
        ..asking(name, "", "", "k")
    };
    let mut own = ipam_of(&one);
    said(&mut own, &on("a", &[80]));
    said(&mut own, &on("b", &[81]));
    assert_eq!(said(&mut own, &on("b", &[81, 80])), "203.0.113.1", "its port 81 goes on");
    assert_eq!(said(&mut own, &on("a", &[80])), "203.0.113.1", "the other one does not notice");
    let mut after = restarted(&own, &one);
    [on("b", &[81, 80]), on("a", &[80])].iter().for_each(|service| after.exists(service));
    assert_eq!(said(&mut after, &on("b", &[81, 80])), "203.0.113.1", "nor does a restart");
    assert!(said(&mut own, &on("c", &[82, 81])).contains("no free"), "nothing half is given anew");

    for allocation in [Allocation::Lead, Allocation::Follow] {
        let mut live = ipam_of(&one);
        live.set_allocation(allocation);
        let named = |service: Service| Service {
            ingress: written("", &["203.0.113.1"]).ingress,
            upkeep: written("", &[]).upkeep,
            ..service
        };
        let both = [named(on("b", &[81, 80])), named(on("a", &[80]))];
        both.iter().for_each(|service| live.exists(service));
        for service in &both {
            assert_eq!(said(&mut live, service), "203.0.113.1", "{allocation:?}");
        }
    }
}

#[test]
fn selectors_say_whose_services_a_pool_serves() {
    let labels = |key: &str, value: &str| Labels::from([(key.to_owned(), value.to_owned())]);
    let selects = |labels: Labels| Some(Selector { labels, ..Selector::default() });
    let gold =
        Pool { services: selects(labels("tier", "gold")), ..pool("gold", &[("203.0.113.9", "203.0.113.9")]) };
    let team =
        Pool { namespaces: selects(labels("team", "a")), ..pool("team", &[("203.0.113.7", "203.0.113.7")]) };
    let mut ipam = ipam_of(&[pools(), vec![gold, team]].concat());
    let golden = Service { labels: labels("tier", "gold"), ..service("golden") };
    assert_eq!(said(&mut ipam, &golden), "203.0.113.9", "the pool that is meant for it goes first");
    assert_eq!(said(&mut ipam, &service("plain")), "203.0.113.1");
    for asks in [asking("sly", "203.0.113.7", "", ""), asking("sly", "", "team", "")] {
        assert!(said(&mut ipam, &asks).contains("does not admit"), "a request goes round no selector");
    }
    let team_a = Around { namespace: &labels("team", "a"), refused: &|_| None };
    assert_eq!(ipam.assign(&service("mine"), &team_a).addresses[0].to_string(), "203.0.113.7");
    let told = said(&mut ipam, &service("mine"));
    assert!(told.starts_with("203.0.113.7 203.0.113.7 is kept although pool team"), "{told}");
}

#[test]
fn addresses_that_may_not_be_used_are_passed_over_and_left() {
    let mut ipam = ipam();
    let first = "203.0.113.1".parse::<IpAddr>().unwrap();
    let refused = |address: IpAddr| (address == first).then(|| "it is the address of node n1".to_owned());
    let around = Around { namespace: &Labels::new(), refused: &refused };
    assert_eq!(ipam.assign(&service("a"), &around).addresses[0].to_string(), "203.0.113.2");
    let told = ipam.assign(&asking("b", "203.0.113.1", "", ""), &around);
    assert_eq!(told.lacks, ["203.0.113.1 cannot be given: it is the address of node n1; ask for another"]);
    let mut later = self::ipam();
    assert_eq!(said(&mut later, &service("a")), "203.0.113.1");
    assert_eq!(later.assign(&service("a"), &around).addresses[0].to_string(), "203.0.113.2", "it moves");
}

#[test]
fn a_pool_that_shrinks_under_its_services_is_told_of() {
    let mut ipam = ipam();
    said(&mut ipam, &service("a"));
    let smaller = [pool("public", &[("203.0.113.2", "203.0.113.2")])];
    ipam.set(Rules::default(), &smaller, [].into_iter());
    assert!(said(&mut ipam, &service("a")).starts_with("203.0.113.1 203.0.113.1 is in no pool any more"));
    assert_eq!(ipam.count_of("public").expect("known").used, [0, 0]);
    assert_eq!(said(&mut ipam, &service("b")), "203.0.113.2");
    ipam.release(&service("a").key);
    assert!(
        said(&mut ipam, &service("c")).contains("no free"),
        "what left the pools is given to nobody else"
    );
    let mut gone = restarted(&ipam, &[]);
    assert!(said(&mut gone, &service("b")).starts_with("203.0.113.2 203.0.113.2 is in no pool"));
}

#[test]
fn a_service_that_names_its_pool_keeps_what_that_pool_gave_it() {
    let mut ipam = ipam();
    let named = asking("a", "", "by-name", "");
    assert_eq!(said(&mut ipam, &named), "198.51.100.5");
    let others = [pool("by-name", &[("198.51.100.8", "198.51.100.9")])];
    ipam.set(Rules::default(), &others, [].into_iter());
    assert!(said(&mut ipam, &named).starts_with("198.51.100.5 198.51.100.5 is in no pool any more"));
    assert_eq!(said(&mut ipam, &asking("b", "", "by-name", "")), "198.51.100.8");
    // In a pool that it does not name, it moves.
    let moved = [
        pool("public", &[("198.51.100.5", "198.51.100.5")]),
        pool("by-name", &[("198.51.100.8", "198.51.100.9")]),
    ];
    ipam.set(Rules::default(), &moved, [].into_iter());
    assert_eq!(said(&mut ipam, &named), "198.51.100.9");
}

#[test]
fn only_services_of_our_class_get_addresses() {
    let classed = Service { load_balancer_class: Some("example.com/lb".into()), ..service("a") };
    assert_eq!(turn(&mut ipam(), &classed), Assigned::default());
    let mut classy = ipam();
    let rules = Rules { class: "example.com/lb".into(), ..Rules::default() };
    classy.set(rules, &pools(), [].into_iter());
    assert_eq!(said(&mut classy, &classed), "203.0.113.1");
    assert_eq!(turn(&mut classy, &service("b")), Assigned::default());
    let plain = Service { kind: ServiceType::ClusterIp, ..classed.clone() };
    assert_eq!(turn(&mut classy, &plain), Assigned::default());
    assert_eq!(classy.assignments(), Assignments::default(), "released with the type");
    assert_eq!(said(&mut classy, &classed), "203.0.113.1");
    let leaving = Upkeep { deleting: true, ..Upkeep::default() };
    assert_eq!(turn(&mut classy, &Service { upkeep: leaving, ..classed }), Assigned::default());
    assert_eq!(classy.assignments(), Assignments::default(), "released with the deletion");
}
