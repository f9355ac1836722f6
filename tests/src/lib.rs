//! What the tests share: the program as processes, and servers that they start and stop.

pub mod cluster;
pub mod go;
pub mod harness;
pub mod minio;
pub mod place;
pub mod process;
pub mod proxy;
