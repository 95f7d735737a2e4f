//! One state, both sides, all packets: what differs, and whether it may.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use lab::netns::Namespace;

use crate::compare;
use crate::differences::{Circumstances, Known};
use crate::fairlead::Fairlead;
use crate::kernel::Kernel;
use crate::oracle::Oracle;
use crate::packets;
use crate::place::Setting;
use crate::server::{self, Server};
use crate::shrink;
use crate::state::State;
use crate::walk::{self, Packet};

/// Packets of each state that are drawn for the kernel to be asked about too.
const SAMPLE: usize = 20;

/// Both sides, ready for states.
pub(crate) struct Trial {
    oracle: Oracle,
    kernel: Kernel,
    fairlead: Fairlead,
}

/// What was found in a state.
#[derive(Debug, Default)]
pub(crate) struct Finding {
    pub(crate) packets: usize,
    /// Packets that the kernel confirmed.
    pub(crate) confirmed: usize,
    /// Packets with a known difference.
    pub(crate) known: BTreeMap<Known, usize>,
    /// Packets with another one, with what it is.
    pub(crate) unknown: Vec<(Packet, String)>,
    /// Objects that the API server refused.
    pub(crate) refused: Vec<String>,
}

impl Trial {
    /// Starts everything under the name of a lab; `folder` is for files and logs.
    pub(crate) fn start(name: &str, folder: &Path) -> Result<Self> {
        let assets = server::assets()?;
        let namespace = Arc::new(Namespace::create(name, "node")?);
        let kernel = Kernel::new(&namespace)?;
        let server = Server::start(&assets, &namespace, &folder.join("kubernetes"))?;
        let oracle = Oracle::new(server, &assets, &namespace, folder)?;
        let fairlead = Fairlead::new(Path::new(env!("CARGO_BIN_EXE_fairlead")), &folder.join("fairlead"))?;
        Ok(Self { oracle, kernel, fairlead })
    }

    /// Changes the settings of both sides.
    pub(crate) fn set(&mut self, setting: &Setting) -> Result<()> {
        self.oracle.set(setting)
    }

    /// Asks both sides about all packets of a state.
    pub(crate) fn run(&mut self, setting: &Setting, seed: u64, state: &State) -> Result<Finding> {
        let followed = self.oracle.follow(state)?;
        let packets = packets::of(seed, &followed.objects);
        let circumstances = Circumstances::new(&followed.objects);
        let answers = self.fairlead.trace(setting, &followed.objects, &packets)?;
        let mut finding =
            Finding { packets: packets.len(), refused: followed.refused.clone(), ..Finding::default() };
        let step = (packets.len() / SAMPLE).max(1);
        for (number, (packet, answer)) in packets.iter().zip(&answers).enumerate() {
            let branches = walk::branches(followed.rules(packet), packet)
                .with_context(|| format!("kube-proxy's rules for {packet:?}"))?;
            if number % step == 0 && Kernel::can_tell(packet, &branches) {
                finding.confirmed += 1;
                if let Some(seen) = self.kernel.check(packet, &branches)? {
                    bail!("the kernel does something else with {packet:?}: {seen:?}, not {branches:?}");
                }
            }
            let Some(what) = compare::difference(&branches, answer)? else { continue };
            match circumstances.explain(packet, &branches, answer) {
                Some(known) => *finding.known.entry(known).or_default() += 1,
                None => {
                    let text = compare::describe(packet, &branches, answer, &what);
                    finding.unknown.push((*packet, text));
                }
            }
        }
        Ok(finding)
    }

    /// The smallest state in which a packet still has an unknown difference, as JSON with what it is then.
    pub(crate) fn shrink(&mut self, setting: &Setting, state: State, packet: &Packet) -> Result<String> {
        let mut last = String::new();
        let small = shrink::shrink(state, |candidate| {
            let text = self.differs(setting, candidate, packet)?;
            last = text.clone().unwrap_or(std::mem::take(&mut last));
            Ok(text.is_some())
        })?;
        let objects: Vec<_> = small.objects.iter().map(|object| format!("{object:#}\n")).collect();
        Ok(format!("{last}\nzone of this Node: {:?}\n{}", small.zone, objects.concat()))
    }

    fn differs(&mut self, setting: &Setting, state: &State, packet: &Packet) -> Result<Option<String>> {
        let followed = self.oracle.follow(state)?;
        let answers = self.fairlead.trace(setting, &followed.objects, std::slice::from_ref(packet))?;
        let branches = walk::branches(followed.rules(packet), packet)?;
        let known = Circumstances::new(&followed.objects).explain(packet, &branches, &answers[0]);
        let what = compare::difference(&branches, &answers[0])?.filter(|_| known.is_none());
        Ok(what.map(|what| compare::describe(packet, &branches, &answers[0], &what)))
    }
}
