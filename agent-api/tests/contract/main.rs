//! The contract from end to end: server, client, penstockctl and penstock-agent against a recording [`Double`] of a
//! dataplane, over real sockets. Without root and without packets.
//!
//! * `double`: the dataplane that records; `stage`: it served, and programs run against it.
//! * `server`, `socket`, `client`: the library. `penstockctl`, `offline`, `analysis`, `agent`: the programs.
//!
//! [`Double`]: double::Double

#[cfg(test)]
mod agent;
#[cfg(test)]
mod analysis;
#[cfg(test)]
mod client;
#[cfg(test)]
mod double;
#[cfg(test)]
mod offline;
#[cfg(test)]
mod penstockctl;
#[cfg(test)]
mod server;
#[cfg(test)]
mod shadow;
#[cfg(test)]
mod socket;
#[cfg(test)]
mod stage;
