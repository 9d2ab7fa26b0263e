//! Addresses, prefixes, label keys, label values and port names as the Kubernetes API writes and checks them.
//! Each function answers with the problem in words, the offending value quoted.

use std::net::IpAddr;

use ipnet::IpNet;

/// An address.
pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is not an IP address"))
}

/// A prefix, with its host bits cleared, and whether any had been set.
pub(super) fn prefix(text: &str) -> Result<(IpNet, bool), String> {
    let net: IpNet = text.parse().map_err(|_| format!("{text:?} is not a prefix"))?;
    if matches!(net.addr(), IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        return Err(format!("{text:?} is an IPv4-mapped prefix; write it as IPv4"));
    }
    Ok((net.trunc(), net.trunc() != net))
}

/// A port number, 1 to 65535.
pub(super) fn port(number: i32) -> Result<u16, String> {
    match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(format!("{number} is not a port (1-65535)")),
    }
}

/// A port name: an IANA service name (RFC 6335, section 5.1).
pub(super) fn port_name(text: &str) -> Result<(), String> {
    let legal = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    let well_formed = (1..=15).contains(&text.len())
        && text.bytes().all(legal)
        && text.bytes().any(|c| c.is_ascii_lowercase())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.contains("--");
    if well_formed {
        Ok(())
    } else {
        Err(format!("{text:?} is not a port name (RFC 6335: 1-15 of a-z, 0-9 and -)"))
    }
}

/// A label key: a name, perhaps with a DNS subdomain and a slash in front.
pub(super) fn label_key(text: &str) -> Result<(), String> {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    if prefix.is_none_or(is_subdomain) && is_label_name(name) {
        Ok(())
    } else {
        Err(format!("{text:?} is not a label key ([subdomain/]name)"))
    }
}

/// A label value: empty, or a name.
pub(super) fn label_value(text: &str) -> Result<(), String> {
    if text.is_empty() || is_label_name(text) {
        Ok(())
    } else {
        Err(format!("{text:?} is not a label value"))
    }
}

/// 1 to 63 letters, digits, `-`, `_` and `.`, beginning and ending with a letter or digit.
fn is_label_name(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
        && text.bytes().next().is_some_and(|c| c.is_ascii_alphanumeric())
        && text.bytes().last().is_some_and(|c| c.is_ascii_alphanumeric())
}

/// RFC 1123 labels (lower case) joined by dots, 253 characters at most.
fn is_subdomain(text: &str) -> bool {
    let label = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        let rows = [
            ("10.0.0.0/8", Some(("10.0.0.0/8", false))),
            ("10.1.2.3/8", Some(("10.0.0.0/8", true))),
            ("0.0.0.0/0", Some(("0.0.0.0/0", false))),
            ("fd00::/64", Some(("fd00::/64", false))),
            ("fd00::1/64", Some(("fd00::/64", true))),
            ("10.0.0.0/33", None),
            ("10.0.0.0", None),
            ("::ffff:10.0.0.0/104", None),
            ("", None),
            ("fd00::/129", None),
        ];
        for (text, expected) in rows {
            let read = prefix(text).ok().map(|(net, cut)| (net.to_string(), cut));
            assert_eq!(read, expected.map(|(net, cut)| (net.to_owned(), cut)), "{text}");
        }
    }

    #[test]
    fn names_of_ports() {
        let rows = [
            ("http", true),
            ("serve-80-tcp", true),
            ("a", true),
            ("80", false),
            ("", false),
            ("-a", false),
            ("a-", false),
            ("a--b", false),
            ("HTTP", false),
            ("a234567890123456", false),
        ];
        for (text, good) in rows {
            assert_eq!(port_name(text).is_ok(), good, "{text}");
        }
    }

    #[test]
    fn keys_and_values_of_labels() {
        let long = "x".repeat(64);
        let keys = [
            ("app", true),
            ("kubernetes.io/metadata.name", true),
            ("a.b-c_D", true),
            ("", false),
            ("/app", false),
            ("a/b/c", false),
            ("Upper.io/x", false),
            ("-app", false),
            (long.as_str(), false),
        ];
        for (key, good) in keys {
            assert_eq!(label_key(key).is_ok(), good, "key {key}");
        }
        for (value, good) in [("", true), ("v1.2_3", true), ("a b", false), ("a.", false), (&long, false)] {
            assert_eq!(label_value(value).is_ok(), good, "value {value}");
        }
    }

    #[test]
    fn numbers_of_ports() {
        for (number, good) in [(1, true), (65535, true), (0, false), (-1, false), (65536, false)] {
            assert_eq!(port(number).is_ok(), good, "{number}");
        }
    }
}
