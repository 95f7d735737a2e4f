//! Asks the segments whether another host has an address: ARP probes (RFC 5227 §2.1) and solicitations for a duplicate
//! (RFC 4862 §5.4). Frames and time are arguments; what was asked is remembered, and bounded in rate. Not here: which
//! addresses are asked for, how frames leave and come (`mirror`), and what an answer means (`compile`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use packet::{ArpOperation, Body, MacAddr, NdKind, parse, reply};
use tables::PortId;
use tokio::time::Instant;

/// How often each address is asked for.
const PROBES: u8 = 3;
/// Between two probes for one address. RFC 5227 has hosts wait 1 to 2 s; that is for a host that has time to spare, while
/// here nobody is served meanwhile. Wires on which an answer takes longer than [`PATIENCE`] are none.
const INTERVAL: Duration = Duration::from_millis(250);
/// Silence for so long after the last probe means that nobody has the address.
const PATIENCE: Duration = Duration::from_millis(500);
/// Addresses asked for in one step, and the time between two: at most 3,200 a second.
const STEP_MAX: usize = 32;
const STEP: Duration = Duration::from_millis(10);

/// What a host said of an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Heard {
    /// Where it was heard.
    pub port: PortId,
    /// The address.
    pub address: IpAddr,
    /// Who has it, or asks for it.
    pub mac: MacAddr,
    /// Whether it only asks, as we do.
    pub probes: bool,
}

/// Who has an address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Holder {
    /// Its Ethernet address.
    pub mac: MacAddr,
    /// Name of the port behind which it is.
    pub port: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} behind port {}", self.mac, self.port)
    }
}

/// What became of a question: nobody has the address, or somebody.
pub type Answer = (IpAddr, Option<Holder>);

/// A port on which questions are asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Speaker {
    /// Its number.
    pub port: PortId,
    /// Its name.
    pub name: String,
    /// Its Ethernet address.
    pub mac: MacAddr,
}

/// The questions under way.
#[derive(Debug, Default)]
pub struct Inquiry {
    asked: BTreeMap<IpAddr, Question>,
    /// When each has its next step.
    schedule: BTreeSet<(Instant, IpAddr)>,
    /// Before then nothing is asked.
    paced: Option<Instant>,
}

#[derive(Debug)]
struct Question {
    speakers: Vec<Speaker>,
    sent: u8,
    next: Instant,
}

impl Inquiry {
    /// Begins to ask for an address on these ports; anew when it is asked for already.
    pub fn ask(&mut self, address: IpAddr, speakers: Vec<Speaker>, now: Instant) {
        self.drop_question(address);
        self.schedule.insert((now, address));
        self.asked.insert(address, Question { speakers, sent: 0, next: now });
    }

    /// Forgets every question.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Whether nothing is asked.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.asked.is_empty()
    }

    /// When [`Self::step`] has something to do.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        let (next, _) = self.schedule.first()?;
        Some(self.paced.map_or(*next, |paced| paced.max(*next)))
    }

    /// Asks what is due by `send`; gives the addresses that nobody has.
    pub fn step(&mut self, now: Instant, mut send: impl FnMut(PortId, &[u8])) -> Vec<Answer> {
        let mut free = Vec::new();
        if self.due().is_none_or(|due| due > now) {
            return free;
        }
        for _ in 0..STEP_MAX {
            let Some(address) = self.pop_due(now) else { break };
            let question = self.asked.get_mut(&address).expect("what is scheduled is asked");
            if question.sent == PROBES {
                self.asked.remove(&address);
                free.push((address, None));
                continue;
            }
            question.sent += 1;
            let mut frame = [0; reply::LEN_MAX];
            for speaker in &question.speakers {
                if let Some(len) = probe(&mut frame, speaker.mac, address) {
                    send(speaker.port, &frame[..len]);
                }
            }
            question.next = now + if question.sent == PROBES { PATIENCE } else { INTERVAL };
            self.schedule.insert((question.next, address));
        }
        self.paced = Some(now + STEP);
        free
    }

    /// Takes what a host said; gives the answer if it is one. Of two that ask at the same time the one with the lower
    /// Ethernet address goes on: with RFC 5227's rule, by which both give up, nobody would serve.
    pub fn hear(&mut self, heard: Heard) -> Option<Answer> {
        let question = self.asked.get(&heard.address)?;
        let ours = question.speakers.iter().any(|speaker| speaker.mac == heard.mac);
        let speaker = question.speakers.iter().find(|speaker| speaker.port == heard.port)?;
        if ours || (heard.probes && heard.mac > speaker.mac) {
            return None;
        }
        let holder = Holder { mac: heard.mac, port: speaker.name.clone() };
        self.drop_question(heard.address);
        Some((heard.address, Some(holder)))
    }

    fn pop_due(&mut self, now: Instant) -> Option<IpAddr> {
        let (next, address) = *self.schedule.first()?;
        (next <= now && self.schedule.remove(&(next, address))).then_some(address)
    }

    fn drop_question(&mut self, address: IpAddr) {
        if let Some(question) = self.asked.remove(&address) {
            self.schedule.remove(&(question.next, address));
        }
    }
}

fn probe(out: &mut [u8], mac: MacAddr, address: IpAddr) -> Option<usize> {
    match address {
        IpAddr::V4(address) => reply::arp_request(out, (mac, Ipv4Addr::UNSPECIFIED), address, None),
        IpAddr::V6(address) => reply::neighbor_solicitation(out, (mac, Ipv6Addr::UNSPECIFIED), address, None),
    }
}

/// What a frame says of who has an address; none when it says nothing of that.
#[must_use]
pub fn read(port: PortId, frame: &[u8]) -> Option<Heard> {
    let parsed = parse(frame, frame.len()).ok()?;
    let (address, mac, probes) = match parsed.body {
        Body::Arp(arp) if !arp.sender_ip.is_unspecified() => (arp.sender_ip.into(), arp.sender_mac, false),
        Body::Arp(arp) if arp.operation == ArpOperation::Request => {
            (arp.target_ip.into(), arp.sender_mac, true)
        }
        Body::Nd(nd) if nd.kind == NdKind::NeighborAdvertisement => {
            (nd.target.into(), nd.link_layer.unwrap_or(parsed.src_mac), false)
        }
        Body::Nd(nd) if nd.kind == NdKind::NeighborSolicitation && nd.src.is_unspecified() => {
            (nd.target.into(), parsed.src_mac, true)
        }
        Body::Nd(nd) => (nd.src.into(), nd.link_layer.unwrap_or(parsed.src_mac), false),
        _ => return None,
    };
    Some(Heard { port, address, mac, probes })
}

#[cfg(test)]
mod tests {
    use packet::Arp;

    use super::*;

    const OURS: MacAddr = MacAddr([2, 0, 0, 0, 0, 5]);
    const LOWER: MacAddr = MacAddr([2, 0, 0, 0, 0, 4]);
    const HIGHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 6]);
    const PORT: PortId = PortId(1);

    fn at(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn speaker() -> Speaker {
        Speaker { port: PORT, name: "outside".into(), mac: OURS }
    }

    fn asking(addresses: &[IpAddr], now: Instant) -> Inquiry {
        let mut inquiry = Inquiry::default();
        addresses.iter().for_each(|address| inquiry.ask(*address, vec![speaker()], now));
        inquiry
    }

    /// Frames with the time at which they were sent.
    type Sent = Vec<(Duration, Vec<u8>)>;

    /// Steps until nothing is asked any more; also how long that took.
    fn run(inquiry: &mut Inquiry, from: Instant) -> (Sent, Vec<Answer>, Duration) {
        let (mut sent, mut answers, mut now) = (Vec::new(), Vec::new(), from);
        while let Some(due) = inquiry.due() {
            now = due.max(now);
            answers.extend(inquiry.step(now, |port, frame| {
                assert_eq!(port, PORT);
                sent.push((now - from, frame.to_vec()));
            }));
        }
        (sent, answers, now - from)
    }

    #[tokio::test]
    async fn silence_after_three_probes_means_that_nobody_has_it() {
        for address in [at("192.0.2.9"), at("2001:db8:1::9")] {
            let now = Instant::now();
            let mut inquiry = asking(&[address], now);
            let (sent, answers, took) = run(&mut inquiry, now);
            assert_eq!(answers, [(address, None)]);
            assert!(inquiry.is_quiet());
            let times: Vec<_> = sent.iter().map(|(time, _)| time.as_millis()).collect();
            assert_eq!((times, took.as_millis()), (vec![0, 250, 500], 1000));
            for (_, frame) in &sent {
                let want = Heard { port: PORT, address, mac: OURS, probes: true };
                assert_eq!(read(PORT, frame), Some(want), "what we send is a probe");
            }
        }
    }

    #[tokio::test]
    async fn whoever_answers_has_it() {
        let (v4, v6) = (at("192.0.2.9"), at("2001:db8:1::9"));
        let (IpAddr::V4(v4_only), IpAddr::V6(v6_only)) = (v4, v6) else { panic!() };
        let arp = |operation, sender_ip, target_ip| {
            let arp = Arp { operation, sender_mac: HIGHER, sender_ip, target_mac: OURS, target_ip };
            [&OURS.0[..], &HIGHER.0, &[8, 6], &arp.bytes()].concat()
        };
        let written = |write: &dyn Fn(&mut [u8]) -> Option<usize>| {
            let mut buffer = [0; reply::LEN_MAX];
            let len = write(&mut buffer).expect("room");
            buffer[..len].to_vec()
        };
        let advertises = |out: &mut [u8]| reply::unsolicited_advertisement(out, HIGHER, v6_only, None);
        let other = "2001:db8:1::1".parse().expect("an address");
        let solicits = |out: &mut [u8]| reply::neighbor_solicitation(out, (HIGHER, v6_only), other, None);
        let unspecified = Ipv4Addr::UNSPECIFIED;
        for (name, address, frame) in [
            ("a reply to a probe", v4, arp(ArpOperation::Reply, v4_only, unspecified)),
            ("an announcement", v4, arp(ArpOperation::Request, v4_only, v4_only)),
            ("a question of its own", v4, arp(ArpOperation::Request, v4_only, Ipv4Addr::new(192, 0, 2, 1))),
            ("an advertisement", v6, written(&advertises)),
            ("a solicitation of its own", v6, written(&solicits)),
        ] {
            let now = Instant::now();
            let mut inquiry = asking(&[v4, v6], now);
            let heard = read(PORT, &frame).expect(name);
            let holder = Holder { mac: HIGHER, port: "outside".into() };
            assert_eq!(inquiry.hear(heard), Some((address, Some(holder))), "{name}");
            assert_eq!(inquiry.hear(heard), None, "{name}: answered once");
            let other = if address == v4 { v6 } else { v4 };
            assert_eq!(run(&mut inquiry, now).1, [(other, None)], "{name}");
        }
    }

    #[tokio::test]
    async fn of_two_that_ask_at_once_the_lower_goes_on_and_nobody_hears_himself() {
        let address = at("192.0.2.9");
        let heard = |mac, probes| Heard { port: PORT, address, mac, probes };
        let mut inquiry = asking(&[address], Instant::now());
        for ignored in [
            heard(OURS, false),
            heard(OURS, true),
            heard(HIGHER, true),
            Heard { port: PortId(0), ..heard(HIGHER, false) },
            Heard { address: at("192.0.2.8"), ..heard(HIGHER, false) },
        ] {
            assert_eq!(inquiry.hear(ignored), None, "{ignored:?}");
        }
        assert!(inquiry.hear(heard(LOWER, true)).is_some());
        assert!(inquiry.is_quiet() && inquiry.due().is_none());
    }

    #[tokio::test]
    async fn many_addresses_are_asked_for_at_a_bounded_rate() {
        let addresses: Vec<IpAddr> =
            (0..2_000).map(|n| Ipv4Addr::from_bits(0x0a00_0000 + n).into()).collect();
        let now = Instant::now();
        let (sent, answers, took) = run(&mut asking(&addresses, now), now);
        assert_eq!((sent.len(), answers.len()), (6_000, 2_000));
        for window in sent.windows(33) {
            assert!(window[32].0 - window[0].0 >= STEP, "more than 32 in one step");
        }
        assert!(took < Duration::from_secs(4), "{took:?}");
    }
}
