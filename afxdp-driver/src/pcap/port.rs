//! [`PcapPort`].

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read, Write};

use super::{ETHERNET, PcapError, PcapReader, PcapWriter};
use crate::frame::BATCH_SIZE;
use crate::{Batch, Frame, FramePool, PacketIo, PortCounters, PortError};

/// A port that receives the packets of one capture, in order and as fast as it is asked, and writes what is sent to
/// another. Time is the file's: [`times`](Self::times) says when the packets of the last batch were captured, and
/// what is sent bears the time last [set](Self::set_time).
pub struct PcapPort {
    name: String,
    reader: Option<PcapReader<Box<dyn Read + Send>>>,
    writer: Option<PcapWriter<Box<dyn Write + Send>>>,
    sending: VecDeque<(u64, Frame)>,
    times: Vec<u64>,
    /// A record that was read when the pool had no chunk for it.
    waiting: Option<super::Record>,
    time_ns: u64,
    failure: Option<PcapError>,
    counters: PortCounters,
}

/// Frames that `send` takes between two flushes.
const CAPACITY: usize = 4 * BATCH_SIZE;

impl fmt::Debug for PcapPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PcapPort")
            .field("name", &self.name)
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

impl PcapPort {
    /// A port named `name` in errors. Without a `source` it receives nothing; without a `sink` what is sent is
    /// counted and gone. Give it buffered ones.
    ///
    /// # Errors
    /// [`PcapError`] where the source is no capture, or not one of Ethernet; or the sink cannot be written.
    pub fn new(
        name: impl Into<String>,
        source: Option<Box<dyn Read + Send>>,
        sink: Option<Box<dyn Write + Send>>,
    ) -> Result<Self, PcapError> {
        let reader = source.map(PcapReader::new).transpose()?;
        if let Some(other) = reader.as_ref().map(PcapReader::link_type).filter(|&link| link != ETHERNET) {
            return Err(PcapError::LinkType(other));
        }
        Ok(PcapPort {
            name: name.into(),
            reader,
            writer: sink.map(PcapWriter::new).transpose()?,
            sending: VecDeque::with_capacity(CAPACITY),
            times: Vec::with_capacity(BATCH_SIZE),
            waiting: None,
            time_ns: 0,
            failure: None,
            counters: PortCounters::default(),
        })
    }

    /// Capture times, in nanoseconds since 1970, of the frames that the last `receive` appended, in their order.
    pub fn times(&self) -> &[u64] {
        &self.times
    }

    /// The time, in nanoseconds since 1970, of the packets sent from here on.
    pub fn set_time(&mut self, time_ns: u64) {
        self.time_ns = time_ns;
    }

    /// Whether everything that can be received has been: the capture ended, or could not be read on.
    pub fn is_exhausted(&self) -> bool {
        self.reader.is_none() && self.waiting.is_none()
    }

    /// Why the capture could not be read to its end, if so.
    pub fn failure(&self) -> Option<&PcapError> {
        self.failure.as_ref()
    }

    fn next_record(&mut self) -> Option<super::Record> {
        if let Some(record) = self.waiting.take() {
            return Some(record);
        }
        match self.reader.as_mut()?.next() {
            Some(Ok(record)) => return Some(record),
            Some(Err(error)) => self.failure = Some(error),
            None => {}
        }
        self.reader = None;
        None
    }
}

impl PacketIo for PcapPort {
    fn receive(&mut self, pool: &mut FramePool, batch: &mut Batch, most: usize) -> usize {
        self.times.clear();
        while self.times.len() < most && !batch.is_full() {
            let Some(record) = self.next_record() else { break };
            let Some(mut frame) = pool.alloc() else {
                self.waiting = Some(record);
                break;
            };
            if !frame.fill(&record.data) {
                self.counters.rx_oversize += 1;
                pool.free(frame);
                continue;
            }
            self.counters.rx_packets += 1;
            self.counters.rx_bytes += frame.len() as u64;
            self.times.push(record.time_ns);
            batch.push(frame);
        }
        self.times.len()
    }

    fn send(&mut self, _pool: &mut FramePool, batch: &mut Batch) -> usize {
        let room = CAPACITY.saturating_sub(self.sending.len()).min(batch.len());
        for frame in batch.drain(..room) {
            self.counters.tx_packets += 1;
            self.counters.tx_bytes += frame.len() as u64;
            self.sending.push_back((self.time_ns, frame));
        }
        room
    }

    fn flush(&mut self, pool: &mut FramePool) -> Result<(), PortError> {
        let mut result = Ok(());
        for (time, frame) in self.sending.drain(..) {
            if let (Ok(()), Some(writer)) = (&result, &mut self.writer) {
                result = writer.write(time, &frame);
            }
            pool.free(frame);
        }
        if let (Ok(()), Some(writer)) = (&result, &mut self.writer) {
            result = writer.flush();
        }
        result.map_err(|error| {
            let source = match error {
                PcapError::Io { source, .. } => source,
                other => io::Error::other(other),
            };
            PortError::Io { device: self.name.clone(), operation: "writing the capture", source }
        })
    }

    fn in_flight(&self) -> usize {
        self.sending.len()
    }

    fn counters(&self) -> PortCounters {
        self.counters
    }

    fn close(mut self, pool: &mut FramePool) {
        for (_, frame) in self.sending.drain(..) {
            pool.free(frame);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::{HugePages, PoolLedger};

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn capture(lens: impl IntoIterator<Item = usize>) -> Vec<u8> {
        let mut writer = PcapWriter::new(Vec::new()).unwrap();
        for (index, len) in lens.into_iter().enumerate() {
            writer.write(index as u64 * 1000, &vec![index as u8; len]).unwrap();
        }
        writer.finish().unwrap()
    }

    #[test]
    fn a_capture_passes_through_unchanged_with_its_times() {
        let input = capture((0..200).map(|index| 14 + index));
        let output = Shared::default();
        let source = Box::new(io::Cursor::new(input.clone()));
        let mut port = PcapPort::new("in", Some(source), Some(Box::new(output.clone()))).unwrap();
        let mut pool = FramePool::anonymous(256, HugePages::Never).unwrap();
        while !port.is_exhausted() {
            let mut batch = Batch::new();
            let received = port.receive(&mut pool, &mut batch, BATCH_SIZE);
            assert_eq!(port.times().len(), received);
            for index in 0..received {
                let mut one = Batch::new();
                one.push(batch.remove(0));
                port.set_time(port.times()[index]);
                assert_eq!(port.send(&mut pool, &mut one), 1);
            }
            port.flush(&mut pool).unwrap();
        }
        assert!(port.failure().is_none());
        assert_eq!(*output.0.lock().unwrap(), input);
        assert_eq!((port.counters().rx_packets, port.counters().tx_packets), (200, 200));
        port.close(&mut pool);
        assert_eq!(pool.ledger(), PoolLedger { free: 256, out: 0, kernel: 0, total: 256 });
    }

    #[test]
    fn nothing_is_lost_to_an_empty_pool() {
        let mut port =
            PcapPort::new("in", Some(Box::new(io::Cursor::new(capture([20, 30, 40])))), None).unwrap();
        let mut pool = FramePool::anonymous(1, HugePages::Never).unwrap();
        for len in [20, 30, 40] {
            let mut batch = Batch::new();
            assert!(!port.is_exhausted());
            assert_eq!(port.receive(&mut pool, &mut batch, BATCH_SIZE), 1);
            assert_eq!(batch[0].len(), len);
            batch.into_iter().for_each(|frame| pool.free(frame));
        }
        assert_eq!(port.receive(&mut pool, &mut Batch::new(), BATCH_SIZE), 0);
        assert!(port.is_exhausted());
    }

    #[test]
    fn a_packet_too_long_for_a_chunk_is_counted_and_a_broken_capture_is_said() {
        let mut input = capture([1792, 1793, 60]);
        input.pop();
        let mut port = PcapPort::new("in", Some(Box::new(io::Cursor::new(input))), None).unwrap();
        let mut pool = FramePool::anonymous(8, HugePages::Never).unwrap();
        let mut batch = Batch::new();
        assert_eq!(port.receive(&mut pool, &mut batch, BATCH_SIZE), 1);
        assert_eq!(port.counters().rx_oversize, 1);
        assert!(matches!(port.failure(), Some(PcapError::Truncated { record: 3, .. })));
        batch.into_iter().for_each(|frame| pool.free(frame));
        assert_eq!(pool.ledger().free, 8);
    }

    #[test]
    fn only_ethernet_can_be_a_port() {
        let mut input = capture([60]);
        input[20] = 113; // Linux cooked
        let refused = PcapPort::new("in", Some(Box::new(io::Cursor::new(input))), None);
        assert!(matches!(refused, Err(PcapError::LinkType(113))));
    }

    #[test]
    fn a_sink_that_fails_is_an_error_and_keeps_no_frame() {
        struct Full(usize);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut port = PcapPort::new("out", None, Some(Box::new(Full(100)))).unwrap();
        let mut pool = FramePool::anonymous(4, HugePages::Never).unwrap();
        let mut batch = Batch::new();
        for _ in 0..2 {
            let mut frame = pool.alloc().unwrap();
            assert!(frame.fill(&[0; 60]));
            batch.push(frame);
        }
        port.send(&mut pool, &mut batch);
        let error = port.flush(&mut pool).unwrap_err();
        assert!(error.to_string().starts_with("port out: writing the capture"), "{error}");
        assert_eq!(pool.ledger().free, 4);
    }
}
