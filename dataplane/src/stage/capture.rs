//! Shows packets to control, if it wants to see any: as they arrive, as they leave, and as they are dropped. Everything
//! here is off the way of packets while nothing is wanted; packets that pass are wanted at the price of the long way.
//!
//! With several workers a packet is shown by the one that has its flow, which alone knows what Service it is of.

use packet::{AnyKey, Parsed};
use tables::{
    PortId, ServiceId,
    capture::{Event, ServiceName, keys},
};

use super::classify::{Class, classify};
use crate::{
    buf::{Burst, PacketBuf},
    io::PortIo,
    pass::Pass,
};

impl<P: PortIo> Pass<'_, P> {
    /// Shows what came in, before anything is done to it.
    #[cold]
    #[inline(never)]
    pub(crate) fn show_arrivals(&mut self, burst: &Burst<P::Buf>) {
        // The worker that had these parts of a datagram first has shown them.
        if self.settled {
            return;
        }
        for buf in burst.iter() {
            let facts = packet::parse(buf.head(), buf.total_len()).ok();
            let foreign = facts.as_ref().is_some_and(|facts| self.foreign_owner(facts).is_some());
            if !foreign {
                self.show_read(buf, facts.as_ref(), (Event::Arrived, self.port));
            }
        }
    }

    /// Shows a packet that matches.
    #[cold]
    #[inline(never)]
    pub(crate) fn show(&mut self, buf: &P::Buf, event: Event, port: PortId) {
        let facts = packet::parse(buf.head(), buf.total_len()).ok();
        self.show_read(buf, facts.as_ref(), (event, port));
    }

    fn show_read(&mut self, buf: &P::Buf, facts: Option<&Parsed>, (event, port): (Event, PortId)) {
        let Some(filter) = self.state.capture.filter() else { return };
        if !filter.matches(event, facts) {
            return;
        }
        if let Some(name) = filter.service
            && !facts.is_some_and(|facts| self.is_of(facts, &name))
        {
            return;
        }
        self.state.capture.take((event, port), buf.total_len(), buf.segments(), self.now);
    }

    /// Whether a packet is to or from a Service: by its flow, or by what it would begin, either way round.
    fn is_of(&mut self, facts: &Parsed, name: &ServiceName) -> bool {
        keys(facts).any(|key| {
            let service = self.service_of_flow(key).or_else(|| self.service_at(key));
            let port = service.and_then(|service| self.tables.service(service));
            port.is_some_and(|port| name.names(&port.info))
        })
    }

    fn service_of_flow(&mut self, key: AnyKey) -> Option<ServiceId> {
        // A packet that is about to leave has the reverse of its flow's other key.
        let (flow, _) = self.flow_of(key).or_else(|| self.flow_of(key.reversed()))?;
        Some(self.state.flows.ids(flow).0)
    }

    fn service_at(&self, key: AnyKey) -> Option<ServiceId> {
        let served = |key| {
            let class = match key {
                AnyKey::V4(key) => classify(self.tables, &key),
                AnyKey::V6(key) => classify(self.tables, &key),
            };
            match class {
                Class::Service(served) => Some(served.port.id),
                _ => None,
            }
        };
        served(key).or_else(|| served(key.reversed()))
    }
}
