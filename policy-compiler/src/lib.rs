//! # policy-compiler: from Kubernetes objects to tables
//!
//! ```text
//!   manifests ──► objects ──► Intent ──► Tables        judged by the workers, once a flow
//!   (YAML text)   (k8s-openapi)  │          ▲
//!                                │          └ property tests: tables = oracle
//!                                └ also what crosses gRPC
//! ```
//!
//! * [`intent`]: the whole wanted state of one node, in Penstock's own words: what an `Apply` carries.
//! * [`tables`]: the immutable, compiled answer: policy, services, routes; each with its slow oracle beside it.
//! * [`compiler`]: the state in force; makes the next tables from what an [`intent::update::Update`] changes.
//! * [`check`]: holds tables to the state that they were compiled from, before they are put in force.
//! * `analysis` (feature `kubernetes`): what a change of policy changes, who reaches whom, what is wrong with the objects, and why.
//! * `manifest`, `objects` (feature `kubernetes`): ordinary YAML and `k8s-openapi` types to [`intent::Intent`].
//!
//! Pure: no I/O, no clock, no threads, no `unsafe`. It is not for: packets (see `dataplane`), transport of the
//! state (see `agent-api`), L7.

pub mod check;
pub mod compiler;
#[cfg(test)]
#[cfg(feature = "kubernetes")]
mod conformance;
mod hash;
pub mod intent;
pub mod maglev;
pub mod policy;
mod prefix;
pub mod routes;
pub mod service;
mod shared_map;
mod shared_vec;
mod slots;
pub mod tables;
mod view;

#[cfg(feature = "kubernetes")]
pub mod analysis;
#[cfg(feature = "kubernetes")]
pub mod evaluate;
#[cfg(feature = "kubernetes")]
pub mod manifest;
#[cfg(feature = "kubernetes")]
pub mod objects;
#[cfg(feature = "kubernetes")]
pub mod oracle;
