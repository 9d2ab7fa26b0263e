use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::HugePages;
use crate::frame::BATCH_SIZE;
use crate::memif::layout::Layout;

/// Both ends of one ring over one region, as client and server have them.
struct Pair {
    memory: Arc<Memory>,
    ring: RingView,
    sender: Sender,
    receiver: Receiver,
    pool: FramePool,
    counters: PortCounters,
}

fn pair(direction: Direction, log2_size: u8, buffer: u32) -> Pair {
    let layout = Layout { queues: 1, log2_size, buffer };
    let memory = Arc::new(Memory::create(layout.size() as usize).unwrap().0);
    let regions: Regions = Arc::new([Arc::clone(&memory)]);
    let ring = RingView::new(&memory, layout.ring(direction, 0), log2_size).unwrap();
    let buffers = Buffers { first: layout.buffers(direction, 0), size: buffer };
    prepare(&ring, buffers);
    let is_client_sending = direction == Direction::ClientToServer;
    let own = |owns: bool| owns.then_some(buffers);
    let receiver = Receiver::new(ring.clone(), Arc::clone(&regions), own(!is_client_sending));
    let sender = Sender::new(ring.clone(), regions, own(is_client_sending));
    let pool = FramePool::anonymous(256, HugePages::Never).unwrap();
    Pair { memory, ring, sender, receiver, pool, counters: PortCounters::default() }
}

impl Pair {
    fn receive(&mut self, most: usize) -> Result<Vec<Vec<u8>>, RingError> {
        let mut batch = Batch::new();
        let result = self.receiver.receive(&mut self.pool, &mut batch, most, &mut self.counters);
        let packets: Vec<Vec<u8>> = batch.iter().map(|frame| frame.to_vec()).collect();
        batch.into_iter().for_each(|frame| self.pool.free(frame));
        let ledger = self.pool.ledger();
        assert_eq!(ledger.free, ledger.total, "a chunk was lost");
        assert_eq!(result.map_or(0, |received| received), packets.len());
        result.map(|_| packets)
    }
}

fn directions() -> impl Strategy<Value = Direction> {
    prop_oneof![Just(Direction::ClientToServer), Just(Direction::ServerToClient)]
}

proptest! {
    /// Against a queue of bytes: what goes in comes out, in order, chained or not, until the ring is full.
    #[test]
    fn agrees_with_a_queue(
        direction in directions(),
        log2_size in 1u8..6,
        buffer in prop_oneof![Just(64u32), Just(256), Just(2048)],
        steps in proptest::collection::vec((any::<bool>(), 14usize..1792, 1usize..70), 0..120),
    ) {
        let mut pair = pair(direction, log2_size, buffer);
        let mut twin: VecDeque<Vec<u8>> = VecDeque::new();
        let mut used = 0;
        for (sends, len, count) in steps {
            if sends {
                let packet: Vec<u8> = (0..len).map(|index| (index * 7 + count) as u8).collect();
                let needs = len.div_ceil(buffer as usize);
                let expected = if needs > 1 << log2_size && used == 0 { Pushed::Lost }
                    else if used + needs <= 1 << log2_size { Pushed::Taken } else { Pushed::Full };
                let pushed = pair.sender.push(&packet).unwrap();
                prop_assert_eq!(pushed, expected);
                if pushed == Pushed::Taken {
                    used += needs;
                    twin.push_back(packet);
                } else if pushed == Pushed::Lost {
                    // It was never shown, and must not stand in the way.
                    prop_assert_eq!(pair.sender.next, pair.receiver.next);
                }
            } else {
                pair.sender.publish();
                let received = pair.receive(count).unwrap();
                let expected: Vec<Vec<u8>> = twin.drain(..twin.len().min(count).min(BATCH_SIZE)).collect();
                used -= expected.iter().map(|packet| packet.len().div_ceil(buffer as usize)).sum::<usize>();
                prop_assert_eq!(received, expected);
            }
        }
        prop_assert_eq!(pair.counters.rx_invalid + pair.counters.rx_oversize, 0);
    }

    /// Any bytes at any place of the shared memory, at any time: packets, counts or a named error; no panic, no
    /// endless loop, and no chunk lost (checked by `receive`).
    #[test]
    fn garbage_is_survived(
        direction in directions(),
        log2_size in 1u8..5,
        steps in proptest::collection::vec((0u8..4, any::<u32>(), any::<u64>()), 0..200),
    ) {
        let mut pair = pair(direction, log2_size, 256);
        let rings = Layout::ring_len(log2_size) as u32;
        let at = Layout { queues: 1, log2_size, buffer: 256 }.ring(direction, 0);
        for (what, place, value) in steps {
            match what {
                0 => {
                    let _ = pair.sender.push(&[5; 700]);
                    let _ = pair.sender.push(&[6; 60]);
                    pair.sender.publish();
                }
                1 => drop(pair.receive(BATCH_SIZE)),
                // A small change to an index, so that it stays plausible.
                2 => {
                    let word = if place & 1 == 0 { pair.ring.head() } else { pair.ring.tail() };
                    word.fetch_add((value % 7) as u16, Ordering::Relaxed);
                }
                _ => {
                    let offset = at + place % (rings - 8);
                    prop_assert!(pair.memory.write(offset, &value.to_ne_bytes()));
                }
            }
        }
    }
}

#[test]
fn an_index_out_of_reach_is_a_named_error() {
    for (to, is_error) in [(0, false), (8, false), (9, true), (65535, true), (40000, true)] {
        let mut pair = pair(Direction::ClientToServer, 3, 64);
        pair.ring.head().store(to, Ordering::Relaxed);
        match pair.receive(1) {
            Ok(_) => assert!(!is_error, "{to}"),
            Err(error) => {
                assert!(is_error, "{to}");
                let text = format!("client-to-server ring: the peer moved its head to {to}, {to} from 0");
                assert!(error.to_string().starts_with(&text), "{error}");
            }
        }
    }
    let mut backwards = pair(Direction::ClientToServer, 3, 64);
    backwards.ring.head().store(6, Ordering::Relaxed);
    assert_eq!(backwards.receive(2).unwrap().len(), 2);
    backwards.ring.head().store(3, Ordering::Relaxed);
    assert!(backwards.receive(64).is_err());

    let mut sending = pair(Direction::ClientToServer, 3, 64);
    sending.ring.tail().store(1, Ordering::Relaxed);
    assert!(sending.sender.push(&[0; 60]).is_err(), "the receiver is ahead of the sender");
    let mut offering = pair(Direction::ServerToClient, 3, 64);
    offering.ring.head().store(9, Ordering::Relaxed);
    assert!(offering.sender.push(&[0; 60]).is_err(), "more buffers than the ring has");
}

#[test]
fn a_descriptor_that_points_elsewhere_is_counted_and_the_next_one_is_not_hurt() {
    let sound = pair(Direction::ClientToServer, 4, 2048);
    let size = sound.memory.len() as u32;
    let good = sound.ring.descriptor(0);
    let good = Descriptor { len: 60, ..good };
    let bad = [
        Descriptor { region: 1, ..good },
        Descriptor { region: 65535, ..good },
        Descriptor { offset: size - 59, ..good },
        Descriptor { offset: u32::MAX, len: u32::MAX, ..good },
        Descriptor { len: u32::MAX, ..good },
        Descriptor { len: 0, ..good },
    ];
    for (index, descriptor) in bad.into_iter().enumerate() {
        let mut pair = pair(Direction::ClientToServer, 4, 2048);
        pair.ring.set_descriptor(0, descriptor);
        pair.ring.set_descriptor(1, good);
        pair.ring.head().store(2, Ordering::Release);
        assert_eq!(pair.receive(64).unwrap().len(), 1, "{index}");
        assert_eq!(pair.counters.rx_invalid, 1, "{index}");
        assert_eq!(pair.ring.tail().load(Ordering::Relaxed), 2);
    }
}

#[test]
fn a_packet_longer_than_a_chunk_is_counted_as_oversize() {
    for chained in [false, true] {
        let mut pair = pair(Direction::ClientToServer, 4, 2048);
        let mut index = 0;
        let mut put = |len, flags| {
            let descriptor = Descriptor { len, flags, ..pair.ring.descriptor(index) };
            pair.ring.set_descriptor(index, descriptor);
            index += 1;
        };
        if chained {
            put(1000, FLAG_NEXT);
            put(793, 0);
        } else {
            put(1793, 0);
        }
        put(1792, 0);
        pair.ring.head().store(index, Ordering::Release);
        let received = pair.receive(64).unwrap();
        assert_eq!(received.iter().map(Vec::len).collect::<Vec<_>>(), [1792]);
        assert_eq!((pair.counters.rx_oversize, pair.counters.rx_invalid), (1, 0));
    }
}

#[test]
fn a_chain_waits_for_its_end_unless_there_can_be_none() {
    let mut pair = pair(Direction::ClientToServer, 2, 2048);
    for index in 0..4 {
        let descriptor = Descriptor { len: 20, flags: FLAG_NEXT, ..pair.ring.descriptor(index) };
        pair.ring.set_descriptor(index, descriptor);
    }
    // One at a time, as a caller may ask.
    pair.ring.head().store(1, Ordering::Release);
    assert!(pair.receive(1).unwrap().is_empty());
    let end = Descriptor { flags: 0, ..pair.ring.descriptor(1) };
    pair.ring.set_descriptor(1, end);
    pair.ring.head().store(2, Ordering::Release);
    assert_eq!(pair.receive(1).unwrap()[0].len(), 40);
    // A ring full of beginnings.
    pair.ring.set_descriptor(1, Descriptor { flags: FLAG_NEXT, ..end });
    pair.ring.head().store(6, Ordering::Release);
    assert!(pair.receive(1).unwrap().is_empty());
    assert_eq!(pair.counters.rx_invalid, 1);
    assert_eq!(pair.ring.tail().load(Ordering::Relaxed), 6);
}

#[test]
fn a_server_sends_nothing_to_where_no_buffer_is() {
    let mut pair = pair(Direction::ServerToClient, 2, 256);
    let good = pair.ring.descriptor(0);
    pair.ring.set_descriptor(0, Descriptor { region: 3, ..good });
    pair.ring.set_descriptor(1, Descriptor { offset: u32::MAX, ..good });
    pair.ring.set_descriptor(2, Descriptor { len: 0, ..good });
    assert_eq!(pair.sender.push(&[1; 60]), Ok(Pushed::Lost));
    assert_eq!(pair.sender.push(&[2; 60]), Ok(Pushed::Lost));
    assert_eq!(pair.sender.push(&[3; 60]), Ok(Pushed::Lost));
    assert_eq!(pair.sender.push(&[4; 60]), Ok(Pushed::Taken));
    pair.sender.publish();
    assert_eq!(pair.receive(64).unwrap(), [vec![4; 60]]);
    // And the client's buffers are whole again whatever their descriptors were.
    for byte in 0..4 {
        assert_eq!(pair.sender.push(&[byte; 60]), Ok(Pushed::Taken));
    }
    pair.sender.publish();
    assert_eq!(pair.receive(64).unwrap().len(), 4);
}

#[test]
fn nothing_is_lost_to_an_empty_pool() {
    let mut pair = pair(Direction::ClientToServer, 4, 64);
    for byte in 0..3 {
        assert_eq!(pair.sender.push(&[byte; 100]), Ok(Pushed::Taken)); // Two buffers each.
    }
    pair.sender.publish();
    let mut held = Vec::new();
    while let Some(frame) = pair.pool.alloc() {
        held.push(frame);
    }
    let mut batch = Batch::new();
    assert_eq!(pair.receiver.receive(&mut pair.pool, &mut batch, 64, &mut pair.counters), Ok(0));
    pair.pool.free(held.pop().unwrap());
    assert_eq!(pair.receiver.receive(&mut pair.pool, &mut batch, 64, &mut pair.counters), Ok(1));
    held.extend(batch.drain(..));
    held.into_iter().for_each(|frame| pair.pool.free(frame));
    assert_eq!(pair.receive(64).unwrap(), [vec![1; 100], vec![2; 100]]);
}

#[test]
fn whoever_wants_an_interrupt_is_told_so_or_sees_the_packet() {
    for direction in [Direction::ClientToServer, Direction::ServerToClient] {
        let mut pair = pair(direction, 4, 64);
        assert_eq!(pair.sender.push(&[1; 60]), Ok(Pushed::Taken));
        assert!(!pair.sender.publish(), "it polls");
        assert!(pair.receiver.unmask(), "it has come already");
        pair.receive(64).unwrap();
        assert!(!pair.receiver.unmask());
        assert_eq!(pair.sender.push(&[2; 60]), Ok(Pushed::Taken));
        assert!(pair.sender.publish(), "it sleeps");
        pair.receiver.mask();
        assert!(!pair.sender.publish());
    }
}

/// A peer that writes garbage to all of the ring while packets pass. Whatever comes of it, both ends come back.
#[test]
fn a_peer_that_scribbles_all_the_time_is_survived() {
    for direction in [Direction::ClientToServer, Direction::ServerToClient] {
        let mut pair = pair(direction, 6, 256);
        let at = Layout { queues: 1, log2_size: 6, buffer: 256 }.ring(direction, 0);
        let (memory, ring) = (Arc::clone(&pair.memory), pair.ring.clone());
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let ring = ring; // Moved: a view is one thread's.
                let mut state = 0x9e37_79b9_7f4a_7c15u64;
                while !done.load(Ordering::Relaxed) {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    let place = (state >> 32) as u32 % (Layout::ring_len(6) as u32 - 128 - 8);
                    let _ = memory.write(at + 128 + place, &state.to_ne_bytes());
                    if state.is_multiple_of(64) {
                        ring.head().fetch_add((state >> 8) as u16 % 3, Ordering::Relaxed);
                    }
                }
            });
            let (mut errors, mut rounds) = (0u64, 0);
            let deadline = Instant::now() + Duration::from_secs(20);
            // The scribbler may start late, on a busy machine.
            while rounds < 20_000 || errors + pair.counters.rx_invalid + pair.counters.rx_oversize == 0 {
                assert!(Instant::now() < deadline, "the scribbler did nothing");
                rounds += 1;
                let _ = pair.sender.push(&[7; 600]);
                let _ = pair.sender.push(&[7; 60]);
                pair.sender.publish();
                if pair.receive(BATCH_SIZE).is_err() {
                    // As a new connection would stand.
                    errors += 1;
                    let next = pair.receiver.next;
                    pair.ring.head().store(next, Ordering::Relaxed);
                    pair.ring.tail().store(next, Ordering::Relaxed);
                    (pair.sender.next, pair.sender.limit, pair.receiver.limit) = (next, next, next);
                    pair.receiver.give_back();
                }
            }
            done.store(true, Ordering::Relaxed);
        });
    }
}
