//! Who leads: a Lease that one appliance holds and renews. Pure; time and the Lease as it was read are arguments.
//!
//! The rules are those of Kubernetes' own components (client-go, tools/leaderelection): nobody trusts another's clock. A
//! Lease is another's until it was seen unchanged for as long as it promises; whoever could not renew stops to lead before
//! that. Every write names the version it was decided on, so that of two who take a Lease only one does.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

/// For how long a renewal holds. Longer than it takes to notice that it failed, and to finish what was begun.
pub(super) const DURATION: Duration = Duration::from_secs(15);
/// Whoever could not renew for this long leads no more.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);

/// One appliance's part in the election.
#[derive(Debug)]
pub(super) struct Election {
    identity: String,
    /// The Lease of another as it was last seen to change, and when that was.
    seen: Option<(Value, Instant)>,
    /// When the renewal that succeeded last was asked for.
    renewed: Option<Instant>,
}

/// What to do about the Lease.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Move {
    /// There is none: make this one.
    Create(Value),
    /// Ours, or free: put this in its place.
    Replace(Value),
    /// Another's: look again later.
    Wait,
}

impl Election {
    pub(super) fn new(identity: String) -> Self {
        Self { identity, seen: None, renewed: None }
    }

    /// Whether this appliance leads.
    pub(super) fn leads(&self, now: Instant) -> bool {
        self.renewed.is_some_and(|renewed| now < renewed + DEADLINE)
    }

    /// The Lease as it was read; `stamp` is the present in the server's format.
    pub(super) fn decide(
        &mut self,
        lease: Option<&Value>,
        name: (&str, &str),
        stamp: &str,
        now: Instant,
    ) -> Move {
        let Some(lease) = lease else {
            let metadata = json!({"namespace": name.0, "name": name.1});
            return Move::Create(self.taken(metadata, &Value::Null, stamp));
        };
        let spec = &lease["spec"];
        let holder = spec["holderIdentity"].as_str().unwrap_or_default();
        if holder != self.identity {
            self.renewed = None;
        }
        if holder != self.identity && !holder.is_empty() && !self.is_expired(spec, now) {
            return Move::Wait;
        }
        Move::Replace(self.taken(lease["metadata"].clone(), spec, stamp))
    }

    /// The move was made: asked for at `asked`.
    pub(super) fn made(&mut self, asked: Instant) {
        self.renewed = Some(asked);
        self.seen = None;
    }

    /// The Lease as we leave it when we go; none unless it is ours.
    pub(super) fn released(&mut self, lease: &Value) -> Option<Value> {
        self.renewed = None;
        let ours = lease["spec"]["holderIdentity"].as_str() == Some(&self.identity);
        let mut lease = lease.clone();
        lease["spec"]["holderIdentity"] = Value::Null;
        lease["spec"]["leaseDurationSeconds"] = json!(1);
        ours.then_some(lease)
    }

    fn is_expired(&mut self, spec: &Value, now: Instant) -> bool {
        let since = match &self.seen {
            Some((known, since)) if known == spec => *since,
            _ => {
                self.seen = Some((spec.clone(), now));
                now
            }
        };
        let promised = spec["leaseDurationSeconds"].as_u64().unwrap_or(DURATION.as_secs()).min(3600);
        now >= since + Duration::from_secs(promised)
    }

    fn taken(&self, metadata: Value, old: &Value, stamp: &str) -> Value {
        let ours = old["holderIdentity"].as_str() == Some(&self.identity);
        let transitions = old["leaseTransitions"].as_u64().unwrap_or(0) + u64::from(!ours && !old.is_null());
        let acquired = if ours { old["acquireTime"].clone() } else { json!(stamp) };
        json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": {
                "holderIdentity": self.identity,
                "leaseDurationSeconds": DURATION.as_secs(),
                "acquireTime": acquired,
                "renewTime": stamp,
                "leaseTransitions": transitions,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: (&str, &str) = ("fairlead-system", "fairlead");

    /// A server with one Lease: a write counts only with the version it has.
    #[derive(Default)]
    struct Server {
        lease: Option<Value>,
        version: u64,
    }

    impl Server {
        fn write(&mut self, mut lease: Value, known: Option<u64>) -> bool {
            if known.is_some() != self.lease.is_some() || known.is_some_and(|known| known != self.version) {
                return false;
            }
            self.version += 1;
            lease["metadata"]["resourceVersion"] = json!(self.version.to_string());
            self.lease = Some(lease);
            true
        }
    }

    /// A decision with the version it was made on.
    type Read = (Move, Option<u64>);

    /// Reads now; the write follows when the second half is called.
    fn begin(one: &mut Election, server: &Server, now: Instant) -> Read {
        let stamp = format!("{now:?}");
        (one.decide(server.lease.as_ref(), NAME, &stamp, now), server.lease.as_ref().map(|_| server.version))
    }

    fn finish(one: &mut Election, server: &mut Server, (made, known): Read, now: Instant) {
        if let Move::Create(lease) | Move::Replace(lease) = made
            && server.write(lease, known)
        {
            one.made(now);
        }
    }

    fn turn(one: &mut Election, server: &mut Server, now: Instant) -> bool {
        let begun = begin(one, server, now);
        finish(one, server, begun, now);
        one.leads(now)
    }

    #[test]
    fn the_lease_passes_on_only_after_it_ran_out() {
        let (mut a, mut b, mut server) =
            (Election::new("a".into()), Election::new("b".into()), Server::default());
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(turn(&mut a, &mut server, at(0)) && !turn(&mut b, &mut server, at(1)));
        assert!(turn(&mut a, &mut server, at(8)), "renewed");
        // a is cut off. It stops to lead before b, which saw the renewal late, may begin.
        assert!(!turn(&mut b, &mut server, at(9)) && !turn(&mut b, &mut server, at(23)));
        assert!(a.leads(at(17)) && !a.leads(at(18)));
        assert!(turn(&mut b, &mut server, at(24)));
        assert!(!turn(&mut a, &mut server, at(25)), "back, it follows");
        let lease = server.lease.as_ref().expect("there");
        assert_eq!(
            (&lease["spec"]["holderIdentity"], &lease["spec"]["leaseTransitions"]),
            (&json!("b"), &json!(1))
        );
    }

    #[test]
    fn of_two_who_take_a_lease_at_once_one_does() {
        let (mut a, mut b, mut server) =
            (Election::new("a".into()), Election::new("b".into()), Server::default());
        let now = Instant::now();
        let (first, second) = (begin(&mut a, &server, now), begin(&mut b, &server, now));
        finish(&mut b, &mut server, second, now);
        finish(&mut a, &mut server, first, now);
        assert!(b.leads(now) && !a.leads(now));
    }

    #[test]
    fn a_lease_is_released_by_its_holder_and_taken_at_once() {
        let (mut a, mut b, mut server) =
            (Election::new("a".into()), Election::new("b".into()), Server::default());
        let now = Instant::now();
        turn(&mut a, &mut server, now);
        let lease = server.lease.clone().expect("there");
        assert_eq!(b.released(&lease), None);
        server.lease = a.released(&lease);
        assert!(!a.leads(now) && turn(&mut b, &mut server, now));
    }

    #[test]
    fn a_restart_with_the_same_identity_goes_on() {
        let (mut a, mut server) = (Election::new("a".into()), Server::default());
        let now = Instant::now();
        turn(&mut a, &mut server, now);
        assert!(turn(&mut Election::new("a".into()), &mut server, now + Duration::from_secs(1)));
    }

    proptest::proptest! {
        /// Whatever is delayed, cut off or raced, there are never two leaders.
        #[test]
        fn there_is_at_most_one(steps in proptest::collection::vec((0usize..3, 0u64..9, 0u8..4), 1..60)) {
            let mut all: Vec<_> = ["a", "b", "c"].map(|name| Election::new(name.into())).into();
            let (mut server, mut now) = (Server::default(), Instant::now());
            let mut begun: [Option<(Read, Instant)>; 3] = [None, None, None];
            for (who, seconds, what) in steps {
                now += Duration::from_secs(seconds);
                match what {
                    0 => begun[who] = Some((begin(&mut all[who], &server, now), now)),
                    // Answered late, or only the answer is lost.
                    1 => if let Some((one, asked)) = begun[who].take() { finish(&mut all[who], &mut server, one, asked) },
                    2 => if let Some(((Move::Create(lease) | Move::Replace(lease), known), _)) = begun[who].take() {
                        server.write(lease, known);
                    },
                    _ => drop(turn(&mut all[who], &mut server, now)),
                }
                proptest::prop_assert!(all.iter().filter(|one| one.leads(now)).count() <= 1);
            }
        }
    }
}
