//! Coarse phase of a flow, which picks its timeout. It follows flags only: whether a reset or a client's first ACK is
//! believed, and what revives a flow that was reset, is the flow table's to say (`flow/touch`). SCTP's chunks come as the flags of TCP that do the same. UDP knows three phases: a
//! reply alone makes no stream, since a lone question and its answer (DNS) would be remembered for minutes.
//! Source: RFC 9293 section 3.3.2 seen from the middle; timeouts after Linux's nf_conntrack.

use packet::{Protocol, TcpFlags};

use crate::flow::Direction;

/// How far a flow has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Phase {
    /// No reply yet: a lone SYN, or datagrams one way.
    Embryonic = 0,
    /// TCP: the server answered the SYN; the client's ACK is awaited. UDP: a reply was seen, and the client sent no more.
    Answered = 1,
    /// Both ways work.
    Established = 2,
    /// TCP: the client has sent its FIN.
    FinByClient = 3,
    /// TCP: the server has sent its FIN first.
    FinByServer = 4,
    /// TCP: both FINs seen, the client's first: the client holds the TIME_WAIT.
    ClosedByClient = 5,
    /// TCP: both FINs seen, the server's first: the server holds the TIME_WAIT.
    ClosedByServer = 6,
    /// TCP: reset by either side.
    Reset = 7,
}

impl Phase {
    /// Every phase, in the order of its number.
    pub const ALL: [Self; 8] = [
        Self::Embryonic,
        Self::Answered,
        Self::Established,
        Self::FinByClient,
        Self::FinByServer,
        Self::ClosedByClient,
        Self::ClosedByServer,
        Self::Reset,
    ];

    /// True once nothing but stragglers is expected, so that a SYN may use the tuple anew.
    #[inline]
    #[must_use]
    pub const fn is_closed(self) -> bool {
        matches!(self, Self::ClosedByClient | Self::ClosedByServer | Self::Reset)
    }

    /// A short name for `show` and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Embryonic => "embryonic",
            Self::Answered => "answered",
            Self::Established => "established",
            Self::FinByClient => "fin-by-client",
            Self::FinByServer => "fin-by-server",
            Self::ClosedByClient => "closed-by-client",
            Self::ClosedByServer => "closed-by-server",
            Self::Reset => "reset",
        }
    }

    /// The phase after one more packet. Flags are ignored for UDP.
    #[inline]
    #[must_use]
    pub fn after(self, protocol: Protocol, direction: Direction, flags: TcpFlags) -> Self {
        match protocol {
            Protocol::Tcp | Protocol::Sctp => self.after_flags(direction, flags),
            Protocol::Udp => match (self, direction) {
                (Self::Embryonic, Direction::Reply) => Self::Answered,
                (Self::Answered, Direction::Original) => Self::Established,
                _ => self,
            },
        }
    }

    #[inline]
    fn after_flags(self, direction: Direction, flags: TcpFlags) -> Self {
        // The usual packet of an established flow carries none of the three.
        if self == Self::Established && !flags.steers() {
            return self;
        }
        if self.is_closed() {
            // Stragglers and late resets do not disturb what is known about the close.
            return if direction == Direction::Original && flags.opens() { Self::Embryonic } else { self };
        }
        if flags.rst() {
            return Self::Reset;
        }
        self.after_handshake(direction, flags).after_fin(direction, flags)
    }

    fn after_handshake(self, direction: Direction, flags: TcpFlags) -> Self {
        match (self, direction) {
            // A reply that is no SYN-ACK: the flow was taken up in the middle, and both ways work.
            (Self::Embryonic, Direction::Reply) => {
                if flags.syn() {
                    Self::Answered
                } else {
                    Self::Established
                }
            }
            (Self::Answered, Direction::Original) if !flags.syn() => Self::Established,
            // The server took a new connection on a half-closed tuple: it knows that the old one is over.
            (Self::FinByClient | Self::FinByServer, Direction::Reply) if flags.syn() => Self::Answered,
            (phase, _) => phase,
        }
    }

    fn after_fin(self, direction: Direction, flags: TcpFlags) -> Self {
        match (self, direction) {
            (phase, _) if !flags.fin() => phase,
            (Self::Embryonic | Self::Answered | Self::Established, Direction::Original) => Self::FinByClient,
            (Self::Embryonic | Self::Answered | Self::Established, Direction::Reply) => Self::FinByServer,
            (Self::FinByClient, Direction::Reply) => Self::ClosedByClient,
            (Self::FinByServer, Direction::Original) => Self::ClosedByServer,
            (phase, _) => phase,
        }
    }
}

/// How long a flow may be silent, in milliseconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timeouts {
    /// TCP with the handshake done.
    pub tcp_established_ms: u32,
    /// TCP, and SCTP, opening or closing.
    pub tcp_transient_ms: u32,
    /// UDP until the client sends again after a reply.
    pub udp_ms: u32,
    /// UDP from then on.
    pub udp_stream_ms: u32,
    /// SCTP with the handshake done.
    pub sctp_ms: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_established_ms: 7_200_000,
            tcp_transient_ms: 120_000,
            udp_ms: 30_000,
            udp_stream_ms: 180_000,
            sctp_ms: 7_200_000,
        }
    }
}

/// A reset flow is kept for its stragglers only (nf_conntrack_tcp_timeout_close).
const RESET_MS: u32 = 10_000;
/// The longest timeout, 20 days: ages are read modulo 2^32 ms, and half of that range means "in the future". The rest of
/// the other half, nearly 5 days, is when an expired flow can be told from a coming one: sweeps are far more frequent.
const LONGEST_MS: u32 = 20 * 86_400_000;

impl Timeouts {
    /// The silence after which a flow of this protocol in this phase is gone, in milliseconds.
    #[must_use]
    pub fn of(&self, protocol: Protocol, phase: Phase) -> u32 {
        let timeout = match (protocol, phase) {
            (Protocol::Tcp, Phase::Established) => self.tcp_established_ms,
            (Protocol::Tcp | Protocol::Sctp, Phase::Reset) => self.tcp_transient_ms.min(RESET_MS),
            (Protocol::Tcp, _) => self.tcp_transient_ms,
            (Protocol::Udp, Phase::Embryonic | Phase::Answered) => self.udp_ms,
            (Protocol::Udp, _) => self.udp_stream_ms,
            (Protocol::Sctp, Phase::Established) => self.sctp_ms,
            (Protocol::Sctp, _) => self.sctp_ms.min(self.tcp_transient_ms),
        };
        timeout.min(LONGEST_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::Direction::{Original, Reply};
    use super::*;

    const SYN: TcpFlags = TcpFlags::SYN;
    const ACK: TcpFlags = TcpFlags::ACK;
    const SYN_ACK: TcpFlags = TcpFlags(SYN.0 | ACK.0);
    const FIN_ACK: TcpFlags = TcpFlags(TcpFlags::FIN.0 | ACK.0);
    const RST: TcpFlags = TcpFlags::RST;

    #[test]
    fn tcp_phases_follow_the_conversation() {
        let handshake = [(Original, SYN), (Reply, SYN_ACK), (Original, ACK)];
        for (name, packets, want) in [
            ("retransmitted SYN", &[(Original, SYN), (Original, SYN)][..], Phase::Embryonic),
            ("SYN answered", &[(Original, SYN), (Reply, SYN_ACK)], Phase::Answered),
            ("answered, SYN again", &[(Reply, SYN_ACK), (Original, SYN)], Phase::Answered),
            ("handshake", &handshake, Phase::Established),
            ("refused", &[(Original, SYN), (Reply, RST)], Phase::Reset),
            ("taken up in the middle", &[(Original, ACK), (Reply, ACK)], Phase::Established),
            ("client closes", &[(Reply, ACK), (Original, FIN_ACK)], Phase::FinByClient),
            ("FIN again", &[(Reply, ACK), (Original, FIN_ACK), (Original, FIN_ACK)], Phase::FinByClient),
            (
                "both, client first",
                &[(Reply, ACK), (Original, FIN_ACK), (Reply, FIN_ACK)],
                Phase::ClosedByClient,
            ),
            (
                "both, server first",
                &[(Reply, ACK), (Reply, FIN_ACK), (Original, FIN_ACK)],
                Phase::ClosedByServer,
            ),
            (
                "tuple used anew after a half close",
                &[(Reply, ACK), (Original, FIN_ACK), (Original, SYN), (Reply, SYN_ACK), (Original, ACK)],
                Phase::Established,
            ),
            (
                "tuple used anew after the server's half close",
                &[(Reply, ACK), (Reply, FIN_ACK), (Original, SYN), (Reply, SYN_ACK)],
                Phase::Answered,
            ),
            ("reset", &[(Reply, ACK), (Original, RST)], Phase::Reset),
            ("SYN of a rebooted client", &[(Reply, ACK), (Original, SYN)], Phase::Established),
            ("ACK after reset", &[(Reply, RST), (Original, ACK)], Phase::Reset),
            ("SYN after reset", &[(Reply, RST), (Original, SYN)], Phase::Embryonic),
        ] {
            let step = |phase: Phase, &(direction, flags): &_| phase.after(Protocol::Tcp, direction, flags);
            assert_eq!(packets.iter().fold(Phase::Embryonic, step), want, "{name}");
        }
    }

    #[test]
    fn only_a_steering_segment_moves_an_established_flow() {
        for flags in (0..=u8::MAX).map(TcpFlags).filter(|flags| !flags.steers()) {
            for (protocol, direction) in Protocol::ALL.into_iter().flat_map(|p| [(p, Original), (p, Reply)]) {
                assert_eq!(Phase::Established.after(protocol, direction, flags), Phase::Established);
            }
        }
    }

    #[test]
    fn a_closed_tuple_reopens_by_a_syn_of_the_client_only() {
        for phase in Phase::ALL.into_iter().filter(|phase| phase.is_closed()) {
            assert_eq!(phase.after(Protocol::Tcp, Original, SYN), Phase::Embryonic);
            for (direction, flags) in
                [(Original, ACK), (Original, RST), (Reply, SYN), (Reply, SYN_ACK), (Reply, RST)]
            {
                assert_eq!(phase.after(Protocol::Tcp, direction, flags), phase);
            }
        }
    }

    #[test]
    fn datagrams_become_a_stream_when_the_client_goes_on_after_a_reply() {
        let step = |phase: Phase, &direction: &_| phase.after(Protocol::Udp, direction, TcpFlags::NONE);
        for (packets, want) in [
            (&[Original, Original][..], Phase::Embryonic),
            (&[Original, Reply, Reply], Phase::Answered),
            (&[Original, Reply, Original], Phase::Established),
            (&[Original, Reply, Original, Reply], Phase::Established),
        ] {
            assert_eq!(packets.iter().fold(Phase::Embryonic, step), want, "{packets:?}");
        }
    }

    #[test]
    fn an_sctp_association_opens_and_shuts_down() {
        let mut phase = Phase::Embryonic;
        for (name, direction, flags, want) in [
            ("INIT", Original, SYN, Phase::Embryonic),
            ("INIT ACK", Reply, SYN_ACK, Phase::Answered),
            ("COOKIE ECHO", Original, ACK, Phase::Established),
            ("COOKIE ACK", Reply, ACK, Phase::Established),
            ("SHUTDOWN", Original, FIN_ACK, Phase::FinByClient),
            ("SHUTDOWN ACK", Reply, FIN_ACK, Phase::ClosedByClient),
            ("SHUTDOWN COMPLETE", Original, ACK, Phase::ClosedByClient),
            ("INIT on the same ports", Original, SYN, Phase::Embryonic),
            ("ABORT", Reply, RST, Phase::Reset),
        ] {
            phase = phase.after(Protocol::Sctp, direction, flags);
            assert_eq!(phase, want, "{name}");
        }
    }

    #[test]
    fn timeouts_follow_protocol_and_phase() {
        let timeouts = Timeouts { sctp_ms: u32::MAX, ..Timeouts::default() };
        for (protocol, phase, want) in [
            (Protocol::Tcp, Phase::Embryonic, 120_000),
            (Protocol::Tcp, Phase::Established, 7_200_000),
            (Protocol::Tcp, Phase::ClosedByServer, 120_000),
            (Protocol::Tcp, Phase::Reset, 10_000),
            (Protocol::Udp, Phase::Embryonic, 30_000),
            (Protocol::Udp, Phase::Answered, 30_000),
            (Protocol::Udp, Phase::Established, 180_000),
            (Protocol::Sctp, Phase::Embryonic, 120_000),
            (Protocol::Sctp, Phase::Established, LONGEST_MS),
            (Protocol::Sctp, Phase::ClosedByServer, 120_000),
            (Protocol::Sctp, Phase::Reset, 10_000),
        ] {
            assert_eq!(timeouts.of(protocol, phase), want, "{protocol} {phase:?}");
        }
    }
}
