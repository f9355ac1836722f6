//! The conformance suite on local disk and in memory.

pub(crate) mod counting;
mod full;
mod scan;

use crate::conformance::conformance;
use crate::store::Store;

#[tokio::test(flavor = "multi_thread")]
async fn memory_conforms() {
    conformance(&Store::memory()).await;
}

/// `CAPSTAN_TEST_STORE=s3://bucket/empty-prefix cargo test -p capstan-dataset -- --ignored`
/// holds any store against the suite before one relies on it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a store: set CAPSTAN_TEST_STORE"]
async fn a_store_by_url_conforms() {
    let url = std::env::var("CAPSTAN_TEST_STORE").unwrap();
    conformance(&Store::open(&url).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn local_disk_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let url = folder.path().join("a new folder");
    conformance(&Store::open(url.to_str().unwrap()).unwrap()).await;
}
