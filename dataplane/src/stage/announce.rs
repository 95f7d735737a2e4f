//! Speaking for new VIPs: a gratuitous ARP or an unsolicited neighbour advertisement on every port that answers for
//! one, once it is in the tables and not before.
//!
//! Old and new addresses are compared a shard at a time, and shards that two versions share are not looked into, so
//! one change among many costs next to nothing and a first load is spread over many loops.

use std::{net::IpAddr, sync::Arc};

use packet::reply;
use tables::{AddressInfo, AddressKind, Generation, PortInfo, Tables};

use crate::{io::PortIo, pass::Pass};

/// Shards compared in one loop while they are equal.
const SHARDS_A_LOOP: usize = 64;

/// How far the new VIPs have been announced.
#[derive(Debug)]
pub(crate) struct Announcer {
    /// The version that the present round measures by.
    heard: Option<Arc<Tables>>,
    /// The one that the next round will: of the versions replaced in the present round the first.
    next: Option<Arc<Tables>>,
    shard: usize,
}

impl Announcer {
    /// Nobody has heard of any VIP.
    pub(crate) fn new() -> Self {
        Self { heard: Some(Arc::new(Tables::empty(Generation(0)))), next: None, shard: 0 }
    }

    /// A round is under way.
    pub(crate) const fn is_busy(&self) -> bool {
        self.heard.is_some()
    }

    /// `new` tables took the place of `old`. A round under way goes on, so that it ends however often tables change, and
    /// another follows: shards it has passed were announced as `old` had them. A VIP may be announced twice. When
    /// addresses have moved between shards, as they do when these become more, the round starts anew.
    pub(crate) fn replaced(&mut self, old: Arc<Tables>, new: &Tables) {
        if old.addresses.shards() != new.addresses.shards() {
            self.shard = 0;
        }
        let measure = if self.heard.is_some() { &mut self.next } else { &mut self.heard };
        measure.get_or_insert(old);
    }
}

impl<P: PortIo> Pass<'_, P> {
    /// Announces the new VIPs of at most one shard.
    #[inline]
    pub(crate) fn announce(&mut self, announcer: &mut Announcer) {
        if let Some(heard) = announcer.heard.take() {
            self.announce_since(&heard, announcer);
            if announcer.shard < self.tables.addresses.shards() {
                announcer.heard = Some(heard);
            } else {
                (announcer.heard, announcer.shard) = (announcer.next.take(), 0);
            }
        }
    }

    #[cold]
    fn announce_since(&mut self, heard: &Tables, announcer: &mut Announcer) {
        let addresses = &self.tables.addresses;
        for _ in 0..SHARDS_A_LOOP {
            let shard = announcer.shard;
            announcer.shard += 1;
            if shard >= addresses.shards() || addresses.shares_shard(shard, &heard.addresses) {
                continue;
            }
            for (address, info) in addresses.shard(shard) {
                self.announce_address(address, info, heard.addresses.get(address));
            }
            return;
        }
    }

    fn announce_address(&mut self, address: IpAddr, info: AddressInfo, heard: Option<&AddressInfo>) {
        if matches!(info.kind, AddressKind::Own(_)) {
            return;
        }
        for PortInfo { id: port, mac, .. } in self.tables.ports() {
            let (port, mac) = (*port, *mac);
            let known = heard.is_some_and(|heard| heard.answer_arp.contains(port));
            if info.answer_arp.contains(port) && !known {
                self.originate(port, |out| match address {
                    IpAddr::V4(address) => reply::gratuitous_arp(out, mac, address, None),
                    IpAddr::V6(address) => reply::unsolicited_advertisement(out, mac, address, None),
                });
            }
        }
    }
}
