//! `Display` of an error leaves its source to the caller.

use std::error::Error as _;
use std::io;

use super::*;

fn source() -> Cause {
    Box::new(io::Error::other("the cause"))
}

#[test]
fn no_variant_prints_its_source() {
    let (url, path) = ("s3://bucket".to_owned(), "data/x".to_owned());
    let errors = [
        Error::Unreachable {
            url: url.clone(),
            source: source(),
        },
        Error::StoreFull {
            url: url.clone(),
            path: path.clone(),
            source: source(),
        },
        Error::Refused {
            url: url.clone(),
            path: path.clone(),
            source: source(),
        },
        Error::Store {
            url,
            path,
            source: source(),
        },
        Error::local("x".as_ref(), io::Error::other("the cause")),
    ];
    for error in errors {
        let cause = error.source().expect("it has a source").to_string();
        assert_eq!(cause, "the cause");
        assert!(!error.to_string().contains(&cause), "{error}");
    }
}
