//! The two ends of a measurement, opened in the calling thread's network namespace and on its core.

use std::net::IpAddr;

use crate::engine::live::LiveSender;
use crate::engine::socket::{SocketReceiver, SocketSender};
use crate::engine::{EngineError, Receiver, Sender, xdp};
use crate::flow::{AddressRange, MacAddr};
use crate::locate::Look;
use crate::netlink::Link;
use crate::options::{OptionsError, RxEngine, RxOptions, TrafficOptions, TxEngine, TxOptions};
use crate::place::{self, Role};
use crate::rate::FCS;
use crate::traffic::Traffic;

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

/// A sender that is ready, and what traffic for its wire needs to know.
pub(crate) struct SendingEnd {
    pub(crate) sender: Box<dyn Sender>,
    /// How the engine is attached, in words.
    pub(crate) mode: String,
    engine: TxEngine,
    source: Option<IpAddr>,
    macs: (MacAddr, MacAddr),
    device: Device,
}

/// The device that is sent on, as it was before the first packet; none where the engine has none.
#[derive(Debug, Clone)]
pub(crate) struct Device(Option<(String, Link)>);

impl Device {
    /// Packets that it has dropped itself since then.
    pub(crate) fn dropped(&self) -> u64 {
        self.0.as_ref().map_or(0, |(name, link)| place::dropped_since(name, link))
    }
}

impl SendingEnd {
    /// Opens the engine in the network namespace that `tx` names, where the calling thread stays.
    pub(crate) fn open(
        engine: TxEngine,
        tx: &TxOptions,
        options: &TrafficOptions,
    ) -> Result<Self, EngineError> {
        place::enter(tx.tx_netns.as_deref())?;
        place::pin(tx.tx_core, Role::Sender)?;
        if engine == TxEngine::Socket {
            return SendingEnd::socket(options);
        }
        let missing = OptionsError::Missing { flag: "--tx-device", why: "by the engines xdp and live" };
        let device = tx.tx_device.as_deref().ok_or(missing)?;
        let towards = options.vxlan.map_or(options.dst_ip.first(), |vxlan| vxlan.0.destination);
        let wire = place::wire(device, towards, options.src_mac, options.dst_mac, options.next_hop)?;
        let (sender, mode): (Box<dyn Sender>, String) = if engine == TxEngine::Live {
            let flows = u16::try_from(options.flows).unwrap_or(u16::MAX);
            (Box::new(LiveSender::open(device, flows)?), "XDP live frames, no UDP checksum".into())
        } else {
            let (sender, mode) = xdp::sender(device, tx.tx_queue)?;
            (Box::new(sender), mode)
        };
        Ok(SendingEnd {
            sender,
            mode,
            engine,
            source: wire.source,
            macs: (wire.source_mac, wire.destination_mac),
            device: Device(Some((device.to_owned(), wire.link))),
        })
    }

    fn socket(options: &TrafficOptions) -> Result<Self, EngineError> {
        let source = place::source_towards(options.dst_ip.first());
        let no_way =
            || OptionsError::Missing { flag: "--src-ip", why: "where there is no route to --dst-ip" };
        let sources = options.src_ip.or(source.map(AddressRange::from)).ok_or_else(no_way)?;
        Ok(SendingEnd {
            sender: Box::new(SocketSender::open(&options.draw(sources)?, options.ttl)?),
            mode: "kernel UDP".into(),
            engine: TxEngine::Socket,
            source,
            macs: (MacAddr([0; 6]), MacAddr([0; 6])),
            device: Device(None),
        })
    }

    /// The traffic that suits the wire here.
    ///
    /// # Errors
    /// [`OptionsError`] naming the flag that cannot be kept; `--size` also where the device's MTU is too small.
    pub(crate) fn traffic(&self, options: &TrafficOptions) -> Result<Traffic, OptionsError> {
        let mut options = options.clone();
        if self.engine == TxEngine::Live {
            options.streams = Some(1);
        }
        let traffic = options.traffic(self.source, self.macs)?;
        if let Some((device, link)) = &self.device.0 {
            check_mtu(&traffic, device, link.mtu)?;
        }
        Ok(traffic)
    }

    /// The largest frame that the device takes, frame check sequence included, where there is one.
    pub(crate) fn largest_frame(&self) -> Option<usize> {
        self.device.0.as_ref().map(|(_, link)| link.mtu as usize + ETHERNET + FCS)
    }

    /// The device as it was before the first packet, to be asked later on.
    pub(crate) fn device(&self) -> Device {
        self.device.clone()
    }

    /// The device as it is now, to be asked later on.
    pub(crate) fn device_now(&self) -> Device {
        let now = |(name, before): &(String, Link)| {
            // A device that is gone has dropped nothing since.
            (name.clone(), crate::netlink::link(name).unwrap_or_else(|_| before.clone()))
        };
        Device(self.device.0.as_ref().map(now))
    }
}

fn check_mtu(traffic: &Traffic, device: &str, mtu: u32) -> Result<(), OptionsError> {
    match traffic.sizes().last() {
        Some(size) if size - FCS - ETHERNET > mtu as usize => Err(OptionsError::Impossible {
            flag: "--size",
            why: format!(
                "frames of {size} bytes carry {} of IP; {device} has an MTU of {mtu}",
                size - FCS - ETHERNET
            ),
        }),
        _ => Ok(()),
    }
}

/// Opens the receiver in the network namespace that `rx` names, where the calling thread stays. Says in words how it
/// is attached.
pub(crate) fn receiver(
    engine: RxEngine,
    rx: &RxOptions,
    family: Option<IpAddr>,
) -> Result<(Box<dyn Receiver>, String), EngineError> {
    place::enter(rx.rx_netns.as_deref())?;
    place::pin(rx.rx_core, Role::Receiver)?;
    match engine {
        RxEngine::Socket => {
            let missing = OptionsError::Missing { flag: "--rx-port", why: "by the engine socket" };
            let ports = rx.rx_port.ok_or(missing)?;
            let receiver = SocketReceiver::open(ports.ports(), family)?;
            Ok((Box::new(receiver), format!("kernel UDP, port {ports}")))
        }
        RxEngine::Xdp => {
            let missing = OptionsError::Missing { flag: "--rx-device", why: "by the engine xdp" };
            let device = rx.rx_device.as_deref().ok_or(missing)?;
            let link = crate::netlink::link(device).map_err(place::PlaceError::from)?;
            let look = Look { verify: !rx.no_verify, vxlan_port: rx.vxlan_port };
            let (receiver, mode) = xdp::receiver(device, &link, rx.rx_mode, look)?;
            Ok((Box::new(receiver), mode))
        }
    }
}
