//! What `make demo` shows.
