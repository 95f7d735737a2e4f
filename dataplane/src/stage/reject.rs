//! Telling a sender that its packet went no further: RST for TCP, ICMP for the rest, within a rate; or as the configuration
//! says.
//!
//! A reset rather than ICMP for TCP: clients see the same "connection refused", and it is not held back by ICMP limits
//! on the way. The packet itself is dropped and counted by its reason; the answer is counted as originated.

use packet::{
    Body, Family, Parsed, Protocol,
    reply::{self, IcmpError, Sender},
};
use tables::{DropReason, RejectForm};

use crate::{buf::PacketBuf, io::PortIo, pass::Pass};

/// What a refused sender hears.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Told {
    /// A TCP reset.
    Reset,
    /// An ICMP or ICMPv6 error.
    PortUnreachable,
}

/// What the sender of such a packet (`None`: one without ports) hears when it is refused; `None`: nothing.
pub(crate) fn told(form: RejectForm, protocol: Option<Protocol>) -> Option<Told> {
    match (form, protocol) {
        (RejectForm::Silent, _) => None,
        (RejectForm::Auto, Some(Protocol::Tcp)) => Some(Told::Reset),
        (RejectForm::Auto | RejectForm::Icmp, _) => Some(Told::PortUnreachable),
    }
}

impl<P: PortIo> Pass<'_, P> {
    /// Refuses a packet in the name of its receiver.
    #[cold]
    pub(crate) fn reject(&mut self, buf: P::Buf, parsed: &Parsed, reason: DropReason) {
        let protocol = match parsed.body {
            Body::Flow { key, .. } => Some(key.protocol()),
            _ => None,
        };
        match told(self.tables.answers.reject, protocol) {
            None => self.drop(buf, reason),
            Some(Told::Reset) => {
                if self.state.limit.allow(self.now) {
                    self.originate(self.port, |out| reply::tcp_reset(out, buf.head(), parsed));
                }
                self.drop(buf, reason);
            }
            Some(Told::PortUnreachable) => {
                let from = parsed.addrs().map(|addrs| addrs.dst());
                self.explain(buf, parsed, (IcmpError::PortUnreachable, from), reason);
            }
        }
    }

    /// The packet has come too far.
    #[cold]
    pub(crate) fn ttl_exceeded(&mut self, buf: P::Buf, parsed: &Parsed) {
        self.explain(buf, parsed, (IcmpError::TtlExceeded, None), DropReason::TtlExceeded);
    }

    /// The packet is too long for its way out.
    #[cold]
    pub(crate) fn too_big(&mut self, buf: P::Buf, parsed: &Parsed, mtu: u16) {
        self.explain(buf, parsed, (IcmpError::TooBig { mtu }, None), DropReason::TooBig);
    }

    /// Drops a packet and says why, from the given address or else from one of the port it came in by.
    fn explain(
        &mut self,
        buf: P::Buf,
        parsed: &Parsed,
        (error, from): (IcmpError, Option<std::net::IpAddr>),
        reason: DropReason,
    ) {
        let sender = self.tables.port(self.port).and_then(|info| {
            let client = parsed.addrs()?.src();
            let address = from.or_else(|| info.first_address(Family::of(client)))?;
            Some(Sender { mac: info.mac, address })
        });
        if let Some(sender) = sender
            && reply::may_be_answered(parsed)
            && self.state.limit.allow(self.now)
        {
            self.originate(self.port, |out| reply::icmp_error(out, buf.head(), parsed, sender, error));
        }
        self.drop(buf, reason);
    }
}
