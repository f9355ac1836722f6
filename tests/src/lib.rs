//! What the tests share: servers that they start and stop.

pub mod go;
pub mod minio;
pub mod proxy;
