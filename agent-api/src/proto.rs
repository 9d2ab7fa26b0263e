//! The messages, the client and the server that are generated from `proto/penstock/v1/penstock.proto`; see there for
//! what each means.

#![allow(
    missing_docs,
    rustdoc::all,
    clippy::all,
    unreachable_pub,
    reason = "generated from the documented proto file"
)]

tonic::include_proto!("penstock.v1");
