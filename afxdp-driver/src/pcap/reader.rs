//! [`PcapReader`].

use std::io::{self, Read};

use super::{MAGIC_MICROSECONDS, MAGIC_NANOSECONDS, MAX_CAPTURED, PcapError};

const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;

/// One captured packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// When it was captured, in nanoseconds since 1970.
    pub time_ns: u64,
    /// Bytes it had on the wire, as the file says; more than `data` has where the capture cut it.
    pub original_len: u32,
    /// The captured bytes.
    pub data: Vec<u8>,
}

/// Reads the records of a capture in order; an iterator that ends after the last record or the first error. Give it
/// a buffered source.
#[derive(Debug)]
pub struct PcapReader<R> {
    source: R,
    big_endian: bool,
    nanoseconds: bool,
    snaplen: u32,
    link_type: u32,
    records: u64,
    offset: u64,
    finished: bool,
}

impl<R: Read> PcapReader<R> {
    /// Reads the file's header.
    ///
    /// # Errors
    /// [`PcapError`]: not a capture, one of another kind or version, or one that ends within its header.
    pub fn new(mut source: R) -> Result<Self, PcapError> {
        let mut header = [0; FILE_HEADER];
        let present =
            read_up_to(&mut source, &mut header).map_err(|source| PcapError::Io { record: 0, source })?;
        let short = PcapError::TruncatedHeader(present);
        let magic = match header.first_chunk() {
            Some(bytes) if present >= 4 => u32::from_be_bytes(*bytes),
            _ => return Err(short),
        };
        let (big_endian, nanoseconds) = match (magic, magic.swap_bytes()) {
            (MAGIC_MICROSECONDS, _) => (true, false),
            (MAGIC_NANOSECONDS, _) => (true, true),
            (_, MAGIC_MICROSECONDS) => (false, false),
            (_, MAGIC_NANOSECONDS) => (false, true),
            (0x0a0d_0d0a, _) => return Err(PcapError::Unsupported("pcapng")),
            (0xa1b2_cd34, _) | (_, 0xa1b2_cd34) => {
                return Err(PcapError::Unsupported("Kuznetzov's modified pcap"));
            }
            _ => return Err(PcapError::Magic(magic)),
        };
        if present < FILE_HEADER {
            return Err(short);
        }
        let word = |at| word(&header, at, big_endian);
        let version = if big_endian { (word(4) >> 16, word(4)) } else { (word(4), word(4) >> 16) };
        if version.0 as u16 != 2 {
            return Err(PcapError::Version(version.0 as u16, version.1 as u16));
        }
        Ok(PcapReader {
            source,
            big_endian,
            nanoseconds,
            snaplen: word(16),
            // The upper bits say whether and how long an FCS is captured.
            link_type: word(20) & 0xffff,
            records: 0,
            offset: FILE_HEADER as u64,
            finished: false,
        })
    }

    /// The link type of every record ([`ETHERNET`](super::ETHERNET) is 1).
    pub fn link_type(&self) -> u32 {
        self.link_type
    }

    /// Bytes after which the capturing program cut packets, as the file says.
    pub fn snaplen(&self) -> u32 {
        self.snaplen
    }

    /// Records read so far.
    pub fn records(&self) -> u64 {
        self.records
    }

    fn read_record(&mut self) -> Result<Option<Record>, PcapError> {
        let (record, offset) = (self.records + 1, self.offset);
        let io_error = |source| PcapError::Io { record, source };
        let mut header = [0; RECORD_HEADER];
        let present = read_up_to(&mut self.source, &mut header).map_err(io_error)?;
        if present == 0 {
            return Ok(None);
        }
        let truncated = |present: usize, needed: usize| PcapError::Truncated {
            record,
            offset,
            present: present as u64,
            needed: needed as u64,
        };
        if present < RECORD_HEADER {
            return Err(truncated(present, RECORD_HEADER));
        }
        let word = |at| word(&header, at, self.big_endian);
        let (seconds, fraction, len, original_len) = (word(0), word(4), word(8), word(12));
        let (limit, scale, unit) = if self.nanoseconds {
            (1_000_000_000, 1, "nanoseconds")
        } else {
            (1_000_000, 1000, "microseconds")
        };
        if fraction >= limit {
            return Err(PcapError::Time { record, offset, fraction, unit });
        }
        if len > MAX_CAPTURED {
            return Err(PcapError::Length { record, offset, len });
        }
        let mut data = vec![0; len as usize];
        let captured = read_up_to(&mut self.source, &mut data).map_err(io_error)?;
        if captured < data.len() {
            return Err(truncated(RECORD_HEADER + captured, RECORD_HEADER + data.len()));
        }
        self.records = record;
        self.offset += (RECORD_HEADER + data.len()) as u64;
        let time_ns = u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * scale;
        Ok(Some(Record { time_ns, original_len, data }))
    }
}

impl<R: Read> Iterator for PcapReader<R> {
    type Item = Result<Record, PcapError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finished {
            return None;
        }
        let record = self.read_record().transpose();
        self.finished = !matches!(record, Some(Ok(_)));
        record
    }
}

impl<R: Read> std::iter::FusedIterator for PcapReader<R> {}

/// Reads until the buffer is full or the source ends; returns how much it read.
fn read_up_to(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match source.read(rest) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn word(bytes: &[u8], at: usize, big_endian: bool) -> u32 {
    let word = bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default();
    if big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A capture of one record in any of the four variants.
    fn capture(big_endian: bool, magic: u32, fraction: u32, data: &[u8]) -> Vec<u8> {
        let mut file = Vec::new();
        let mut put = |value: u32| {
            file.extend(if big_endian { value.to_be_bytes() } else { value.to_le_bytes() });
        };
        put(magic);
        put(if big_endian { 2 << 16 | 4 } else { 4 << 16 | 2 });
        for value in [0, 0, 65535, 1, 1_700_000_000, fraction, data.len() as u32, 1500] {
            put(value);
        }
        file.extend(data);
        file
    }

    #[test]
    fn both_byte_orders_and_both_precisions_are_read_alike() {
        for big_endian in [false, true] {
            for (magic, fraction) in [(MAGIC_MICROSECONDS, 123_456), (MAGIC_NANOSECONDS, 123_456_000)] {
                let file = capture(big_endian, magic, fraction, b"packet");
                let mut reader = PcapReader::new(&file[..]).unwrap();
                assert_eq!((reader.link_type(), reader.snaplen()), (1, 65535));
                let record = reader.next().unwrap().unwrap();
                assert_eq!(record.time_ns, 1_700_000_000_123_456_000);
                assert_eq!(record.original_len, 1500);
                assert_eq!(record.data, b"packet");
                assert!(reader.next().is_none());
                assert_eq!(reader.records(), 1);
            }
        }
    }

    #[test]
    fn every_truncation_is_an_error_that_says_where() {
        let file = capture(false, MAGIC_MICROSECONDS, 0, b"packet");
        for len in 0..24 {
            let error = PcapReader::new(&file[..len]).err().unwrap();
            assert!(matches!(error, PcapError::TruncatedHeader(present) if present == len), "{error}");
        }
        for len in 25..file.len() {
            let mut reader = PcapReader::new(&file[..len]).unwrap();
            let error = reader.next().unwrap().unwrap_err();
            let expected = len as u64 - 24;
            let PcapError::Truncated { record: 1, offset: 24, present, .. } = error else {
                panic!("{error}")
            };
            assert_eq!(present, expected);
            assert!(reader.next().is_none(), "an error is the end");
        }
        assert!(PcapReader::new(&file[..24]).unwrap().next().is_none(), "an empty capture is a capture");
    }

    #[test]
    fn lies_are_refused() {
        let mut file = capture(false, MAGIC_MICROSECONDS, 0, b"packet");
        file[32..36].copy_from_slice(&u32::MAX.to_le_bytes());
        let error = PcapReader::new(&file[..]).unwrap().next().unwrap().unwrap_err();
        assert_eq!(
            error.to_string(),
            "record 1 at byte 24: a captured length of 4294967295 bytes is over 262144"
        );
        let file = capture(false, MAGIC_MICROSECONDS, 1_000_000, b"");
        let error = PcapReader::new(&file[..]).unwrap().next().unwrap().unwrap_err();
        assert!(matches!(error, PcapError::Time { fraction: 1_000_000, .. }), "{error}");
    }

    #[test]
    fn other_files_are_named() {
        let refusal = |bytes: &[u8]| PcapReader::new(bytes).err().unwrap().to_string();
        assert!(refusal(&[0x0a, 0x0d, 0x0d, 0x0a, 0, 0, 0, 0]).starts_with("pcapng is not read"));
        assert_eq!(
            refusal(b"hello, this is no capture at all"),
            "not a capture file: it begins with 0x68656c6c"
        );
        let mut file = capture(true, MAGIC_MICROSECONDS, 0, b"");
        file[5] = 3;
        assert_eq!(refusal(&file), "capture format 3.4: only 2.x is known");
    }

    proptest! {
        #[test]
        fn no_file_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), magic in 0usize..5) {
            let mut file = bytes;
            let magics = [MAGIC_MICROSECONDS, MAGIC_NANOSECONDS, MAGIC_MICROSECONDS.swap_bytes(), 0x0a0d_0d0a];
            if let Some(magic) = magics.get(magic) {
                file.splice(0..file.len().min(8), magic.to_be_bytes().into_iter().chain([0, 2, 0, 4]));
            }
            if let Ok(reader) = PcapReader::new(&file[..]) {
                let total: usize = reader.map_while(Result::ok).map(|record| record.data.len() + 16).sum();
                prop_assert!(total + 24 <= file.len());
            }
        }
    }
}
