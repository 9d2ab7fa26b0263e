//! The packet path without root: a worker between in-memory ports, judged from outside.
//!
//! * `cluster`: two nodes and what is on them, as an intent; its snapshot, built by hand.
//! * `fixture`: the worker, its ports and its counters; the laws, asserted after each turn.
//! * `packets`: packets in, made by `etherparse`; `seen`: packets out, read and summed the slow way.
//! * `rows`: a packet and the reason it ends by, for every reason.   * `paths`: a packet and what leaves instead.
//! * `answers`: what is said back.                                   * `errors`: ICMP errors through translations.
//! * `generations`: what changes under a live flow.                  * `properties`: laws over random traffic.
//! * `hits`: what is counted of rules, against a slow twin.
//! * `shadow`: a candidate beside the tables.
//! * `workers`: two of them, and a thread.                           * `endpoints`: TCP between `smoltcp` stacks.

mod answers;
mod cluster;
mod endpoints;
mod errors;
mod fixture;
mod generations;
mod hits;
mod packets;
mod paths;
mod properties;
mod revocation;
mod rows;
mod seen;
mod shadow;
mod updates;
mod workers;
