//! Generates the messages, the client and the server of `proto/penstock/v1/penstock.proto`. Needs `protoc`.

fn main() -> std::io::Result<()> {
    tonic_prost_build::configure()
        .btree_map(".")
        .emit_rerun_if_changed(true)
        .compile_protos(&["proto/penstock/v1/penstock.proto"], &["proto"])
}
