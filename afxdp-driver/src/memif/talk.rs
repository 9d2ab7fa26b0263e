//! [`ClientTalk`], [`ServerTalk`]: who says what and when. They see neither socket nor clock: a message in, an act out.
//!
//! ```text
//!   server                                         client
//!   HELLO  ───────────────────────────────────────►
//!          ◄─────────────────────────────────────── INIT (id, mode, secret)
//!   ACK    ───────────────────────────────────────►
//!          ◄─────────────────────────────────────── ADD_REGION + file          once a region
//!   ACK    ───────────────────────────────────────►
//!          ◄─────────────────────────────────────── ADD_RING + eventfd         once a ring
//!   ACK    ───────────────────────────────────────►
//!          ◄─────────────────────────────────────── CONNECT
//!   CONNECTED ────────────────────────────────────►      packets pass until DISCONNECT or the end of the socket
//! ```

use super::config::{MAX_LOG2_RING, MIN_LOG2_RING, MemifConfig};
use super::layout::Layout;
use super::message::{AddRegion, AddRing, Direction, Hello, Init, Message, Mode, Text, VERSION};
use super::refusal::Refusal;

/// Regions that a client may announce: rings, and buffers of its own.
pub(crate) const MAX_REGIONS: usize = 16;

/// The descriptor that goes along with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attachment {
    None,
    /// The client's one region.
    Region,
    /// A ring's interrupt.
    Interrupt(Direction, u16),
}

/// What a client does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClientAct {
    Nothing,
    Say(Message, Attachment),
    /// Packets may pass.
    Up,
}

/// A client's side of the conversation.
#[derive(Debug)]
pub(crate) struct ClientTalk {
    config: MemifConfig,
    state: ClientState,
    peer: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClientState {
    AwaitHello,
    /// The offer with this number has been made.
    Offered {
        layout: Layout,
        number: usize,
    },
    AwaitConnected {
        layout: Layout,
    },
    Up {
        layout: Layout,
    },
}

impl ClientTalk {
    pub(crate) fn new(config: MemifConfig) -> Self {
        ClientTalk { config, state: ClientState::AwaitHello, peer: String::new() }
    }

    /// What the server calls itself, and its interface once it is up.
    pub(crate) fn peer(&self) -> &str {
        &self.peer
    }

    /// What was agreed on, from the server's HELLO on.
    pub(crate) fn layout(&self) -> Option<Layout> {
        match self.state {
            ClientState::AwaitHello => None,
            ClientState::Offered { layout, .. }
            | ClientState::AwaitConnected { layout }
            | ClientState::Up { layout } => Some(layout),
        }
    }

    /// What is due from the server; nothing while packets pass.
    pub(crate) fn awaited(&self) -> Option<&'static str> {
        match self.state {
            ClientState::AwaitHello => Some("HELLO"),
            ClientState::Offered { .. } => Some("ACK"),
            ClientState::AwaitConnected { .. } => Some("CONNECTED"),
            ClientState::Up { .. } => None,
        }
    }

    /// Takes a message that came with `descriptors` descriptors.
    pub(crate) fn hear(&mut self, message: &Message, descriptors: usize) -> Result<ClientAct, Refusal> {
        if descriptors != 0 {
            return Err(Refusal::Descriptors { message: message.name(), count: descriptors });
        }
        match (self.state, message) {
            (_, Message::Disconnect { code, reason }) => {
                Err(Refusal::Disconnected { code: *code, reason: reason.to_string() })
            }
            (ClientState::AwaitHello, Message::Hello(hello)) => {
                let layout = self.agree(hello)?;
                self.peer = hello.name.to_string();
                Ok(self.offer(layout, 0))
            }
            (ClientState::Offered { layout, number }, Message::Ack) => Ok(self.offer(layout, number + 1)),
            (ClientState::AwaitConnected { layout }, Message::Connected(name)) => {
                self.state = ClientState::Up { layout };
                self.peer = described(&self.peer, name);
                Ok(ClientAct::Up)
            }
            (ClientState::Up { .. }, Message::Ack) => Ok(ClientAct::Nothing),
            (_, other) => Err(unexpected(other, self.awaited())),
        }
    }

    /// The smaller of both ends' wishes.
    fn agree(&self, hello: &Hello) -> Result<Layout, Refusal> {
        let Hello { min_version: min, max_version: max, .. } = *hello;
        if !(min..=max).contains(&VERSION) {
            return Err(Refusal::Version { min, max });
        }
        if hello.max_log2_ring_size < MIN_LOG2_RING {
            return Err(Refusal::MaxRingSize(hello.max_log2_ring_size));
        }
        let most = hello.max_c2s_ring.min(hello.max_s2c_ring).saturating_add(1);
        Ok(Layout {
            queues: self.config.queues.min(most),
            log2_size: self.config.log2_ring.min(hello.max_log2_ring_size),
            buffer: self.config.buffer,
        })
    }

    /// INIT, the region, the rings, CONNECT: one after the other.
    fn offer(&mut self, layout: Layout, number: usize) -> ClientAct {
        let queues = layout.queues as usize;
        self.state = ClientState::Offered { layout, number };
        match number {
            0 => ClientAct::Say(Message::Init(self.init()), Attachment::None),
            1 => {
                let region = AddRegion { index: 0, size: layout.size() };
                ClientAct::Say(Message::AddRegion(region), Attachment::Region)
            }
            ring if ring - 2 < 2 * queues => {
                let number = ring - 2;
                let (direction, index) = if number < queues {
                    (Direction::ClientToServer, number)
                } else {
                    (Direction::ServerToClient, number - queues)
                };
                offer_ring(layout, direction, index as u16)
            }
            _ => {
                self.state = ClientState::AwaitConnected { layout };
                ClientAct::Say(Message::Connect(Text::new(&self.config.name)), Attachment::None)
            }
        }
    }

    fn init(&self) -> Init {
        Init {
            version: VERSION,
            id: self.config.id,
            mode: Mode::Ethernet,
            secret: Text::exact(self.config.secret.as_bytes()).unwrap_or(Text::new("")),
            name: Text::new(APPLICATION),
        }
    }
}

/// What both roles call this program.
const APPLICATION: &str = concat!("penstock ", env!("CARGO_PKG_VERSION"));

fn offer_ring(layout: Layout, direction: Direction, index: u16) -> ClientAct {
    let ring = AddRing {
        flags: AddRing::flags(direction),
        index,
        region: 0,
        offset: layout.ring(direction, index),
        log2_size: layout.log2_size,
        private_header: 0,
    };
    ClientAct::Say(Message::AddRing(ring), Attachment::Interrupt(direction, index))
}

/// What a server knows of an interface that a client asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Offer<'a> {
    pub(crate) config: &'a MemifConfig,
    /// Another client has it.
    pub(crate) busy: bool,
}

/// What a server does next; after each it says ACK, after [`Connect`](Self::Connect) CONNECTED.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServerAct {
    Nothing,
    /// The interface with this id is this client's.
    Claim(u32),
    /// Map the region whose descriptor came along.
    Region(AddRegion),
    /// Keep the interrupt that came along.
    Ring,
    /// Everything has been said: make the rings, then say [`ServerTalk::connected`].
    Connect,
}

/// A server's side of the conversation.
#[derive(Debug)]
pub(crate) struct ServerTalk {
    state: ServerState,
    queues: u16,
    name: String,
    peer: String,
    regions: Vec<u64>,
    rings: Vec<AddRing>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ServerState {
    AwaitInit,
    Collecting,
    Up,
}

impl ServerTalk {
    pub(crate) fn new() -> Self {
        ServerTalk {
            state: ServerState::AwaitInit,
            queues: 0,
            name: String::new(),
            peer: String::new(),
            regions: Vec::new(),
            rings: Vec::new(),
        }
    }

    /// What a server says first; `queues` is the most that any of its interfaces has.
    pub(crate) fn hello(queues: u16) -> Message {
        Message::Hello(Hello {
            name: Text::new(APPLICATION),
            min_version: VERSION,
            max_version: VERSION,
            max_region: MAX_REGIONS as u16 - 1,
            max_s2c_ring: queues.saturating_sub(1),
            max_c2s_ring: queues.saturating_sub(1),
            max_log2_ring_size: MAX_LOG2_RING,
        })
    }

    /// What a server says last.
    pub(crate) fn connected(&self) -> Message {
        Message::Connected(Text::new(&self.name))
    }

    /// What the client calls itself, and its interface once it is up.
    pub(crate) fn peer(&self) -> &str {
        &self.peer
    }

    /// The rings, in the order of their announcement.
    pub(crate) fn rings(&self) -> &[AddRing] {
        &self.rings
    }

    /// What is due from the client; nothing while packets pass.
    pub(crate) fn awaited(&self) -> Option<&'static str> {
        match self.state {
            ServerState::AwaitInit => Some("INIT"),
            ServerState::Collecting => Some("ADD_REGION, ADD_RING or CONNECT"),
            ServerState::Up => None,
        }
    }

    /// Takes a message that came with `descriptors` descriptors. `find` knows the interfaces of this socket.
    pub(crate) fn hear<'a>(
        &mut self,
        message: &Message,
        descriptors: usize,
        find: impl FnOnce(u32) -> Option<Offer<'a>>,
    ) -> Result<ServerAct, Refusal> {
        let due = usize::from(matches!(message, Message::AddRegion(_) | Message::AddRing(_)));
        if descriptors != due {
            return Err(Refusal::Descriptors { message: message.name(), count: descriptors });
        }
        match (self.state, message) {
            (_, Message::Disconnect { code, reason }) => {
                Err(Refusal::Disconnected { code: *code, reason: reason.to_string() })
            }
            (ServerState::AwaitInit, Message::Init(init)) => self.init(init, find(init.id)),
            (ServerState::Collecting, Message::AddRegion(region)) => self.region(region),
            (ServerState::Collecting, Message::AddRing(ring)) => self.ring(ring),
            (ServerState::Collecting, Message::Connect(name)) => {
                self.complete()?;
                self.state = ServerState::Up;
                self.peer = described(&self.peer, name);
                Ok(ServerAct::Connect)
            }
            (ServerState::Up, Message::Ack) => Ok(ServerAct::Nothing),
            (_, other) => Err(unexpected(other, self.awaited())),
        }
    }

    fn init(&mut self, init: &Init, offer: Option<Offer<'_>>) -> Result<ServerAct, Refusal> {
        if init.version != VERSION {
            return Err(Refusal::Version { min: init.version, max: init.version });
        }
        let Offer { config, busy } = offer.ok_or(Refusal::UnknownId(init.id))?;
        if !config.secret.is_empty() {
            if init.secret.is_empty() {
                return Err(Refusal::SecretRequired(init.id));
            }
            let ours = Text::exact(config.secret.as_bytes());
            if !ours.is_some_and(|ours| ours.is_same_secret(&init.secret)) {
                return Err(Refusal::SecretWrong(init.id));
            }
        }
        if busy {
            return Err(Refusal::Busy(init.id));
        }
        if init.mode != Mode::Ethernet {
            return Err(Refusal::Mode(init.mode));
        }
        self.state = ServerState::Collecting;
        self.queues = config.queues;
        self.name.clone_from(&config.name);
        self.peer = init.name.to_string();
        Ok(ServerAct::Claim(init.id))
    }

    fn region(&mut self, region: &AddRegion) -> Result<ServerAct, Refusal> {
        let expected = self.regions.len();
        if region.index as usize != expected || expected >= MAX_REGIONS {
            return Err(Refusal::RegionIndex { index: region.index, expected, max: MAX_REGIONS });
        }
        self.regions.push(region.size);
        Ok(ServerAct::Region(*region))
    }

    fn ring(&mut self, ring: &AddRing) -> Result<ServerAct, Refusal> {
        let (direction, index) = (ring.direction(), ring.index);
        if index >= self.queues {
            return Err(Refusal::RingIndex { direction, index, queues: self.queues });
        }
        if self.rings.iter().any(|known| known.direction() == direction && known.index == index) {
            return Err(Refusal::RingTwice { direction, index });
        }
        if !(MIN_LOG2_RING..=MAX_LOG2_RING).contains(&ring.log2_size) {
            return Err(Refusal::RingSize { direction, index, log2_size: ring.log2_size });
        }
        if ring.region as usize >= self.regions.len() {
            return Err(Refusal::RingRegion { direction, index, region: ring.region });
        }
        self.rings.push(*ring);
        Ok(ServerAct::Ring)
    }

    /// In each direction at least one ring, and none left out.
    fn complete(&self) -> Result<(), Refusal> {
        for direction in [Direction::ClientToServer, Direction::ServerToClient] {
            let these = || self.rings.iter().filter(|ring| ring.direction() == direction);
            let count = these().count();
            // Numbers are different from each other: the highest says whether one is missing.
            if count == 0 || these().any(|ring| ring.index as usize >= count) {
                return Err(Refusal::RingGap { direction, count });
            }
        }
        Ok(())
    }
}

fn described<const N: usize>(application: &str, interface: &Text<N>) -> String {
    if interface.is_empty() { application.to_owned() } else { format!("{application} ({interface})") }
}

fn unexpected(message: &Message, awaited: Option<&'static str>) -> Refusal {
    Refusal::Unexpected { message: message.name(), awaited: awaited.unwrap_or("nothing") }
}

#[cfg(test)]
mod tests;
