//! What `penstock-agent` and `penstockctl` are made of.
//!
//! ```text
//!   folder ──► Manifests ──► Intent      folder: read once          (penstockctl)
//!     ▲                        │
//!   watch: inotify, and a look  ▼        agent: read again at every change, applied, applied again after a restart
//!   a second besides          agent ──► Client
//! ```

pub mod agent;
pub mod folder;
pub mod watch;
