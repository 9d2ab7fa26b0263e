//! Both ends are ours, each with a hub of its own, over a real socket and real shared memory.

use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::channel::Channel;
use super::message::{AddRegion, AddRing, Direction, Init, Message, Mode, Text, VERSION};
use super::shm::{FLAG_NEXT, Memory, RingView};
use super::*;
use crate::{Batch, FramePool, HugePages, PacketIo, PortCounters};

const PATIENCE: Duration = Duration::from_secs(10);

/// One end: a hub, its ports, and memory for each.
struct End {
    hub: MemifHub,
    ports: Vec<MemifPort>,
    pools: Vec<FramePool>,
    status: MemifStatus,
}

impl End {
    fn open(config: MemifConfig) -> Self {
        let hub = MemifHub::start().unwrap();
        let (ports, status) = hub.open(config).unwrap();
        let pools = ports.iter().map(|_| FramePool::anonymous(512, HugePages::Never).unwrap()).collect();
        End { hub, ports, pools, status }
    }

    /// Sends packets of these bytes by a queue; answers with how many were taken.
    fn send(&mut self, queue: usize, packets: &[Vec<u8>]) -> usize {
        let (port, pool) = (&mut self.ports[queue], &mut self.pools[queue]);
        let mut sent = 0;
        for packets in packets.chunks(64) {
            let mut batch = Batch::new();
            for packet in packets {
                let mut frame = pool.alloc().unwrap();
                assert!(frame.fill(packet));
                batch.push(frame);
            }
            sent += port.send(pool, &mut batch);
            port.flush(pool).unwrap();
            batch.into_iter().for_each(|frame| pool.free(frame));
        }
        self.check();
        sent
    }

    fn receive(&mut self, queue: usize) -> Vec<Vec<u8>> {
        let mut batch = Batch::new();
        self.ports[queue].receive(&mut self.pools[queue], &mut batch, 64);
        let packets = batch.iter().map(|frame| frame.to_vec()).collect();
        batch.into_iter().for_each(|frame| self.pools[queue].free(frame));
        self.check();
        packets
    }

    /// Receives until there are `count`.
    fn receive_all(&mut self, queue: usize, count: usize) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        wait("packets", || {
            packets.extend(self.receive(queue));
            packets.len() >= count
        });
        packets
    }

    /// Every port has seen what the hub has to say, and is up or not.
    fn wait_link(&mut self, up: bool) {
        wait(if up { "link up" } else { "link down" }, || {
            (0..self.ports.len()).for_each(|queue| drop(self.receive(queue)));
            self.status.is_up() == up && self.ports.iter().all(|port| port.is_up() == up)
        });
    }

    /// No chunk is anywhere but at home.
    fn check(&self) {
        for pool in &self.pools {
            assert_eq!(pool.ledger().free, pool.ledger().total);
        }
    }
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::yield_now();
    }
}

/// A socket of this test's own, abstract: it leaves nothing behind.
fn socket(test: &str) -> String {
    format!("@penstock-memif-{}-{test}", std::process::id())
}

fn config(test: &str, role: MemifRole) -> MemifConfig {
    MemifConfig { log2_ring: 6, ..MemifConfig::new(socket(test), role, 3) }
}

fn packets(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|index| vec![index as u8; 60 + index * 13 % 1700]).collect()
}

#[test]
fn packets_pass_both_ways_on_every_queue() {
    let config = |role| MemifConfig { queues: 3, secret: "psst".into(), ..config("queues", role) };
    let mut server = End::open(config(MemifRole::Server));
    let mut client = End::open(config(MemifRole::Client));
    server.wait_link(true);
    client.wait_link(true);
    assert!(server.status.text().ends_with("(memif3), 3 queues"), "{}", server.status.text());
    for queue in 0..3 {
        // More than the ring holds, over and over.
        for _ in 0..20 {
            let wanted = packets(40 + queue);
            assert_eq!(client.send(queue, &wanted), wanted.len());
            assert_eq!(server.receive_all(queue, wanted.len()), wanted);
            assert_eq!(server.send(queue, &wanted), wanted.len());
            assert_eq!(client.receive_all(queue, wanted.len()), wanted);
        }
    }
    let totals = |end: &End| {
        end.ports.iter().map(|port| port.counters()).fold((0, 0), |(rx, tx), counters| {
            assert_eq!(
                counters.rx_invalid + counters.rx_oversize + counters.tx_lost + counters.tx_discarded,
                0
            );
            (rx + counters.rx_packets, tx + counters.tx_packets)
        })
    };
    let each = 20 * (40 + 41 + 42);
    assert_eq!((totals(&client), totals(&server)), ((each, each), (each, each)));
}

#[test]
fn a_full_ring_takes_no_more_until_the_peer_reads() {
    let mut server = End::open(config("full", MemifRole::Server));
    let mut client = End::open(config("full", MemifRole::Client));
    server.wait_link(true);
    client.wait_link(true);
    for _ in 0..3 {
        assert_eq!(client.send(0, &vec![vec![1; 60]; 200]), 64);
        assert_eq!(server.receive_all(0, 64).len(), 64);
        assert_eq!(server.send(0, &vec![vec![2; 60]; 200]), 64);
        assert_eq!(client.receive_all(0, 64).len(), 64);
    }
}

#[test]
fn a_sleeper_is_woken_by_a_packet_and_by_the_end() {
    for sleeper_is_server in [true, false] {
        let test = if sleeper_is_server { "sleeping-server" } else { "sleeping-client" };
        let mut server = End::open(config(test, MemifRole::Server));
        let mut client = End::open(config(test, MemifRole::Client));
        server.wait_link(true);
        client.wait_link(true);
        let (mut sleeper, mut other) = if sleeper_is_server { (server, client) } else { (client, server) };
        for count in 1..50 {
            std::thread::scope(|scope| {
                let asleep = scope.spawn(|| {
                    sleep(&sleeper.ports[0]);
                    sleeper.receive_all(0, 1).len()
                });
                if count % 2 == 0 {
                    std::thread::sleep(Duration::from_micros(200)); // It sleeps by now, most probably.
                }
                assert_eq!(other.send(0, &packets(1)), 1);
                assert_eq!(asleep.join().unwrap(), 1);
            });
        }
        std::thread::scope(|scope| {
            let port = &mut sleeper.ports[0];
            let asleep = scope.spawn(move || sleep(port));
            drop(other);
            asleep.join().unwrap();
        });
        sleeper.wait_link(false);
    }
}

/// As a worker with nothing to do: until the descriptor says that there is something.
fn sleep(port: &MemifPort) {
    let fd = port.poll_fd().unwrap();
    let ready = poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::from(10_000u16)).unwrap();
    assert_eq!(ready, 1, "nobody woke it");
}

#[test]
fn a_peer_may_go_and_come_again_at_either_end() {
    let mut server = End::open(config("again", MemifRole::Server));
    for round in 0..3 {
        let mut client = End::open(config("again", MemifRole::Client));
        server.wait_link(true);
        client.wait_link(true);
        client.send(0, &packets(10));
        assert_eq!(server.receive_all(0, 10).len(), 10);
        // With packets of both in the rings.
        client.send(0, &packets(10));
        server.send(0, &packets(10));
        drop(client);
        server.wait_link(false);
        assert_eq!(server.send(0, &packets(5)), 5, "taken, and counted as lost");
        assert_eq!(server.ports[0].counters().tx_lost, 5 * (round + 1));
    }
    drop(server);
    // The client is first, and tries until there is a server.
    let mut client = End::open(config("again", MemifRole::Client));
    wait("a reason", || client.status.text().contains("connecting to @penstock-memif"));
    for _ in 0..2 {
        let mut server = End::open(config("again", MemifRole::Server));
        client.wait_link(true);
        server.wait_link(true);
        server.send(0, &packets(10));
        assert_eq!(client.receive_all(0, 10).len(), 10);
        drop(server);
        client.wait_link(false);
    }
    assert_eq!(client.status.ups(), 2);
}

#[test]
fn a_client_that_is_not_wanted_hears_why() {
    let server = |test| MemifConfig { secret: "psst".into(), ..config(test, MemifRole::Server) };
    let _server = End::open(server("unwanted"));
    let told = |change: fn(&mut MemifConfig), reason: &str| {
        let mut config = config("unwanted", MemifRole::Client);
        change(&mut config);
        let client = End::open(config);
        wait(reason, || client.status.text().contains(reason));
        assert!(!client.status.is_up());
    };
    told(|_| {}, "interface 3 needs a secret");
    told(|config| config.secret = "pst".into(), "wrong secret for interface 3");
    told(|config| config.id = 4, "no interface with id 4");
    let mut first = End::open(MemifConfig { secret: "psst".into(), ..config("unwanted", MemifRole::Client) });
    first.wait_link(true);
    told(|config| config.secret = "psst".into(), "interface 3 is connected already");
    assert!(first.status.is_up());
}

#[test]
fn several_interfaces_share_a_socket_and_fewer_queues_are_agreed_on() {
    let mut server = End::open(MemifConfig { queues: 2, ..config("shared", MemifRole::Server) });
    let second = MemifConfig { id: 9, ..config("shared", MemifRole::Server) };
    let (_ports, status) = server.hub.open(second.clone()).unwrap();
    let twice = server.hub.open(second).unwrap_err().to_string();
    assert!(twice.starts_with("id: 9 is interface"), "{twice}");
    let mut one = End::open(MemifConfig { queues: 1, ..config("shared", MemifRole::Client) });
    let mut two = End::open(MemifConfig { id: 9, ..config("shared", MemifRole::Client) });
    one.wait_link(true);
    two.wait_link(true);
    wait("the second interface", || status.is_up());
    wait("the first interface", || server.status.is_up());
    one.send(0, &packets(4));
    assert_eq!(server.receive_all(0, 4).len(), 4);
    assert!(server.receive(1).is_empty() && !server.ports[1].is_up(), "the client has one queue");
    assert_eq!(server.send(1, &packets(4)), 4);
    assert_eq!(server.ports[1].counters().tx_lost, 4);
}

#[test]
fn a_socket_is_claimed_once_and_an_abandoned_one_taken_over() {
    let path = std::env::temp_dir().join(format!("penstock-memif-{}.sock", std::process::id()));
    let config = MemifConfig::new(path.to_str().unwrap(), MemifRole::Server, 0);
    let first = End::open(config.clone());
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o660, "owner and group may connect, whatever the umask: {mode:o}");
    let hub = MemifHub::start().unwrap();
    let taken = hub.open(config.clone()).unwrap_err().to_string();
    assert!(taken.contains("bind") && taken.starts_with("socket: "), "{taken}");
    drop(first);
    assert!(!path.exists(), "it is removed with its last interface");
    let abandoned = std::os::unix::net::UnixListener::bind(&path).unwrap();
    drop(abandoned);
    assert!(path.exists());
    // A socket of another kind, or one that is only abandoned: taken over, but never a file.
    drop(hub.open(config.clone()).unwrap());
    wait("its removal", || !path.exists());
    std::fs::write(&path, "precious").unwrap();
    assert!(hub.open(config).is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    std::fs::remove_file(&path).unwrap();
}

/// Before, the socket went some time after the end of its last port had been reported, and mostly was still there.
#[test]
fn a_socket_has_gone_when_the_end_of_its_last_port_is_reported() {
    let path = std::env::temp_dir().join(format!("penstock-memif-{}-end.sock", std::process::id()));
    let config = MemifConfig { queues: 2, ..MemifConfig::new(path.to_str().unwrap(), MemifRole::Server, 0) };
    let hub = MemifHub::start().unwrap();
    for round in 0..100 {
        let (mut ports, _) = hub.open(config.clone()).unwrap();
        assert_eq!(ports.pop().unwrap().finish(), PortCounters::default());
        assert!(path.exists(), "round {round}: one of its ports is left");
        ports.pop().unwrap().finish();
        assert!(!path.exists(), "round {round}: none of its ports is left");
    }
}

#[test]
fn a_port_that_outlives_its_hub_ends_at_once() {
    let path = std::env::temp_dir().join(format!("penstock-memif-{}-orphan.sock", std::process::id()));
    let hub = MemifHub::start().unwrap();
    let (mut ports, status) =
        hub.open(MemifConfig::new(path.to_str().unwrap(), MemifRole::Server, 0)).unwrap();
    drop(hub);
    assert!(!path.exists() && !status.is_up(), "all is closed with its hub");
    ports.pop().unwrap().finish();
}

/// A client made by hand, to misbehave.
struct Hand {
    channel: Channel,
    memory: std::sync::Arc<Memory>,
    _bell: plug::Bell,
}

impl Hand {
    /// Connects with rings of 16 descriptors in a region of 64 KiB: the first at 0, the second at 4096.
    fn connect(test: &str) -> Self {
        let channel = Channel::connect(&socket(test)).unwrap();
        let (memory, file) = Memory::create(65536).unwrap();
        let (memory, bell) = (std::sync::Arc::new(memory), plug::Bell::new().unwrap());
        for offset in [0, 4096] {
            let ring = RingView::new(&memory, offset, 4).unwrap();
            ring::prepare(&ring, ring::Buffers { first: 8192 + offset * 8, size: 2048 });
        }
        let hand = Hand { channel, memory, _bell: bell };
        let init = Init {
            version: VERSION,
            id: 3,
            mode: Mode::Ethernet,
            secret: Text::new(""),
            name: Text::new("by hand"),
        };
        assert!(matches!(hand.hear(), Some(Message::Hello(_))));
        hand.say(Message::Init(init), None);
        hand.say(Message::AddRegion(AddRegion { index: 0, size: 65536 }), Some(&file));
        for (direction, offset) in [(Direction::ClientToServer, 0), (Direction::ServerToClient, 4096)] {
            let flags = AddRing::flags(direction);
            let ring = AddRing { flags, index: 0, region: 0, offset, log2_size: 4, private_header: 0 };
            hand.say(Message::AddRing(ring), Some(hand._bell.fd()));
        }
        hand.channel.send(&Message::Connect(Text::new("hand")), None).unwrap();
        assert!(matches!(hand.hear(), Some(Message::Connected(_))));
        hand
    }

    fn say(&self, message: Message, file: Option<&std::os::fd::OwnedFd>) {
        self.channel.send(&message, file.map(std::os::fd::AsFd::as_fd)).unwrap();
        assert_eq!(self.hear(), Some(Message::Ack));
    }

    /// The next message; `None` at the end.
    fn hear(&self) -> Option<Message> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.channel.receive() {
                Ok(Some((message, _))) => return Some(message),
                Ok(None) => assert!(Instant::now() < deadline, "no answer"),
                Err(_) => return None,
            }
        }
    }
}

#[test]
fn a_peer_whose_indices_cannot_be_is_told_and_left_and_may_come_again() {
    let mut server = End::open(config("indices", MemifRole::Server));
    for round in 1..3 {
        let hand = Hand::connect("indices");
        server.wait_link(true);
        let ring = RingView::new(&hand.memory, 0, 4).unwrap();
        ring.head().store(17, std::sync::atomic::Ordering::Release);
        wait("the server's leaving", || {
            assert!(server.receive(0).is_empty());
            !server.status.is_up()
        });
        let reason = "queue 0: client-to-server ring: the peer moved its head to 17, 17 from 0";
        assert!(server.status.text().starts_with(reason), "{}", server.status.text());
        match hand.hear() {
            Some(Message::Disconnect { reason: told, .. }) => {
                assert!(told.to_string().starts_with(&reason[..60]), "{told}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(server.status.ups(), round);
        server.wait_link(false);
    }
    let hand = Hand::connect("indices");
    server.wait_link(true);
    let ring = RingView::new(&hand.memory, 0, 4).unwrap();
    let descriptor = super::shm::Descriptor { len: 60, ..ring.descriptor(0) };
    ring.set_descriptor(0, descriptor);
    ring.set_descriptor(1, super::shm::Descriptor { region: 9, flags: FLAG_NEXT, ..descriptor });
    ring.set_descriptor(2, descriptor);
    ring.head().store(3, std::sync::atomic::Ordering::Release);
    assert_eq!(server.receive_all(0, 1).len(), 1);
    assert_eq!(server.ports[0].counters().rx_invalid, 1);
}

#[test]
fn what_is_no_memory_no_eventfd_or_no_message_ends_it_with_a_reason() {
    let server = End::open(config("nonsense", MemifRole::Server));
    let init = Init {
        version: VERSION,
        id: 3,
        mode: Mode::Ethernet,
        secret: Text::new(""),
        name: Text::new("by hand"),
    };
    let ended = |acts: &dyn Fn(&Channel), reason: &str| {
        let channel = Channel::connect(&socket("nonsense")).unwrap();
        channel.send(&Message::Init(init), None).unwrap();
        acts(&channel);
        let mut told = String::new();
        wait(reason, || {
            while let Ok(Some((message, _))) = channel.receive() {
                if let Message::Disconnect { reason, .. } = message {
                    told = reason.to_string();
                }
            }
            !told.is_empty()
        });
        assert!(told.contains(reason), "{told}");
    };
    let region = |size| Message::AddRegion(AddRegion { index: 0, size });
    let (_, memory) = Memory::create(4096).unwrap();
    use std::os::fd::AsFd;
    ended(
        &|channel| {
            let (pipe, _) = std::io::pipe().unwrap();
            channel.send(&region(4096), Some(pipe.as_fd())).unwrap();
        },
        "region 0: the file can shrink",
    );
    ended(
        &|channel| channel.send(&region(1 << 40), Some(memory.as_fd())).unwrap(),
        "region 0: 1099511627776 bytes were announced and the file has 4096",
    );
    let ring = AddRing { flags: 1, index: 0, region: 0, offset: 0, log2_size: 4, private_header: 0 };
    ended(
        &|channel| {
            channel.send(&region(4096), Some(memory.as_fd())).unwrap();
            channel.send(&Message::AddRing(ring), Some(memory.as_fd())).unwrap();
        },
        "client-to-server ring 0: its interrupt is no eventfd",
    );
    let bell = plug::Bell::new().unwrap();
    ended(
        &|channel| {
            channel.send(&region(4096), Some(memory.as_fd())).unwrap();
            for flags in [0, 1] {
                let ring = AddRing { flags, ..ring };
                channel.send(&Message::AddRing(ring), Some(bell.fd().as_fd())).unwrap();
            }
            channel.send(&Message::Connect(Text::new("x")), None).unwrap();
        },
        "begins with 0x0 instead of 0x3e31f20",
    );
    ended(
        &|channel| {
            let bytes = [0; 129];
            rustix::net::send(channel.as_fd(), &bytes, rustix::net::SendFlags::empty()).unwrap();
        },
        "a message of 129 bytes",
    );
    assert_eq!(server.status.ups(), 0);
}

#[test]
fn closing_gives_everything_back_and_says_so_to_the_peer() {
    let mut server = End::open(config("close", MemifRole::Server));
    let mut client = End::open(config("close", MemifRole::Client));
    server.wait_link(true);
    client.wait_link(true);
    // Copied, but never shown.
    let mut batch = Batch::new();
    let mut frame = client.pools[0].alloc().unwrap();
    assert!(frame.fill(&[0; 60]));
    batch.push(frame);
    assert_eq!(client.ports[0].send(&mut client.pools[0], &mut batch), 1);
    assert_eq!(client.ports[0].in_flight(), 1);
    client.ports.remove(0).close(&mut client.pools[0]);
    client.check();
    server.wait_link(false);
    assert_eq!(server.status.text(), "the peer ended it: the port was closed (code 0)");
    assert!(server.receive(0).is_empty());
}
