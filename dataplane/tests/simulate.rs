//! `penstockd simulate` from the outside: captures in, JSON lines and captures out. Without root.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails says so by a panic")]

use std::fs::{self, File};
use std::io::BufReader;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use afxdp_driver::pcap::{ETHERNET, PcapReader, PcapWriter};
use dataplane::simulate::topology::Ingress;
use dataplane::simulate::{Simulation, Topology};
use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, PacketBuilder, SlicedPacket, TransportSlice,
};
use policy_compiler::intent::{
    Backend, Endpoint, Frontend, FrontendKind, Identity, Intent, Node, ObjectName, Peers, Policy, PortMatch,
    PortSelector, Protocol, Rule, Service,
};
use serde_json::Value;

const SRC_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
const DST_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 2];
const CLIENT: [u8; 4] = [10, 1, 0, 10];
const WEB: [u8; 4] = [10, 1, 0, 11];
const DB: [u8; 4] = [10, 1, 0, 12];
const REMOTE: [u8; 4] = [10, 2, 0, 10];
const SERVICE: [u8; 4] = [10, 96, 0, 10];
const TIME: u64 = 1_700_000_000_000_000_000;

/// Node `a` with three pods, node `b` with one, a Service of `web`, a policy of `db` that lets `web` in.
fn intent() -> Intent {
    let node = |name: &str, address: &str, cidr: &str| Node {
        name: name.into(),
        addresses: vec![address.parse().unwrap()],
        pod_cidrs: vec![cidr.parse().unwrap()],
        zone: String::new(),
    };
    let pod = |name: &str, node: &str, address: [u8; 4], identity| Endpoint {
        name: ObjectName::new("shop", name),
        node: node.into(),
        addresses: vec![IpAddr::from(address)],
        host_network: false,
        identity,
    };
    let port = PortMatch { protocol: Protocol::Tcp, port: PortSelector::Range(27017, 27017) };
    let peers = Peers { identities: vec![1], blocks: vec![] };
    Intent {
        node: "a".into(),
        vni: 7,
        nodes: vec![node("a", "172.30.0.1", "10.1.0.0/24"), node("b", "172.30.0.2", "10.2.0.0/24")],
        identities: vec![Identity::default(), Identity::default(), Identity::default()],
        endpoints: vec![
            pod("client", "a", CLIENT, 0),
            pod("web", "a", WEB, 1),
            pod("db", "a", DB, 2),
            pod("remote", "b", REMOTE, 0),
        ],
        policies: vec![Policy {
            name: ObjectName::new("shop", "db"),
            subjects: vec![2],
            ingress: Some(vec![Rule { peers: Some(peers), ports: Some(vec![port]), ..Rule::default() }]),
            ..Policy::default()
        }],
        services: vec![Service {
            name: ObjectName::new("shop", "web"),
            port_name: "http".into(),
            protocol: Some(Protocol::Tcp),
            frontends: vec![Frontend {
                kind: FrontendKind::ClusterIp,
                address: Some(SERVICE.into()),
                port: 80,
                ipv6: false,
            }],
            backends: vec![Backend {
                address: WEB.into(),
                port: 8080,
                node: "a".into(),
                ready: true,
                serving: true,
                terminating: false,
                zone_hints: vec![],
                node_hints: vec![],
                weight: 1,
            }],
            ..Service::default()
        }],
        service_ranges: vec!["10.96.0.0/16".parse().unwrap()],
    }
}

fn tcp(src: [u8; 4], src_port: u16, dst: [u8; 4], dst_port: u16, ttl: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(SRC_MAC, DST_MAC)
        .ipv4(src, dst, ttl)
        .tcp(src_port, dst_port, 1, 1024)
        .ack(1)
        .write(&mut bytes, b"hello")
        .unwrap();
    bytes
}

fn tunnelled(inner: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let payload = [&[0x08, 0, 0, 0, 0, 0, 7, 0][..], inner].concat();
    PacketBuilder::ethernet2(SRC_MAC, DST_MAC)
        .ipv4([172, 30, 0, 2], [172, 30, 0, 1], 64)
        .udp(50_000, 4789)
        .write(&mut bytes, &payload)
        .unwrap();
    bytes
}

fn who_has_the_gateway() -> Vec<u8> {
    let request = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        ArpOperation::REQUEST,
        &SRC_MAC,
        &CLIENT,
        &[0; 6],
        &[169, 254, 1, 1],
    );
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(SRC_MAC, [0xff; 6]).arp(request.unwrap()).write(&mut bytes).unwrap();
    bytes
}

/// A folder of its own for a test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("simulate-{name}"));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("intent.json"), serde_json::to_vec(&intent()).unwrap()).unwrap();
        Folder(path)
    }

    fn capture(&self, packets: &[Vec<u8>]) {
        let mut writer = PcapWriter::new(Vec::new()).unwrap();
        for (packet, number) in packets.iter().zip(0..) {
            writer.write(TIME + number * 1_000_000, packet).unwrap();
        }
        fs::write(self.0.join("in.pcap"), writer.finish().unwrap()).unwrap();
    }

    fn simulate(&self, more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_penstockd"));
        command.current_dir(&self.0).args(["simulate", "--intent", "intent.json", "--pcap", "in.pcap"]);
        command.args(["--out", "out"]).args(more).output().unwrap()
    }

    fn lines(&self, more: &[&str]) -> Vec<Value> {
        let output = self.simulate(&[&["--output", "json"], more].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn left_by(&self, port: &str) -> Vec<Vec<u8>> {
        let file = File::open(self.0.join("out").join(format!("{port}.pcap"))).unwrap();
        let reader = PcapReader::new(BufReader::new(file)).unwrap();
        reader.map(|record| record.unwrap()).map(|record| record.data).collect()
    }
}

/// Verdict, reason, ingress, egress, flow.
fn gist(line: &Value) -> (&str, Option<&str>, &str, Vec<&str>, Option<&str>) {
    let egress = line["egress"].as_array().unwrap().iter().map(|port| port.as_str().unwrap()).collect();
    let text = |field: &str| line[field].as_str();
    (text("verdict").unwrap(), text("reason"), text("ingress").unwrap(), egress, text("flow"))
}

#[test]
fn what_happens_to_each_packet_and_why() {
    let folder = Folder::new("rows");
    let to_nobody = tcp(CLIENT, 1, [10, 1, 0, 200], 80, 64);
    let packets = [
        (
            tcp(CLIENT, 40_000, WEB, 8080, 64),
            ("forward", None, "shop/client", vec!["shop/web"], Some("miss")),
        ),
        (tcp(CLIENT, 40_000, WEB, 8080, 64), ("forward", None, "shop/client", vec!["shop/web"], Some("hit"))),
        (tcp(WEB, 8080, CLIENT, 40_000, 64), ("forward", None, "shop/web", vec!["shop/client"], Some("hit"))),
        (
            tcp(CLIENT, 40_001, SERVICE, 80, 64),
            ("forward", None, "shop/client", vec!["shop/web"], Some("miss")),
        ),
        (
            tcp(CLIENT, 40_002, DB, 27017, 64),
            ("drop", Some("policy_ingress"), "shop/client", vec![], Some("miss")),
        ),
        (tcp(WEB, 40_002, DB, 27017, 64), ("forward", None, "shop/web", vec!["shop/db"], Some("miss"))),
        (tcp(CLIENT, 40_003, REMOTE, 80, 64), ("forward", None, "shop/client", vec!["uplink"], Some("miss"))),
        (
            tunnelled(&tcp(REMOTE, 40_004, CLIENT, 22, 64)),
            ("forward", None, "uplink", vec!["shop/client"], Some("miss")),
        ),
        (
            tcp([10, 1, 0, 99], 1, WEB, 80, 64),
            ("drop", Some("spoofed_source"), "uplink", vec![], Some("miss")),
        ),
        (
            tcp(CLIENT, 40_000, WEB, 8080, 1),
            ("answered", Some("ttl_exceeded"), "shop/client", vec!["shop/client"], Some("hit")),
        ),
        (to_nobody, ("answered", Some("no_route"), "shop/client", vec!["shop/client"], Some("miss"))),
        (who_has_the_gateway(), ("answered", Some("answered"), "shop/client", vec!["shop/client"], None)),
        (vec![1, 2, 3], ("drop", Some("truncated"), "uplink", vec![], None)),
        (vec![0; 3000], ("drop", Some("oversize"), "uplink", vec![], None)),
    ];
    folder.capture(&packets.iter().map(|(packet, _)| packet.clone()).collect::<Vec<_>>());
    let lines = folder.lines(&[]);
    assert_eq!(lines.len(), packets.len());
    for ((line, (_, expected)), number) in lines.iter().zip(&packets).zip(1..) {
        assert_eq!(line["number"], number);
        assert_eq!(gist(line), *expected, "{line}");
    }
    // Why.
    let (service, denied, allowed) = (&lines[3], &lines[4], &lines[5]);
    assert_eq!(service["time"], "1700000000.003000000");
    assert_eq!((&service["src"], &service["src_port"]), (&"10.1.0.10".into(), &40_001.into()));
    assert_eq!((&service["dst"], &service["dst_port"]), (&"10.96.0.10".into(), &80.into()));
    assert_eq!(service["protocol"], "tcp");
    assert_eq!(
        (&service["service"], &service["backend"]),
        (&"shop/web:http".into(), &"10.1.0.11:8080".into())
    );
    assert_eq!(denied["rules"], serde_json::json!({"egress": null, "ingress": "no-rule"}));
    assert_eq!(
        allowed["rules"],
        serde_json::json!({"egress": "default-allow", "ingress": "NetworkPolicy shop/db ingress[0]"})
    );
    assert_eq!((&lines[7]["tunnelled"], &lines[7]["src"]), (&true.into(), &"10.2.0.10".into()));
    // What left.
    let left = ["shop_client", "shop_web", "shop_db", "uplink", "host"].map(|port| folder.left_by(port));
    assert_eq!(left.each_ref().map(Vec::len), [5, 3, 1, 1, 0]);
    let [_, web, _, uplink, _] = &left;
    let translated = SlicedPacket::from_ethernet(&web[2]).unwrap();
    let Some(TransportSlice::Tcp(segment)) = &translated.transport else { panic!("{translated:?}") };
    assert_eq!((segment.source_port(), segment.destination_port()), (40_001, 8080));
    assert_eq!(web[2][30..34], WEB);
    assert_eq!(
        (&web[2][..6], &web[2][6..12]),
        (&[2, 0x50, 0x53, 2, 0, 1][..], &[2, 0x50, 0x53, 1, 0, 1][..])
    );
    let outer = SlicedPacket::from_ethernet(&uplink[0]).unwrap();
    let Some(TransportSlice::Udp(datagram)) = &outer.transport else { panic!("{outer:?}") };
    assert_eq!(
        (datagram.destination_port(), &uplink[0][26..34]),
        (4789, &[172, 30, 0, 1, 172, 30, 0, 2][..])
    );
    assert_eq!(uplink[0][..6], [2, 0x50, 0x53, 3, 0, 1]);
}

#[test]
fn the_user_says_where_packets_come_in() {
    let folder = Folder::new("ingress");
    folder.capture(&[tcp(CLIENT, 1, WEB, 80, 64), tcp(WEB, 1, CLIENT, 80, 64)]);
    let ingress = |more: &[&str]| -> Vec<String> {
        folder.lines(more).iter().map(|line| line["ingress"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ingress(&["--ingress-port", "host"]), ["host", "host"]);
    assert_eq!(ingress(&["--ingress-port", "10.1.0.11=shop-db"]), ["shop/client", "shop/db"]);
    let first = ["--ingress-port", "10.1.0.11/32=uplink", "--ingress-port", "shop/db"];
    assert_eq!(ingress(&first), ["shop/db", "uplink"]);
    let strict = folder.lines(&["--strict-mac"]);
    assert_eq!(gist(&strict[0]), ("drop", Some("not_our_mac"), "shop/client", vec![], None));
}

#[test]
fn two_runs_are_the_same_and_the_table_is_for_people() {
    let folder = Folder::new("same");
    folder.capture(&[tcp(CLIENT, 1, [8, 8, 8, 8], 80, 64), tcp(CLIENT, 1, SERVICE, 80, 64)]);
    let first = (folder.lines(&[]), folder.left_by("uplink"));
    assert_eq!(first, (folder.lines(&[]), folder.left_by("uplink")));
    let output = folder.simulate(&[]);
    let (table, summary) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(table.contains("Service shop/web:http; backend 10.1.0.11:8080"), "{table}");
    assert!(summary.contains("2 packets: 2 forwarded, 0 dropped, 0 answered"), "{summary}");
}

#[test]
fn exit_codes_are_as_documented() {
    let folder = Folder::new("exit");
    folder.capture(&[tcp(CLIENT, 1, WEB, 80, 64), tcp(CLIENT, 1, WEB, 80, 64)]);
    let code = |more: &[&str]| folder.simulate(more).status.code().unwrap();
    assert_eq!(code(&[]), 0);
    assert_eq!(code(&["--ingress-port", "shop/nobody"]), 2);
    assert_eq!(code(&["--no-such-option"]), 2);
    let path = folder.0.join("in.pcap");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    let broken = folder.simulate(&["--output", "json"]);
    assert_eq!(broken.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&broken.stderr).contains("record 2"), "{broken:?}");
    fs::write(&path, b"no capture").unwrap();
    assert_eq!(code(&[]), 2);
    fs::write(folder.0.join("intent.json"), b"{}").unwrap();
    assert_eq!(code(&[]), 2);
}

/// Captures that others have recorded, broken and hostile ones among them: nothing panics, nothing gets lost.
#[test]
fn foreign_captures_pass_without_loss() {
    let named = std::env::var_os("PENSTOCK_CONFORMANCE").map(PathBuf::from);
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance");
    let Ok(files) = fs::read_dir(named.unwrap_or_else(beside).join("captures")) else {
        eprintln!("no captures at hand: nothing was run");
        return;
    };
    let (mut captures, mut packets, mut refused) = (0, 0, 0);
    for path in files.map(|file| file.unwrap().path()) {
        let Ok(reader) = PcapReader::new(BufReader::new(File::open(&path).unwrap())) else {
            refused += 1;
            continue;
        };
        // Frames of other links are as good as any other noise.
        let strict_mac = reader.link_type() != ETHERNET;
        let topology = Topology::new(&intent(), 1500).unwrap();
        let mut simulation = Simulation::new(topology, Ingress::default(), strict_mac).unwrap();
        for record in reader.map_while(Result::ok) {
            let step = simulation.pass(record.time_ns, &record.data);
            assert_eq!(step.sent.is_empty(), step.egress.is_empty(), "{}: {step:?}", path.display());
            packets += 1;
        }
        let totals = simulation.finish().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(totals.verdicts.iter().sum::<u64>(), totals.packets, "{}", path.display());
        captures += 1;
    }
    eprintln!("{captures} captures with {packets} packets were run, {refused} files are no classic captures");
}
