//! The part of [`Control`] that has to do with ports: numbers, workers, coming and going.

use std::collections::BTreeMap;

use afxdp_driver::{AnyPort, Ended};
use agent_api::contract::{AddPort, PortInfo, PortRole, Refusal, RefusalKind};

use super::neighbours::Ask;
use super::ports::{Attached, Phase, Port, PortKind, Reservation};
use super::refusal::{refuse, stopped};
use super::request::{Answer, Request};
use super::thread::{Control, Then};
use crate::messages::Command;
use crate::snapshot::PortIndex;

impl Control {
    /// Takes a number and a worker for a port that is to be attached.
    pub(super) fn reserve(&mut self, request: AddPort, kind: PortKind) -> Result<Reservation, Refusal> {
        let object = format!("port {}", request.device);
        self.check_free(&request, &object)?;
        let uplink = request.role == PortRole::Uplink;
        let chunks = kind.chunks(self.parts.port_settings.ring);
        let worker = self.choose_worker(uplink, chunks, &object)?;
        let free = self.ports.iter().position(Option::is_none).unwrap_or(self.ports.len());
        let port = PortIndex::try_from(free)
            .map_err(|_| refuse(RefusalKind::Capacity, &object, "device", "no port number is left"))?;
        let reserved = Some(Port::reserved(request.clone(), worker, chunks));
        match self.ports.get_mut(free) {
            Some(place) => *place = reserved,
            None => self.ports.push(reserved),
        }
        let umem = self.parts.workers.get(worker).map(|worker| worker.umem.clone()).ok_or_else(stopped)?;
        Ok(Reservation { port, request, kind, umem, settings: self.parts.port_settings.clone() })
    }

    /// Neither the device nor what is behind it has a port.
    fn check_free(&self, request: &AddPort, object: &str) -> Result<(), Refusal> {
        let exists = |field, problem: String| Err(refuse(RefusalKind::Exists, object, field, problem));
        for port in self.ports.iter().flatten() {
            let other = &port.request;
            if other.device == request.device {
                let leaving = matches!(port.phase, Phase::Leaving(_));
                let problem = if leaving { "is being detached" } else { "is attached already" };
                return exists("device", problem.into());
            }
            if other.role == request.role && !matches!(port.phase, Phase::Leaving(_)) {
                return exists(
                    "role",
                    format!("{} has port {} already", described(&request.role), other.device),
                );
            }
        }
        Ok(())
    }

    /// The worker with the fewest ports among those with memory for one more, which keeps `chunks` of it.
    fn choose_worker(&self, uplink: bool, chunks: usize, object: &str) -> Result<usize, Refusal> {
        let served = |number: usize| self.ports.iter().flatten().filter(move |port| port.worker == number);
        let load = |number: usize| served(number).count();
        let eligible = self.parts.workers.iter().enumerate().filter(|(number, worker)| {
            let kept = served(*number).map(|port| port.chunks).sum::<usize>();
            // A quarter is left for what is in batches and being sent.
            let fits = kept + chunks <= worker.umem.chunks() * 3 / 4;
            fits && (uplink || !worker.uplink_only)
        });
        let preferred = eligible.min_by_key(|(number, worker)| (worker.uplink_only != uplink, load(*number)));
        preferred.map(|(number, _)| number).ok_or_else(|| {
            let problem = format!(
                "no worker has packet memory for {chunks} more chunks: raise memory.chunks or lower memory.ring"
            );
            refuse(RefusalKind::Capacity, object, "memory.chunks", problem)
        })
    }

    /// Hands an attached device to its worker.
    pub(super) fn serve(
        &mut self,
        index: PortIndex,
        attached: Attached,
        answer: Answer<Result<PortInfo, Refusal>>,
    ) {
        let Attached { io, mode, facts, setup, gauges, steering } = attached;
        let ifindex = facts.ifindex;
        let Some(port) = self.port_mut(index) else {
            drop(answer.send(Err(stopped())));
            return;
        };
        (port.mode, port.facts, port.setup) = (mode, Some(facts), setup);
        (port.gauges, port.steering) = (gauges, steering);
        port.phase = Phase::Serving;
        let (role, cells) = (port.request.role.clone(), port.cells.clone());
        if role == PortRole::Uplink {
            // Another uplink's program may have been told before; this one was not.
            self.steered = None;
            if let Err(refusal) = self.steer(&self.tables.clone()) {
                if let Some(port) = self.port_mut(index) {
                    port.phase = Phase::Leaving(Vec::new());
                }
                self.close(index, Box::new(io));
                drop(answer.send(Err(refusal)));
                return;
            }
            self.ask(Ask::Device(ifindex));
        }
        self.command_of(index, Command::Attach { port: index, io: Box::new(io), cells });
        let epoch = self.publish();
        self.wait(epoch, Then::Added { port: index, answer });
    }

    /// Detaches a device for a caller.
    pub(super) fn remove(&mut self, device: &str, answer: Answer<Result<(), Refusal>>) {
        let served = |port: &Port| port.request.device == device && !matches!(port.phase, Phase::Reserved);
        let found = self.ports.iter().position(|port| port.as_ref().is_some_and(served));
        match found {
            Some(index) => self.leave(index as PortIndex, Some(answer)),
            None => {
                let problem = "is not attached";
                drop(answer.send(Err(refuse(
                    RefusalKind::NotFound,
                    format!("port {device}"),
                    "device",
                    problem,
                ))));
            }
        }
    }

    /// A device has been removed: so is its port.
    pub(super) fn removed(&mut self, ifindex: u32) {
        let is_it = |port: &Port| port.facts.as_ref().is_some_and(|facts| facts.ifindex == Some(ifindex));
        let found = self.ports.iter().position(|port| port.as_ref().is_some_and(is_it));
        if let Some(index) = found {
            tracing::warn!(ifindex, "a port's device has been removed: detaching it");
            self.leave(index as PortIndex, None);
        }
    }

    /// Takes a port out of the snapshot; its worker lets it go when nobody sends to it any more.
    pub(super) fn leave(&mut self, index: PortIndex, answer: Option<Answer<Result<(), Refusal>>>) {
        let Some(port) = self.port_mut(index) else { return };
        match &mut port.phase {
            Phase::Leaving(waiting) => return waiting.extend(answer),
            Phase::Reserved => return,
            Phase::Serving => {}
        }
        port.phase = Phase::Leaving(answer.into_iter().collect());
        if port.request.role == PortRole::Uplink {
            self.ask(Ask::Device(None));
        }
        let epoch = self.publish();
        self.wait(epoch, Then::Detach(index));
    }

    /// Closes a port that its worker has handed back, on a thread of its own: that takes tens of milliseconds.
    pub(super) fn close(&mut self, index: PortIndex, io: Box<AnyPort>) {
        let Some(port) = self.port_mut(index) else { return };
        // They would keep the queue taken.
        (port.gauges, port.steering) = (None, None);
        let own = self.parts.own_requests.clone();
        let (sender, receiver) = crossbeam::channel::bounded::<Box<AnyPort>>(1);
        let spawned = std::thread::Builder::new().name("penstock-close".into()).spawn(move || {
            if let Ok(io) = receiver.recv() {
                // Where the control thread has ended, so has the pool.
                let _ = own.send(Request::Closed { port: index, ended: io.finish() });
            }
        });
        match spawned {
            // The thread waits for it.
            Ok(_) => drop(sender.send(io)),
            Err(error) => {
                tracing::warn!(%error, "no thread to close a port: closing it here");
                self.closed(index, io.finish());
            }
        }
    }

    /// A port is closed: its memory goes home, its device becomes what it was.
    pub(super) fn closed(&mut self, index: PortIndex, ended: Ended) {
        if let Some(port) = self.ports.get(index as usize).and_then(Option::as_ref) {
            port.cells.store(&ended.counters);
        }
        if let Some(chunks) = ended.chunks {
            self.command_of(index, Command::TakeHome(chunks));
        }
        self.free(index);
    }

    /// Frees a number.
    pub(super) fn free(&mut self, index: PortIndex) {
        let Some(port) = self.ports.get_mut(index as usize).and_then(Option::take) else { return };
        let device = port.request.device;
        if let Some(Err(error)) = port.setup.map(afxdp_driver::device::DeviceSetup::restore) {
            tracing::warn!(device, %error, "the device is not what it was");
        }
        if let Phase::Leaving(waiting) = port.phase {
            tracing::info!(device, "port detached");
            waiting.into_iter().for_each(|answer| drop(answer.send(Ok(()))));
        }
    }

    pub(super) fn info(&self, index: PortIndex) -> Result<PortInfo, Refusal> {
        let port = self.ports.get(index as usize).and_then(Option::as_ref);
        let snapshot = self.parts.publisher.publication().load();
        let info = port.and_then(|port| port.info(index, &snapshot));
        info.ok_or_else(|| refuse(RefusalKind::System, "port", "device", "has gone again"))
    }

    pub(super) fn devices(&self) -> BTreeMap<PortIndex, String> {
        let numbered = (0..).zip(&self.ports);
        numbered.filter_map(|(index, port)| Some((index, port.as_ref()?.request.device.clone()))).collect()
    }

    pub(super) fn port_infos(&self) -> Vec<PortInfo> {
        let snapshot = self.parts.publisher.publication().load();
        let numbered = (0..).zip(&self.ports);
        numbered.filter_map(|(index, port)| port.as_ref()?.info(index, &snapshot)).collect()
    }
}

fn described(role: &PortRole) -> String {
    match role {
        PortRole::Pod(pod) => format!("pod {pod}"),
        PortRole::Uplink => "the uplink".to_owned(),
        PortRole::Host => "the host".to_owned(),
    }
}
