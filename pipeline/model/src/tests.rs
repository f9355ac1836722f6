//! The errors of this crate print their own text; the code that reports one prints the sources.

use std::error::Error as StdError;

use crate::{config, device, folder, preprocess, pretrained, tokenizer, weights};

/// The error of a second global pool; the library has no constructor for its errors.
fn second_global_pool() -> rayon::ThreadPoolBuildError {
    let build = || rayon::ThreadPoolBuilder::new().build_global();
    build().and_then(|()| build()).expect_err("a second pool")
}

#[test]
fn no_variant_prints_its_source() {
    let io = || std::io::Error::other("disk full");
    let errors: [&dyn StdError; 11] = [
        &folder::Error::Read {
            path: "config.json".into(),
            source: io(),
        },
        &folder::Error::Write {
            path: "config.json".into(),
            source: io(),
        },
        &folder::Error::Json {
            path: "config.json".into(),
            source: serde_json::from_str::<u64>("sizes").expect_err("no number"),
        },
        &folder::Error::Sizes {
            path: "config.json".into(),
            source: config::Error::EosIsTwo,
        },
        &weights::Error::Format {
            path: "model.safetensors".into(),
            source: safetensors::SafeTensorError::InvalidHeaderLength,
        },
        &tokenizer::Error::Io {
            path: "vocab.txt".into(),
            source: io(),
        },
        &tokenizer::Error::Library("the unknown token is missing".into()),
        &preprocess::Error::Decode(image::ImageError::IoError(io())),
        &preprocess::Error::Read(io()),
        &pretrained::Error::Tokenizer {
            folder: "model".into(),
            source: tokenizer::Error::Special("[DEC]"),
        },
        &device::Error::Pool {
            threads: 2,
            source: second_global_pool(),
        },
    ];
    for error in errors {
        let source = error
            .source()
            .expect("the variant has a source")
            .to_string();
        assert!(!error.to_string().contains(&source), "{error}");
    }
}
