//! What messages of route netlink say.

use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType};

use crate::snapshot::Mac;

/// What the main table says of one device.
#[derive(Debug, Default)]
pub(super) struct Routes {
    pub(super) on_link: Vec<IpNet>,
    /// Metric and gateway of the default routes.
    defaults: Vec<(u32, IpAddr)>,
}

impl Routes {
    pub(super) fn take(&mut self, message: &RouteMessage, device: u32) {
        let (mut table, mut metric) = (u32::from(message.header.table), 0);
        let (mut destination, mut gateway, mut out) = (None, None, None);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Table(number) => table = *number,
                RouteAttribute::Priority(number) => metric = *number,
                RouteAttribute::Oif(index) => out = Some(*index),
                RouteAttribute::Destination(address) => destination = ip(address),
                RouteAttribute::Gateway(address) => gateway = ip(address),
                _ => {}
            }
        }
        let main =
            table == u32::from(RouteHeader::RT_TABLE_MAIN) && message.header.kind == RouteType::Unicast;
        if !main || out != Some(device) {
            return;
        }
        let length = message.header.destination_prefix_length;
        match (gateway, destination) {
            (Some(gateway), _) if length == 0 => self.defaults.push((metric, gateway)),
            (None, Some(destination)) => self.on_link.extend(IpNet::new(destination, length)),
            _ => {}
        }
    }

    pub(super) fn gateway(&self, v4: bool) -> Option<IpAddr> {
        let family = self.defaults.iter().filter(|(_, gateway)| gateway.is_ipv4() == v4);
        family.min().map(|(_, gateway)| *gateway)
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

/// Address and, where the kernel vouches for it, MAC address.
pub(super) fn neighbour(message: &NeighbourMessage) -> Option<(IpAddr, Option<Mac>)> {
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(found)) => {
                address = Some(IpAddr::V4(*found))
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(found)) => {
                address = Some(IpAddr::V6(*found))
            }
            NeighbourAttribute::LinkLayerAddress(octets) => mac = Mac::try_from(octets.as_slice()).ok(),
            _ => {}
        }
    }
    let known = matches!(
        message.header.state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
    );
    let address = address.filter(|address| !address.is_multicast())?;
    Some((address, mac.filter(|mac| known && mac[0] & 1 == 0)))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use rtnetlink::RouteMessageBuilder;

    use super::*;

    fn message(state: NeighbourState, address: Ipv4Addr, mac: &[u8]) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.state = state;
        message.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)),
            NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
        ];
        message
    }

    #[test]
    fn a_mac_address_counts_only_while_the_kernel_vouches_for_it() {
        let (address, mac) = (Ipv4Addr::new(192, 0, 2, 1), [2, 0, 0, 0, 0, 1]);
        let rows = [
            (NeighbourState::Reachable, Some(mac)),
            (NeighbourState::Stale, Some(mac)),
            (NeighbourState::Failed, None),
            (NeighbourState::Incomplete, None),
        ];
        for (state, known) in rows {
            assert_eq!(neighbour(&message(state, address, &mac)), Some((address.into(), known)));
        }
        assert_eq!(
            neighbour(&message(NeighbourState::Reachable, address, &[1; 4])),
            Some((address.into(), None))
        );
        assert_eq!(neighbour(&message(NeighbourState::Noarp, Ipv4Addr::new(224, 0, 0, 1), &mac)), None);
    }

    #[test]
    fn the_default_route_with_the_lowest_metric_wins() {
        let mut routes = Routes::default();
        for (metric, last, device) in [(200, 1, 7), (100, 2, 7), (1, 3, 8)] {
            let mut message = RouteMessageBuilder::<Ipv4Addr>::new().build();
            message.attributes = vec![
                RouteAttribute::Priority(metric),
                RouteAttribute::Oif(device),
                RouteAttribute::Gateway(RouteAddress::Inet(Ipv4Addr::new(192, 0, 2, last))),
            ];
            routes.take(&message, 7);
        }
        assert_eq!(routes.gateway(true), Some(Ipv4Addr::new(192, 0, 2, 2).into()));
        assert_eq!(routes.gateway(false), None);
    }
}
