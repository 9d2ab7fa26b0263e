//! The table: lines of plain words, found by hash, read without a lock by every worker.
//!
//! ```text
//!   bucket = 16 lines + 16 tags (one byte each)            a flow may stand in either of its two buckets
//!   line   = [ sequence, epoch │ answer │ partner, deltas │ activity │ key │ rewritten ]
//! ```
//!
//! A line's first word is its lock (`line`). The activity word stands outside of the lock: the flow's
//! worker writes it with each packet, and nothing is decided by it but age.
//!
//! A full pair of buckets makes room by a stated rule: what has timed out, else what is closed or denied, else the
//! oldest flow that nobody has answered. A flow that both sides speak in is never pushed out.

use std::sync::atomic::{AtomicU64, Ordering};

use afxdp_driver::{HugePages, Region, RegionError, cpu};

use super::FlowView;
use super::entry::{Entry, Flags, Key, NO_PARTNER, address_words, decode, encode};
use super::hit::Hit;
use super::line::{Line, Locked};
use super::state::{self, Activity, Standing};
use crate::validity::Validity;
use crate::wire::hash::{hash_v4, hash_v6};

/// Lines in a bucket.
const WAYS: usize = 16;
/// Words of tags of a bucket.
const TAG_WORDS: usize = WAYS / 8;
/// What makes of a line's number that of the line beside it: the two share a page, and so an entry of the TLB.
const BESIDE: usize = 1;
/// Calls of `sweep` that go through all of the table.
const SWEEPS: usize = 64;
/// Word of the line whose low half is the partner's number.
const PARTNER: usize = 2;

/// A table of lines of `WORDS` words: 8 for IPv4, 16 for IPv6.
#[derive(Debug)]
pub struct Table<const WORDS: usize> {
    lines: Region,
    tags: Region,
    buckets: usize,
    /// Bits of a hash that number a line: one less than there are.
    mask: usize,
    seed: u64,
    used: AtomicU64,
    /// By [`Standing`]: pushed out before their time.
    evicted: [AtomicU64; 3],
    /// Where the next sweep begins.
    cursor: AtomicU64,
}

/// A line that answers for a packet.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// Its number.
    pub slot: u32,
    /// What it says.
    pub entry: Entry,
}

/// How full a table is.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// Lines in use.
    pub entries: u64,
    /// Lines there are.
    pub capacity: u64,
    /// Pushed out before their time: closed, unreplied, established (always 0).
    pub evicted: [u64; 3],
    /// What the memory is backed by.
    pub backing: &'static str,
}

impl<const WORDS: usize> Table<WORDS> {
    /// A table of at least `capacity` lines (rounded up to a power of two). `seed` keys the hash.
    ///
    /// # Errors
    /// [`RegionError`] where the memory cannot be mapped.
    pub fn new(capacity: usize, huge_pages: HugePages, seed: u64) -> Result<Self, RegionError> {
        let buckets = capacity.div_ceil(WAYS).next_power_of_two();
        Ok(Table {
            lines: Region::new(buckets * WAYS * WORDS * 8, huge_pages)?,
            tags: Region::new(buckets * TAG_WORDS * 8, huge_pages)?,
            buckets,
            mask: buckets * WAYS - 1,
            seed,
            used: AtomicU64::new(0),
            evicted: Default::default(),
            cursor: AtomicU64::new(0),
        })
    }

    /// Lines there are.
    pub fn capacity(&self) -> usize {
        self.buckets * WAYS
    }

    /// What keys the hash.
    #[inline(always)]
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// The hash by which [`lookup`](Self::lookup) finds a key.
    #[inline(always)]
    pub fn hash(&self, key: &Key) -> u64 {
        if WORDS == 8 {
            hash_v4(key.addresses[0], key.ports, self.seed)
        } else {
            hash_v6(&key.addresses, key.ports, self.seed)
        }
    }

    /// Number of the line that most likely answers for `hash`; it is on its way.
    #[inline(always)]
    pub(crate) fn expect(&self, hash: u64) -> u32 {
        let slot = self.home(hash) as u32;
        self.prefetch_line(slot);
        slot
    }

    /// All that a search for `hash`, or placing an entry, looks at first is on its way: for flows that are likely not there.
    #[inline]
    pub(crate) fn expect_new(&self, hash: u64) -> u32 {
        self.prefetch_tags(hash);
        self.expect(hash)
    }

    #[inline]
    fn prefetch_tags(&self, hash: u64) {
        for bucket in self.buckets_of(hash) {
            if let Some(tags) = self.tags.words().get(bucket * TAG_WORDS) {
                cpu::prefetch(tags);
            }
        }
    }

    /// Number of the line beside one that turned out to be another flow's: most flows without a place at home have theirs
    /// there. It is on its way, and so are the tags, for those that have not.
    #[inline(never)]
    pub(crate) fn expect_beside(&self, slot: u32, hash: u64) -> u32 {
        self.prefetch_tags(hash);
        let beside = slot ^ BESIDE as u32;
        self.prefetch_line(beside);
        beside
    }

    /// Whether a line has this word of ports.
    #[inline(always)]
    pub(crate) fn bears(&self, slot: u32, ports: u64) -> bool {
        self.line(slot as usize)
            .is_some_and(|line| line.words()[4 + address_words::<WORDS>()].load(Ordering::Relaxed) == ports)
    }

    /// What a line says, where it answers for the packet, holds by `validity`, and nobody is writing to it.
    #[inline(always)]
    pub(crate) fn hit<const A: usize>(
        &self,
        slot: u32,
        addresses: &[u64; A],
        ports: u64,
        validity: &Validity,
    ) -> Option<Hit<'_, A>> {
        const { assert!(A == address_words::<WORDS>()) };
        let line = self.line(slot as usize)?;
        let (before, unsteady, words) = line.glance(|line| {
            let key: [u64; A] = std::array::from_fn(|index| line.word(4 + index));
            let rewritten: [u64; A] = std::array::from_fn(|index| line.word(5 + A + index));
            (line.word(1), line.word(2), key, line.word(4 + A), rewritten, line.word(5 + 2 * A))
        });
        let (answer, partner_and_deltas, key, key_ports, rewritten, rewritten_ports) = words;
        let other_epoch = before >> 32 ^ u64::from(validity.epoch());
        let differs = key.iter().zip(addresses).fold(key_ports ^ ports, |all, (a, b)| all | (a ^ b));
        let says = unsteady | other_epoch | differs == 0
            || unsteady | differs == 0 && upheld::<WORDS, A>(line, before, validity);
        says.then_some(Hit {
            activity: line.activity(),
            answer,
            partner_and_deltas,
            addresses: rewritten,
            ports: rewritten_ports as u32,
        })
    }

    /// The line that answers for `key`, whose hash is `hash`.
    #[inline(always)]
    pub fn lookup(&self, key: &Key, hash: u64) -> Option<Found> {
        self.found(self.home(hash), key).or_else(|| self.lookup_elsewhere(key, hash))
    }

    /// What a line says, where it answers for `key`.
    #[inline(always)]
    fn found(&self, slot: usize, key: &Key) -> Option<Found> {
        let words = self.words(slot).filter(|words| is_for(words, key))?;
        Some(Found { slot: slot as u32, entry: decode(&words) })
    }

    /// Not in its home line: wherever its tag stands in its two buckets.
    #[inline(never)]
    fn lookup_elsewhere(&self, key: &Key, hash: u64) -> Option<Found> {
        let tag = tag_of(hash);
        for bucket in self.buckets_of(hash) {
            for slot in self.tagged(bucket, tag) {
                if let Some(found) = self.found(slot, key) {
                    return Some(found);
                }
            }
        }
        None
    }

    /// What a line says; `None` where it is empty or the number is none.
    #[inline]
    pub fn entry(&self, slot: u32) -> Option<Entry> {
        self.words(slot as usize).map(|words| decode(&words)).filter(|entry| entry.key.ports != 0)
    }

    /// The other direction of the flow of `entry`, which stands at `slot`, if it still is that.
    pub fn partner(&self, slot: u32, entry: &Entry) -> Option<Found> {
        let partner = self.entry(entry.partner)?;
        (partner.partner == slot).then_some(Found { slot: entry.partner, entry: partner })
    }

    /// What has passed by a line.
    #[inline]
    pub fn activity(&self, slot: u32) -> Activity {
        let word = self.line(slot as usize).map_or(0, |line| line.activity().load(Ordering::Relaxed));
        Activity::decode(word)
    }

    /// Notes a packet.
    #[inline(always)]
    pub fn touch(&self, slot: u32, now_seconds: u32, bits: u8) {
        if let Some(line) = self.line(slot as usize) {
            let mut activity = Activity::decode(line.activity().load(Ordering::Relaxed));
            activity.last_seen = now_seconds;
            activity.bits |= bits;
            activity.packets = activity.packets.wrapping_add(1);
            line.activity().store(activity.encode(), Ordering::Relaxed);
        }
    }

    /// Puts a flow of one direction (a denied one) into the table; `None` where no line may be taken.
    pub fn insert(&self, entry: &Entry, now_seconds: u32) -> Option<u32> {
        self.place(entry, now_seconds, NO_PARTNER)
    }

    /// Puts both directions of a flow into the table, each the other's partner; `None`, and nothing put, where no line
    /// may be taken.
    pub fn insert_pair(&self, forward: Entry, reply: Entry, now_seconds: u32) -> Option<(u32, u32)> {
        let first = self.place(&forward, now_seconds, NO_PARTNER)?;
        let Some(second) = self.place(&Entry { partner: first, ..reply }, now_seconds, first) else {
            self.clear(first);
            return None;
        };
        self.update(first, &Entry { partner: second, ..forward });
        Some((first, second))
    }

    /// Replaces what a line says. The key must be the same.
    pub fn update(&self, slot: u32, entry: &Entry) {
        self.write(slot as usize, |line| {
            if line.word(4 + address_words::<WORDS>()) == entry.key.ports {
                line.store(&encode(entry));
            }
        });
    }

    /// Forgets a flow, both directions of it.
    pub fn remove(&self, slot: u32) {
        let Some(entry) = self.entry(slot) else { return };
        if let Some(partner) = self.partner(slot, &entry) {
            self.clear(partner.slot);
        }
        self.clear(slot);
    }

    /// Forgets what has been idle for too long in the next part of the table.
    pub fn sweep(&self, now_seconds: u32) {
        let part = self.buckets.div_ceil(SWEEPS);
        let first = self.cursor.fetch_add(part as u64, Ordering::Relaxed) as usize;
        for bucket in (first..first + part).map(|bucket| bucket & (self.buckets - 1)) {
            for slot in bucket * WAYS..(bucket + 1) * WAYS {
                let slot = slot as u32;
                if let Some(entry) = self.entry(slot)
                    && self.life(slot, &entry).is_over(now_seconds)
                {
                    self.remove(slot);
                }
            }
        }
    }

    /// How full the table is.
    pub fn usage(&self) -> Usage {
        Usage {
            entries: self.used.load(Ordering::Relaxed),
            capacity: self.capacity() as u64,
            evicted: std::array::from_fn(|standing| self.evicted[standing].load(Ordering::Relaxed)),
            backing: self.lines.backing(),
        }
    }

    /// At most `limit` live entries, in table order.
    pub fn list(&self, limit: usize, v6: bool) -> Vec<FlowView> {
        let slots = 0..self.capacity() as u32;
        let view = |slot| {
            let entry = self.entry(slot)?;
            let life = self.life(slot, &entry);
            let drops = entry.flags.has(Flags::DROP);
            let state = state::name(entry.key.protocol(), drops, life.own, life.other);
            Some(FlowView { entry, activity: life.own, v6, state })
        };
        slots.filter_map(view).take(limit).collect()
    }

    /// Where the flow of an entry stands.
    pub fn standing(&self, slot: u32, entry: &Entry) -> Standing {
        self.life(slot, entry).standing()
    }

    fn life(&self, slot: u32, entry: &Entry) -> Life {
        Life {
            protocol: entry.key.protocol(),
            drops: entry.flags.has(Flags::DROP),
            own: self.activity(slot),
            other: self.partner(slot, entry).map(|partner| self.activity(partner.slot)),
        }
    }

    /// Puts an entry into a free line, or into that of the worst flow of its two buckets. Not into `kept`.
    fn place(&self, entry: &Entry, now_seconds: u32, kept: u32) -> Option<u32> {
        let hash = self.hash(&entry.key);
        let home = self.home(hash);
        for slot in [home, home ^ BESIDE] {
            if self.tag(slot) == 0 && self.claim(slot, entry, now_seconds, hash) {
                return Some(slot as u32);
            }
        }
        let [mut first, mut second] = self.buckets_of(hash);
        // The emptier one first: of two choices the better keeps the fullest bucket near the average.
        if self.used_in(second) < self.used_in(first) {
            (first, second) = (second, first);
        }
        let candidates: [usize; 2 * WAYS] = std::array::from_fn(|index| {
            if index < WAYS { first * WAYS + index } else { second * WAYS + index - WAYS }
        });
        for slot in candidates {
            if self.tag(slot) == 0 && self.claim(slot, entry, now_seconds, hash) {
                return Some(slot as u32);
            }
        }
        let (slot, standing) = self.worst(&candidates, now_seconds, kept)?;
        self.remove(slot);
        if let Some(standing) = standing {
            self.evicted[standing as usize].fetch_add(1, Ordering::Relaxed);
        }
        self.claim(slot as usize, entry, now_seconds, hash).then_some(slot)
    }

    /// The flow to push out, and as what; `None` for the standing of one whose time was over anyway.
    fn worst(&self, candidates: &[usize], now_seconds: u32, kept: u32) -> Option<(u32, Option<Standing>)> {
        // Both lines of each flow are looked at: all of them at once are on their way before the first is.
        for slot in candidates {
            self.prefetch_line(*slot as u32);
        }
        for slot in candidates {
            if let Some(line) = self.line(*slot) {
                self.prefetch_line(line.words()[PARTNER].load(Ordering::Relaxed) as u32);
            }
        }
        let mut worst: Option<(Standing, u32, u32)> = None;
        for slot in candidates.iter().map(|&slot| slot as u32).filter(|&slot| slot != kept) {
            let Some(entry) = self.entry(slot) else { continue };
            let life = self.life(slot, &entry);
            if entry.partner == kept && kept != NO_PARTNER {
                continue;
            }
            if life.is_over(now_seconds) {
                return Some((slot, None));
            }
            let (standing, idle) = (life.standing(), life.idle(now_seconds));
            let worse =
                worst.is_none_or(|(other, age, _)| standing < other || standing == other && idle > age);
            if standing != Standing::Established && worse {
                worst = Some((standing, idle, slot));
            }
        }
        worst.map(|(standing, _, slot)| (slot, Some(standing)))
    }

    /// Writes an entry into an empty line. False where somebody else was faster.
    fn claim(&self, slot: usize, entry: &Entry, now_seconds: u32, hash: u64) -> bool {
        let taken = self.write(slot, |line| {
            if line.word(4 + address_words::<WORDS>()) != 0 {
                return false;
            }
            line.store(&encode(entry));
            let activity = Activity { last_seen: now_seconds, bits: 0, packets: 0 };
            line.activity().store(activity.encode(), Ordering::Relaxed);
            self.set_tag(slot, tag_of(hash));
            true
        });
        let taken = taken.unwrap_or(false);
        self.used.fetch_add(taken as u64, Ordering::Relaxed);
        taken
    }

    fn clear(&self, slot: u32) {
        let cleared = self.write(slot as usize, |line| {
            let was_used = line.word(4 + address_words::<WORDS>()) != 0;
            line.store(&[0; WORDS]);
            self.set_tag(slot as usize, 0);
            was_used
        });
        self.used.fetch_sub(cleared.unwrap_or(false) as u64, Ordering::Relaxed);
    }

    /// Runs `change` under the line's lock; `None` where there is no such line.
    fn write<T>(&self, slot: usize, change: impl FnOnce(Locked<'_, WORDS>) -> T) -> Option<T> {
        self.line(slot).map(|line| line.write(change))
    }

    /// The words of a line, consistent among themselves.
    #[inline(always)]
    fn words(&self, slot: usize) -> Option<[u64; WORDS]> {
        self.line(slot).map(Line::read)
    }

    #[inline(always)]
    fn prefetch_line(&self, slot: u32) {
        if let Some(line) = self.line(slot as usize) {
            let words = line.words();
            cpu::prefetch(&words[0]);
            if WORDS > 8 {
                cpu::prefetch(&words[WORDS / 2]);
            }
        }
    }

    #[inline(always)]
    fn line(&self, slot: usize) -> Option<Line<'_, WORDS>> {
        self.lines.words().as_chunks::<WORDS>().0.get(slot).map(Line::new)
    }

    /// The line in which a flow is put where that is free.
    #[inline(always)]
    fn home(&self, hash: u64) -> usize {
        hash as usize & self.mask
    }

    fn buckets_of(&self, hash: u64) -> [usize; 2] {
        [self.home(hash) / WAYS, hash.rotate_right(29) as usize & (self.buckets - 1)]
    }

    fn tag(&self, slot: usize) -> u8 {
        let word = self.tags.words().get(slot / 8).map_or(0, |word| word.load(Ordering::Relaxed));
        (word >> (slot % 8 * 8)) as u8
    }

    /// Lines of a bucket in use: tags that are not zero.
    fn used_in(&self, bucket: usize) -> u32 {
        const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
        self.tag_words(bucket).map(|word| ((((word & LOW) + LOW) | word) & !LOW).count_ones()).iter().sum()
    }

    fn tag_words(&self, bucket: usize) -> [u64; TAG_WORDS] {
        std::array::from_fn(|index| {
            self.tags.words().get(bucket * TAG_WORDS + index).map_or(0, |word| word.load(Ordering::Relaxed))
        })
    }

    /// Lines of a bucket that may bear the tag: all that do, and now and then one behind them that does not.
    fn tagged(&self, bucket: usize, tag: u8) -> impl Iterator<Item = usize> {
        const ONES: u64 = 0x0101_0101_0101_0101;
        self.tag_words(bucket).into_iter().enumerate().flat_map(move |(index, word)| {
            // A byte that is zero here is the tag's; the highest bit of each such byte is set in `marks`.
            let other = word ^ (ONES * u64::from(tag));
            let mut marks = other.wrapping_sub(ONES) & !other & (ONES << 7);
            let first = bucket * WAYS + index * 8;
            std::iter::from_fn(move || {
                let way = (marks != 0).then(|| marks.trailing_zeros() as usize / 8)?;
                marks &= marks - 1;
                Some(first + way)
            })
        })
    }

    fn set_tag(&self, slot: usize, tag: u8) {
        if let Some(word) = self.tags.words().get(slot / 8) {
            let shift = slot % 8 * 8;
            let changed = |word: u64| Some(word & !(0xff << shift) | (tag as u64) << shift);
            // The closure always answers, so there is no error.
            let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, changed);
        }
    }
}

/// Whether a line is the key's. By words: they are in registers, where a comparison of whole keys would go through memory.
#[inline(always)]
fn is_for<const WORDS: usize>(words: &[u64; WORDS], key: &Key) -> bool {
    let addresses = address_words::<WORDS>();
    let ports = words[4 + addresses] ^ key.ports;
    (0..addresses).fold(ports, |other, index| other | words[4 + index] ^ key.addresses[index]) == 0
}

/// Whether a line that was seen with this first word, of another epoch, holds. It is looked at once more here: what
/// [`Table::hit`] has of it stays in registers. Of so many packets that find it does, one has the line take the new epoch:
/// tables may change more often than a flow has packets, and to write is dear.
#[inline(never)]
fn upheld<const WORDS: usize, const A: usize>(
    line: Line<'_, WORDS>,
    first: u64,
    validity: &Validity,
) -> bool {
    const SELDOM: u32 = 8;
    let (again, unsteady, (key, rewritten)) = line.glance(|line| {
        let key: [u64; A] = std::array::from_fn(|index| line.word(4 + index));
        let rewritten: [u64; A] = std::array::from_fn(|index| line.word(5 + A + index));
        (key, rewritten)
    });
    let is_the_same = again ^ first | unsteady == 0;
    let holds = is_the_same && validity.holds((first >> 32) as u32, [&key, &rewritten]);
    if holds && Activity::decode(line.activity().load(Ordering::Relaxed)).packets.is_multiple_of(SELDOM) {
        line.renew(first, validity.epoch());
    }
    holds
}

/// What is known of how a flow lives.
struct Life {
    protocol: u8,
    drops: bool,
    own: Activity,
    other: Option<Activity>,
}

impl Life {
    fn standing(&self) -> Standing {
        state::standing(self.protocol, self.drops, self.own, self.other)
    }

    /// Seconds since either direction carried a packet.
    fn idle(&self, now_seconds: u32) -> u32 {
        let own = self.own.idle(now_seconds);
        self.other.map_or(own, |other| own.min(other.idle(now_seconds)))
    }

    fn is_over(&self, now_seconds: u32) -> bool {
        self.idle(now_seconds) > state::timeout(self.protocol, self.drops, self.own, self.other)
    }
}

/// One byte of the hash that the bucket's number does not hold; never 0, which is an empty line's.
fn tag_of(hash: u64) -> u8 {
    ((hash >> 56) as u8).max(1)
}

#[cfg(test)]
mod tests;
