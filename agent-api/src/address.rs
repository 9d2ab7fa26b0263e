//! [`Address`]: where a penstockd is reached.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// Where penstockd listens unless it is told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/penstock/penstockd.sock";

/// Where a penstockd is reached: `unix:///run/penstock/penstockd.sock`, a plain path, or `http://127.0.0.1:7000`.
///
/// TCP is plaintext and therefore for loopback addresses alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// A Unix socket.
    Unix(PathBuf),
    /// A loopback address.
    Tcp(SocketAddr),
}

/// A text that is no [`Address`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("address {text:?}: {problem}")]
pub struct AddressError {
    text: String,
    problem: &'static str,
}

impl Default for Address {
    fn default() -> Self {
        Address::Unix(PathBuf::from(DEFAULT_SOCKET))
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = |problem| AddressError { text: text.to_owned(), problem };
        if text.is_empty() {
            return Err(error("is empty"));
        }
        if let Some(rest) = text.strip_prefix("unix:") {
            let path = rest.strip_prefix("//").unwrap_or(rest);
            return match path.starts_with('/') {
                true => Ok(Address::Unix(path.into())),
                false => Err(error("the path behind unix:// begins with a slash: unix:///run/…")),
            };
        }
        if let Some(rest) = text.strip_prefix("http://") {
            return tcp(rest.trim_end_matches('/')).map_err(error);
        }
        match text.split_once("://") {
            Some(("https", _)) => Err(error("mutual TLS is not there yet: use a Unix socket")),
            Some(_) => Err(error("the scheme is none of unix:// and http://")),
            None => Ok(Address::Unix(text.into())),
        }
    }
}

fn tcp(text: &str) -> Result<Address, &'static str> {
    let address = match text.strip_prefix("localhost:") {
        Some(port) => port.parse().map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)).ok(),
        None => text.parse().ok(),
    };
    match address {
        None => Err("not ADDRESS:PORT behind http://"),
        Some(address) if !address.ip().is_loopback() => {
            Err("plaintext is for loopback addresses alone, and mutual TLS is not there yet")
        }
        Some(address) => Ok(Address::Tcp(address)),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix://{}", path.display()),
            Address::Tcp(address) => write!(f, "http://{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_socket_a_path_or_loopback() {
        let unix = |path: &str| Ok(Address::Unix(path.into()));
        let tcp = |text: &str| Ok(Address::Tcp(text.parse().unwrap()));
        let rows: [(&str, Result<Address, &str>); 14] = [
            ("unix:///run/penstock/penstockd.sock", unix("/run/penstock/penstockd.sock")),
            ("unix:/run/p.sock", unix("/run/p.sock")),
            ("/run/p.sock", unix("/run/p.sock")),
            ("p.sock", unix("p.sock")),
            ("http://127.0.0.1:7000", tcp("127.0.0.1:7000")),
            ("http://127.0.0.1:7000/", tcp("127.0.0.1:7000")),
            ("http://[::1]:7000", tcp("[::1]:7000")),
            ("http://localhost:7000", tcp("127.0.0.1:7000")),
            ("", Err("is empty")),
            ("unix://run/p.sock", Err("begins with a slash")),
            ("http://10.0.0.1:7000", Err("loopback addresses alone")),
            ("http://127.0.0.1", Err("not ADDRESS:PORT")),
            ("https://127.0.0.1:7000", Err("mutual TLS is not there yet")),
            ("ftp://x", Err("scheme")),
        ];
        for (text, wanted) in rows {
            match (text.parse::<Address>(), wanted) {
                (Ok(address), Ok(wanted)) => assert_eq!(address, wanted, "{text}"),
                (Err(error), Err(wanted)) => assert!(error.to_string().contains(wanted), "{text}: {error}"),
                (found, wanted) => panic!("{text}: {found:?}, not {wanted:?}"),
            }
        }
    }

    #[test]
    fn an_address_prints_as_it_is_read() {
        for text in ["unix:///run/p.sock", "http://[::1]:7000"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }
}
