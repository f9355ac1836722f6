//! The conformance suite on local disk and in memory.

use crate::conformance::conformance;
use crate::store::Store;

#[tokio::test(flavor = "multi_thread")]
async fn memory_conforms() {
    conformance(&Store::memory()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn local_disk_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let url = folder.path().join("a new folder");
    conformance(&Store::open(url.to_str().unwrap()).unwrap()).await;
}
