//! [`Flood`]: connections are opened by the million and never answered, beside some in which both ends speak.

use dataplane::flow::Key;

use crate::cluster::{self, CLIENT, SERVICE_PORT, WIDE};
use crate::replay::{Packet, Packets};
use crate::rig::{Cost, Rig};

/// Flows in which both ends speak.
const ESTABLISHED: usize = 1 << 10;
/// SYNs of a pass, each of a flow of its own.
const SYNS: usize = 4 << 20;
/// Lines of the flow table: an eighth of what the flood would take.
const ENTRIES: usize = 1 << 20;

/// A worker under a flood of SYNs, whose table is full.
#[derive(Debug)]
pub struct Flood {
    rig: Rig,
    established: Vec<Key>,
}

impl Default for Flood {
    fn default() -> Self {
        Flood::new()
    }
}

impl Flood {
    /// The established flows are in the table, and have been answered.
    pub fn new() -> Self {
        let mut numbers = 0..ESTABLISHED + SYNS;
        let own: Vec<(u16, u16)> =
            numbers.by_ref().take(ESTABLISHED).map(|number| cluster::flow_of(&WIDE, number)).collect();
        let packets: Vec<Packet> = own
            .iter()
            .map(|(service, port)| cluster::packet(*port, cluster::service_address(*service), SERVICE_PORT))
            .chain(numbers.map(|number| {
                let (service, port) = cluster::flow_of(&WIDE, number);
                cluster::syn(port, cluster::service_address(service), SERVICE_PORT)
            }))
            .collect();
        let key = |(service, port): &(u16, u16)| {
            let service = cluster::service_address(*service).into();
            Key::new(CLIENT.into(), *port, service, SERVICE_PORT, dataplane::wire::TCP)
        };
        let established: Vec<Key> = own.iter().map(key).collect();
        let packets = Packets::Short(packets.into());
        let mut flood =
            Flood { rig: Rig::with_room(cluster::snapshot_of(&WIDE), packets, 64, ENTRIES), established };
        flood.rig.take(ESTABLISHED);
        flood.answer();
        flood
    }

    /// Packets of a pass.
    pub fn attempts(&self) -> usize {
        ESTABLISHED + SYNS
    }

    /// All SYNs, and then a packet of each established flow.
    pub fn pass(&mut self) -> Cost {
        self.rig.pass()
    }

    /// Panics where any established flow has been pushed out.
    pub fn assert_established(&self) {
        let table = &self.rig.flows().v4;
        let [_, unreplied, established] = table.usage().evicted;
        assert!(unreplied > SYNS as u64, "the table was full: {unreplied} pushed out");
        assert_eq!(established, 0, "established flows pushed out");
        for key in &self.established {
            assert!(table.lookup(key, table.hash(key)).is_some(), "{key:?} is gone");
        }
    }

    /// The other end of each established flow speaks.
    fn answer(&mut self) {
        let table = &self.rig.flows().v4;
        for key in &self.established {
            let found = table.lookup(key, table.hash(key)).expect("the flow has been judged");
            let reply = table.partner(found.slot, &found.entry).expect("both directions are there");
            table.touch(reply.slot, self.rig.second(), 0);
        }
    }
}
