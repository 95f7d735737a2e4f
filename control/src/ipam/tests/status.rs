//! What the Services' statuses say of addresses, to whoever writes them and to whoever follows.

use super::*;

#[test]
fn a_status_decides_where_nobody_writes_it() {
    let mut ipam = ipam();
    assert_eq!(said(&mut ipam, &written("a", &["203.0.113.1"])), "203.0.113.1");
    assert_eq!(said(&mut ipam, &service("b")), "203.0.113.2");
    let elsewhere = turn(&mut ipam, &written("c", &["192.0.2.77"]));
    assert_eq!(elsewhere, Assigned::default(), "not ours to give, nor to take away");
}

#[test]
fn the_leader_takes_the_status_for_its_earlier_decision() {
    let mut lead = leading(&pools());
    assert_eq!(said(&mut lead, &written("a", &["203.0.113.2"])), "203.0.113.2");
    assert!(
        said(&mut lead, &written("b", &["192.0.2.77"]))
            .starts_with("192.0.2.77 192.0.2.77 is in no pool any more")
    );
    assert_eq!(said(&mut lead, &service("c")), "", "nothing before our finalizer is on it");
    assert_eq!(said(&mut lead, &written("c", &[])), "203.0.113.1");
    let moved = Service { asks: asking("", "198.51.100.5", "", "").asks, ..written("a", &["203.0.113.2"]) };
    assert_eq!(said(&mut lead, &moved), "198.51.100.5");
    assert!(said(&mut lead, &written("d", &[])).contains("no free"), "a's status still names 203.0.113.2");
    lead.take_hopeful();
    said(&mut lead, &Service { ingress: written("a", &["198.51.100.5"]).ingress, ..moved });
    assert_eq!(lead.take_hopeful(), [service("d").key]);
    assert_eq!(said(&mut lead, &written("d", &[])), "203.0.113.2");
}

#[test]
fn a_leader_without_pools_leaves_alone_what_it_never_touched() {
    let mut lead = leading(&[]);
    let anothers = Service { upkeep: Upkeep::default(), ..written("a", &["192.0.2.77"]) };
    assert!(!lead.manages(&anothers) && turn(&mut lead, &anothers) == Assigned::default());
    let ours = written("a", &["192.0.2.77"]);
    assert!(
        lead.manages(&ours)
            && said(&mut lead, &ours).starts_with("192.0.2.77 192.0.2.77 is in no pool any more")
    );
    lead.set(Rules::default(), &pools(), [].into_iter());
    assert!(lead.manages(&anothers));
}

#[test]
fn of_two_statuses_with_one_address_the_first_keeps_it() {
    let mut lead = leading(&pools());
    let (a, b) = (written("a", &["203.0.113.2"]), written("b", &["203.0.113.2"]));
    lead.exists(&a);
    lead.exists(&b);
    assert_eq!(said(&mut lead, &b), "203.0.113.1");
    assert_eq!(said(&mut lead, &a), "203.0.113.2");
}

#[test]
fn a_follower_decides_nothing_and_a_new_leader_changes_nothing() {
    let mut follower = ipam();
    follower.set_allocation(Allocation::Follow);
    assert_eq!(said(&mut follower, &written("a", &["203.0.113.2"])), "203.0.113.2");
    let lacks = |follower: &mut Ipam, service: &Service| turn(follower, service).lacks.join("; ");
    assert!(
        said(&mut follower, &written("b", &[])).starts_with("no address: whoever holds the Lease decides")
    );
    let faulty = Service { asks: asking("", "nonsense", "", "").asks, ..written("b", &[]) };
    assert!(lacks(&mut follower, &faulty).contains("`nonsense`"), "{}", lacks(&mut follower, &faulty));
    follower.set_allocation(Allocation::Lead);
    assert_eq!(said(&mut follower, &written("a", &["203.0.113.2"])), "203.0.113.2");
    assert_eq!(said(&mut follower, &written("b", &[])), "203.0.113.1");
    follower.set_allocation(Allocation::Follow);
    assert!(
        said(&mut follower, &written("b", &[])).starts_with("no address"),
        "what no status names is not decided"
    );
    assert_eq!(said(&mut follower, &written("b", &["203.0.113.9"])), "203.0.113.9");
}
