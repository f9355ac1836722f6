//! The store's conformance suite on MinIO, and the errors of an S3 store.

use std::net::TcpListener;

use capstan_dataset::conformance::conformance;
use capstan_dataset::{Error, Store};
use capstan_plan::FailureKind;
use capstan_plan::id::Digest;
use capstan_tests::minio::Minio;

#[tokio::test(flavor = "multi_thread")]
async fn minio_conforms() {
    let Some(minio) = Minio::start().await.unwrap() else {
        return;
    };
    conformance(&minio.store("").unwrap()).await;
    // Under a prefix of a bucket that holds other objects.
    conformance(&minio.store("team/capstan").unwrap()).await;
}

/// A cached store returns what the store returns, and still does after the object was deleted.
#[tokio::test(flavor = "multi_thread")]
async fn a_cached_object_outlives_the_object() {
    let Some(minio) = Minio::start().await.unwrap() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let store = minio.store("cached").unwrap();
    let cached = store.clone().with_cache(folder.path(), 1 << 30).unwrap();
    let path = capstan_dataset::files::path(&Digest::of(b"0123456789"));
    store.create(&path, &b"0123456789"[..]).await.unwrap();
    assert_eq!(cached.get_range(&path, 2..4).await.unwrap(), &b"23"[..]);
    assert_eq!(cached.get(&path).await.unwrap(), &b"0123456789"[..]);
    store.delete(&path).await.unwrap();
    assert_eq!(cached.get(&path).await.unwrap(), &b"0123456789"[..]);
    assert_eq!(cached.get_range(&path, 8..10).await.unwrap(), &b"89"[..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_keys_and_missing_buckets_are_one_line_errors() {
    let Some(minio) = Minio::start().await.unwrap() else {
        return;
    };
    let mut variables = minio.variables();
    variables[1].1 = "wrong-secret".to_owned();
    let refused = Store::open_with(&minio.url("x"), variables).unwrap();
    let error = refused.create("runs/a", &b"x"[..]).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    assert_eq!(error.kind(), FailureKind::WorkerFault);
    one_line(&error, "s3://capstan/x");

    let absent = Store::open_with("s3://no-such-bucket/x", minio.variables()).unwrap();
    for error in [
        absent.probe().await.unwrap_err(),
        absent.create("runs/a", &b"x"[..]).await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::Url { .. }), "{error:?}");
        one_line(&error, "s3://no-such-bucket/x");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_store_is_a_transient_error() {
    // The port is free again after the listener is dropped.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let variables = [
        ("AWS_ACCESS_KEY_ID", "a".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "b".to_owned()),
        ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}")),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value));
    let store = Store::open_with("s3://bucket/x", variables).unwrap();
    for error in [
        store.probe().await.unwrap_err(),
        store.create("runs/a", &b"x"[..]).await.unwrap_err(),
        store.get("runs/a").await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
        assert_eq!(error.kind(), FailureKind::Transient);
        one_line(&error, "s3://bucket/x");
    }
}

fn one_line(error: &Error, store: &str) {
    let line = error.to_string();
    assert!(line.contains(store) && !line.contains('\n'), "{line}");
    assert!(line.len() < 300, "{line}");
}
