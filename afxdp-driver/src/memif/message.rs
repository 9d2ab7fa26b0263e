//! [`Message`]: what travels over the control socket, 128 bytes each, and back.
//!
//! The layout is that of the packed structs of `memif.h` (libmemif; DPDK's `drivers/net/memif/memif.h`): a type of two
//! bytes, then the fields without gaps, in the machine's own byte order (both ends are on one machine).

use std::fmt;

/// Bytes of every message.
pub(crate) const MESSAGE_LEN: usize = 128;
/// The one version spoken: 2.0.
pub(crate) const VERSION: u16 = 2 << 8;
/// Bytes of a name.
pub(crate) const NAME_LEN: usize = 32;
/// Bytes of a secret.
pub const SECRET_LEN: usize = 24;
/// Bytes of the reason of a disconnect.
const REASON_LEN: usize = 96;
/// `MEMIF_MSG_ADD_RING_FLAG_S2M`: the ring carries packets from client to server.
const RING_FLAG_C2S: u16 = 1;

/// What an interface carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Ethernet,
    Ip,
    Punt,
    Other(u8),
}

/// Which way packets go through a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Direction {
    /// From client to server (`S2M` of old).
    ClientToServer,
    /// From server to client (`M2S` of old).
    ServerToClient,
}

/// A name or reason of a fixed length: bytes up to the first NUL, or all.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Text<const N: usize>([u8; N]);

/// Offered by a server to whoever connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) name: Text<NAME_LEN>,
    pub(crate) min_version: u16,
    pub(crate) max_version: u16,
    /// Highest number of a region.
    pub(crate) max_region: u16,
    /// Highest number of a ring from server to client.
    pub(crate) max_s2c_ring: u16,
    /// Highest number of a ring from client to server.
    pub(crate) max_c2s_ring: u16,
    pub(crate) max_log2_ring_size: u8,
}

/// A client says which interface it wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Init {
    pub(crate) version: u16,
    pub(crate) id: u32,
    pub(crate) mode: Mode,
    pub(crate) secret: Text<SECRET_LEN>,
    pub(crate) name: Text<NAME_LEN>,
}

/// A client gives shared memory; its descriptor comes along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AddRegion {
    pub(crate) index: u16,
    pub(crate) size: u64,
}

/// A client says where a ring lies; the descriptor of its interrupt comes along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AddRing {
    /// All of them; only [`direction`](Self::direction) has a meaning.
    pub(crate) flags: u16,
    pub(crate) index: u16,
    pub(crate) region: u16,
    pub(crate) offset: u32,
    pub(crate) log2_size: u8,
    /// Bytes of metadata in front of a packet's own: part of the buffer that nobody but both applications look at.
    pub(crate) private_header: u16,
}

/// One message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Message {
    Ack,
    Hello(Hello),
    Init(Init),
    AddRegion(AddRegion),
    AddRing(AddRing),
    /// The client is ready; its interface's name.
    Connect(Text<NAME_LEN>),
    /// The server is ready; its interface's name.
    Connected(Text<NAME_LEN>),
    /// One of them ends it.
    Disconnect {
        code: u32,
        reason: Text<REASON_LEN>,
    },
}

/// Bytes that are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MessageError {
    /// Every message has 128 bytes.
    #[error("a message of {0} bytes instead of {MESSAGE_LEN}")]
    Length(usize),
    /// No such message.
    #[error("a message of type {0}, which does not exist")]
    Type(u16),
}

impl Message {
    /// The message's bytes; what it does not use is zero.
    pub(crate) fn encode(&self) -> [u8; MESSAGE_LEN] {
        let mut out = Writer { bytes: [0; MESSAGE_LEN], at: 0 };
        out.u16(self.kind());
        match self {
            Message::Ack => {}
            Message::Hello(hello) => {
                out.put(&hello.name.0);
                out.u16(hello.min_version);
                out.u16(hello.max_version);
                out.u16(hello.max_region);
                out.u16(hello.max_s2c_ring);
                out.u16(hello.max_c2s_ring);
                out.put(&[hello.max_log2_ring_size]);
            }
            Message::Init(init) => {
                out.u16(init.version);
                out.u32(init.id);
                out.put(&[init.mode.number()]);
                out.put(&init.secret.0);
                out.put(&init.name.0);
            }
            Message::AddRegion(region) => {
                out.u16(region.index);
                out.put(&region.size.to_ne_bytes());
            }
            Message::AddRing(ring) => {
                out.u16(ring.flags);
                out.u16(ring.index);
                out.u16(ring.region);
                out.u32(ring.offset);
                out.put(&[ring.log2_size]);
                out.u16(ring.private_header);
            }
            Message::Connect(name) | Message::Connected(name) => out.put(&name.0),
            Message::Disconnect { code, reason } => {
                out.u32(*code);
                out.put(&reason.0);
            }
        }
        out.bytes
    }

    /// The message in `bytes`. What it does not use is not looked at.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let bytes: &[u8; MESSAGE_LEN] = bytes.try_into().map_err(|_| MessageError::Length(bytes.len()))?;
        let mut from = Reader { bytes, at: 0 };
        Ok(match from.u16() {
            1 => Message::Ack,
            2 => Message::Hello(Hello {
                name: from.text(),
                min_version: from.u16(),
                max_version: from.u16(),
                max_region: from.u16(),
                max_s2c_ring: from.u16(),
                max_c2s_ring: from.u16(),
                max_log2_ring_size: from.u8(),
            }),
            3 => Message::Init(Init {
                version: from.u16(),
                id: from.u32(),
                mode: Mode::of(from.u8()),
                secret: from.text(),
                name: from.text(),
            }),
            4 => Message::AddRegion(AddRegion { index: from.u16(), size: u64::from_ne_bytes(from.take()) }),
            5 => Message::AddRing(AddRing {
                flags: from.u16(),
                index: from.u16(),
                region: from.u16(),
                offset: from.u32(),
                log2_size: from.u8(),
                private_header: from.u16(),
            }),
            6 => Message::Connect(from.text()),
            7 => Message::Connected(from.text()),
            8 => Message::Disconnect { code: from.u32(), reason: from.text() },
            other => return Err(MessageError::Type(other)),
        })
    }

    /// Its name in errors.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Message::Ack => "ACK",
            Message::Hello(_) => "HELLO",
            Message::Init(_) => "INIT",
            Message::AddRegion(_) => "ADD_REGION",
            Message::AddRing(_) => "ADD_RING",
            Message::Connect(_) => "CONNECT",
            Message::Connected(_) => "CONNECTED",
            Message::Disconnect { .. } => "DISCONNECT",
        }
    }

    fn kind(&self) -> u16 {
        match self {
            Message::Ack => 1,
            Message::Hello(_) => 2,
            Message::Init(_) => 3,
            Message::AddRegion(_) => 4,
            Message::AddRing(_) => 5,
            Message::Connect(_) => 6,
            Message::Connected(_) => 7,
            Message::Disconnect { .. } => 8,
        }
    }
}

impl AddRing {
    /// The flags of a ring that carries packets this way.
    pub(crate) fn flags(direction: Direction) -> u16 {
        if direction == Direction::ClientToServer { RING_FLAG_C2S } else { 0 }
    }

    /// Which way it carries packets.
    pub(crate) fn direction(&self) -> Direction {
        if self.flags & RING_FLAG_C2S != 0 { Direction::ClientToServer } else { Direction::ServerToClient }
    }
}

impl Mode {
    fn of(number: u8) -> Self {
        match number {
            0 => Mode::Ethernet,
            1 => Mode::Ip,
            2 => Mode::Punt,
            other => Mode::Other(other),
        }
    }

    fn number(self) -> u8 {
        match self {
            Mode::Ethernet => 0,
            Mode::Ip => 1,
            Mode::Punt => 2,
            Mode::Other(number) => number,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mode::Ethernet => f.write_str("ethernet"),
            Mode::Ip => f.write_str("ip"),
            Mode::Punt => f.write_str("punt/inject"),
            Mode::Other(number) => write!(f, "number {number}"),
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Direction::ClientToServer => "client-to-server",
            Direction::ServerToClient => "server-to-client",
        })
    }
}

impl<const N: usize> Text<N> {
    /// As much of `text` as fits in front of a NUL, cut between characters.
    pub(crate) fn new(text: &str) -> Self {
        let mut bytes = [0; N];
        let mut end = text.len().min(N - 1);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        bytes[..end].copy_from_slice(&text.as_bytes()[..end]);
        Text(bytes)
    }

    /// All `N` bytes may count: a secret.
    pub(crate) fn exact(text: &[u8]) -> Option<Self> {
        let mut bytes = [0; N];
        bytes.get_mut(..text.len())?.copy_from_slice(text);
        Some(Text(bytes))
    }

    /// Whether there is nothing in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.first() == Some(&0)
    }

    /// Whether both are the same up to their first NUL; takes the same time wherever they differ.
    pub(crate) fn is_same_secret(&self, other: &Self) -> bool {
        let (mut differs, mut ended) = (0, 0);
        for (a, b) in self.0.iter().zip(&other.0) {
            differs |= (a ^ b) & !ended;
            ended |= if a | b == 0 { 0xff } else { 0 };
        }
        differs == 0
    }
}

/// Safe to print: what is not UTF-8 or a control character is replaced.
impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.0.iter().position(|&byte| byte == 0).unwrap_or(N);
        for character in String::from_utf8_lossy(&self.0[..end]).chars() {
            let shown = if character.is_control() { char::REPLACEMENT_CHARACTER } else { character };
            write!(f, "{shown}")?;
        }
        Ok(())
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Text({N} bytes)") // It may be a secret.
    }
}

/// Writes fields one after another; all of them together are shorter than a message.
struct Writer {
    bytes: [u8; MESSAGE_LEN],
    at: usize,
}

impl Writer {
    fn put(&mut self, field: &[u8]) {
        self.bytes[self.at..self.at + field.len()].copy_from_slice(field);
        self.at += field.len();
    }

    fn u16(&mut self, value: u16) {
        self.put(&value.to_ne_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.put(&value.to_ne_bytes());
    }
}

/// Reads fields one after another; all of them together are shorter than a message.
struct Reader<'a> {
    bytes: &'a [u8; MESSAGE_LEN],
    at: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut field = [0; N];
        field.copy_from_slice(&self.bytes[self.at..self.at + N]);
        self.at += N;
        field
    }

    fn u8(&mut self) -> u8 {
        u8::from_ne_bytes(self.take())
    }

    fn u16(&mut self) -> u16 {
        u16::from_ne_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_ne_bytes(self.take())
    }

    fn text<const N: usize>(&mut self) -> Text<N> {
        Text(self.take())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Field after field as the packed structs of `memif.h` lay them out on a little-endian machine.
    #[test]
    fn messages_have_the_bytes_of_memif_h() {
        let bytes = |message: Message, head: &[u8]| {
            let encoded = message.encode();
            assert_eq!(&encoded[..head.len()], head, "{}", message.name());
            assert!(encoded[head.len()..].iter().all(|&byte| byte == 0), "{}", message.name());
            assert_eq!(Message::decode(&encoded), Ok(message));
        };
        let padded = |text: &str, len| {
            let mut field = text.as_bytes().to_vec();
            field.resize(len, 0);
            field
        };
        bytes(Message::Ack, &[1, 0]);
        let hello = Hello {
            name: Text::new("vpp"),
            min_version: VERSION,
            max_version: VERSION,
            max_region: 255,
            max_s2c_ring: 7,
            max_c2s_ring: 0x0102,
            max_log2_ring_size: 14,
        };
        let tail = [0, 2, 0, 2, 255, 0, 7, 0, 2, 1, 14];
        bytes(Message::Hello(hello), &[&[2, 0][..], &padded("vpp", 32), &tail].concat());
        let init = Init {
            version: VERSION,
            id: 0x0403_0201,
            mode: Mode::Ethernet,
            secret: Text::new("psst"),
            name: Text::new("penstock"),
        };
        let init_bytes =
            [&[3, 0, 0, 2, 1, 2, 3, 4, 0][..], &padded("psst", 24), &padded("penstock", 32)].concat();
        bytes(Message::Init(init), &init_bytes);
        let region = AddRegion { index: 3, size: 0x0807_0605_0403_0201 };
        bytes(Message::AddRegion(region), &[4, 0, 3, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        let ring =
            AddRing { flags: 1, index: 2, region: 0, offset: 0x4000, log2_size: 10, private_header: 0x0605 };
        bytes(Message::AddRing(ring), &[5, 0, 1, 0, 2, 0, 0, 0, 0, 0x40, 0, 0, 10, 5, 6]);
        assert_eq!(ring.direction(), Direction::ClientToServer);
        bytes(Message::Connect(Text::new("m0")), b"\x06\0m0");
        bytes(Message::Connected(Text::new("m0")), b"\x07\0m0");
        bytes(Message::Disconnect { code: 9, reason: Text::new("bye") }, b"\x08\0\x09\0\0\0bye");
    }

    #[test]
    fn what_is_no_message_is_said() {
        assert_eq!(Message::decode(&[0; 127]), Err(MessageError::Length(127)));
        assert_eq!(Message::decode(&[]), Err(MessageError::Length(0)));
        assert_eq!(Message::decode(&[0; 128]), Err(MessageError::Type(0)));
        let mut nine = [0; 128];
        nine[..2].copy_from_slice(&9u16.to_ne_bytes());
        assert_eq!(Message::decode(&nine), Err(MessageError::Type(9)));
    }

    #[test]
    fn texts_are_bounded_and_printable() {
        assert_eq!(Text::<4>::new("abcdef").to_string(), "abc");
        assert_eq!(Text::<4>::new("abé").to_string(), "ab");
        assert_eq!(Text([0xff, b'\n', b'a', 0]).to_string(), "\u{fffd}\u{fffd}a");
        assert_eq!(Text(*b"full").to_string(), "full");
        assert!(Text::<4>::exact(b"12345").is_none());
        assert!(Text::<4>::new("").is_empty());
    }

    #[test]
    fn secrets_are_compared_up_to_their_end() {
        let secret = |text: &[u8]| Text::<4>::exact(text).unwrap();
        assert!(secret(b"abcd").is_same_secret(&secret(b"abcd")));
        assert!(secret(b"a\0cd").is_same_secret(&secret(b"a\0xy")));
        assert!(!secret(b"abc").is_same_secret(&secret(b"ab")));
        assert!(!secret(b"ab").is_same_secret(&secret(b"abc")));
        assert!(!secret(b"").is_same_secret(&secret(b"a")));
    }

    /// Any message at all.
    pub(crate) fn any_message() -> impl Strategy<Value = Message> {
        proptest::collection::vec(any::<u8>(), MESSAGE_LEN)
            .prop_flat_map(|bytes| (Just(bytes), 1u16..=8))
            .prop_map(|(mut bytes, kind)| {
                bytes[..2].copy_from_slice(&kind.to_ne_bytes());
                Message::decode(&bytes).unwrap()
            })
    }

    proptest! {
        #[test]
        fn encode_and_decode_are_inverses(message in any_message()) {
            prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(message) = Message::decode(&bytes) {
                let _ = format!("{message:?}");
            }
        }
    }
}
