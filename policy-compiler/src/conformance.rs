//! What others recorded of Kubernetes' behaviour: data from the folder `PENSTOCK_CONFORMANCE`, or else from
//! `../../shared/conformance` where that is at hand. Read, never edited to fit.

use std::path::PathBuf;

use serde_json::Value;

use crate::intent::ObjectName;

/// The file at `path` within the folder; `None` where nobody has asked for the folder and it is not at hand.
pub(crate) fn data(path: &str) -> Option<Value> {
    let asked_for = std::env::var_os("PENSTOCK_CONFORMANCE").map(PathBuf::from);
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance");
    let path = asked_for.as_ref().unwrap_or(&beside).join(path);
    match std::fs::read_to_string(&path) {
        Ok(text) => Some(serde_json::from_str(&text).unwrap()),
        Err(_) if asked_for.is_none() => None,
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

/// The list in `field`; empty where there is none.
pub(crate) fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map_or(&[], Vec::as_slice)
}

/// The text in `field`; empty where there is none.
pub(crate) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// The name in an object's metadata.
pub(crate) fn name_of(object: &Value) -> ObjectName {
    ObjectName::new(text(&object["metadata"], "namespace"), text(&object["metadata"], "name"))
}
