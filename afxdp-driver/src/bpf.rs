//! Loading of the XDP programs that `build.rs` compiled, through `libbpf-rs`.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Once;

use libbpf_rs::{MapCore, MapHandle, Object, ObjectBuilder, PrintLevel};

/// An ELF object at the alignment that its headers want.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

static PENSTOCK: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/penstock.bpf.o")));
static LIVE_FRAMES: &Aligned<[u8]> =
    &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/live_frames.bpf.o")));

/// The steering programs of `bpf/penstock.bpf.c`.
pub(crate) fn penstock() -> &'static [u8] {
    &PENSTOCK.0
}

/// The generator's program of `bpf/live_frames.bpf.c`.
pub(crate) fn live_frames() -> &'static [u8] {
    &LIVE_FRAMES.0
}

/// Loads programs of an object into the kernel, with those of the object's maps that `wanted` names.
pub(crate) fn load(elf: &[u8], programs: &[&str], wanted: &[&str]) -> io::Result<Object> {
    route_messages();
    let mut open = ObjectBuilder::default().open_memory(elf).map_err(os_error)?;
    for mut candidate in open.progs_mut() {
        let chosen = candidate.name().to_str().is_some_and(|name| programs.contains(&name));
        candidate.set_autoload(chosen);
    }
    for mut map in open.maps_mut() {
        let chosen = map.name().to_str().is_some_and(|name| wanted.contains(&name));
        map.set_autocreate(chosen).map_err(os_error)?;
    }
    open.load().map_err(os_error)
}

/// A descriptor of a loaded program, which keeps it loaded.
pub(crate) fn program(object: &Object, name: &str) -> io::Result<OwnedFd> {
    let program = object.progs().find(|program| program.name() == name);
    let program = program.ok_or_else(|| io::Error::other(format!("the object has no program {name}")))?;
    program.as_fd().try_clone_to_owned()
}

/// A handle of a created map, which keeps it.
pub(crate) fn map(object: &Object, name: &str) -> io::Result<MapHandle> {
    let found = object.maps().find(|map| map.name() == name);
    let found = found.ok_or_else(|| io::Error::other(format!("the object has no map {name}")))?;
    MapHandle::try_from(&found).map_err(os_error)
}

/// The system's error within one of `libbpf-rs`, or its words.
pub(crate) fn os_error(error: libbpf_rs::Error) -> io::Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(current) = cause {
        if let Some(code) = current.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return io::Error::from_raw_os_error(code);
        }
        cause = current.source();
    }
    io::Error::other(format!("{error:#}"))
}

/// `libbpf` prints to stderr on its own account; its messages belong in the log.
fn route_messages() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        libbpf_rs::set_print(Some((PrintLevel::Debug, |level, message| {
            let message = message.trim_end();
            match level {
                PrintLevel::Warn => tracing::warn!(target: "libbpf", "{message}"),
                PrintLevel::Info => tracing::debug!(target: "libbpf", "{message}"),
                PrintLevel::Debug => tracing::trace!(target: "libbpf", "{message}"),
            }
        })));
    });
}
