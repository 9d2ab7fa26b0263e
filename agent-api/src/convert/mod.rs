//! Between the messages of `proto` and the plain types of `contract` and `policy_compiler::intent`, both ways.
//!
//! To a message is `From` and cannot fail. From a message is `TryFrom` and checks what the wire cannot say: lengths of
//! addresses, ranges of numbers, enums that are known, parts that are there. It does not check references and meaning:
//! that is the compiler's (`policy_compiler::tables`).

pub(crate) mod calls;
mod counters;
mod intent;
mod policies;
mod rules;
pub(crate) mod shadow;
#[cfg(test)]
mod tests;
pub(crate) mod update;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::contract::{Refusal, RefusalKind};

/// A field of a message that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct FieldError {
    /// The object that the message is about, once it is known: "Service shop/web".
    object: Option<String>,
    /// Path of the field, within the object where there is one: `backends[2].address`.
    path: String,
    problem: String,
}

impl FieldError {
    fn new(problem: impl Into<String>) -> Self {
        FieldError { object: None, path: String::new(), problem: problem.into() }
    }

    /// The same error seen from the message that holds it in `field`.
    fn within(mut self, field: &str) -> Self {
        if self.object.is_none() {
            let separator = if self.path.is_empty() { "" } else { "." };
            self.path = format!("{field}{separator}{}", self.path);
        }
        self
    }

    /// The same error, of the object called `object`.
    fn of(mut self, object: impl FnOnce() -> String) -> Self {
        if self.object.is_none() {
            self.object = Some(object());
        }
        self
    }

    /// As a refusal; `message` stands for the object where none is known.
    pub fn refusal(self, message: &str) -> Refusal {
        Refusal {
            object: self.object.unwrap_or_else(|| message.to_owned()),
            field: self.path,
            problem: self.problem,
            kind: RefusalKind::Invalid,
        }
    }
}

/// Names the field in which something was found.
trait InField<T> {
    fn in_field(self, field: &str) -> Result<T, FieldError>;
}

impl<T> InField<T> for Result<T, FieldError> {
    fn in_field(self, field: &str) -> Result<T, FieldError> {
        self.map_err(|error| error.within(field))
    }
}

/// Converts every item; an error names the field and the index.
fn list<T, U>(
    field: &str,
    items: Vec<T>,
    convert: impl Fn(T) -> Result<U, FieldError>,
) -> Result<Vec<U>, FieldError> {
    let numbered = items.into_iter().enumerate();
    numbered.map(|(index, item)| convert(item).in_field(&format!("{field}[{index}]"))).collect()
}

fn required<T>(value: Option<T>) -> Result<T, FieldError> {
    value.ok_or_else(|| FieldError::new("is missing"))
}

fn address(bytes: Vec<u8>) -> Result<IpAddr, FieldError> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes.as_slice()) {
        return Ok(Ipv4Addr::from(v4).into());
    }
    let v6 = <[u8; 16]>::try_from(bytes.as_slice())
        .map_err(|_| FieldError::new(format!("an address has 4 or 16 bytes, this has {}", bytes.len())))?;
    Ok(Ipv6Addr::from(v6).into())
}

fn optional_address(bytes: Vec<u8>) -> Result<Option<IpAddr>, FieldError> {
    if bytes.is_empty() { Ok(None) } else { address(bytes).map(Some) }
}

fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn optional_address_bytes(address: Option<IpAddr>) -> Vec<u8> {
    address.map(address_bytes).unwrap_or_default()
}

fn mac(bytes: Vec<u8>) -> Result<[u8; 6], FieldError> {
    <[u8; 6]>::try_from(bytes.as_slice())
        .map_err(|_| FieldError::new(format!("a MAC address has 6 bytes, this has {}", bytes.len())))
}

fn optional_mac(bytes: Vec<u8>) -> Result<Option<[u8; 6]>, FieldError> {
    if bytes.is_empty() { Ok(None) } else { mac(bytes).map(Some) }
}

fn optional_mac_bytes(mac: Option<[u8; 6]>) -> Vec<u8> {
    mac.map(|mac| mac.to_vec()).unwrap_or_default()
}

fn port(number: u32) -> Result<u16, FieldError> {
    u16::try_from(number).map_err(|_| FieldError::new(format!("a port is at most 65535, this is {number}")))
}

fn protocol_number(number: u32) -> Result<u8, FieldError> {
    u8::try_from(number)
        .map_err(|_| FieldError::new(format!("an IP protocol number is at most 255, this is {number}")))
}

/// An enum's value that this version does not know.
fn unknown(number: i32) -> FieldError {
    FieldError::new(format!("{number} is no value that is known"))
}

/// An enum's zero where it stands for nothing.
fn unspecified() -> FieldError {
    FieldError::new("is unspecified")
}
