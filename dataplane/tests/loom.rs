//! The publication and the flow table's sequence lock, model-checked: loom runs each test in every interleaving, and with every
//! value that the memory model lets a load see.
//!
//! It is the code of the crate itself: both files name their atomics by `crate::sync`, and are compiled here a second time,
//! with loom's in that place. What is modelled and what is not: docs/testing.md.

#![allow(dead_code, unreachable_pub, missing_docs)] // Of the two files, and of what they offer to others than these tests.
#![allow(clippy::unwrap_used)] // Loom's lock, in the place of what cannot fail.

#[path = "../src/flow/line.rs"]
mod line;
#[path = "loom/publish.rs"]
mod publish;
#[path = "loom/sync.rs"]
mod sync;

use loom::thread;

use self::line::Line;
use self::publish::protocol::{Numbered, Publication, Publisher, Reader};
use self::sync::{Arc, AtomicU64, Ordering};

/// Every interleaving in which threads are pre-empted at most `preemptions` times where they need not be.
fn model(preemptions: usize, test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(test);
}

/// A snapshot that tells loom when it is read and when it is freed: to do both at once, or to read what is not written yet, is an
/// error of the model. It may be freed by the thread that made it alone.
struct Watched {
    epoch: u32,
    contents: loom::cell::UnsafeCell<u32>,
    control: thread::ThreadId,
}

impl Watched {
    fn new() -> Self {
        Watched { epoch: 1, contents: loom::cell::UnsafeCell::new(0), control: thread::current().id() }
    }

    fn read(&self) -> u32 {
        self.contents.with(|_| ());
        self.epoch
    }
}

impl Numbered for Watched {
    fn epoch(&self) -> u32 {
        self.read()
    }

    fn set_epoch(&mut self, epoch: u32) {
        self.contents.with_mut(|_| ());
        self.epoch = epoch;
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.contents.with_mut(|_| ());
        assert_eq!(thread::current().id(), self.control, "freed by a worker");
    }
}

/// Control publishes twice while a worker turns twice: what the worker reads is whole, is never freed under it, never older than
/// what it has acknowledged, and freed by control alone.
#[test]
fn no_reader_sees_a_snapshot_that_is_freed_or_not_whole() {
    model(3, || {
        let publication = Publication::new(Watched::new(), 1);
        let mut publisher = Publisher::new(Arc::clone(&publication));
        let mut reader = Reader::new(&publication, 0);
        let worker = thread::spawn(move || {
            let mut last = reader.snapshot().read();
            for _ in 0..2 {
                reader.refresh();
                let now = reader.snapshot().read();
                assert!(now >= last, "back from {last} to {now}");
                last = now;
            }
            reader
        });
        publisher.publish(Watched::new());
        publisher.publish(Watched::new());
        publisher.release();
        let reader = worker.join().unwrap();
        assert!(reader.snapshot().read() >= 1);
        // The worker's last reference goes before control's, as penstockd joins its workers first.
        drop(reader);
        drop(publication);
    });
}

/// Once the epoch counts as passed, nothing is judged by the one before: not by a worker that turns, and not by one that sleeps, that
/// falls asleep or that wakes up at that moment.
#[test]
fn what_is_passed_is_not_judged_by_any_more() {
    model(3, || {
        let publication = Publication::new(Watched::new(), 1);
        let mut publisher = Publisher::new(Arc::clone(&publication));
        let mut reader = Reader::new(&publication, 0);
        // The last epoch that control was told is passed.
        let promised = Arc::new(AtomicU64::new(0));
        let told = Arc::clone(&promised);
        let worker = thread::spawn(move || {
            if reader.fall_asleep() {
                reader.wake_up();
            }
            // What the promise says before the turn begins must hold in it.
            let promise = told.load(Ordering::Acquire);
            reader.refresh();
            let judged = u64::from(reader.snapshot().read());
            assert!(judged >= promise, "judged by {judged} after {promise} was passed");
            reader
        });
        let epoch = publisher.publish(Watched::new());
        if publisher.passed(epoch).is_ok() {
            promised.store(u64::from(epoch), Ordering::Release);
        }
        drop(worker.join().unwrap());
    });
}

/// The same from the worker's side: a worker that did not see the new epoch after waking is one that control sees awake.
#[test]
fn a_worker_that_wakes_up_is_waited_for() {
    model(3, || {
        let publication = Publication::new(Watched::new(), 1);
        let mut publisher = Publisher::new(Arc::clone(&publication));
        let mut reader = Reader::new(&publication, 0);
        assert!(reader.fall_asleep());
        let judging = Arc::new(AtomicU64::new(0));
        let shown = Arc::clone(&judging);
        let worker = thread::spawn(move || {
            reader.wake_up();
            reader.refresh();
            let epoch = u64::from(reader.snapshot().read());
            // A packet in the worker's hands from here to there.
            shown.store(epoch, Ordering::Release);
            shown.store(0, Ordering::Release);
            reader
        });
        let epoch = publisher.publish(Watched::new());
        if publisher.passed(epoch).is_ok() {
            let judging = judging.load(Ordering::Acquire);
            assert!(judging == 0 || judging >= u64::from(epoch), "still judges by {judging}");
        }
        drop(worker.join().unwrap());
    });
}

/// A worker may not fall asleep behind: either it sees the new epoch, or control sees it asleep (and rings).
#[test]
fn nobody_falls_asleep_unseen_with_a_new_epoch_waiting() {
    model(3, || {
        let publication = Publication::new(Watched::new(), 1);
        let mut publisher = Publisher::new(Arc::clone(&publication));
        let reader = Reader::new(&publication, 0);
        let worker = thread::spawn(move || {
            let sleeps = reader.fall_asleep();
            (sleeps, reader)
        });
        let epoch = publisher.publish(Watched::new());
        let seen_asleep = publisher.passed(epoch).is_ok();
        let (sleeps, reader) = worker.join().unwrap();
        assert!(!sleeps || seen_asleep, "asleep behind, and nobody knows");
        drop(reader);
    });
}

/// Two workers: the snapshot stays until the second has passed it as well.
#[test]
fn the_slower_of_two_workers_keeps_what_it_reads() {
    model(2, || {
        let publication = Publication::new(Watched::new(), 2);
        let mut publisher = Publisher::new(Arc::clone(&publication));
        let turn = |mut reader: Reader<Watched>| {
            thread::spawn(move || {
                reader.snapshot().read();
                reader.refresh();
                reader.snapshot().read();
                reader
            })
        };
        let workers = [0, 1].map(|number| turn(Reader::new(&publication, number)));
        publisher.publish(Watched::new());
        publisher.release();
        for worker in workers {
            drop(worker.join().unwrap());
        }
    });
}

const WORDS: usize = 5;

/// A line of which every word but the activity holds one number.
fn written(number: u64) -> [u64; WORDS] {
    [number << 32, number, number, 0, number]
}

fn words() -> Arc<[AtomicU64; WORDS]> {
    Arc::new(std::array::from_fn(|_| AtomicU64::new(0)))
}

/// A reader beside a writer that writes twice: all words are of one write.
#[test]
fn a_reader_never_sees_half_a_line() {
    model(3, || {
        let words = words();
        let shared = Arc::clone(&words);
        let writer = thread::spawn(move || {
            for number in [1, 2] {
                Line::new(&shared).write(|line| line.store(&written(number)));
            }
        });
        let seen = Line::new(&words).read();
        let number = seen[1];
        assert_eq!([seen[0] >> 32, seen[2], seen[4]], [number; 3], "half a line: {seen:?}");
        writer.join().unwrap();
    });
}

/// The same for one look, which may say that it saw nothing.
#[test]
fn a_glance_never_takes_half_a_line_for_a_whole() {
    model(3, || {
        let words = words();
        let shared = Arc::clone(&words);
        let reader = thread::spawn(move || {
            let (first, unsteady, seen) =
                Line::new(&shared).glance(|line| [line.word(1), line.word(2), line.word(4)]);
            assert!(unsteady != 0 || seen == [first >> 32; 3], "half a line: {first:x} {seen:?}");
        });
        // The other way round loom would let the first load see nothing but the beginning.
        for number in [1, 2] {
            Line::new(&words).write(|line| line.store(&written(number)));
        }
        reader.join().unwrap();
        let (first, unsteady, seen) = Line::new(&words).glance(|line| line.word(4));
        assert_eq!((first >> 32, unsteady, seen), (2, 0, 2), "nobody writes any more");
    });
}

/// A line takes another epoch beside a writer: the writer's words stand, under the writer's epoch, and what was seen before it
/// is under the new epoch or gone.
#[test]
fn an_epoch_is_never_given_to_what_has_been_written_since() {
    const RENEWED: u32 = 9;
    model(3, || {
        let words = words();
        Line::new(&words).write(|line| line.store(&written(1)));
        let shared = Arc::clone(&words);
        let renewing = thread::spawn(move || {
            let line = Line::new(&shared);
            let (first, unsteady, seen) = line.glance(|line| line.word(1));
            if unsteady == 0 && seen == 1 {
                line.renew(first, RENEWED);
            }
            let [first, seen, ..] = line.read();
            let expected: &[u64] = if seen == 1 { &[1, RENEWED as u64] } else { &[2] };
            assert!(expected.contains(&(first >> 32)), "{seen} under {}", first >> 32);
        });
        Line::new(&words).write(|line| line.store(&written(2)));
        renewing.join().unwrap();
        let seen = Line::new(&words).read();
        assert_eq!([seen[0] >> 32, seen[1], seen[2], seen[4]], [2; 4], "{seen:?}");
    });
}

/// Two writers: the second sees all that the first wrote, and neither's count is lost.
#[test]
fn writers_exclude_one_another() {
    model(3, || {
        let words = words();
        let add = |words: Arc<[AtomicU64; WORDS]>| {
            Line::new(&words).write(|line| {
                let before = line.word(1);
                assert_eq!([line.word(2), line.word(4)], [before; 2], "half a line under the lock");
                line.store(&written(before + 1));
            });
        };
        let shared = Arc::clone(&words);
        let other = thread::spawn(move || add(shared));
        add(Arc::clone(&words));
        other.join().unwrap();
        assert_eq!(Line::new(&words).read()[1], 2);
    });
}

/// A packet noted while the line is written: the activity is outside of the lock, and a write leaves it as it is.
#[test]
fn a_write_leaves_the_activity_alone() {
    model(3, || {
        let words = words();
        let shared = Arc::clone(&words);
        let worker = thread::spawn(move || Line::new(&shared).activity().store(7, Ordering::Relaxed));
        Line::new(&words).write(|line| line.store(&written(1)));
        worker.join().unwrap();
        assert_eq!(Line::new(&words).activity().load(Ordering::Relaxed), 7);
    });
}
