//! A measurement: what curating reads from S3, by layout of the base files.
//!
//! ```text
//! minio server /tmp/minio & mkdir /tmp/minio/capstan
//! AWS_ACCESS_KEY_ID=minioadmin AWS_SECRET_ACCESS_KEY=minioadmin AWS_REGION=us-east-1 \
//!   AWS_ENDPOINT_URL=http://127.0.0.1:9000 AWS_ALLOW_HTTP=true \
//!   CAPSTAN_TEST_BUCKET=capstan cargo test --release -p capstan-dataset scan -- --ignored --nocapture
//! ```

use std::sync::Arc;

use capstan_plan::commit::{Part, parts_of};
use object_store::aws::AmazonS3Builder;
use object_store::path::Path;
use tokio::time::Instant;

use super::counting::Counting;
use crate::conformance::rows;
use crate::files::{self, Pixels};
use crate::store::Store;
use crate::view::View;

/// Rows, and bytes of a picture: 246 MB in four shards.
const ROWS: usize = 4 * 1024;
const IMAGE_BYTES: usize = 60_000;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement; needs S3: set CAPSTAN_TEST_BUCKET and AWS_*"]
async fn a_metadata_scan_of_s3() {
    let bucket = std::env::var("CAPSTAN_TEST_BUCKET").unwrap();
    let s3 = AmazonS3Builder::from_env().with_bucket_name(bucket);
    let prefix = Path::from(format!("scan-{}", std::process::id()));
    let (counting, store) = Counting::over(Arc::new(s3.build().unwrap()), prefix);

    let mut pairs = rows::pairs("scan", ROWS);
    for pair in &mut pairs {
        // Pictures do not compress, so bytes that do would flatter the layout without pixels.
        let mut bytes = vec![0; IMAGE_BYTES];
        blake3::Hasher::new_derive_key(&pair.image_url)
            .finalize_xof()
            .fill(&mut bytes);
        pair.image = bytes;
    }
    let split = files::write_pairs(&store, 1024, pairs.clone())
        .await
        .unwrap();
    let split = parts_of(&split).unwrap();
    let mut unsplit = Vec::new();
    for pairs in pairs.chunks(1024) {
        unsplit.push(files::tests::write_unsplit(&store, pairs).await);
    }

    let folder = tempfile::tempdir().unwrap();
    let cached = store.clone().with_cache(folder.path(), 1 << 30).unwrap();
    // Before: any read of a range brought the whole object into the cache.
    measure("one file, fetched whole", &counting, async {
        for part in &unsplit {
            cached.get(&files::path(&part.base.digest)).await.unwrap();
        }
        scan(&cached, &unsplit).await
    })
    .await;
    measure("one file, its columns", &counting, scan(&store, &unsplit)).await;
    measure("two files", &counting, scan(&store, &split)).await;
}

async fn scan(store: &Store, parts: &[Part]) -> usize {
    let mut rows = 0;
    for part in parts {
        rows += View::read(store, part, Pixels::Skip).await.unwrap().len();
    }
    rows
}

async fn measure(name: &str, counting: &Counting, work: impl Future<Output = usize>) {
    counting.reset();
    let began = Instant::now();
    assert_eq!(work.await, ROWS);
    let seconds = began.elapsed().as_secs_f64();
    println!("{name}: {} bytes, {seconds:.3} s", counting.bytes());
}
