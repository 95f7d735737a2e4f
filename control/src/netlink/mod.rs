//! Follows the kernel's neighbours, routes and addresses on the ports' mirrors, and has next hops resolved there.
//!
//! One task owns the socket and the state; out goes a [`Network`] whenever it changed. Events that the kernel dropped
//! are made good by comparing with whole dumps. Not here: the devices themselves (`mirror`).

mod decode;
mod neighbors;
mod socket;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::FutureExt;
use ipnet::IpNet;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use self::decode::Links;
pub(crate) use self::decode::OUR_ROUTES;
use self::neighbors::{Key, Neighbors, Order, Report};
use self::socket::{Event, Socket};
use crate::network::{Network, NetworkPort, NetworkRoute, RouteHop};

pub use self::socket::NetlinkError;

/// How often the state is compared with whole dumps, and kept neighbours are refreshed on kernels that need it: half of
/// the kernel's default reachable time.
const RESYNC_INTERVAL: Duration = Duration::from_secs(15);
/// Requests that may wait; more are dropped, the worker asks again.
const REQUESTS_MAX: usize = 1024;

/// A port with a mirror: the kernel's number of the device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Link {
    /// Port index.
    pub port: u16,
    /// Kernel interface index.
    pub ifindex: u32,
}

/// Asks the kernel for neighbours; cheap to clone.
#[derive(Clone, Debug)]
pub struct Resolver {
    requests: mpsc::Sender<Request>,
}

#[derive(Debug)]
enum Request {
    Resolve(Key),
    Pin(BTreeSet<Key>),
}

impl Resolver {
    /// Has one host resolved and kept. When too many requests wait, this one is dropped; the worker asks again.
    pub fn resolve(&self, port: u16, address: IpAddr) {
        if self.requests.try_send(Request::Resolve((port, address))).is_err() {
            tracing::debug!(port, %address, "too many neighbours asked for at once");
        }
    }

    /// These next hops of routes, as port index and address, are in use now; earlier ones no longer.
    pub async fn pin(&self, next_hops: BTreeSet<(u16, IpAddr)>) {
        // A closed channel means the process ends.
        let _ = self.requests.send(Request::Pin(next_hops)).await;
    }
}

/// Starts following. `ports` are the ports as configured, `links` those with a mirror. The first value is complete: it
/// holds what the kernel knew at the start.
///
/// # Errors
/// When the kernel refuses the socket or a dump.
pub async fn follow(
    ports: Vec<NetworkPort>,
    links: &[Link],
) -> Result<(Resolver, watch::Receiver<Arc<Network>>), NetlinkError> {
    let (requests, inbox) = mpsc::channel(REQUESTS_MAX);
    let links: Links = links.iter().map(|link| (link.ifindex, link.port)).collect();
    let mut follower = Follower {
        socket: Socket::open()?,
        state: State { ports, links, ..State::default() },
        started: Instant::now(),
    };
    follower.resync().await?;
    let (out, network) = watch::channel(Arc::new(follower.state.network()));
    tokio::spawn(follower.run(inbox, out));
    Ok((Resolver { requests }, network))
}

struct Follower {
    socket: Socket,
    state: State,
    started: Instant,
}

/// What is known, without a socket.
#[derive(Debug, Default)]
struct State {
    ports: Vec<NetworkPort>,
    links: Links,
    neighbors: Neighbors,
    routes: BTreeMap<(IpNet, u32), Vec<RouteHop>>,
    addresses: BTreeSet<(u16, IpNet)>,
}

impl Follower {
    async fn run(mut self, mut inbox: mpsc::Receiver<Request>, out: watch::Sender<Arc<Network>>) {
        let mut ticks = tokio::time::interval_at(Instant::now() + RESYNC_INTERVAL, RESYNC_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = self.socket.events.next() => match event {
                    Some((message, _)) => self.take(message.payload).await,
                    None => return tracing::error!("the kernel closed the netlink socket; neighbours and routes are no longer followed"),
                },
                request = inbox.recv() => match request {
                    Some(request) => self.serve(request).await,
                    None => return,
                },
                _ = ticks.tick() => self.tick().await,
            }
            // Whatever else is ready belongs to the same change.
            while let Some(Some((message, _))) = self.socket.events.next().now_or_never() {
                self.take(message.payload).await;
            }
            self.publish(&out);
        }
    }

    async fn take(&mut self, payload: NetlinkPayload<RouteNetlinkMessage>) {
        let message = match payload {
            NetlinkPayload::InnerMessage(message) => message,
            NetlinkPayload::Overrun(_) => return self.resync_or_warn().await,
            _ => return,
        };
        let now_ms = self.now_ms();
        match socket::event(message, &self.state.links) {
            Some(Event::Neighbor(key, report)) => {
                let orders = self.state.neighbors.report(key, report, now_ms);
                self.obey(orders).await;
            }
            Some(Event::Routes(routes, _)) if routes.is_empty() => {}
            Some(Event::Routes(routes, true)) => self.state.learn(&routes),
            // One of several routes for a prefix may remain, and a link that went down takes routes along in silence.
            Some(Event::Routes(_, false) | Event::Link) => self.resync_or_warn().await,
            Some(Event::Address(port, net, true)) => _ = self.state.addresses.insert((port, net)),
            Some(Event::Address(port, net, false)) => _ = self.state.addresses.remove(&(port, net)),
            None => {}
        }
    }

    async fn serve(&mut self, request: Request) {
        let now_ms = self.now_ms();
        let orders = match request {
            Request::Resolve(key) => self.state.neighbors.ask(key, now_ms),
            Request::Pin(keys) => self.state.neighbors.pin(keys, now_ms),
        };
        self.obey(orders).await;
    }

    async fn tick(&mut self) {
        self.resync_or_warn().await;
        let given_up = self.state.neighbors.expire(self.now_ms());
        self.obey(given_up).await;
        if !self.socket.keeps_alive() {
            self.obey(self.state.neighbors.refresh()).await;
        }
    }

    async fn obey(&mut self, orders: impl IntoIterator<Item = Order>) {
        for order in orders {
            let result = match order {
                Order::Ask(key) if self.state.is_ours(&key) => continue,
                Order::Ask(key) => self.socket.ask(key, &self.state.links).await,
                Order::Forget(key) => self.socket.forget(key, &self.state.links).await,
            };
            if let Err(error) = result {
                tracing::warn!(?order, %error, "the kernel refused a neighbour request");
            }
        }
    }

    async fn resync_or_warn(&mut self) {
        if let Err(error) = self.resync().await {
            tracing::warn!(%error, "the kernel's neighbours and routes could not be read; the last known ones stay in force");
        }
    }

    async fn resync(&mut self) -> Result<(), NetlinkError> {
        let dump = self.socket.dump(&self.state.links).await?;
        self.state.addresses = dump.addresses;
        self.state.routes.clear();
        dump.routes.iter().for_each(|routes| self.state.learn(routes));
        let now_ms = self.now_ms();
        let seen: BTreeSet<Key> = dump.neighbors.iter().map(|(key, _)| *key).collect();
        for (key, report) in dump.neighbors {
            let orders = self.state.neighbors.report(key, report, now_ms);
            self.obey(orders).await;
        }
        for key in self.state.neighbors.missing_from(&seen) {
            let orders = self.state.neighbors.report(key, Report::Gone, now_ms);
            self.obey(orders).await;
        }
        Ok(())
    }

    fn publish(&self, out: &watch::Sender<Arc<Network>>) {
        let network = self.state.network();
        out.send_if_modified(|current| {
            let changed = **current != network;
            if changed {
                *current = Arc::new(network);
            }
            changed
        });
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl State {
    /// Takes in what one message says: every next hop of one route.
    fn learn(&mut self, routes: &[NetworkRoute]) {
        if let Some(first) = routes.first() {
            let hops = routes.iter().map(|route| route.hop).collect();
            self.routes.insert((first.to, first.metric), hops);
        }
    }

    /// Configured addresses come first and in their order; what else the kernel has on the device follows.
    fn network(&self) -> Network {
        let mut ports = self.ports.clone();
        for (port, net) in &self.addresses {
            let Some(port) = ports.get_mut(usize::from(*port)) else { continue };
            if !port.addresses.iter().any(|known| known.addr() == net.addr()) {
                port.addresses.push(*net);
            }
        }
        let several = |(&(to, metric), hops): (&(IpNet, u32), &Vec<RouteHop>)| {
            hops.iter().map(|&hop| NetworkRoute { to, hop, metric }).collect::<Vec<_>>()
        };
        let routes = self.routes.iter().flat_map(several).collect();
        Network { ports, routes, neighbors: self.neighbors.list() }
    }

    /// The kernel resolves no address of its own.
    fn is_ours(&self, key: &Key) -> bool {
        self.addresses.iter().any(|(port, net)| *port == key.0 && net.addr() == key.1)
    }
}
