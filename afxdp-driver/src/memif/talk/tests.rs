use proptest::prelude::*;

use super::*;
use crate::memif::MemifRole;
use crate::memif::message::tests::any_message;

fn config(role: MemifRole) -> MemifConfig {
    MemifConfig { queues: 2, log2_ring: 5, ..MemifConfig::new("/run/x", role, 7) }
}

fn hello() -> Hello {
    match ServerTalk::hello(2) {
        Message::Hello(hello) => hello,
        other => panic!("{}", other.name()),
    }
}

/// Lets both talk until neither has anything to say; answers with the names of what the client said.
fn converse(client: &mut ClientTalk, server: &mut ServerTalk, config: &MemifConfig) -> Vec<&'static str> {
    let (mut said, mut due) = (Vec::new(), ServerTalk::hello(config.queues));
    loop {
        match client.hear(&due, 0).unwrap() {
            ClientAct::Say(message, attachment) => {
                said.push(message.name());
                let descriptors = usize::from(attachment != Attachment::None);
                let find = |id| (id == config.id).then_some(Offer { config, busy: false });
                due = match server.hear(&message, descriptors, find).unwrap() {
                    ServerAct::Connect => server.connected(),
                    _ => Message::Ack,
                };
            }
            ClientAct::Up => return said,
            ClientAct::Nothing => panic!("the client has nothing to say"),
        }
    }
}

#[test]
fn both_ends_agree_and_say_it_in_order() {
    let mut client = ClientTalk::new(MemifConfig { name: "left".into(), ..config(MemifRole::Client) });
    let mut server = ServerTalk::new();
    let offered = MemifConfig { name: "right".into(), ..config(MemifRole::Server) };
    let said = converse(&mut client, &mut server, &offered);
    let rings = ["ADD_RING"; 4];
    assert_eq!(said, [&["INIT", "ADD_REGION"][..], &rings, &["CONNECT"]].concat());
    assert_eq!(client.layout(), Some(Layout { queues: 2, log2_size: 5, buffer: 2048 }));
    assert_eq!((client.awaited(), server.awaited()), (None, None));
    assert!(client.peer().ends_with("(right)") && server.peer().ends_with("(left)"));
    let layout = client.layout().unwrap();
    for ring in server.rings() {
        assert_eq!((ring.region, ring.log2_size), (0, 5));
        assert_eq!(ring.offset, layout.ring(ring.direction(), ring.index));
    }
}

#[test]
fn a_client_takes_the_smaller_of_both_wishes() {
    let agreed = |hello| {
        let mut client = ClientTalk::new(config(MemifRole::Client));
        client.hear(&Message::Hello(hello), 0).unwrap();
        client.layout().unwrap()
    };
    assert_eq!(agreed(Hello { max_c2s_ring: 0, ..hello() }).queues, 1);
    assert_eq!(agreed(Hello { max_s2c_ring: 0, ..hello() }).queues, 1);
    assert_eq!(agreed(Hello { max_s2c_ring: 65535, max_c2s_ring: 65535, ..hello() }).queues, 2);
    assert_eq!(agreed(Hello { max_log2_ring_size: 3, ..hello() }).log2_size, 3);
    assert_eq!(agreed(Hello { min_version: 0, max_version: 65535, ..hello() }).log2_size, 5);
}

#[test]
fn a_client_refuses_by_name() {
    let refused = |messages: &[(Message, usize)], text: &str| {
        let mut client = ClientTalk::new(config(MemifRole::Client));
        let mut last = None;
        for (message, descriptors) in messages {
            last = Some(client.hear(message, *descriptors));
        }
        let error = last.unwrap().unwrap_err().to_string();
        assert_eq!(error, text);
    };
    let good = (Message::Hello(hello()), 0);
    let version = Hello { min_version: 0x300, max_version: 0x301, ..hello() };
    refused(&[(Message::Hello(version), 0)], "protocol version 3.0 to 3.1: only 2.0 is spoken here");
    let tiny = Hello { max_log2_ring_size: 0, ..hello() };
    refused(&[(Message::Hello(tiny), 0)], "rings of at most 2^0 descriptors: from 2^1 to 2^14 can be used");
    refused(&[(Message::Hello(hello()), 1)], "HELLO with 1 file descriptors");
    refused(&[(Message::Ack, 0)], "ACK where HELLO was due");
    refused(&[good, good], "HELLO where ACK was due");
    refused(&[good, (Message::Connected(Text::new("x")), 0)], "CONNECTED where ACK was due");
    let bye = Message::Disconnect { code: 3, reason: Text::new("no\nroom") };
    refused(&[good, (bye, 0)], "the peer ended it: no\u{fffd}room (code 3)");
}

fn init() -> Init {
    Init { version: VERSION, id: 7, mode: Mode::Ethernet, secret: Text::new(""), name: Text::new("it") }
}

/// Says all messages to a server with the interface 7 and two queues, and expects the last to be refused.
fn server_refuses(config: &MemifConfig, busy: bool, messages: &[(Message, usize)], text: &str) {
    let mut server = ServerTalk::new();
    let mut last = None;
    for (message, descriptors) in messages {
        assert!(!matches!(last, Some(Err(_))), "refused too early: {last:?}");
        let find = |id| (id == 7).then_some(Offer { config, busy });
        last = Some(server.hear(message, *descriptors, find));
    }
    assert_eq!(last.unwrap().unwrap_err().to_string(), text);
}

#[test]
fn a_server_refuses_a_client_by_name() {
    let open = config(MemifRole::Server);
    let locked = MemifConfig { secret: "psst".into(), ..open.clone() };
    let init_with = |change: fn(&mut Init)| {
        let mut init = init();
        change(&mut init);
        [(Message::Init(init), 0)]
    };
    server_refuses(&open, false, &[(Message::Ack, 0)], "ACK where INIT was due");
    server_refuses(&open, true, &[(Message::Init(init()), 0)], "interface 7 is connected already");
    server_refuses(&open, false, &init_with(|init| init.id = 8), "no interface with id 8");
    server_refuses(
        &open,
        false,
        &init_with(|init| init.version = 0x100),
        "protocol version 1.0 to 1.0: only 2.0 is spoken here",
    );
    server_refuses(
        &open,
        false,
        &init_with(|init| init.mode = Mode::Ip),
        "mode ip: only ethernet can be used",
    );
    server_refuses(
        &open,
        false,
        &init_with(|init| init.mode = Mode::Punt),
        "mode punt/inject: only ethernet can be used",
    );
    server_refuses(&locked, false, &[(Message::Init(init()), 0)], "interface 7 needs a secret");
    server_refuses(
        &locked,
        false,
        &init_with(|init| init.secret = Text::new("pst")),
        "wrong secret for interface 7",
    );
    // Who has no secret does not learn that the interface is taken.
    server_refuses(&locked, true, &[(Message::Init(init()), 0)], "interface 7 needs a secret");
}

#[test]
fn a_server_refuses_regions_and_rings_by_name() {
    let open = config(MemifRole::Server);
    let start = (Message::Init(init()), 0);
    let region = |index| (Message::AddRegion(AddRegion { index, size: 1 << 20 }), 1);
    let flags = AddRing::flags(Direction::ClientToServer);
    let ring = AddRing { flags, index: 0, region: 0, offset: 0, log2_size: 5, private_header: 0 };
    let rings = |ring: AddRing| (Message::AddRing(ring), 1);
    let refuses = |messages: &[(Message, usize)], text: &str| {
        server_refuses(&open, false, &[&[start], messages].concat(), text);
    };
    refuses(
        &[(Message::AddRegion(AddRegion { index: 0, size: 1 }), 0)],
        "ADD_REGION with 0 file descriptors",
    );
    refuses(
        &[(Message::AddRegion(AddRegion { index: 0, size: 1 }), 2)],
        "ADD_REGION with 2 file descriptors",
    );
    refuses(&[region(1)], "region 1 where region 0 was due (at most 16)");
    refuses(&[region(0), region(0)], "region 0 where region 1 was due (at most 16)");
    let seventeen: Vec<_> = (0..17).map(region).collect();
    refuses(&seventeen, "region 16 where region 16 was due (at most 16)");
    refuses(&[rings(ring)], "client-to-server ring 0 in region 0, which does not exist");
    refuses(&[region(0), rings(ring), rings(ring)], "client-to-server ring 0 comes twice");
    refuses(&[region(0), rings(AddRing { index: 2, ..ring })], "client-to-server ring 2: there are 2 queues");
    for log2_size in [0, 15, 255] {
        let text =
            format!("server-to-client ring 0 of 2^{log2_size} descriptors: from 2^1 to 2^14 can be used");
        refuses(&[region(0), rings(AddRing { flags: 0, log2_size, ..ring })], &text);
    }
    let connect = (Message::Connect(Text::new("x")), 0);
    refuses(&[connect], "0 client-to-server rings whose numbers are not 0 to 0");
    refuses(&[region(0), rings(ring), connect], "0 server-to-client rings whose numbers are not 0 to 0");
    refuses(
        &[region(0), rings(AddRing { index: 1, ..ring }), connect],
        "1 client-to-server rings whose numbers are not 0 to 0",
    );
    refuses(&[(Message::Hello(hello()), 0)], "HELLO where ADD_REGION, ADD_RING or CONNECT was due");
    refuses(&[start], "INIT where ADD_REGION, ADD_RING or CONNECT was due");
}

proptest! {
    /// Whatever is said in whatever order: an answer or a refusal, and what is accepted is within its bounds.
    #[test]
    fn no_conversation_panics(messages in proptest::collection::vec((any_message(), 0usize..3), 0..40)) {
        let offered = config(MemifRole::Server);
        let (mut client, mut server) = (ClientTalk::new(config(MemifRole::Client)), ServerTalk::new());
        for (message, descriptors) in &messages {
            let _ = client.hear(message, *descriptors);
            if let Some(layout) = client.layout() {
                prop_assert!((1..=2).contains(&layout.queues) && (1..=5).contains(&layout.log2_size));
            }
            let find = |_| Some(Offer { config: &offered, busy: false });
            let _ = server.hear(message, *descriptors, find);
            prop_assert!(server.rings().len() <= 4);
        }
    }

    /// The same, but of messages that a sound peer says, so that more of them are accepted.
    #[test]
    fn no_order_of_sound_messages_panics(picks in proptest::collection::vec(0u8..8, 0..60)) {
        let offered = config(MemifRole::Server);
        let mut server = ServerTalk::new();
        let mut regions = 0;
        for pick in picks {
            let (message, descriptors) = match pick {
                0 => (Message::Init(init()), 0),
                1 => {
                    regions += 1;
                    (Message::AddRegion(AddRegion { index: regions - 1, size: 1 << 20 }), 1)
                }
                2..=5 => {
                    let ring = AddRing {
                        flags: u16::from(pick) & 1,
                        index: u16::from(pick > 3),
                        region: 0,
                        offset: 0,
                        log2_size: 5,
                        private_header: 0,
                    };
                    (Message::AddRing(ring), 1)
                }
                6 => (Message::Connect(Text::new("x")), 0),
                _ => (Message::Ack, 0),
            };
            let find = |_| Some(Offer { config: &offered, busy: false });
            if let Ok(ServerAct::Connect) = server.hear(&message, descriptors, find) {
                prop_assert!(!server.rings().is_empty() && server.rings().iter().all(|ring| ring.region < regions));
            }
        }
    }
}
