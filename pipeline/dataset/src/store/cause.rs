//! Classifies failures of the backend.

use std::error::Error as _;

use object_store::client::{HttpError, HttpErrorKind};

use super::credentials;
use crate::error::{Cause, Error, Innermost, is_full, one_line};

/// Turns an error of the backend into one of this crate.
pub(super) fn explain(url: &str, path: &str, error: object_store::Error) -> Error {
    let (url, path) = (url.to_owned(), path.to_owned());
    if credentials::are_missing(&error) {
        return Error::NoCredentials { url };
    }
    let meaning = meaning(&error);
    let line = innermost(&error);
    let source: Cause = Box::new(Innermost { line, error });
    match meaning {
        Meaning::Absent => Error::NotFound { url, path },
        Meaning::NoBucket => Error::Url {
            url,
            reason: "there is no such bucket".to_owned(),
        },
        Meaning::Full => Error::StoreFull { url, path, source },
        Meaning::Refused => Error::Refused { url, path, source },
        Meaning::Unreachable => Error::Unreachable { url, source },
        Meaning::Other => Error::Store { url, path, source },
    }
}

enum Meaning {
    Absent,
    NoBucket,
    Full,
    Refused,
    Unreachable,
    Other,
}

fn meaning(error: &object_store::Error) -> Meaning {
    match answered_code(error).as_deref() {
        Some("NoSuchBucket") => return Meaning::NoBucket,
        // The first is MinIO's.
        Some("XMinioStorageFull" | "InsufficientStorage") => return Meaning::Full,
        _ => {}
    }
    match error {
        object_store::Error::NotFound { .. } => return Meaning::Absent,
        object_store::Error::PermissionDenied { .. }
        | object_store::Error::Unauthenticated { .. }
        | object_store::Error::NotSupported { .. }
        | object_store::Error::NotImplemented { .. } => return Meaning::Refused,
        _ => {}
    }
    let mut next = error.source();
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            if is_full(io) {
                return Meaning::Full;
            }
            if matches!(
                io.kind(),
                std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem
            ) {
                return Meaning::Refused;
            }
        }
        if let Some(http) = cause.downcast_ref::<HttpError>() {
            return match http.kind() {
                HttpErrorKind::Connect | HttpErrorKind::Timeout => Meaning::Unreachable,
                _ => Meaning::Other,
            };
        }
        next = cause.source();
    }
    Meaning::Other
}

/// The `Code` of the error document that an S3 server answered. The client's error type is private:
/// the document is to be had as a part of its text alone.
fn answered_code(error: &object_store::Error) -> Option<String> {
    between(&error.to_string(), "Code").map(str::to_owned)
}

/// The innermost cause as one line; for an answer of S3 its code and message.
fn innermost(error: &object_store::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    let text = cause.to_string();
    match (between(&text, "Code"), between(&text, "Message")) {
        (Some(code), Some(message)) => one_line(&format!("{code}: {message}")),
        (Some(code), None) => one_line(code),
        _ => one_line(&text),
    }
}

fn between<'a>(text: &'a str, tag: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{tag}>"))?;
    rest.split_once(&format!("</{tag}>"))
        .map(|(inner, _)| inner)
}
