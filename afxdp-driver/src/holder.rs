//! Who holds a queue that is busy.

/// In words, for an error message.
pub(crate) fn describe(_device: &str, _queue: u32) -> String {
    "another AF_XDP socket is bound to it (see `ss --xdp -p`)".into()
}
