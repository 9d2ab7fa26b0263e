//! As `dataplane::publish`: around the protocol.

#[path = "../../src/publish/protocol.rs"]
pub mod protocol;
