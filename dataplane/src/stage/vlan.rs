//! Sub-ports (802.1Q): a frame with the tag of one loses it on its way in and is from then on a frame of that port; what leaves
//! by one is tagged on its way to the device it shares. Between the two nothing knows of tags.

use packet::{MacAddr, VlanTag, vlan};
use tables::{DropReason, PortId, Vlan};

use crate::{buf::PacketBuf, io::PortIo, lane::Lane, pass::Pass};

impl<P: PortIo> Pass<'_, P> {
    /// Takes a frame's tag off and goes to its sub-port; gives that one's Ethernet address, or `None` if there is none.
    #[cold]
    pub(crate) fn enter_vlan(&mut self, buf: &mut P::Buf, tag: VlanTag) -> Option<MacAddr> {
        let info = self.tables.sub_port(Vlan { parent: self.port, id: tag.id() })?;
        if !vlan::remove(buf.head_mut()) {
            return None;
        }
        buf.trim_front(vlan::TAG_LEN)?;
        self.port = info.id;
        self.state.counts.receive_tagged(info.id, buf.total_len() as u64);
        Some(info.mac)
    }

    /// Gathers a frame of a port without a device of its own; its priority is 0.
    #[cold]
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
