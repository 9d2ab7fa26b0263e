//! [`PcapWriter`].

use std::io::Write;

use super::{ETHERNET, MAGIC_NANOSECONDS, MAX_CAPTURED, PcapError};

/// Writes Ethernet packets to a capture with nanosecond times, little-endian. Give it a buffered sink.
#[derive(Debug)]
pub struct PcapWriter<W> {
    sink: W,
    records: u64,
}

impl<W: Write> PcapWriter<W> {
    /// Writes the file's header.
    ///
    /// # Errors
    /// [`PcapError::Io`].
    pub fn new(mut sink: W) -> Result<Self, PcapError> {
        let mut header = Vec::with_capacity(24);
        header.extend(MAGIC_NANOSECONDS.to_le_bytes());
        header.extend(2u16.to_le_bytes());
        header.extend(4u16.to_le_bytes());
        for word in [0, 0, MAX_CAPTURED, ETHERNET] {
            header.extend(word.to_le_bytes());
        }
        sink.write_all(&header).map_err(|source| PcapError::Io { record: 0, source })?;
        Ok(PcapWriter { sink, records: 0 })
    }

    /// Writes a packet, whole, with its time in nanoseconds since 1970.
    ///
    /// # Errors
    /// [`PcapError::Unwritable`] for more than [`MAX_CAPTURED`] bytes or a time after 2106; [`PcapError::Io`].
    pub fn write(&mut self, time_ns: u64, packet: &[u8]) -> Result<(), PcapError> {
        let record = self.records + 1;
        let unwritable = |reason| PcapError::Unwritable { record, reason };
        let len = u32::try_from(packet.len()).ok().filter(|&len| len <= MAX_CAPTURED);
        let len = len.ok_or_else(|| unwritable("it is longer than 262144 bytes"))?;
        let seconds = u32::try_from(time_ns / 1_000_000_000);
        let seconds = seconds.map_err(|_| unwritable("its time is after the year 2106"))?;
        let mut header = [0; 16];
        let fields = [seconds, (time_ns % 1_000_000_000) as u32, len, len];
        for (bytes, field) in header.chunks_exact_mut(4).zip(fields) {
            bytes.copy_from_slice(&field.to_le_bytes());
        }
        let written = self.sink.write_all(&header).and_then(|()| self.sink.write_all(packet));
        written.map_err(|source| PcapError::Io { record, source })?;
        self.records = record;
        Ok(())
    }

    /// Packets written so far.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Hands everything to the system.
    ///
    /// # Errors
    /// [`PcapError::Io`].
    pub fn flush(&mut self) -> Result<(), PcapError> {
        self.sink.flush().map_err(|source| PcapError::Io { record: self.records, source })
    }

    /// Flushes and gives the sink back.
    ///
    /// # Errors
    /// [`PcapError::Io`].
    pub fn finish(mut self) -> Result<W, PcapError> {
        self.flush()?;
        Ok(self.sink)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{PcapReader, Record};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(
            packets in proptest::collection::vec(
                (0u64..4_294_967_296_000_000_000, proptest::collection::vec(any::<u8>(), 0..100)), 0..10),
        ) {
            let mut writer = PcapWriter::new(Vec::new()).unwrap();
            for (time, packet) in &packets {
                writer.write(*time, packet).unwrap();
            }
            prop_assert_eq!(writer.records(), packets.len() as u64);
            let file = writer.finish().unwrap();
            let read: Result<Vec<Record>, _> = PcapReader::new(&file[..]).unwrap().collect();
            let read: Vec<_> = read.unwrap().into_iter().map(|r| (r.time_ns, r.data)).collect();
            prop_assert_eq!(read, packets);
        }
    }

    #[test]
    fn what_does_not_fit_the_format_is_refused() {
        let mut writer = PcapWriter::new(Vec::new()).unwrap();
        let error = writer.write(u64::MAX, b"").unwrap_err();
        assert_eq!(error.to_string(), "packet 1 cannot be written: its time is after the year 2106");
        assert!(writer.write(0, &vec![0; MAX_CAPTURED as usize + 1]).is_err());
        assert_eq!(writer.finish().unwrap().len(), 24, "nothing but the header");
    }
}
