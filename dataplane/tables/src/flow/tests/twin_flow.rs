//! One flow of the naive twin.

use packet::{AnyKey, Protocol};

use crate::NatMode;
use crate::flow::FlowView;
use crate::tcp_state::Phase;

#[derive(Clone, Copy, Debug)]
pub(super) struct TwinFlow {
    pub(super) slot: u32,
    pub(super) view: FlowView,
    /// Position in the queue while the flow is half-open.
    pub(super) queued: Option<u64>,
    pub(super) bypass_reported: bool,
    /// The server's SYN was seen while the flow was in the queue: what the client must acknowledge is known.
    pub(super) syn_seen: bool,
    pub(super) epoch: u32,
    pub(super) hops: [Option<u16>; 2],
}

impl TwinFlow {
    /// How far the flow had come for certain before it was reset.
    pub(super) fn certain(&self) -> Phase {
        match (self.view.answered, self.queued) {
            (false, _) => Phase::Embryonic,
            (true, Some(_)) => Phase::Answered,
            (true, None) => Phase::Established,
        }
    }

    /// A packet with this key and no flag that steers renews the time and does no more.
    pub(super) fn rests(&self, key: AnyKey) -> bool {
        let tcp = self.view.original.protocol() == Protocol::Tcp;
        match (self.view.phase, self.view.answered) {
            (Phase::Established, true) => true,
            (Phase::Embryonic, false) if self.view.original == key => {
                !tcp || self.view.mode == NatMode::Snat || self.bypass_reported
            }
            (Phase::Answered, true) => !tcp && self.view.reply == key,
            _ => false,
        }
    }
}
