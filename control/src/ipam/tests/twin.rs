//! A naive twin: whatever happens, nobody has another's address without sharing it.

use proptest::prelude::*;

use super::*;

/// A Service of the property: name, what it asks for, its sharing key and port.
#[derive(Clone, Copy, Debug)]
struct Step {
    name: u8,
    present: bool,
    asks: u8,
    key: u8,
    port: u8,
    local: bool,
}

fn step() -> impl Strategy<Value = Step> {
    (0u8..5, proptest::bool::weighted(0.8), 0u8..6, 0u8..3, 0u8..3, any::<bool>())
        .prop_map(|(name, present, asks, key, port, local)| Step { name, present, asks, key, port, local })
}

impl Step {
    fn service(self) -> Service {
        let ips =
            ["", "", "203.0.113.1", "203.0.113.2", "2001:db8::1", "198.51.100.5"][usize::from(self.asks)];
        let asked = asking(&self.name.to_string(), ips, "", ["", "k", "l"][usize::from(self.key)]);
        let external_policy = if self.local { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
        let selector = Labels::from([("app".to_owned(), (self.name % 2).to_string())]);
        let (families, ports) = (vec![Family::V4, Family::V6], vec![port(80 + u16::from(self.port))]);
        let upkeep = Upkeep { finalizer: true, ..Upkeep::default() };
        Service { external_policy, selector, families, ports, upkeep, ..asked }
    }
}

/// The rule of sharing as the documentation has it, over plain lists; ports aside, which may come to clash.
fn may_share(a: Step, b: Step) -> bool {
    let selectors = !a.local || a.name % 2 == b.name % 2;
    a.key != 0 && a.key == b.key && a.local == b.local && selectors
}

/// What everybody has, against the naive rules; `before` is what they had.
fn check(ipam: &Ipam, present: &BTreeMap<u8, Step>, before: &Assignments) -> Result<(), TestCaseError> {
    let given = ipam.assignments().0;
    let had = |step: Step, at: &IpAddr| before.0.get(&step.service().key).is_some_and(|had| had.contains(at));
    let mut rows: Vec<(Step, IpAddr)> = Vec::new();
    for (key, addresses) in &given {
        let step = present[&key.name.parse::<u8>().expect("a number")];
        for address in addresses {
            prop_assert!(pools().iter().any(|pool| pool.contains(*address)), "{address} is of a pool");
            for (other, _) in rows.iter().filter(|(_, at)| at == address) {
                prop_assert!(may_share(*other, step), "{other:?} and {step:?} on {address}");
                let kept = had(*other, address) && had(step, address);
                prop_assert!(kept || other.port != step.port, "{other:?} and {step:?} are given {address}");
            }
            rows.push((step, *address));
        }
        prop_assert!(addresses.iter().filter(|at| at.is_ipv4()).count() <= 1 && addresses.len() <= 2);
    }
    for pool in pools() {
        let distinct = |v6: bool| -> BTreeSet<_> {
            let of_pool = rows.iter().filter(|(_, at)| at.is_ipv6() == v6 && pool.contains(*at));
            of_pool.map(|(_, at)| *at).collect()
        };
        let count = ipam.count_of(&pool.name).expect("in force").used;
        prop_assert_eq!(count, [distinct(false).len() as u64, distinct(true).len() as u64]);
    }
    Ok(())
}

proptest! {
    #[test]
    fn nobody_has_anothers_address(steps in proptest::collection::vec(step(), 0..40), lead: bool) {
        let mut ipam = if lead { leading(&pools()) } else { ipam() };
        let (mut present, mut statuses) = (BTreeMap::new(), BTreeMap::<u8, Vec<Ingress>>::new());
        for step in steps {
            let before = ipam.assignments();
            if step.present {
                present.insert(step.name, step);
            } else {
                present.remove(&step.name);
                statuses.remove(&step.name);
                ipam.release(&step.service().key);
            }
            let mut due = BTreeSet::from([step.name]);
            // As long as somebody hears news: of what became free, or of its own new status.
            for _ in 0..8 {
                let waiting = ipam.take_hopeful();
                let named = present.values().filter(|one| due.contains(&one.name) || waiting.contains(&one.service().key));
                for one in named.copied().collect::<Vec<_>>() {
                    due.remove(&one.name);
                    let ingress = statuses.get(&one.name).filter(|_| lead).cloned().unwrap_or_default();
                    let got = turn(&mut ipam, &Service { ingress, ..one.service() });
                    let vip = |address: &IpAddr| Ingress { address: *address, mode: IpMode::Vip };
                    let written: Vec<_> = got.addresses.iter().map(vip).collect();
                    if statuses.insert(one.name, written.clone()) != Some(written) {
                        due.insert(one.name);
                    }
                }
            }
            check(&ipam, &present, &before)?;
        }
        // Nobody moves by a restart, in whatever order Services come, nor by being looked at again.
        let before = ipam.assignments();
        let mut after = if lead { leading(&pools()) } else { restarted(&ipam, &pools()) };
        let service = |one: &Step| Service {
            ingress: statuses.get(&one.name).filter(|_| lead).cloned().unwrap_or_default(),
            ..one.service()
        };
        present.values().rev().for_each(|one| after.exists(&service(one)));
        for one in present.values().rev() {
            if before.0.contains_key(&service(one).key) {
                turn(&mut after, &service(one));
                turn(&mut ipam, &service(one));
            }
        }
        prop_assert_eq!(&after.assignments(), &before);
        prop_assert_eq!(&ipam.assignments(), &before);
        present.values().for_each(|one| ipam.release(&one.service().key));
        prop_assert_eq!(ipam.assignments(), Assignments::default());
        prop_assert!(ipam.used.values().all(|used| *used == [0, 0]) && !ipam.holders.is_held("203.0.113.1".parse().unwrap()));
    }
}
