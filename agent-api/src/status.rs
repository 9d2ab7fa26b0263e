//! A [`Refusal`] as a gRPC status and back.
//!
//! The refusal travels whole in `grpc-status-details-bin`, as gRPC's richer error model has it: a `google.rpc.Status`
//! whose details hold one `penstock.v1.Refusal`. Clients in any language find it there; nobody parses messages.

use prost::Message;
use tonic::{Code, Status};

use crate::contract::{Refusal, RefusalKind};
use crate::proto;

const REFUSAL_TYPE: &str = "type.googleapis.com/penstock.v1.Refusal";
/// Longest part of a refusal, in bytes. Trailers are headers to HTTP/2, and peers refuse long ones (16 KiB is usual).
const LONGEST_PART: usize = 2048;

/// `google.rpc.Status` (google/rpc/status.proto).
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any` (google/protobuf/any.proto).
#[derive(Clone, PartialEq, prost::Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// The status that carries `refusal`. Its parts are cut at 2 KiB each.
pub fn from_refusal(refusal: Refusal) -> Status {
    let code = code(refusal.kind);
    let refusal = Refusal {
        object: cut(refusal.object),
        field: cut(refusal.field),
        problem: cut(refusal.problem),
        kind: refusal.kind,
    };
    // The message is percent-encoded: three bytes for each that is not ASCII. The details have the whole text.
    let message: String = refusal.to_string().chars().take(400).collect();
    let detail =
        Any { type_url: REFUSAL_TYPE.to_owned(), value: proto::Refusal::from(refusal).encode_to_vec() };
    let details = RpcStatus { code: code.into(), message: message.clone(), details: vec![detail] };
    Status::with_details(code, message, details.encode_to_vec().into())
}

/// The refusal that `status` carries; `None` where it carries none that can be read.
pub fn to_refusal(status: &Status) -> Option<Refusal> {
    let details = RpcStatus::decode(status.details()).ok()?;
    let detail = details.details.into_iter().find(|detail| detail.type_url == REFUSAL_TYPE)?;
    let message = proto::Refusal::decode(detail.value.as_slice()).ok()?;
    Refusal::try_from(message).ok()
}

/// The status code of each kind.
fn code(kind: RefusalKind) -> Code {
    match kind {
        RefusalKind::Invalid => Code::InvalidArgument,
        RefusalKind::NotFound => Code::NotFound,
        RefusalKind::Exists => Code::AlreadyExists,
        RefusalKind::Capacity => Code::ResourceExhausted,
        RefusalKind::Conflict => Code::Aborted,
        RefusalKind::System | RefusalKind::CheckFailed => Code::Internal,
    }
}

fn cut(mut text: String) -> String {
    if text.len() > LONGEST_PART {
        let end = (0..=LONGEST_PART - '…'.len_utf8()).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_kind_has_its_code_and_comes_back_whole() {
        let rows = [
            (RefusalKind::Invalid, Code::InvalidArgument),
            (RefusalKind::NotFound, Code::NotFound),
            (RefusalKind::Exists, Code::AlreadyExists),
            (RefusalKind::Capacity, Code::ResourceExhausted),
            (RefusalKind::Conflict, Code::Aborted),
            (RefusalKind::System, Code::Internal),
            (RefusalKind::CheckFailed, Code::Internal),
        ];
        for (kind, code) in rows {
            let refusal = Refusal {
                object: "Service shop/web".into(),
                field: "backends[2].port".into(),
                problem: "ist 0 – das geht nicht".into(),
                kind,
            };
            let status = from_refusal(refusal.clone());
            assert_eq!(status.code(), code);
            assert_eq!(status.message(), refusal.to_string());
            assert_eq!(to_refusal(&status), Some(refusal));
        }
    }

    #[test]
    fn a_long_problem_is_cut_at_a_character_and_fits_a_header() {
        let refusal = Refusal {
            object: "ü".repeat(9000),
            field: "x".repeat(9000),
            problem: "€".repeat(9000),
            kind: RefusalKind::Invalid,
        };
        let status = from_refusal(refusal);
        // Base64 makes four bytes of three.
        assert!(status.details().len() * 4 / 3 + status.message().len() * 3 < 16 * 1024);
        let back = to_refusal(&status).unwrap();
        assert!(back.object.len() <= LONGEST_PART && back.object.ends_with("ü…"), "{}", back.object.len());
        assert!(back.problem.len() <= LONGEST_PART && back.problem.ends_with("€…"));
    }

    #[test]
    fn a_status_without_a_refusal_has_none() {
        assert_eq!(to_refusal(&Status::internal("x")), None);
        let foreign = RpcStatus {
            code: 3,
            message: String::new(),
            details: vec![Any { type_url: "type.googleapis.com/other.Thing".into(), value: vec![1, 2, 3] }],
        };
        assert_eq!(
            to_refusal(&Status::with_details(Code::Internal, "", foreign.encode_to_vec().into())),
            None
        );
    }

    proptest! {
        #[test]
        fn arbitrary_details_never_panic(bytes: Vec<u8>) {
            let _ = to_refusal(&Status::with_details(Code::Internal, "", bytes.into()));
        }
    }
}
