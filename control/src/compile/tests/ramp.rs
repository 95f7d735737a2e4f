//! Shares of endpoints that become ready, over simulated time.

use super::*;

const START: u64 = 1_800_000_000_000;

/// A Service that starts slowly over 8 seconds: a step a second.
fn slow(text: &str) -> String {
    let annotated = format!("{{name: web, annotations: {{fairlead.dev/slow-start: {text}}}}}");
    service("web", 1, "").replacen("{name: web}", &annotated, 1)
}

struct Clocked {
    world: World,
    now: u64,
}

impl Clocked {
    fn new(endpoints: &[&str]) -> Self {
        let mut world = World::off_node(&[slow("8s"), slice("web", endpoints)]);
        world.compiler.set_time(Some(START));
        Self { world, now: START }
    }

    fn endpoints(&mut self, endpoints: &[&str]) {
        self.world.compiler.set_time(Some(self.now));
        self.world.set("all", &[slow("8s"), slice("web", endpoints), nodes()].join("---\n"));
    }

    /// Lets time pass as the applier does: to each step that is due, then to the end.
    fn pass(&mut self, ms: u64) -> usize {
        let (end, mut steps) = (self.now + ms, 0);
        while let Some(due) = self.world.compiler.next_step_ms(self.now).filter(|due| *due <= end) {
            self.world.compiler.set_time(Some(due));
            assert!(self.world.compiler.is_dirty(), "a step is due");
            self.world.tables = self.world.compiler.compile();
            self.now = self.now.max(due);
            steps += 1;
            assert!(steps < 100, "steps end");
        }
        self.now = end;
        steps
    }

    fn weights(&self) -> Vec<u16> {
        self.world.report("web").backends.iter().map(|backend| backend.weight).collect()
    }

    /// The share of the Service's table that the last endpoint has, in thousandths.
    fn share_of_last(&self) -> usize {
        let id = self.world.report("web").ids[0];
        let port = self.world.tables.service(id).unwrap();
        let pool = port.pool(0).unwrap();
        let last = u16::try_from(pool.backends.len() - 1).unwrap();
        let slots = pool.maglev.as_ref().unwrap().slots();
        1000 * slots.iter().filter(|slot| **slot == last).count() / slots.len()
    }
}

#[test]
fn an_endpoint_that_comes_gets_its_share_in_eight_steps() {
    let mut clocked = Clocked::new(&["10.1.1.1", "10.1.1.2", "10.1.1.3"]);
    assert_eq!(clocked.weights(), [1, 1, 1], "what was there from the start has its whole share");
    clocked.endpoints(&["10.1.1.1", "10.1.1.2", "10.1.1.3", "10.1.1.4"]);
    let mut shares = Vec::new();
    for step in 1..8 {
        assert_eq!(clocked.weights(), [8, 8, 8, step]);
        shares.push(clocked.share_of_last());
        assert_eq!(clocked.pass(1_000), 1);
    }
    assert_eq!(
        (clocked.weights(), clocked.world.compiler.next_step_ms(clocked.now)),
        (vec![1, 1, 1, 1], None)
    );
    shares.push(clocked.share_of_last());
    for (share, want) in shares.iter().zip([40, 77, 111, 143, 172, 200, 226, 250]) {
        assert!(share.abs_diff(want) <= 5, "{shares:?}");
    }
    assert_eq!(clocked.pass(3_600_000), 0, "and that is all");
}

#[test]
fn appliances_that_learn_of_it_within_a_step_agree() {
    let weights = |late: u64| {
        let mut clocked = Clocked::new(&["10.1.1.1", "10.1.1.2"]);
        clocked.pass(300 + late);
        clocked.endpoints(&["10.1.1.1", "10.1.1.2", "10.1.1.3"]);
        clocked.pass(700 - late);
        let mut seen = Vec::new();
        for _ in 0..9 {
            seen.push(clocked.weights());
            clocked.pass(1_000);
        }
        seen
    };
    assert_eq!(weights(0), weights(650));
}

#[test]
fn many_that_come_take_their_steps_together() {
    let mut clocked = Clocked::new(&["10.1.1.1", "10.1.1.2"]);
    for late in ["10.1.1.3", "10.1.1.4", "10.1.1.5", "10.1.1.6"] {
        let endpoints: Vec<_> = ["10.1.1.1", "10.1.1.2", "10.1.1.3", "10.1.1.4", "10.1.1.5", "10.1.1.6"]
            .into_iter()
            .filter(|at| *at <= late)
            .collect();
        clocked.endpoints(&endpoints);
        clocked.pass(100);
    }
    assert_eq!(clocked.weights(), [8, 8, 1, 1, 1, 1]);
    assert_eq!(clocked.pass(60_000), 8 - 1, "seven more tables, not seven for each");
    assert_eq!(clocked.weights(), [1; 6]);
}

#[test]
fn the_first_endpoints_of_a_service_and_all_at_once_have_their_whole_share() {
    let mut clocked = Clocked::new(&[]);
    clocked.endpoints(&["10.1.1.1", "10.1.1.2"]);
    assert_eq!((clocked.weights(), clocked.world.compiler.next_step_ms(clocked.now)), (vec![1, 1], None));
}

#[test]
fn one_that_was_away_begins_again_and_one_that_goes_takes_its_step_along() {
    let mut clocked = Clocked::new(&["10.1.1.1", "10.1.1.2"]);
    clocked.endpoints(&["10.1.1.1", "10.1.1.2 unready"]);
    clocked.pass(60_000);
    clocked.endpoints(&["10.1.1.1", "10.1.1.2"]);
    assert_eq!(clocked.weights(), [8, 1]);
    clocked.pass(2_000);
    assert_eq!(clocked.weights(), [8, 3]);
    clocked.endpoints(&["10.1.1.1"]);
    assert_eq!((clocked.weights(), clocked.world.compiler.next_step_ms(clocked.now)), (vec![1], None));
}

#[test]
fn a_clock_that_is_set_back_holds_nobody_up() {
    let mut clocked = Clocked::new(&["10.1.1.1", "10.1.1.2"]);
    clocked.endpoints(&["10.1.1.1", "10.1.1.2", "10.1.1.3"]);
    clocked.pass(5_000);
    clocked.now -= 3_600_000;
    clocked.pass(8_000);
    assert_eq!(clocked.weights(), [1, 1, 1]);
}

#[test]
fn weights_and_slow_start_go_together_and_a_bad_word_is_told() {
    let both = slow("8s").replace("slow-start: 8s", "slow-start: 8s, fairlead.dev/weights: \"10.1.1.1=5\"");
    let mut world = World::off_node(&[both.clone(), slice("web", &["10.1.1.1"])]);
    world.compiler.set_time(Some(START));
    world.set("all", &[both, slice("web", &["10.1.1.1", "10.1.1.2"]), nodes()].join("---\n"));
    let weights: Vec<_> = world.report("web").backends.iter().map(|backend| backend.weight).collect();
    assert_eq!(weights, [40, 1]);
    let world = World::off_node(&[slow("fast"), slice("web", &["10.1.1.1"])]);
    assert!(world.problems("web").contains("annotation fairlead.dev/slow-start: `fast` is not usable"));
}
