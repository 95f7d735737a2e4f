//! The netlink socket: subscriptions, dumps and the requests we make. Nothing is remembered here.

use std::collections::BTreeSet;

use futures_channel::mpsc::UnboundedReceiver;
use futures_util::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::SocketAddr;
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};

use super::decode::{self, Links};
use super::neighbors::{Key, Report};
use crate::network::NetworkRoute;

/// Why the kernel's state cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket.
    #[error("cannot open a netlink socket: {0}")]
    Open(#[from] std::io::Error),
    /// A request failed.
    #[error("netlink: {0}")]
    Request(#[from] rtnetlink::Error),
}

/// Everything at one moment.
#[derive(Debug, Default)]
pub(super) struct Dump {
    pub(super) addresses: BTreeSet<(u16, IpNet)>,
    pub(super) routes: Vec<Vec<NetworkRoute>>,
    pub(super) neighbors: Vec<(Key, Report)>,
}

/// One change on one of our ports; `true`: appeared, `false`: gone.
#[derive(Debug)]
pub(super) enum Event {
    Neighbor(Key, Report),
    /// The next hops of one route, and whether it is there.
    Routes(Vec<NetworkRoute>, bool),
    Address(u16, IpNet, bool),
    Link,
}

pub(super) struct Socket {
    handle: Handle,
    /// Changes as the kernel reports them.
    pub(super) events: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    /// Whether the kernel knows `NTF_EXT_MANAGED` (5.16).
    managed: bool,
}

impl Socket {
    /// Subscribes first, so that nothing is missed between a dump and its events.
    pub(super) fn open() -> Result<Self, NetlinkError> {
        let (connection, handle, events) = rtnetlink::new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ])?;
        tokio::spawn(connection);
        Ok(Self { handle, events, managed: true })
    }

    /// Whether the kernel keeps neighbours alive that it was asked for; else they need refreshing.
    pub(super) fn keeps_alive(&self) -> bool {
        self.managed
    }

    pub(super) async fn dump(&self, links: &Links) -> Result<Dump, NetlinkError> {
        let mut dump = Dump::default();
        let mut addresses = Box::pin(self.handle.address().get().execute());
        while let Some(message) = addresses.try_next().await? {
            dump.addresses.extend(decode::address(&message, links));
        }
        let v4 = RouteMessageBuilder::<std::net::Ipv4Addr>::new().build();
        let v6 = RouteMessageBuilder::<std::net::Ipv6Addr>::new().build();
        for family in [v4, v6] {
            let mut routes = Box::pin(self.handle.route().get(family).execute());
            while let Some(message) = routes.try_next().await? {
                dump.routes.push(decode::route(&message, links));
            }
        }
        let mut neighbors = Box::pin(self.handle.neighbours().get().execute());
        while let Some(message) = neighbors.try_next().await? {
            dump.neighbors.extend(decode::neighbour(&message, links));
        }
        Ok(dump)
    }

    /// Has the kernel resolve a neighbour now and keep it alive.
    pub(super) async fn ask(&mut self, key: Key, links: &Links) -> Result<(), NetlinkError> {
        let Some(mut message) = message(key, links) else { return Ok(()) };
        message.header.flags = NeighbourFlags::Use;
        let plain = message.clone();
        if self.managed {
            message.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
            match self.change(message).await {
                Err(NetlinkError::Request(rtnetlink::Error::NetlinkError(_))) => self.managed = false,
                other => return other,
            }
        }
        self.change(plain).await
    }

    /// The kernel may forget this neighbour: it becomes an ordinary one.
    pub(super) async fn forget(&mut self, key: Key, links: &Links) -> Result<(), NetlinkError> {
        let Some(message) = message(key, links) else { return Ok(()) };
        match self.handle.neighbours().del(message).execute().await {
            // It was gone before.
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc_enoent() => Ok(()),
            other => Ok(other?),
        }
    }

    async fn change(&mut self, message: NeighbourMessage) -> Result<(), NetlinkError> {
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewNeighbour(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        let mut answers = self.handle.request(request)?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload
                && error.code.is_some()
            {
                return Err(rtnetlink::Error::NetlinkError(error).into());
            }
        }
        Ok(())
    }
}

/// `ENOENT`, the same number on every Linux.
const fn libc_enoent() -> i32 {
    2
}

fn message((port, address): Key, links: &Links) -> Option<NeighbourMessage> {
    let (&ifindex, _) = links.iter().find(|(_, known)| **known == port)?;
    let mut message = NeighbourMessage::default();
    message.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.ifindex = ifindex;
    message.header.state = NeighbourState::None;
    message.attributes.push(NeighbourAttribute::Destination(address.into()));
    Some(message)
}

/// What a message means for our ports.
pub(super) fn event(message: RouteNetlinkMessage, links: &Links) -> Option<Event> {
    match message {
        RouteNetlinkMessage::NewNeighbour(message) => {
            decode::neighbour(&message, links).map(|(key, report)| Event::Neighbor(key, report))
        }
        RouteNetlinkMessage::DelNeighbour(message) => {
            decode::neighbour(&message, links).map(|(key, _)| Event::Neighbor(key, Report::Gone))
        }
        RouteNetlinkMessage::NewRoute(message) => Some(Event::Routes(decode::route(&message, links), true)),
        RouteNetlinkMessage::DelRoute(message) => Some(Event::Routes(decode::route(&message, links), false)),
        RouteNetlinkMessage::NewAddress(message) => {
            decode::address(&message, links).map(|(port, net)| Event::Address(port, net, true))
        }
        RouteNetlinkMessage::DelAddress(message) => {
            decode::address(&message, links).map(|(port, net)| Event::Address(port, net, false))
        }
        RouteNetlinkMessage::NewLink(message) | RouteNetlinkMessage::DelLink(message) => {
            links.contains_key(&message.header.index).then_some(Event::Link)
        }
        _ => None,
    }
}
