//! `protection`, which frontends a port serves, and what those are told who are not served.

use tables::{Answers, KernelRates, Limits, RejectForm, Serves};

use crate::yaml::{At, Errors};

/// What the packet path can tell apart; more a second is no limit.
const RATE_MAX: u32 = 100_000_000;
const KINDS: [(&str, usize); 3] = [("VIP", 0), ("NodePort", 1), ("ClusterIP", 2)];

/// The limits, as for one worker that has all the traffic.
pub(super) fn protection(at: &At<'_>, errors: &Errors) -> Limits {
    at.only(&["newFlows", "kernel"], errors);
    let mut limits = Limits::default();
    if let Some(at) = at.field("newFlows") {
        at.only(&["perSource", "perService"], errors);
        let read = |key: &str| at.field(key).and_then(|at| at.number(0..=RATE_MAX, errors)).unwrap_or(0);
        (limits.flows_per_source, limits.flows_per_service) = (read("perSource"), read("perService"));
    }
    if let Some(at) = at.field("kernel") {
        limits.kernel = kernel(&at, errors);
    }
    limits
}

fn kernel(at: &At<'_>, errors: &Errors) -> KernelRates {
    at.only(&["neighbors", "icmp", "opens", "routing", "sessions", "other"], errors);
    let default = KernelRates::default();
    let read =
        |key: &str, default| at.field(key).and_then(|at| at.number(1..=RATE_MAX, errors)).unwrap_or(default);
    KernelRates {
        neighbors: read("neighbors", default.neighbors),
        icmp: read("icmp", default.icmp),
        opens: read("opens", default.opens),
        routing: read("routing", default.routing),
        sessions: read("sessions", default.sessions),
        other: read("other", default.other),
    }
}

/// The frontends that flows may begin at by a port.
pub(super) fn serves(at: &At<'_>, errors: &Errors) -> Serves {
    let mut found = [false; 3];
    for kind in at.items(errors).filter_map(|item| item.choice(&KINDS, errors)) {
        found[kind] = true;
    }
    let [vip, node_port, cluster_ip] = found;
    Serves { vip, node_port, cluster_ip }
}

/// What senders are told of packets that go no further; of `forwarding`.
pub(super) fn answers(at: &At<'_>, errors: &Errors) -> Answers {
    let default = Answers::default();
    let forms = [("auto", RejectForm::Auto), ("icmp", RejectForm::Icmp), ("silent", RejectForm::Silent)];
    let midstream = [("balance", true), ("refuse", false)];
    let echo = at.field("answerEcho").and_then(|at| at.boolean(errors));
    let reject = at.field("reject").and_then(|at| at.choice(&forms, errors));
    let takes_midstream = at.field("midstream").and_then(|at| at.choice(&midstream, errors));
    Answers {
        echo: echo.unwrap_or(default.echo),
        reject: reject.unwrap_or(default.reject),
        takes_midstream: takes_midstream.unwrap_or(default.takes_midstream),
    }
}
