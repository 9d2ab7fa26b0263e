//! Every capture of the conformance set, hostile ones among them, is either read or refused with a clear error.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs,
    reason = "a test ends where something fails, and says what it did"
)]

use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use afxdp_driver::pcap::{PcapPort, PcapReader};
use afxdp_driver::{BATCH_SIZE, Batch, FramePool, HugePages, PacketIo};

fn captures() -> Option<PathBuf> {
    let root = std::env::var_os("PENSTOCK_CONFORMANCE").map(PathBuf::from);
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance");
    let root = root.or_else(|| beside.is_dir().then_some(beside))?;
    Some(root.join("captures"))
}

fn files_below(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "pcap" || extension == "cap") {
            files.push(path);
        }
    }
}

#[test]
fn each_is_read_or_refused() {
    let Some(folder) = captures() else {
        println!("no conformance set: set PENSTOCK_CONFORMANCE to its folder");
        return;
    };
    let mut files = Vec::new();
    files_below(&folder, &mut files);
    assert!(!files.is_empty(), "{} holds no capture", folder.display());
    let (mut whole, mut packets) = (0, 0);
    let mut refused = Vec::new();
    for path in &files {
        let file = BufReader::new(File::open(path).unwrap());
        let result = PcapReader::new(file).and_then(|mut reader| {
            let mut count = 0;
            reader.try_for_each(|record| record.map(|_| count += 1))?;
            Ok(count)
        });
        match result {
            Ok(count) => {
                whole += 1;
                packets += count;
            }
            Err(error) => refused.push(format!("{}: {error}", path.file_name().unwrap().display())),
        }
        through_the_port(path);
    }
    println!("{} captures: {whole} read ({packets} packets), {} refused", files.len(), refused.len());
    refused.iter().for_each(|line| println!("  {line}"));
    assert_eq!(whole + refused.len(), files.len());
}

fn through_the_port(path: &Path) {
    let source = Box::new(BufReader::new(File::open(path).unwrap()));
    let Ok(mut port) = PcapPort::new("capture", Some(source), None) else { return };
    let mut pool = FramePool::anonymous(64, HugePages::Never).unwrap();
    while !port.is_exhausted() {
        let mut batch = Batch::new();
        port.receive(&mut pool, &mut batch, BATCH_SIZE);
        port.send(&mut pool, &mut batch);
        port.flush(&mut pool).unwrap();
        batch.into_iter().for_each(|frame| pool.free(frame));
    }
    let counters = port.counters();
    assert_eq!(counters.rx_packets, counters.tx_packets);
    assert_eq!(pool.ledger().free, 64);
}
