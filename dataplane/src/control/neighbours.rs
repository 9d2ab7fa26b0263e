//! What the kernel knows of the uplink's link: prefixes, default gateways, MAC addresses; and which devices are removed.
//! Followed by route netlink.
//!
//! ARP and neighbour discovery on the uplink stay with the kernel; this task reads its answers. Where one is missing
//! the kernel is asked to find out (`RTM_NEWNEIGH` with `NTF_USE`, as `ip neigh add … use` does), and those that
//! tunnels depend on are asked for again while they are in use, so that the kernel keeps them fresh although it sees
//! none of their packets.

mod message;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use futures::channel::mpsc::UnboundedReceiver as Messages;
use futures::stream::StreamExt;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::neighbour::{NeighbourFlags, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::SocketAddr;
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder, new_multicast_connection};
use tokio::sync::mpsc::UnboundedReceiver;

use self::message::{Routes, neighbour};
use super::build::Surroundings;

/// How often the kernel is asked for one address at most.
const ASK_PAUSE: Duration = Duration::from_millis(250);
/// How often everything is read anew, and next hops in use are refreshed.
const REFRESH: Duration = Duration::from_secs(10);
/// Changes of routes come in swarms: how long to wait for the swarm's end.
const SETTLE: Duration = Duration::from_millis(20);
/// Next hops that packets have asked for, at most.
const MAX_WANTED: usize = 4096;

/// What the control thread asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// The uplink is the device with this index; `None`: there is no uplink.
    Device(Option<u32>),
    /// These tunnel peers are to be reached, and no others.
    Peers(Vec<IpAddr>),
    /// A packet waits for this next hop.
    Resolve(IpAddr),
}

/// Gateways that the configuration gives, which the kernel's routes do not change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FixedGateways {
    /// IPv4.
    pub v4: Option<Ipv4Addr>,
    /// IPv6.
    pub v6: Option<Ipv6Addr>,
}

/// What is told to the control thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// The uplink's link has changed.
    Surroundings(Surroundings),
    /// The device with this index has been removed.
    Removed(u32),
}

/// Follows the kernel until `asks` closes, and tells every change by `tell`.
///
/// # Errors
/// Where there is no netlink socket to be had.
pub async fn follow(
    mut asks: UnboundedReceiver<Ask>,
    fixed: FixedGateways,
    tell: impl Fn(News) + Send,
) -> io::Result<()> {
    let groups =
        [MulticastGroup::Link, MulticastGroup::Neigh, MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Route];
    let (connection, handle, mut messages) = new_multicast_connection(&groups)?;
    let connection = tokio::spawn(connection);
    let mut follower = Follower::new(handle, fixed);
    let mut refresh = tokio::time::interval(REFRESH);
    refresh.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut told = Surroundings::default();
    loop {
        tokio::select! {
            ask = asks.recv() => match ask {
                Some(ask) => follower.answer(ask).await,
                None => break,
            },
            message = messages.next() => match message {
                Some(message) => follower.take(message, &mut messages).await,
                None => return Err(io::Error::other("the netlink connection has ended")),
            },
            _ = refresh.tick() => follower.refresh().await,
        }
        follower.removed.drain(..).for_each(|device| tell(News::Removed(device)));
        if follower.surroundings != told {
            told = follower.surroundings.clone();
            tell(News::Surroundings(told.clone()));
        }
    }
    connection.abort();
    Ok(())
}

type Message = (NetlinkMessage<RouteNetlinkMessage>, SocketAddr);

struct Follower {
    handle: Handle,
    fixed: FixedGateways,
    device: Option<u32>,
    surroundings: Surroundings,
    peers: Vec<IpAddr>,
    /// Next hops that packets have asked for.
    wanted: BTreeSet<IpAddr>,
    asked: HashMap<IpAddr, Instant>,
    /// Devices removed and not told yet.
    removed: Vec<u32>,
}

impl Follower {
    fn new(handle: Handle, fixed: FixedGateways) -> Self {
        Follower {
            handle,
            fixed,
            device: None,
            surroundings: Surroundings::default(),
            peers: Vec::new(),
            wanted: BTreeSet::new(),
            asked: HashMap::new(),
            removed: Vec::new(),
        }
    }

    async fn answer(&mut self, ask: Ask) {
        match ask {
            Ask::Device(device) => {
                self.device = device;
                self.wanted.clear();
                self.asked.clear();
                self.read_all().await;
                self.resolve_missing().await;
            }
            Ask::Peers(peers) => {
                self.peers = peers;
                self.resolve_missing().await;
            }
            Ask::Resolve(address) => {
                if self.wanted.len() < MAX_WANTED {
                    self.wanted.insert(address);
                }
                self.resolve(address).await;
            }
        }
    }

    /// Takes one message; where it is of a route, all that follow at once, and reads everything anew.
    async fn take(&mut self, message: Message, messages: &mut Messages<Message>) {
        let mut next = Some(message);
        let mut anew = false;
        while let Some((message, _)) = next {
            anew |= !self.apply(message.payload);
            next = match anew {
                true => tokio::time::timeout(SETTLE, messages.next()).await.ok().flatten(),
                false => None,
            };
        }
        if anew {
            self.read_all().await;
            self.resolve_missing().await;
        }
    }

    /// True where the message was taken in; false where everything is to be read anew.
    fn apply(&mut self, payload: NetlinkPayload<RouteNetlinkMessage>) -> bool {
        match payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(message)) => {
                self.learn(&message, false)
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelNeighbour(message)) => {
                self.learn(&message, true)
            }
            NetlinkPayload::InnerMessage(
                RouteNetlinkMessage::NewRoute(_) | RouteNetlinkMessage::DelRoute(_),
            ) => {
                return false;
            }
            // A device that leaves this network namespace is as good as removed. (A bridge's port that leaves the bridge
            // says so in the bridge's family.)
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(message))
                if message.header.interface_family == AddressFamily::Unspec =>
            {
                self.removed.push(message.header.index);
            }
            // The kernel had more to say than there was room for.
            NetlinkPayload::Overrun(_) => return false,
            _ => {}
        }
        true
    }

    fn learn(&mut self, message: &NeighbourMessage, gone: bool) {
        if Some(message.header.ifindex) != self.device {
            return;
        }
        let Some((address, mac)) = neighbour(message) else { return };
        match mac.filter(|_| !gone) {
            Some(mac) => drop(self.surroundings.macs.insert(address, mac)),
            None if self.vital().contains(&address) => {}
            None => drop(self.surroundings.macs.remove(&address)),
        }
    }

    /// Next hops whose MAC address is kept until there is another. The kernel asks them again and again, since it does
    /// not see our traffic; under load an answer may be lost, and the overlay must not stop for that.
    fn vital(&self) -> BTreeSet<IpAddr> {
        let gateways = [self.surroundings.gateway_v4, self.surroundings.gateway_v6];
        let peers = self.peers.iter().filter_map(|peer| self.surroundings.next_hop(*peer));
        peers.chain(gateways.into_iter().flatten()).collect()
    }

    async fn refresh(&mut self) {
        let now = Instant::now();
        self.asked.retain(|_, asked| now.duration_since(*asked) < REFRESH);
        self.read_all().await;
        // Whoever has not answered until now is asked again when a packet wants it: nobody can fill the list by scanning.
        self.wanted.retain(|hop| self.surroundings.macs.contains_key(hop));
        for hop in self.hops() {
            self.resolve(hop).await;
        }
    }

    /// Everything that should have a MAC address.
    fn hops(&self) -> BTreeSet<IpAddr> {
        self.vital().into_iter().chain(self.wanted.iter().copied()).collect()
    }

    async fn resolve_missing(&mut self) {
        for hop in self.hops() {
            if !self.surroundings.macs.contains_key(&hop) {
                self.resolve(hop).await;
            }
        }
    }

    async fn resolve(&mut self, address: IpAddr) {
        let Some(device) = self.device else { return };
        let now = Instant::now();
        if self.asked.get(&address).is_some_and(|asked| now.duration_since(*asked) < ASK_PAUSE) {
            return;
        }
        self.asked.insert(address, now);
        let request = self.handle.neighbours().add(device, address);
        let request = request.state(NeighbourState::None).flags(NeighbourFlags::Use).replace();
        if let Err(error) = request.execute().await {
            tracing::warn!(%address, %error, "the kernel does not look for a next hop");
        }
    }

    async fn read_all(&mut self) {
        let Some(device) = self.device else {
            self.surroundings = Surroundings::default();
            return;
        };
        match self.read(device).await {
            Ok(surroundings) => {
                let before = std::mem::replace(&mut self.surroundings, surroundings);
                for hop in self.vital() {
                    if let Some(mac) = before.macs.get(&hop) {
                        self.surroundings.macs.entry(hop).or_insert(*mac);
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "reading the kernel's routes and neighbours"),
        }
    }

    async fn read(&self, device: u32) -> Result<Surroundings, rtnetlink::Error> {
        let mut routes = Routes::default();
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
        for request in [v4, v6] {
            let mut answers = std::pin::pin!(self.handle.route().get(request).execute());
            while let Some(message) = answers.try_next().await? {
                routes.take(&message, device);
            }
        }
        let mut macs = BTreeMap::new();
        let mut answers = std::pin::pin!(self.handle.neighbours().get().execute());
        while let Some(message) = answers.try_next().await? {
            if message.header.ifindex == device
                && let Some((address, Some(mac))) = neighbour(&message)
            {
                macs.insert(address, mac);
            }
        }
        let gateway_v4 = self.fixed.v4.map(IpAddr::V4).or(routes.gateway(true));
        let gateway_v6 = self.fixed.v6.map(IpAddr::V6).or(routes.gateway(false));
        routes.on_link.sort();
        routes.on_link.dedup();
        Ok(Surroundings { on_link: routes.on_link, gateway_v4, gateway_v6, macs })
    }
}
