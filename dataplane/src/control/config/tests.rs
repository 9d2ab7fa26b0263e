use std::path::Path;

use afxdp_driver::memif::MemifRole;

use super::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("test.toml"))
}

#[test]
fn what_is_left_out_has_a_default() {
    let config = parse("").unwrap();
    assert_eq!(config.workers.cores, [0]);
    assert_eq!((config.workers.batch, config.memory.chunks, config.socket_mode), (64, 32768, 0o660));
    assert!(config.uplink.is_none() && config.listen.is_none());
}

#[test]
fn a_full_file_is_read() {
    let text = r#"
        socket = "/run/p.sock"
        socket_mode = "0600"
        listen = "127.0.0.1:7000"
        [workers]
        cores = [1, 0]
        batch = 32
        [workers.idle]
        spin = 1
        yields = 2
        sleep_ms = 0
        [memory]
        chunks = 8192
        ring = 1024
        huge_pages = "never"
        [devices]
        queueing = false
        threaded_napi = true
        [flows]
        ipv4 = 1024
        ipv6 = 512
        [uplink]
        device = "eth0"
        gateway_v4 = "192.0.2.1"
        gateway_v6 = "2001:db8::1"
        mode = "native"
        zero_copy = "never"
        [host]
        device = "host0"
        [gateway]
        ipv4 = "169.254.1.2"
        ipv6 = "fe80::2"
        [snat]
        first = 62000
        last = 63000
        [overlay]
        port = 4789
        mac = "02:00:00:00:00:01"
    "#;
    let config = parse(text).unwrap();
    assert_eq!(config.workers.cores, [1, 0]);
    assert_eq!(config.workers.idle.sleep(), Duration::ZERO);
    assert_eq!(config.uplink.map(|uplink| (uplink.device, uplink.mode)), Some(("eth0".into(), Mode::Native)));
    assert!(!config.devices.queueing && config.devices.threaded_napi);
    assert_eq!((config.socket_mode, config.memory.huge_pages), (0o600, HugePages::Never));
}

#[test]
fn each_error_names_its_field() {
    let rows = [
        ("sockets = \"/x\"", "sockets"),
        ("socket = \"x\"", "socket: "),
        ("socket_mode = \"9\"", "socket_mode"),
        ("listen = \"192.0.2.1:1\"", "listen: "),
        ("[workers]\ncores = []", "workers.cores: "),
        ("[workers]\ncores = [1, 1]", "workers.cores: CPU 1 stands there twice"),
        ("[workers]\nbatch = 65", "workers.batch: "),
        ("[workers.idle]\nspins = 1", "spins"),
        ("[memory]\nchunks = 1", "memory.chunks: "),
        ("[memory]\nring = 1000", "memory.ring: "),
        ("[memory]\nhuge_pages = \"yes\"", "huge_pages"),
        ("[devices]\nqueueing = 1", "queueing"),
        ("[devices]\nthreaded = true", "threaded"),
        ("[flows]\nipv6 = 0", "flows.ipv6: "),
        ("[uplink]\nmode = \"native\"", "device"),
        ("[uplink]\ndevice = \"a\"\nzero_copy = \"require\"", "uplink.zero_copy: "),
        ("[uplink]\ndevice = \"a\"\n[host]\ndevice = \"a\"", "host.device: "),
        ("[gateway]\nipv4 = \"224.0.0.1\"", "gateway.ipv4: "),
        ("[snat]\nfirst = 5\n", "snat.first: "),
        ("[overlay]\nport = 8472", "overlay.port: "),
        ("[overlay]\nmac = \"01:00:00:00:00:01\"", "overlay.mac: "),
    ];
    for (text, part) in rows {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

/// A `[[port]]` with these lines besides, or instead.
fn port(lines: &str, memif: &str) -> String {
    let name = if lines.contains("name =") { "" } else { "name = \"p\"\n" };
    let pod = if lines.contains("pod =") { "" } else { "pod = \"a/b\"\n" };
    format!("[[port]]\n{name}{pod}{lines}\n[port.memif]\nsocket = \"/run/m\"\nrole = \"server\"\n{memif}\n")
}

#[test]
fn a_memif_port_is_read_and_what_is_left_out_is_made() {
    let config =
        parse(&port("mac = \"02:00:00:00:00:01\"\nmtu = 1400", "id = 7\nsecret = \"psst\"\nring = 256"))
            .unwrap();
    let [read] = &config.ports[..] else { panic!("{:?}", config.ports) };
    assert_eq!((read.name.as_str(), read.pod.as_str(), read.mtu), ("p", "a/b", 1400));
    assert_eq!((read.own_mac(), read.peer_mac), ([2, 0, 0, 0, 0, 1], None));
    let memif = read.memif_config();
    assert_eq!((memif.id, memif.log2_ring, memif.buffer, memif.queues), (7, 8, 2048, 1));
    assert_eq!((memif.role, memif.secret.as_str(), memif.name.as_str()), (MemifRole::Server, "psst", "p"));
    assert!(!format!("{config:?}").contains("psst"), "no secret in a log");

    let made = |name: &str| parse(&port(&format!("name = \"{name}\""), "")).unwrap().ports[0].own_mac();
    assert_eq!(made("p"), made("p"));
    assert_ne!(made("p"), made("q"));
    assert_eq!(made("p")[0], 2);
}

#[test]
fn each_error_of_a_memif_port_names_its_field() {
    let rows = [
        (port("device = \"x\"", ""), "device"),
        (port("mtu = 100", ""), "port.mtu: port \"p\": 100"),
        (port("mtu = 9000", ""), "port.mtu: "),
        (port("name = \"a/b\"", ""), "port.name: "),
        (port("pod = \"b\"", ""), "port.pod: "),
        (port("mac = \"01:00:00:00:00:01\"", ""), "port.mac: "),
        (port("peer_mac = \"00:00:00:00:00:00\"", ""), "port.peer_mac: "),
        (port("", "queues = 2"), "queues"),
        (port("", "ring = 1000"), "port.memif.ring: "),
        (port("", "ring = 32768"), "port.memif: port \"p\": ring: 2^15"),
        (port("", "buffer = 100"), "port.memif: port \"p\": buffer: "),
        (port("", "secret = \"0123456789012345678901234\""), "port.memif: port \"p\": secret: "),
        (port("", "").replace("/run/m", "m"), "port.memif: port \"p\": socket: "),
        (port("", "").replace("server", "master"), "client"),
        (port("", "") + &port("pod = \"c/d\"", "id = 1"), "port.name: "),
        (port("", "") + &port("name = \"q\"", "id = 1"), "port.pod: "),
        (port("", "") + &port("name = \"q\"\npod = \"c/d\"", ""), "port.memif.id: "),
        ("[uplink]\ndevice = \"p\"\n".to_owned() + &port("", ""), "port.name: "),
        ("[[port]]\nname = \"p\"\npod = \"a/b\"".to_owned(), "memif"),
    ];
    for (text, part) in rows {
        let error = parse(&text).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn a_missing_device_is_named_with_its_field() {
    let config = parse("[uplink]\ndevice = \"nosuch0\"").unwrap();
    let error = config.check_machine().unwrap_err().to_string();
    assert!(error.starts_with("uplink.device: ") && error.contains("nosuch0"), "{error}");
}

#[test]
fn the_example_of_memif_ports_is_right() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/memif/penstockd.toml");
    let config = Config::load(&path).unwrap();
    let roles: Vec<_> = config.ports.iter().map(|port| port.memif.role).collect();
    assert_eq!(roles, [MemifRole::Server, MemifRole::Client]);
}
