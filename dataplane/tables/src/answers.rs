//! What senders are told of packets that go no further, as the configuration says.

/// How the appliance behaves towards those whose packets it does not pass on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Answers {
    /// VIPs with a usable backend answer pings.
    pub echo: bool,
    /// How a refusal looks.
    pub reject: RejectForm,
    /// A TCP or SCTP packet from the middle of a connection of which no flow is known begins one, as a SYN does; else it is
    /// refused.
    pub takes_midstream: bool,
}

impl Default for Answers {
    /// What a cluster's clients are used to: pings are answered, refusals told, connections taken up (kube-proxy's
    /// `nf_conntrack_tcp_loose`).
    fn default() -> Self {
        Self { echo: true, reject: RejectForm::Auto, takes_midstream: true }
    }
}

/// How a refusal looks to its sender.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum RejectForm {
    /// A reset for TCP, port unreachable for the rest.
    #[default]
    Auto,
    /// Port unreachable for all (ICMP, ICMPv6): what kube-proxy's `reject` does.
    Icmp,
    /// Nothing is said.
    Silent,
}
