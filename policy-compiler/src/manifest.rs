//! manifest: being written
