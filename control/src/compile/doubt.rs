//! Addresses of the last known state that lie on a port's own segment: while the API server has not confirmed them another
//! host may have been given one, so they are not served before the segment was asked and nobody there has them.
//!
//! Addresses in no connected network are reached by routes: whoever routes decides about them, and no host answers for them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use tables::PortInfo;

use super::Compiler;
use crate::inquiry::{Answer, Holder, Speaker};

/// What is known of addresses that nobody has confirmed.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    /// Whether the state is the one of an earlier run.
    stale: bool,
    known: BTreeMap<IpAddr, Doubt>,
    /// Addresses to ask for.
    questions: BTreeSet<IpAddr>,
}

#[derive(Debug)]
enum Doubt {
    Asked,
    Held(Holder),
    Free,
}

impl Doubts {
    /// Why a load balancer address or externalIP must not be served now; none when it may.
    pub(super) fn objection(&mut self, address: IpAddr, ports: &[PortInfo]) -> Option<String> {
        if !self.stale || segments(address, ports).next().is_none() {
            return None;
        }
        match self.known.get(&address) {
            Some(Doubt::Free) => None,
            Some(Doubt::Held(holder)) => Some(format!(
                "{address} is not served: {holder} has it, and the API server, which could say whose it is, is away"
            )),
            Some(Doubt::Asked) => Some(asked(address)),
            None => {
                self.known.insert(address, Doubt::Asked);
                self.questions.insert(address);
                Some(asked(address))
            }
        }
    }
}

fn asked(address: IpAddr) -> String {
    format!("{address} is not served yet: its segment is being asked whether another host has it")
}

/// Ports whose segment an address lies on, and which would answer for it.
fn segments(address: IpAddr, ports: &[PortInfo]) -> impl Iterator<Item = &PortInfo> {
    ports.iter().filter(move |port| port.serves.vip && port.is_connected(address))
}

impl Compiler {
    /// What comes now is the state of an earlier run; or it is confirmed, and nothing is in doubt any more.
    pub fn set_stale(&mut self, stale: bool) {
        let doubts = std::mem::take(&mut self.doubts);
        self.doubts.stale = stale;
        self.tables.asking = stale;
        let settled = doubts.known.into_iter().filter(|(_, doubt)| !matches!(doubt, Doubt::Free));
        self.mark_askers(&settled.map(|(address, _)| address).collect());
    }

    /// Addresses that were not asked for yet, with the ports to ask on. The answer is [`Self::settle`]'s.
    pub fn take_questions(&mut self) -> Vec<(IpAddr, Vec<Speaker>)> {
        std::mem::take(&mut self.doubts.questions).into_iter().map(|at| (at, self.speakers(at))).collect()
    }

    /// Where to ask for an address.
    #[must_use]
    pub fn speakers(&self, address: IpAddr) -> Vec<Speaker> {
        let speaker = |port: &PortInfo| Speaker { port: port.id, name: port.name.clone(), mac: port.mac };
        segments(address, self.tables.ports()).map(speaker).collect()
    }

    /// Takes answers in; they show in the next `compile`.
    pub fn settle(&mut self, answers: Vec<Answer>) {
        let mut changed = BTreeSet::new();
        for (address, holder) in answers {
            let Some(known) = self.doubts.known.get_mut(&address) else { continue };
            *known = holder.map_or(Doubt::Free, Doubt::Held);
            changed.insert(address);
        }
        self.mark_askers(&changed);
    }

    /// Whether an address is being asked for the first time.
    #[must_use]
    pub fn is_asking(&self) -> bool {
        self.doubts.known.values().any(|doubt| matches!(doubt, Doubt::Asked))
    }

    /// Addresses that other hosts have.
    pub fn held_elsewhere(&self) -> impl Iterator<Item = IpAddr> {
        let held = self.doubts.known.iter().filter(|(_, doubt)| matches!(doubt, Doubt::Held(_)));
        held.map(|(address, _)| *address)
    }

    /// Services that ask for one of these addresses are to be compiled anew.
    pub(super) fn mark_askers(&mut self, addresses: &BTreeSet<IpAddr>) {
        if addresses.is_empty() {
            return;
        }
        let asks = |address: &IpAddr| addresses.contains(address);
        let affected = self.compiled.iter().filter(|(_, compiled)| compiled.asked.iter().any(asks));
        self.dirty.services.extend(affected.map(|(key, _)| key.clone()));
    }
}
