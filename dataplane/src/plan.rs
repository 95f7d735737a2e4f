//! Ports x queues x cores -> which worker runs where. Pure: the caller asks the system and obeys the plan.
//!
//! Every worker owns one queue pair of every port, so the queue number is the worker number. The main lcore stays
//! on a control core; it polls nothing.

use std::fmt;

/// A processor core this process may use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Core {
    /// The kernel's number.
    pub id: u16,
    /// Memory node; 0 where there is one only.
    pub numa: u16,
}

/// What a port offers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PortOffer {
    /// For messages.
    pub name: String,
    /// Most receive and transmit queues, whichever is fewer.
    pub queues_max: u16,
    /// Memory node the device hangs on, if known.
    pub numa: Option<u16>,
}

/// How many workers are wanted, and where.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Wish {
    /// So many, on cores of the planner's choice.
    Count(u16),
    /// One on each of these cores.
    Cores(Vec<u16>),
}

/// One worker's place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Place {
    /// The worker, and the queue of every port it owns.
    pub queue: u16,
    /// The core it is pinned to.
    pub core: u16,
}

/// Who runs where.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Plan {
    /// The main lcore's core.
    pub main_core: u16,
    /// The workers in order.
    pub workers: Vec<Place>,
    /// Cores left to the control threads; never empty.
    pub control_cores: Vec<u16>,
    /// A worker shares its core with something else: warn, and idle by sleeping.
    pub crowded: bool,
}

/// Why no plan exists.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PlanError {
    /// The process may run on no core at all.
    NoCores,
    /// No worker was asked for.
    NoWorkers,
    /// A pinned core is not among those this process may use.
    CoreNotAllowed(u16),
    /// A core was named twice.
    CoreTwice(u16),
    /// A port has fewer queues than there would be workers.
    TooFewQueues {
        /// The port.
        port: String,
        /// Its queues.
        have: u16,
        /// The workers.
        need: u16,
    },
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCores => write!(f, "this process may run on no processor core"),
            Self::NoWorkers => write!(f, "no worker asked for; at least 1 is needed"),
            Self::CoreNotAllowed(core) => write!(f, "core {core} is not among those this process may use"),
            Self::CoreTwice(core) => write!(f, "core {core} is named twice"),
            Self::TooFewQueues { port, have, need } => {
                write!(f, "port {port} has {have} queues for {need} workers; ask for at most {have} workers")
            }
        }
    }
}

impl std::error::Error for PlanError {}

/// Plans the workers.
///
/// # Errors
/// When the wish cannot be met on these cores and ports.
pub fn plan(cores: &[Core], ports: &[PortOffer], wish: &Wish) -> Result<Plan, PlanError> {
    let first = cores.first().ok_or(PlanError::NoCores)?;
    let chosen = match wish {
        Wish::Count(count) => choose(cores, ports, *count),
        Wish::Cores(named) => check(cores, named)?,
    };
    let need = u16::try_from(chosen.len()).unwrap_or(u16::MAX);
    if need == 0 {
        return Err(PlanError::NoWorkers);
    }
    if let Some(port) = ports.iter().find(|port| port.queues_max < need) {
        return Err(PlanError::TooFewQueues { port: port.name.clone(), have: port.queues_max, need });
    }
    let mut control_cores: Vec<u16> =
        cores.iter().map(|core| core.id).filter(|id| !chosen.contains(id)).collect();
    let shared = (1..chosen.len()).any(|i| chosen[..i].contains(&chosen[i]));
    let crowded = control_cores.is_empty() || shared;
    if control_cores.is_empty() {
        control_cores.push(first.id);
    }
    let workers = (0..need).zip(chosen).map(|(queue, core)| Place { queue, core }).collect();
    Ok(Plan { main_core: control_cores[0], workers, control_cores, crowded })
}

/// Cores for `count` workers: never the first while others are left, those near the ports first, and round again
/// when there are fewer cores than workers.
fn choose(cores: &[Core], ports: &[PortOffer], count: u16) -> Vec<u16> {
    let near = |core: &Core| ports.iter().filter(|port| port.numa == Some(core.numa)).count();
    let mut free: Vec<&Core> =
        if cores.len() > 1 { cores[1..].iter().collect() } else { cores.iter().collect() };
    free.sort_by_key(|core| std::cmp::Reverse(near(core)));
    free.iter().cycle().take(count.into()).map(|core| core.id).collect()
}

fn check(cores: &[Core], named: &[u16]) -> Result<Vec<u16>, PlanError> {
    for (i, id) in named.iter().enumerate() {
        if !cores.iter().any(|core| core.id == *id) {
            return Err(PlanError::CoreNotAllowed(*id));
        }
        if named[..i].contains(id) {
            return Err(PlanError::CoreTwice(*id));
        }
    }
    Ok(named.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cores(numa: &[u16]) -> Vec<Core> {
        (0..).zip(numa).map(|(id, &numa)| Core { id, numa }).collect()
    }

    fn port(queues_max: u16, numa: Option<u16>) -> PortOffer {
        PortOffer { name: "outside".into(), queues_max, numa }
    }

    #[test]
    fn workers_get_cores_of_their_own_while_there_are_enough() {
        for (name, numa, wish, workers, control, crowded) in [
            ("one core for everything", &[0][..], Wish::Count(1), &[0][..], &[0][..], true),
            ("two cores, one worker", &[0, 0], Wish::Count(1), &[1], &[0], false),
            ("two cores, two workers share one", &[0, 0], Wish::Count(2), &[1, 1], &[0], true),
            ("cores near the port first", &[0, 0, 1, 1], Wish::Count(2), &[2, 3], &[0, 1], false),
            ("then the others", &[0, 0, 1, 1], Wish::Count(3), &[2, 3, 1], &[0], false),
            ("pinned", &[0, 0, 0, 0], Wish::Cores(vec![3, 0]), &[3, 0], &[1, 2], false),
            ("pinned on all", &[0, 0], Wish::Cores(vec![0, 1]), &[0, 1], &[0], true),
        ] {
            let plan = plan(&cores(numa), &[port(8, Some(1)), port(8, None)], &wish).unwrap();
            assert_eq!(plan.workers.iter().map(|place| place.core).collect::<Vec<_>>(), workers, "{name}");
            assert!(
                plan.workers.iter().enumerate().all(|(i, place)| usize::from(place.queue) == i),
                "{name}"
            );
            assert_eq!((&plan.control_cores[..], plan.crowded), (control, crowded), "{name}");
            assert_eq!(plan.main_core, plan.control_cores[0], "{name}");
        }
    }

    #[test]
    fn impossible_wishes_are_refused() {
        let few = PlanError::TooFewQueues { port: "outside".into(), have: 1, need: 2 };
        for (cores, wish, want) in [
            (cores(&[]), Wish::Count(1), PlanError::NoCores),
            (cores(&[0]), Wish::Count(0), PlanError::NoWorkers),
            (cores(&[0, 0]), Wish::Cores(vec![2]), PlanError::CoreNotAllowed(2)),
            (cores(&[0, 0]), Wish::Cores(vec![1, 1]), PlanError::CoreTwice(1)),
            (cores(&[0, 0, 0]), Wish::Count(2), few),
        ] {
            assert_eq!(plan(&cores, &[port(1, None)], &wish), Err(want));
        }
    }
}
