//! [`MemifHub`]: the thread that listens, connects, answers and notices who has gone. No packet passes through it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::channel::Listener;
use super::config::{MemifConfig, MemifError, MemifRole};
use super::plug::{Bell, Plug};
use super::port::MemifPort;
use super::refusal::Refusal;
use super::session::{Found, Key, Progress, Session};

/// How long a client waits before it tries again.
const RETRY: Duration = Duration::from_millis(200);
/// How long a peer may take for its next word until packets pass.
const PATIENCE: Duration = Duration::from_secs(5);
/// Clients that have not said which interface they want, at most.
const MAX_STRANGERS: usize = 32;
/// Messages of one peer that are dealt with before the next peer's.
const MAX_MESSAGES: usize = 64;

/// Starts and keeps memif connections. Its ports' links go down when it is dropped.
#[derive(Debug)]
pub struct MemifHub {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    next: AtomicU64,
}

/// Where an interface's connection stands. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MemifStatus {
    link: Arc<Mutex<Link>>,
}

#[derive(Debug)]
struct Link {
    up: bool,
    text: String,
    ups: u64,
}

impl MemifStatus {
    fn new() -> Self {
        let link = Link { up: false, text: "not connected yet".to_owned(), ups: 0 };
        MemifStatus { link: Arc::new(Mutex::new(link)) }
    }

    /// Whether packets can pass.
    pub fn is_up(&self) -> bool {
        self.lock().up
    }

    /// Who the peer is, or why there is none.
    pub fn text(&self) -> String {
        self.lock().text.clone()
    }

    /// How often the connection has come about.
    pub fn ups(&self) -> u64 {
        self.lock().ups
    }

    fn lock(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Shared by the hub's owner, its thread and all ports.
#[derive(Debug)]
pub(crate) struct Shared {
    /// `None` once the thread has ended.
    commands: Mutex<Option<Vec<Command>>>,
    bell: Bell,
}

#[derive(Debug)]
enum Command {
    Open {
        key: Key,
        interface: Interface,
        answer: mpsc::Sender<Result<(), MemifError>>,
    },
    Close(Key),
    /// Say when all before it is done.
    Settle(mpsc::Sender<()>),
    Stop,
}

impl Shared {
    /// After the thread's end a command is dropped, and with it whoever it was to answer.
    fn tell(&self, command: Command) {
        if let Some(commands) = self.commands().as_mut() {
            commands.push(command);
        }
        self.bell.ring();
    }

    /// Waits until the thread has done all that it was told before. Not for a worker.
    pub(crate) fn settle(&self) {
        let (settled, wait) = mpsc::channel();
        self.tell(Command::Settle(settled));
        // A thread that has ended has closed everything.
        let _ = wait.recv();
    }

    fn commands(&self) -> MutexGuard<'_, Option<Vec<Command>>> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the thread look at what ports have reported.
    pub(crate) fn wake(&self) {
        self.bell.ring();
    }
}

/// Held by an interface's ports: the last one dropped closes it.
#[derive(Debug)]
pub(crate) struct Lease {
    shared: Arc<Shared>,
    key: Key,
}

impl Lease {
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shared.tell(Command::Close(self.key));
    }
}

impl MemifHub {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`MemifError::Thread`].
    pub fn start() -> Result<Self, MemifError> {
        let failed = |operation| move |source| MemifError::Thread { operation, source };
        let bell = Bell::new().map_err(failed("eventfd"))?;
        let shared = Arc::new(Shared { commands: Mutex::new(Some(Vec::new())), bell });
        let engine = Engine::new(Arc::clone(&shared));
        let thread = std::thread::Builder::new().name("penstock-memif".into());
        let thread = thread.spawn(move || engine.run()).map_err(failed("starting its thread"))?;
        Ok(MemifHub { shared, thread: Some(thread), next: AtomicU64::new(1) })
    }

    /// Opens an interface: a port for each of its queues, whose links come up when a peer is there and as often as
    /// one comes again. It is closed when all of them are.
    ///
    /// # Errors
    /// [`MemifError`]: a configuration that cannot be; or, of a server, a socket that cannot be listened on.
    pub fn open(&self, config: MemifConfig) -> Result<(Vec<MemifPort>, MemifStatus), MemifError> {
        config.check()?;
        let failed = |operation| move |source| MemifError::Thread { operation, source };
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        let plugs = (0..config.queues).map(|_| Plug::new().map(Arc::new)).collect::<io::Result<Vec<_>>>();
        let plugs = plugs.map_err(failed("eventfd"))?;
        let lease = Arc::new(Lease { shared: Arc::clone(&self.shared), key });
        let status = MemifStatus::new();
        let ports = (0..).zip(&plugs).map(|(queue, plug)| {
            MemifPort::new(config.name.clone(), queue, Arc::clone(plug), Arc::clone(&lease))
        });
        let ports = ports.collect();
        let (answer, answered) = mpsc::channel();
        let interface = Interface { config, plugs, status: status.clone(), due: Some(Instant::now()) };
        self.shared.tell(Command::Open { key, interface, answer });
        let ended = |_| MemifError::Thread {
            operation: "asking its thread",
            source: io::ErrorKind::BrokenPipe.into(),
        };
        answered.recv().map_err(ended)??;
        Ok((ports, status))
    }
}

impl Drop for MemifHub {
    fn drop(&mut self) {
        self.shared.tell(Command::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the memif thread has panicked");
        }
    }
}

/// An interface, as the thread keeps it.
#[derive(Debug)]
struct Interface {
    config: MemifConfig,
    plugs: Vec<Arc<Plug>>,
    status: MemifStatus,
    /// When a client that has no session tries again.
    due: Option<Instant>,
}

impl Interface {
    /// Gives each port its queue; the rest get none.
    fn up(&self, queues: Vec<super::plug::Queue>, peer: &str) {
        let count = queues.len();
        let mut queues = queues.into_iter();
        for plug in &self.plugs {
            plug.put(queues.next());
        }
        let MemifConfig { name, role, .. } = &self.config;
        tracing::info!(port = name, %role, peer, queues = count, "memif link up");
        let mut link = self.status.lock();
        link.up = true;
        link.ups += 1;
        link.text = format!("connected to {peer}, {count} queue{}", if count == 1 { "" } else { "s" });
    }

    /// Takes the queues away. What has been said before is not logged again.
    fn down(&self, reason: String) {
        let mut link = self.status.lock();
        if link.up {
            self.plugs.iter().for_each(|plug| plug.put(None));
        }
        if link.up || link.text != reason {
            tracing::warn!(port = self.config.name, reason, "memif link down");
        }
        link.up = false;
        link.text = reason;
    }
}

/// The thread's own.
#[derive(Debug)]
struct Engine {
    shared: Arc<Shared>,
    interfaces: BTreeMap<Key, Interface>,
    listeners: BTreeMap<String, Listener>,
    sessions: Vec<Session>,
    /// Without descriptors to accept with, it pauses until then.
    deaf_until: Option<Instant>,
    stopping: bool,
}

/// What `poll` has found.
struct Ready {
    sockets: Vec<String>,
    /// Indices into the sessions, ascending.
    sessions: Vec<usize>,
}

impl Engine {
    fn new(shared: Arc<Shared>) -> Self {
        Engine {
            shared,
            interfaces: BTreeMap::new(),
            listeners: BTreeMap::new(),
            sessions: Vec::new(),
            deaf_until: None,
            stopping: false,
        }
    }

    fn run(mut self) {
        loop {
            self.obey();
            if self.stopping {
                break;
            }
            self.connect();
            let ready = self.wait();
            // Backwards: those that end leave the list.
            for index in ready.sessions.into_iter().rev() {
                self.serve(index);
            }
            for socket in ready.sockets {
                self.accept(&socket);
            }
            self.look_at_faults();
            self.look_at_clock();
        }
        let keys: Vec<Key> = self.interfaces.keys().copied().collect();
        keys.into_iter().for_each(|key| self.close(key));
    }

    // ------------------------------------------------------------------------------------------ what is wanted

    fn obey(&mut self) {
        let commands = self.shared.commands().as_mut().map(std::mem::take);
        for command in commands.into_iter().flatten() {
            match command {
                // Who asked may have gone; then the ports have as well, and it is closed at once.
                Command::Open { key, interface, answer } => drop(answer.send(self.open(key, interface))),
                Command::Close(key) => self.close(key),
                Command::Settle(settled) => drop(settled.send(())),
                Command::Stop => self.stopping = true,
            }
        }
    }

    fn open(&mut self, key: Key, interface: Interface) -> Result<(), MemifError> {
        let MemifConfig { socket, role, id, .. } = &interface.config;
        let same = |other: &Interface| {
            let config = &other.config;
            config.socket == *socket && config.role == *role && config.id == *id
        };
        if let Some(other) = self.interfaces.values().find(|other| same(other)) {
            let problem = format!("{id} is interface {} of this socket and role already", other.config.name);
            return Err(MemifError::Field { field: "id", problem });
        }
        if *role == MemifRole::Server && !self.listeners.contains_key(socket) {
            let listener = Listener::bind(socket).map_err(|(operation, source)| MemifError::Listen {
                socket: socket.clone(),
                operation,
                source,
            })?;
            self.listeners.insert(socket.clone(), listener);
        }
        if *role == MemifRole::Server {
            interface.status.lock().text = format!("no client has connected to {socket}");
        }
        self.interfaces.insert(key, interface);
        Ok(())
    }

    fn close(&mut self, key: Key) {
        if let Some(index) = self.sessions.iter().position(|session| session.key == Some(key)) {
            self.end(index, &Refusal::Closed);
        }
        let Some(interface) = self.interfaces.remove(&key) else { return };
        let socket = interface.config.socket;
        let is_served =
            |other: &Interface| other.config.role == MemifRole::Server && other.config.socket == socket;
        if !self.interfaces.values().any(is_served) {
            self.listeners.remove(&socket);
        }
    }

    // ------------------------------------------------------------------------------------------------- sockets

    /// Tries the servers of clients that have none.
    fn connect(&mut self) {
        let now = Instant::now();
        for (&key, interface) in &mut self.interfaces {
            if interface.config.role != MemifRole::Client || interface.due.is_none_or(|due| due > now) {
                continue;
            }
            match Session::client(key, &interface.config) {
                Ok(session) => {
                    interface.due = None;
                    self.sessions.push(session);
                }
                Err(error) => {
                    interface.due = Some(now + RETRY);
                    interface.down(format!("connecting to {}: {error}", interface.config.socket));
                }
            }
        }
    }

    fn wait(&mut self) -> Ready {
        let is_deaf = self.deaf_until.is_some();
        let listeners: Vec<_> = self.listeners.iter().filter(|_| !is_deaf).collect();
        let mut fds = vec![PollFd::new(self.shared.bell.fd(), PollFlags::IN)];
        fds.extend(
            listeners.iter().map(|(_, listener)| PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN)),
        );
        fds.extend(
            self.sessions
                .iter()
                .map(|session| PollFd::from_borrowed_fd(session.channel.as_fd(), PollFlags::IN)),
        );
        // An interrupted wait is a short one; each round looks at everything anew.
        let _ = poll(&mut fds, self.timeout().as_ref());
        let ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        if fds.first().is_some_and(ready) {
            self.shared.bell.clear();
        }
        let (_, rest) = fds.split_at(1);
        let (heard, spoken) = rest.split_at(listeners.len());
        let sockets =
            listeners.iter().zip(heard).filter(|(_, fd)| ready(fd)).map(|((socket, _), _)| (*socket).clone());
        let sessions = spoken.iter().enumerate().filter(|(_, fd)| ready(fd)).map(|(index, _)| index);
        Ready { sockets: sockets.collect(), sessions: sessions.collect() }
    }

    /// Until the next client is to try again or the next peer has been silent too long.
    fn timeout(&self) -> Option<Timespec> {
        let retries = self.interfaces.values().filter(|interface| interface.config.role == MemifRole::Client);
        let retries = retries.filter_map(|interface| interface.due);
        let silent = self.sessions.iter().filter(|session| session.awaited().is_some());
        let deadlines = silent.map(|session| session.since + PATIENCE);
        let next = retries.chain(deadlines).chain(self.deaf_until).min()?;
        // A millisecond more: what is due then is due.
        let wait = next.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        Timespec::try_from(wait).ok()
    }

    fn accept(&mut self, socket: &str) {
        loop {
            let Some(listener) = self.listeners.get(socket) else { return };
            let channel = match listener.accept() {
                Ok(Some(channel)) => channel,
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(socket, %error, "a memif client cannot be accepted");
                    self.deaf_until = Some(Instant::now() + RETRY);
                    return;
                }
            };
            if self.sessions.iter().filter(|session| session.key.is_none()).count() >= MAX_STRANGERS {
                tracing::warn!(socket, "too many memif clients that say nothing: one is turned away");
                continue;
            }
            let served = self.interfaces.values().filter(|interface| {
                interface.config.role == MemifRole::Server && interface.config.socket == socket
            });
            let queues = served.map(|interface| interface.config.queues).max().unwrap_or(1);
            match Session::server(channel, socket, queues) {
                Ok(session) => self.sessions.push(session),
                Err(refusal) => tracing::debug!(socket, %refusal, "a memif client went at once"),
            }
        }
    }

    /// Deals with what a peer has said.
    fn serve(&mut self, index: usize) {
        for _ in 0..MAX_MESSAGES {
            let taken: Vec<Key> = self.sessions.iter().filter_map(|session| session.key).collect();
            let Some(session) = self.sessions.get_mut(index) else { return };
            let socket = session.socket().map(str::to_owned);
            let interfaces = &self.interfaces;
            let find = |id| {
                let (key, interface) = interfaces.iter().find(|(_, interface)| {
                    let config = &interface.config;
                    config.role == MemifRole::Server
                        && socket.as_ref() == Some(&config.socket)
                        && config.id == id
                })?;
                Some(Found { key: *key, config: &interface.config, busy: taken.contains(key) })
            };
            match session.advance(find) {
                Ok(Progress::Idle) => return,
                Ok(Progress::Heard) => {}
                Ok(Progress::Up(queues)) => {
                    let interface = session.key.and_then(|key| interfaces.get(&key));
                    if let Some(interface) = interface {
                        interface.up(queues, session.peer());
                    }
                }
                Err(refusal) => return self.end(index, &refusal),
            }
        }
    }

    /// Ends a session; its interface waits for the next client, or tries its server again.
    fn end(&mut self, index: usize, refusal: &Refusal) {
        if index >= self.sessions.len() {
            return;
        }
        let session = self.sessions.remove(index);
        session.end(refusal);
        match session.key.and_then(|key| self.interfaces.get_mut(&key)) {
            Some(interface) => {
                interface.down(refusal.to_string());
                interface.due = Some(Instant::now() + RETRY);
            }
            None => {
                let (socket, peer) = (session.socket().unwrap_or_default(), session.peer());
                tracing::warn!(socket, peer, %refusal, "a memif client was turned away");
            }
        }
    }

    // ---------------------------------------------------------------------------------------- faults and clock

    fn look_at_faults(&mut self) {
        let faults: Vec<(Key, Refusal)> = self
            .interfaces
            .iter()
            .flat_map(|(key, interface)| {
                (0..).zip(&interface.plugs).map(move |(queue, plug)| (*key, queue, plug))
            })
            .filter_map(|(key, queue, plug)| Some((key, Refusal::Ring { queue, source: plug.take_fault()? })))
            .collect();
        for (key, refusal) in faults {
            if let Some(index) = self.sessions.iter().position(|session| session.key == Some(key)) {
                self.end(index, &refusal);
            }
        }
    }

    fn look_at_clock(&mut self) {
        let now = Instant::now();
        self.deaf_until = self.deaf_until.filter(|until| *until > now);
        for index in (0..self.sessions.len()).rev() {
            let session = &self.sessions[index];
            let awaited = session.awaited().filter(|_| now.duration_since(session.since) >= PATIENCE);
            if let Some(awaited) = awaited {
                self.end(index, &Refusal::Silence { awaited, seconds: PATIENCE.as_secs() });
            }
        }
    }
}

impl Drop for Engine {
    /// By a panic as well: nobody waits for a thread that is no more.
    fn drop(&mut self) {
        *self.shared.commands() = None;
    }
}
