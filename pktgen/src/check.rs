//! What is impossible is refused here, before anything is opened: by the flag's name, with exit code 2.

use std::net::IpAddr;

use crate::engine::socket::MAX_SOCKETS;
use crate::flow::{MacAddr, PortRange};
use crate::mix::Protocol;
use crate::options::{
    Core, Engine, LoadOptions, OptionsError, ReplayOptions, RunOptions, RxEngine, RxOptions, TrafficOptions,
    TxEngine, TxOptions,
};
use crate::place;
use crate::popularity::Popularity;
use crate::traffic::Traffic;

/// The engines of both ends: each its own flag, else the common one, else AF_XDP.
pub fn engines(options: &RunOptions) -> (TxEngine, RxEngine) {
    let (tx, rx) = match options.engine {
        None | Some(Engine::Xdp) => (TxEngine::Xdp, RxEngine::Xdp),
        Some(Engine::Live) => (TxEngine::Live, RxEngine::Xdp),
        Some(Engine::Socket) => (TxEngine::Socket, RxEngine::Socket),
    };
    (options.tx.tx_engine.unwrap_or(tx), options.rx.rx_engine.unwrap_or(rx))
}

/// Checks what is to be sent, how fast, and by which engine.
///
/// # Errors
/// [`OptionsError`] naming the flag.
pub fn sending(
    engine: TxEngine,
    tx: &TxOptions,
    traffic: &TrafficOptions,
    load: &LoadOptions,
) -> Result<(), OptionsError> {
    let prepared = offline(traffic)?;
    load.packets_per_second(prepared.mean_frame())?;
    device(engine, tx)?;
    core("--tx-core", tx.tx_core)?;
    match engine {
        TxEngine::Xdp => Ok(()),
        TxEngine::Live => live(traffic, &prepared),
        TxEngine::Socket => socket(traffic, &prepared),
    }
}

/// Checks how a capture is to be sent.
///
/// # Errors
/// [`OptionsError`] naming the flag.
pub fn replaying(options: &ReplayOptions) -> Result<(), OptionsError> {
    let engine = options.tx.tx_engine.unwrap_or(TxEngine::Xdp);
    if engine != TxEngine::Xdp {
        return Err(impossible("--tx-engine", "a capture is sent as whole frames, by xdp alone".into()));
    }
    // Of any length: only whether a share of a link has a link.
    if let Some(rate) = options.rate {
        rate.packets_per_second(60.0, options.link_speed.map(|speed| speed.0))?;
    }
    device(engine, &options.tx)?;
    core("--tx-core", options.tx.tx_core)
}

/// Checks where frames leave.
fn device(engine: TxEngine, tx: &TxOptions) -> Result<(), OptionsError> {
    if engine != TxEngine::Socket && tx.tx_device.is_none() {
        return Err(OptionsError::Missing { flag: "--tx-device", why: "by the engines xdp and live" });
    }
    Ok(())
}

/// Checks where and how is received. `sent_to` are the ports that packets are sent to, where that is known.
///
/// # Errors
/// [`OptionsError`] naming the flag.
pub fn receiving(engine: RxEngine, rx: &RxOptions, sent_to: Option<PortRange>) -> Result<(), OptionsError> {
    core("--rx-core", rx.rx_core)?;
    match engine {
        RxEngine::Xdp if rx.rx_device.is_none() => {
            Err(OptionsError::Missing { flag: "--rx-device", why: "by the engine xdp" })
        }
        RxEngine::Xdp => Ok(()),
        RxEngine::Socket => match rx.rx_port.or(sent_to) {
            None => Err(OptionsError::Missing { flag: "--rx-port", why: "by the engine socket" }),
            Some(ports) if ports.count() > MAX_SOCKETS => Err(impossible(
                "--rx-port",
                format!("{} ports; at most {MAX_SOCKETS} can be received on", ports.count()),
            )),
            Some(_) => Ok(()),
        },
    }
}

/// Checks both ends of a run, alone and together.
///
/// # Errors
/// [`OptionsError`] naming the flag.
pub fn run(options: &RunOptions) -> Result<(), OptionsError> {
    let (tx_engine, rx_engine) = engines(options);
    let (tx, rx, traffic) = (&options.tx, &options.rx, &options.traffic);
    sending(tx_engine, tx, traffic, &options.load)?;
    receiving(rx_engine, rx, Some(traffic.dst_port))?;
    let one_device = tx.tx_device == rx.rx_device && tx.tx_netns == rx.rx_netns;
    if tx_engine == TxEngine::Xdp && rx_engine == RxEngine::Xdp && one_device {
        let why = "the same as --tx-device: a queue has one AF_XDP socket".into();
        return Err(impossible("--rx-device", why));
    }
    if rx_engine == RxEngine::Socket {
        if options.traffic.vxlan.is_some() {
            return Err(impossible("--vxlan", "--rx-engine socket receives plain UDP only".into()));
        }
        let only_udp = traffic.protocol.entries().iter().all(|(protocol, _)| *protocol == Protocol::Udp);
        if !only_udp {
            return Err(impossible("--protocol", "--rx-engine socket receives UDP only".into()));
        }
    }
    Ok(())
}

/// The MAC addresses as given, and made-up ones where they are not.
pub fn nominal_macs(traffic: &TrafficOptions) -> (MacAddr, MacAddr) {
    let (source, destination) = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]));
    (traffic.src_mac.unwrap_or(source), traffic.dst_mac.unwrap_or(destination))
}

/// The traffic as far as it can be made without a device.
pub(crate) fn offline(traffic: &TrafficOptions) -> Result<Traffic, OptionsError> {
    let anyone = match traffic.dst_ip.first() {
        IpAddr::V4(_) => IpAddr::from([0; 4]),
        IpAddr::V6(_) => IpAddr::from([0u16; 8]),
    };
    traffic.traffic(Some(anyone), nominal_macs(traffic))
}

fn live(traffic: &TrafficOptions, prepared: &Traffic) -> Result<(), OptionsError> {
    if !prepared.only(Protocol::Udp) {
        return Err(impossible("--protocol", "--tx-engine live sends UDP only".into()));
    }
    if traffic.vxlan.is_some() {
        return Err(impossible("--vxlan", "--tx-engine live sends plain UDP only".into()));
    }
    if traffic.dst_ip.first().is_ipv6() {
        return Err(impossible(
            "--dst-ip",
            "--tx-engine live sends IPv4 only: IPv6 has no UDP without a checksum".into(),
        ));
    }
    if traffic.size.as_ref().is_some_and(|size| size.entries().len() > 1) {
        return Err(impossible("--size", "--tx-engine live sends one size at a time".into()));
    }
    if traffic.flows > traffic.src_port.count() {
        let why = format!(
            "--tx-engine live varies the source port alone, and --src-port holds {}",
            traffic.src_port.count()
        );
        return Err(impossible("--flows", why));
    }
    if traffic.popularity != Popularity::InTurn {
        return Err(impossible("--popularity", "--tx-engine live sends its flows in turn".into()));
    }
    if traffic.streams.is_some_and(|streams| streams > 1) {
        return Err(impossible("--streams", "--tx-engine live numbers its packets in one stream".into()));
    }
    Ok(())
}

fn socket(traffic: &TrafficOptions, prepared: &Traffic) -> Result<(), OptionsError> {
    if !prepared.only(Protocol::Udp) {
        return Err(impossible("--protocol", "--tx-engine socket sends UDP only".into()));
    }
    if traffic.flows > MAX_SOCKETS {
        return Err(impossible(
            "--flows",
            format!("--tx-engine socket opens a socket for each; at most {MAX_SOCKETS}"),
        ));
    }
    let headers = [
        ("--vxlan", traffic.vxlan.is_some()),
        ("--src-mac", traffic.src_mac.is_some()),
        ("--dst-mac", traffic.dst_mac.is_some()),
        ("--next-hop", traffic.next_hop.is_some()),
    ];
    match headers.iter().find(|(_, given)| *given) {
        Some((flag, _)) => {
            Err(impossible(flag, "with --tx-engine socket the kernel makes the headers".into()))
        }
        None => Ok(()),
    }
}

fn core(flag: &'static str, core: Option<Core>) -> Result<(), OptionsError> {
    match core {
        Some(Core::Number(id)) if !place::cores().contains(&id) => Err(impossible(
            flag,
            format!("there is no core {id} for this process; these are: {:?}", place::cores()),
        )),
        _ => Ok(()),
    }
}

fn impossible(flag: &'static str, why: String) -> OptionsError {
    OptionsError::Impossible { flag, why }
}
