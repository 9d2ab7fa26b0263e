//! Where packets go: the queues of this worker's ports, and the rings to other workers.

use afxdp_driver::{Batch, Frame};

use crate::crossing::Links;
use crate::drops::DropReason;
use crate::snapshot::PortIndex;

/// What a batch has put out and no port has taken yet.
#[derive(Debug)]
pub struct Outputs {
    worker: u16,
    /// By port number.
    queues: Vec<Batch>,
    /// Ports whose queues hold something.
    touched: Vec<PortIndex>,
    links: Links,
}

impl Outputs {
    /// The outputs of a worker.
    pub fn new(worker: u16, links: Links) -> Self {
        Outputs { worker, queues: Vec::new(), touched: Vec::new(), links }
    }

    /// The worker's number.
    pub(super) fn worker(&self) -> usize {
        self.worker as usize
    }

    /// Makes a queue for a port of this worker.
    pub fn open(&mut self, port: PortIndex) {
        let wanted = port as usize + 1;
        if self.queues.len() < wanted {
            self.queues.resize_with(wanted, Batch::new);
            self.touched.reserve(wanted);
        }
    }

    /// Puts a frame out. True where it went to another worker, and so has left this one.
    #[inline(always)]
    pub(super) fn push(
        &mut self,
        port: PortIndex,
        worker: u16,
        frame: Frame,
    ) -> Result<bool, (DropReason, Frame)> {
        if worker != self.worker {
            return self.push_across(port, worker, frame);
        }
        self.push_own(port, frame).map(|()| false)
    }

    #[inline(never)]
    fn push_across(
        &mut self,
        port: PortIndex,
        worker: u16,
        frame: Frame,
    ) -> Result<bool, (DropReason, Frame)> {
        let sent = self.links.send(worker, port, frame);
        sent.map(|()| true).map_err(|frame| (DropReason::WorkerRingFull, frame))
    }

    /// Puts a frame out by a port of this worker.
    #[inline(always)]
    pub(super) fn push_own(&mut self, port: PortIndex, frame: Frame) -> Result<(), (DropReason, Frame)> {
        let Some(queue) = self.queues.get_mut(port as usize) else {
            return Err((DropReason::PortGone, frame));
        };
        if queue.is_empty() {
            self.touched.push(port);
        }
        queue.try_push(frame).map_err(|error| (DropReason::TxRingFull, error.element()))
    }

    /// Hands out the queue of each port that has packets, for the worker to send; what it leaves there goes to `rest`.
    pub(crate) fn drain(&mut self, mut send: impl FnMut(PortIndex, &mut Batch)) {
        for port in self.touched.drain(..) {
            if let Some(queue) = self.queues.get_mut(port as usize) {
                send(port, queue);
            }
        }
        self.links.ring();
    }

    pub(crate) fn links(&mut self) -> &mut Links {
        &mut self.links
    }
}
