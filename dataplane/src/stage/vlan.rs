//! Sub-ports (802.1Q): a frame with the tag of one loses it before it is parsed and is from then on a frame of that
//! port; what leaves by one is tagged on its way to the device it shares. Between the two nothing knows of tags.

use packet::{VlanTag, vlan};
use tables::{DropReason, PortId, Vlan};

use crate::{
    buf::{BURST, Burst, PacketBuf},
    io::PortIo,
    lane::Lane,
    pass::Pass,
    scratch::Scratch,
};

impl<P: PortIo> Pass<'_, P> {
    /// Takes the tags off those of a trunk's frames that are of a sub-port, and notes for each by which port it came in;
    /// gives the bytes of the tags. What is of no sub-port stays as it is.
    #[inline(never)]
    pub(crate) fn untag(&mut self, burst: &mut Burst<P::Buf>, scratch: &mut Scratch) -> u64 {
        let ports = scratch.ports.insert([self.port; BURST]);
        let mut tags = 0;
        for (slot, port) in ports.iter_mut().enumerate().take(burst.len()) {
            let Some(buf) = burst.slot_mut(slot) else { continue };
            if let Some(entered) = vlan::only_tag(buf.head()).and_then(|tag| self.enter_vlan(buf, tag)) {
                *port = entered;
                tags += vlan::TAG_LEN as u64;
            }
        }
        tags
    }

    /// Takes a frame's tag off; gives its sub-port, if there is one.
    fn enter_vlan(&mut self, buf: &mut P::Buf, tag: VlanTag) -> Option<PortId> {
        let port = self.tables.sub_port(Vlan { parent: self.port, id: tag.id() })?;
        if !vlan::remove(buf.head_mut()) {
            return None;
        }
        buf.trim_front(vlan::TAG_LEN)?;
        self.state.counts.receive_tagged(port, buf.total_len() as u64);
        Some(port)
    }

    /// Gathers a frame of a port without a device of its own; its priority is 0.
    #[inline(never)]
    pub(crate) fn gather_tagged(&mut self, mut buf: P::Buf, port: PortId, bytes: usize) {
        let Some(vlan) = self.tables.port(port).and_then(|info| info.vlan) else {
            return self.drop(buf, DropReason::BadDevice);
        };
        let tagged = buf.prepend(vlan::TAG_LEN).is_some() && vlan::insert(buf.head_mut(), VlanTag(vlan.id));
        let lane = self.lanes.get_mut(vlan.parent.index()).filter(|_| tagged);
        let Some(lane) = lane else { return self.drop(buf, DropReason::BadDevice) };
        match lane.send(buf, bytes + vlan::TAG_LEN) {
            Ok(()) => self.state.counts.transmit_tagged(port, bytes as u64),
            Err(buf) => self.drop(buf, DropReason::TxFull),
        }
    }

    /// The lane that a port's frames leave by.
    pub(crate) fn lane_mut(&mut self, port: PortId) -> Option<&mut Lane<P>> {
        let vlan = self.tables.port(port).and_then(|info| info.vlan);
        self.lanes.get_mut(vlan.map_or(port, |vlan| vlan.parent).index())
    }
}
