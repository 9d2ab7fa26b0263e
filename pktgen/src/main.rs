use clap::{Parser, Subcommand};
use pktgen::options::*;
#[derive(Parser)] struct Cli{#[command(subcommand)] c: C}
#[derive(Subcommand)] enum C { Send(SendOptions), Receive(ReceiveOptions), Run(RunOptions), Replay(ReplayOptions), Build(BuildOptions)}
fn main(){ let _=Cli::parse().c; }
