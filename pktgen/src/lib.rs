//! # pktgen: a packet generator and measuring instrument
//!
//! ```text
//!   options ─► check ─► traffic (flows × sizes × protocols) ─► drive (paced) ─► engine ─► wire
//!                          │ every packet carries run, stream, sequence number, time (stamp)
//!                          ▼
//!   report ◄── meter (loss, duplicates, reordering, latency) ◄── drive ◄── engine ◄── wire
//! ```
//!
//! One measurement is [`run`]'s business. Many of them make a figure:
//!
//! ```text
//!   profile ─► options ─► commands ─► suite (rfc2544, ndr, certify) ◄─► mlr: which trial is next
//!                                       │ trial            ▲
//!                                       ▼                  │ record
//!                                     bench: both ends, opened once
//!   figures: JSON, CSV, HTML, plots ◄── report             └─► compare: beyond noise?
//! ```
//!
//! * [`options`], [`check`], [`profile`]: the command line and its files, refused by the flag's or the key's name.
//! * [`run`], [`capture`]: one measurement: send, receive, both; captures sent and written.
//! * [`packet`], [`flow`], [`mix`], [`popularity`], [`traffic`]: what is sent, made by `etherparse`.   * [`rate`]: when.
//! * [`engine`]: AF_XDP, XDP live frames, UDP sockets.   * [`drive`]: the two loops.
//! * [`stamp`], [`locate`], [`meter`], [`live_latency`]: what arrived.   * [`report`], [`progress`]: what is told.
//! * [`commands`], [`suite`], [`rfc2544`], [`ndr`], [`certify`]: many trials.   * [`trial`], [`mod@bench`]: one of them.
//! * [`mlr`]: MLRsearch (RFC 9971), pure.   * [`floor`]: the instrument's own latency.
//! * [`figures`], [`plot`], [`host`], [`stats`], [`compare`]: what they add up to.
//! * [`place`], [`netlink`], [`clock`]: namespace and core, neighbours, time.
//!
//! It is not for: looking into what it tests. It shares no parser with the dataplane.

pub mod bench;
pub mod capture;
pub mod certify;
pub mod check;
pub mod checksum;
pub mod clock;
pub mod commands;
pub mod compare;
pub mod drive;
mod ends;
pub mod engine;
pub mod figures;
pub mod floor;
pub mod flow;
pub mod host;
pub mod live_latency;
pub mod locate;
pub mod meter;
pub mod mix;
pub mod mlr;
pub mod ndr;
pub mod netlink;
pub mod options;
pub mod packet;
pub mod place;
pub mod plot;
pub mod popularity;
pub mod profile;
pub mod progress;
pub mod rate;
pub mod report;
pub mod rfc2544;
pub mod run;
#[cfg(test)]
mod simulated;
pub mod stamp;
pub mod stats;
pub mod suite;
pub mod traffic;
pub mod trial;
