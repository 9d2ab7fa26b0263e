//! [`Session`]: one control socket with its side of the conversation, and the memory, files and rings that come of it.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::channel::Channel;
use super::config::MemifConfig;
use super::layout::Layout;
use super::message::{AddRing, Direction, Message, Text};
use super::plug::{Bell, Queue};
use super::refusal::Refusal;
use super::ring::{self, Buffers, Receiver, Regions, Sender};
use super::shm::{COOKIE, Memory, RingView};
use super::talk::{Attachment, ClientAct, ClientTalk, Offer, ServerAct, ServerTalk};

/// Number of an interface within its hub.
pub(crate) type Key = u64;

/// A control socket and what has been said over it.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) channel: Channel,
    /// The interface that it belongs to; of a client that has not said which, none.
    pub(crate) key: Option<Key>,
    /// Since when its peer's next word is due.
    pub(crate) since: Instant,
    party: Party,
}

#[derive(Debug)]
enum Party {
    Client { talk: ClientTalk, made: Option<Made> },
    Server { talk: ServerTalk, socket: String, regions: Vec<Arc<Memory>>, interrupts: Vec<Bell> },
}

/// What a client has made and the server maps.
#[derive(Debug)]
struct Made {
    memory: Arc<Memory>,
    file: OwnedFd,
    interrupts: BTreeMap<(Direction, u16), Bell>,
}

/// What an interface is to the clients of its socket.
#[derive(Debug)]
pub(crate) struct Found<'a> {
    pub(crate) key: Key,
    pub(crate) config: &'a MemifConfig,
    pub(crate) busy: bool,
}

/// What a session has come to.
#[derive(Debug)]
pub(crate) enum Progress {
    /// Nothing waits to be read.
    Idle,
    /// A message has been dealt with.
    Heard,
    /// Packets may pass by these queues.
    Up(Vec<Queue>),
}

impl Session {
    /// Connects to the server of an interface.
    pub(crate) fn client(key: Key, config: &MemifConfig) -> std::io::Result<Self> {
        let channel = Channel::connect(&config.socket)?;
        let party = Party::Client { talk: ClientTalk::new(config.clone()), made: None };
        Ok(Session { channel, key: Some(key), since: Instant::now(), party })
    }

    /// Greets a client that has connected to `socket`, of whose interfaces none has more than `queues` queues.
    pub(crate) fn server(channel: Channel, socket: &str, queues: u16) -> Result<Self, Refusal> {
        channel.send(&ServerTalk::hello(queues), None)?;
        let talk = ServerTalk::new();
        let party =
            Party::Server { talk, socket: socket.to_owned(), regions: Vec::new(), interrupts: Vec::new() };
        Ok(Session { channel, key: None, since: Instant::now(), party })
    }

    /// The socket of a server's session.
    pub(crate) fn socket(&self) -> Option<&str> {
        match &self.party {
            Party::Client { .. } => None,
            Party::Server { socket, .. } => Some(socket),
        }
    }

    /// What the peer calls itself.
    pub(crate) fn peer(&self) -> &str {
        match &self.party {
            Party::Client { talk, .. } => talk.peer(),
            Party::Server { talk, .. } => talk.peer(),
        }
    }

    /// What is due from the peer; nothing while packets pass.
    pub(crate) fn awaited(&self) -> Option<&'static str> {
        match &self.party {
            Party::Client { talk, .. } => talk.awaited(),
            Party::Server { talk, .. } => talk.awaited(),
        }
    }

    /// Deals with the next message, if one waits. `find` knows the interfaces of a server's socket.
    pub(crate) fn advance<'a>(
        &mut self,
        find: impl FnOnce(u32) -> Option<Found<'a>>,
    ) -> Result<Progress, Refusal> {
        let Some((message, descriptors)) = self.channel.receive()? else { return Ok(Progress::Idle) };
        self.since = Instant::now();
        match &self.party {
            Party::Client { .. } => self.hear_server(&message, descriptors.len()),
            Party::Server { .. } => self.hear_client(&message, descriptors, find),
        }
    }

    /// Tells the peer why it ends, if it is still there to be told.
    pub(crate) fn end(&self, refusal: &Refusal) {
        if !matches!(refusal, Refusal::Hangup | Refusal::Disconnected { .. }) {
            let message = Message::Disconnect { code: 0, reason: Text::new(&refusal.to_string()) };
            // It may have gone by now.
            let _ = self.channel.send(&message, None);
        }
    }

    // --------------------------------------------------------------------------------------------- as client

    fn hear_server(&mut self, message: &Message, descriptors: usize) -> Result<Progress, Refusal> {
        let Party::Client { talk, made } = &mut self.party else { return Ok(Progress::Heard) };
        match talk.hear(message, descriptors)? {
            ClientAct::Nothing => Ok(Progress::Heard),
            ClientAct::Say(message, attachment) => {
                if attachment == Attachment::Region
                    && let Some(layout) = talk.layout()
                {
                    *made = Some(Made::new(layout)?);
                }
                let attached = made.as_ref().and_then(|made| made.attached(attachment));
                self.channel.send(&message, attached)?;
                Ok(Progress::Heard)
            }
            ClientAct::Up => {
                let (Some(layout), Some(made)) = (talk.layout(), made.take()) else {
                    return Ok(Progress::Heard);
                };
                Ok(Progress::Up(made.queues(layout)?))
            }
        }
    }

    // --------------------------------------------------------------------------------------------- as server

    fn hear_client<'a>(
        &mut self,
        message: &Message,
        mut descriptors: Vec<OwnedFd>,
        find: impl FnOnce(u32) -> Option<Found<'a>>,
    ) -> Result<Progress, Refusal> {
        let Party::Server { talk, regions, interrupts, .. } = &mut self.party else {
            return Ok(Progress::Heard);
        };
        let mut found_key = None;
        let offer = |id| {
            let Found { key, config, busy } = find(id)?;
            found_key = Some(key);
            Some(Offer { config, busy })
        };
        let act = talk.hear(message, descriptors.len(), offer)?;
        let descriptor = descriptors.pop();
        match act {
            ServerAct::Nothing => return Ok(Progress::Heard),
            ServerAct::Claim(_) => self.key = found_key,
            ServerAct::Region(region) => {
                let refused = |source| Refusal::Region { index: region.index.into(), source };
                if let Some(file) = descriptor {
                    regions.push(Arc::new(Memory::open(file.as_fd(), region.size).map_err(refused)?));
                }
            }
            ServerAct::Ring => {
                let ring = talk.rings().last();
                let refused = ring.map(|ring| (ring.direction(), ring.index));
                match (descriptor.and_then(Bell::of), refused) {
                    (Some(bell), _) => interrupts.push(bell),
                    (None, Some((direction, index))) => return Err(Refusal::Interrupt { direction, index }),
                    (None, None) => {}
                }
            }
            ServerAct::Connect => {
                let queues = accept_rings(talk.rings(), std::mem::take(regions), std::mem::take(interrupts))?;
                self.channel.send(&talk.connected(), None)?;
                return Ok(Progress::Up(queues));
            }
        }
        self.channel.send(&Message::Ack, None)?;
        Ok(Progress::Heard)
    }
}

impl Made {
    /// Makes region and interrupts, and prepares the rings: the server may look at them at once.
    fn new(layout: Layout) -> Result<Self, Refusal> {
        let refused = |source| Refusal::Region { index: 0, source };
        let (memory, file) = Memory::create(layout.size() as usize).map_err(refused)?;
        let memory = Arc::new(memory);
        let mut interrupts = BTreeMap::new();
        for direction in [Direction::ClientToServer, Direction::ServerToClient] {
            for index in 0..layout.queues {
                let (ring, buffers) = own_ring(&memory, layout, direction, index)?;
                ring::prepare(&ring, buffers);
                let bell = Bell::new().map_err(|source| Refusal::Socket { operation: "eventfd", source })?;
                interrupts.insert((direction, index), bell);
            }
        }
        Ok(Made { memory, file, interrupts })
    }

    fn attached(&self, attachment: Attachment) -> Option<std::os::fd::BorrowedFd<'_>> {
        match attachment {
            Attachment::None => None,
            Attachment::Region => Some(self.file.as_fd()),
            Attachment::Interrupt(direction, index) => {
                self.interrupts.get(&(direction, index)).map(|bell| bell.fd().as_fd())
            }
        }
    }

    fn queues(mut self, layout: Layout) -> Result<Vec<Queue>, Refusal> {
        let regions: Regions = Arc::new([Arc::clone(&self.memory)]);
        let mut queues = Vec::with_capacity(layout.queues.into());
        for index in 0..layout.queues {
            let (to_server, own) = own_ring(&self.memory, layout, Direction::ClientToServer, index)?;
            let sender = Sender::new(to_server, Arc::clone(&regions), Some(own));
            let (from_server, own) = own_ring(&self.memory, layout, Direction::ServerToClient, index)?;
            let receiver = Receiver::new(from_server, Arc::clone(&regions), Some(own));
            let mut bell = |direction| self.interrupts.remove(&(direction, index));
            let (sent, received) = (bell(Direction::ClientToServer), bell(Direction::ServerToClient));
            queues.push(queue(Some(receiver), received, Some(sender), sent)?);
        }
        Ok(queues)
    }
}

fn own_ring(
    memory: &Arc<Memory>,
    layout: Layout,
    direction: Direction,
    index: u16,
) -> Result<(RingView, Buffers), Refusal> {
    let ring = RingView::new(memory, layout.ring(direction, index), layout.log2_size)
        .map_err(|error| Refusal::RingPlace { direction, index, problem: error.to_string() })?;
    Ok((ring, Buffers { first: layout.buffers(direction, index), size: layout.buffer }))
}

/// Makes the rings that a client has announced, in pairs; `interrupts` are in the order of `rings`.
fn accept_rings(
    rings: &[AddRing],
    regions: Vec<Arc<Memory>>,
    interrupts: Vec<Bell>,
) -> Result<Vec<Queue>, Refusal> {
    let regions: Regions = regions.into();
    let mut ends = BTreeMap::new();
    for (ring, bell) in rings.iter().zip(interrupts) {
        let (direction, index) = (ring.direction(), ring.index);
        let wrong = |problem| Refusal::RingPlace { direction, index, problem };
        let region = regions.get(ring.region as usize).ok_or_else(|| wrong("no region".to_owned()))?;
        let view =
            RingView::new(region, ring.offset, ring.log2_size).map_err(|error| wrong(error.to_string()))?;
        let cookie = view.cookie().load(Ordering::Acquire);
        if cookie != COOKIE {
            return Err(wrong(format!("begins with {cookie:#x} instead of {COOKIE:#x}")));
        }
        ends.insert((direction, index), (view, bell));
    }
    let count = ends.keys().map(|(_, index)| index + 1).max().unwrap_or(0);
    let pairs = (0..count).map(|index| {
        let (from_client, received) = ends.remove(&(Direction::ClientToServer, index)).unzip();
        let (to_client, sent) = ends.remove(&(Direction::ServerToClient, index)).unzip();
        let receiver = from_client.map(|ring| Receiver::new(ring, Arc::clone(&regions), None));
        let sender = to_client.map(|ring| Sender::new(ring, Arc::clone(&regions), None));
        queue(receiver, received, sender, sent)
    });
    pairs.collect()
}

fn queue(
    receiver: Option<Receiver>,
    received: Option<Bell>,
    sender: Option<Sender>,
    sent: Option<Bell>,
) -> Result<Queue, Refusal> {
    let received = received.map_or_else(Bell::new, Ok);
    let received = received.map_err(|source| Refusal::Socket { operation: "eventfd", source })?;
    Ok(Queue { receiver, sender, received: Arc::new(received), sent })
}
