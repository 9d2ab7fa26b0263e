//! Counters: [`Stats`] and its rows. Nothing in them can be wrong on the wire, so both ways are `From`.

use policy_compiler::check::Checked;

use crate::contract::{CheckReport, CheckStats, FlowTableStats, PortStats, Stats, WorkerStats};
use crate::proto;

impl From<Stats> for proto::StatsResponse {
    fn from(stats: Stats) -> Self {
        proto::StatsResponse {
            uptime_seconds: stats.uptime_seconds,
            generation: stats.generation,
            workers: stats.workers.into_iter().map(Into::into).collect(),
            ports: stats.ports.into_iter().map(Into::into).collect(),
            flows: stats.flows.into_iter().map(|(table, stats)| (table, stats.into())).collect(),
            checks: Some(stats.checks.into()),
        }
    }
}

impl From<proto::StatsResponse> for Stats {
    fn from(message: proto::StatsResponse) -> Self {
        Stats {
            uptime_seconds: message.uptime_seconds,
            generation: message.generation,
            workers: message.workers.into_iter().map(Into::into).collect(),
            ports: message.ports.into_iter().map(Into::into).collect(),
            flows: message.flows.into_iter().map(|(table, stats)| (table, stats.into())).collect(),
            checks: message.checks.map(Into::into).unwrap_or_default(),
        }
    }
}

impl From<CheckStats> for proto::CheckStats {
    fn from(stats: CheckStats) -> Self {
        proto::CheckStats {
            passed: stats.passed,
            refused: stats.refused,
            microseconds: stats.microseconds,
            last: Some(stats.last.into()),
            report: stats.report.map(Into::into),
        }
    }
}

impl From<proto::CheckStats> for CheckStats {
    fn from(message: proto::CheckStats) -> Self {
        CheckStats {
            passed: message.passed,
            refused: message.refused,
            microseconds: message.microseconds,
            last: message.last.map(Into::into).unwrap_or_default(),
            report: message.report.map(Into::into),
        }
    }
}

impl From<Checked> for proto::Checked {
    fn from(checked: Checked) -> Self {
        let Checked { generation, subjects, classes, witnesses, left_out } = checked;
        proto::Checked { generation, subjects, classes, witnesses, left_out }
    }
}

impl From<proto::Checked> for Checked {
    fn from(message: proto::Checked) -> Self {
        let proto::Checked { generation, subjects, classes, witnesses, left_out } = message;
        Checked { generation, subjects, classes, witnesses, left_out }
    }
}

impl From<CheckReport> for proto::CheckReport {
    fn from(report: CheckReport) -> Self {
        let CheckReport { checked, total, mismatches } = report;
        proto::CheckReport { checked: Some(checked.into()), total, mismatches }
    }
}

impl From<proto::CheckReport> for CheckReport {
    fn from(message: proto::CheckReport) -> Self {
        let proto::CheckReport { checked, total, mismatches } = message;
        CheckReport { checked: checked.map(Into::into).unwrap_or_default(), total, mismatches }
    }
}

impl From<WorkerStats> for proto::WorkerStats {
    fn from(stats: WorkerStats) -> Self {
        let [free, in_batches, with_kernel, total] = stats.chunks;
        proto::WorkerStats {
            worker: stats.worker,
            core: stats.core,
            rx: stats.rx,
            generated: stats.generated,
            tx: stats.tx,
            drops: stats.drops,
            held: stats.held,
            flow_hits: stats.flow_hits,
            flow_misses: stats.flow_misses,
            busy_turns: stats.busy_turns,
            busy_cycles: stats.busy_cycles,
            kernel_cycles: stats.kernel_cycles,
            sleeps: stats.sleeps,
            chunks: Some(proto::Chunks { free, in_batches, with_kernel, total }),
        }
    }
}

impl From<proto::WorkerStats> for WorkerStats {
    fn from(message: proto::WorkerStats) -> Self {
        let proto::Chunks { free, in_batches, with_kernel, total } = message.chunks.unwrap_or_default();
        WorkerStats {
            worker: message.worker,
            core: message.core,
            rx: message.rx,
            generated: message.generated,
            tx: message.tx,
            drops: message.drops,
            held: message.held,
            flow_hits: message.flow_hits,
            flow_misses: message.flow_misses,
            busy_turns: message.busy_turns,
            busy_cycles: message.busy_cycles,
            kernel_cycles: message.kernel_cycles,
            sleeps: message.sleeps,
            chunks: [free, in_batches, with_kernel, total],
        }
    }
}

impl From<PortStats> for proto::PortStats {
    fn from(stats: PortStats) -> Self {
        proto::PortStats {
            device: stats.device,
            pod: stats.pod,
            rx_packets: stats.rx_packets,
            rx_bytes: stats.rx_bytes,
            tx_packets: stats.tx_packets,
            tx_bytes: stats.tx_bytes,
            kernel: stats.kernel,
        }
    }
}

impl From<proto::PortStats> for PortStats {
    fn from(message: proto::PortStats) -> Self {
        PortStats {
            device: message.device,
            pod: message.pod,
            rx_packets: message.rx_packets,
            rx_bytes: message.rx_bytes,
            tx_packets: message.tx_packets,
            tx_bytes: message.tx_bytes,
            kernel: message.kernel,
        }
    }
}

impl From<FlowTableStats> for proto::FlowTableStats {
    fn from(stats: FlowTableStats) -> Self {
        proto::FlowTableStats {
            entries: stats.entries,
            capacity: stats.capacity,
            evicted: stats.evicted,
            backing: stats.backing,
        }
    }
}

impl From<proto::FlowTableStats> for FlowTableStats {
    fn from(message: proto::FlowTableStats) -> Self {
        FlowTableStats {
            entries: message.entries,
            capacity: message.capacity,
            evicted: message.evicted,
            backing: message.backing,
        }
    }
}
