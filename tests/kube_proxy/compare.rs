//! One packet, two answers: whether they are the same, and if not, whether the difference is a known and wanted one.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::SocketAddr;

use anyhow::Result;

use crate::fairlead::Answer;
use crate::walk::{Branch, Packet};

/// Why the answers differ; none when they are the same.
pub(crate) fn difference(branches: &[Branch], answer: &Answer) -> Result<Option<String>> {
    let theirs: BTreeSet<SocketAddr> = branches.iter().filter_map(|branch| branch.backend).collect();
    let ours: BTreeSet<SocketAddr> = answer.candidates.iter().copied().collect();
    if theirs != ours {
        return Ok(Some(format!("candidates: kube-proxy {theirs:?}, Fairlead {ours:?}")));
    }
    let fate = answer.fate()?;
    let same = |branch: &&Branch| {
        let backend = answer.backend.is_none() || branch.backend == answer.backend;
        backend && branch.fate == fate
    };
    let alike: Vec<_> = branches.iter().filter(same).collect();
    if alike.is_empty() {
        return Ok(Some(format!("verdict: kube-proxy {:?}, Fairlead {fate:?}", branches[0].fate)));
    }
    if answer.backend.is_some() && alike.iter().all(|branch| branch.snat != answer.snat) {
        return Ok(Some(format!("source rewrite: kube-proxy {}, Fairlead {}", alike[0].snat, answer.snat)));
    }
    Ok(None)
}

/// A packet with both answers, for people.
pub(crate) fn describe(packet: &Packet, branches: &[Branch], answer: &Answer, what: &str) -> String {
    let mut text = format!(
        "{} {} > {} ({:?})\n  {what}\n  Fairlead: {:?} {} {} backend {:?} of {:?} snat {}\n",
        packet.protocol,
        packet.src,
        packet.dst,
        packet.origin,
        answer.fate().ok(),
        answer.reason,
        answer.service.as_deref().unwrap_or("no Service"),
        answer.backend,
        answer.candidates,
        answer.snat,
    );
    for branch in branches {
        let _ = writeln!(
            text,
            "  kube-proxy: {:?} backend {:?} snat {}",
            branch.fate, branch.backend, branch.snat
        );
    }
    text
}
