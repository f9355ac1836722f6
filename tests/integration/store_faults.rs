//! The store behind a proxy that injects faults: no object is lost or written twice, and a request that
//! keeps failing returns one typed error line.

use std::sync::Arc;

use capstan_dataset::conformance::conformance;
use capstan_dataset::{Created, Error, Store};
use capstan_plan::FailureKind;
use capstan_tests::minio::Minio;
use capstan_tests::proxy::{Fault, Proxy, Schedule};
use futures::future::join_all;
use tokio::sync::Barrier;

/// Number of races of creates, and of writers in each.
const RACES: usize = 40;
const WRITERS: usize = 8;

/// The store under `prefix`, reached through `proxy`.
fn through(minio: &Minio, proxy: &Proxy, prefix: &str) -> Store {
    let variables = minio.variables().into_iter().map(|(name, value)| {
        let value = match name.as_str() {
            "AWS_ENDPOINT_URL" => proxy.endpoint(),
            _ => value,
        };
        (name, value)
    });
    Store::open_with(&minio.url(prefix), variables).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_without_faults_changes_nothing() {
    let Some(minio) = Minio::start().await.unwrap() else {
        return;
    };
    let calm = Schedule {
        share: 0.0,
        ..Schedule::stormy(0)
    };
    let proxy = Proxy::start(minio.endpoint(), calm).await.unwrap();
    let store = through(&minio, &proxy, "calm");
    let created = store.create("runs/a b%2F+ü", &b"x"[..]).await;
    assert!(created.is_ok_and(|created| created == Created::Created));
    let listed = minio.store("calm").unwrap().list("runs").await.unwrap();
    assert_eq!(listed.len(), 1, "a signed path arrives unchanged");
    assert!(proxy.requests() > 0 && proxy.injected().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_conforms_under_faults() {
    let Some(minio) = Minio::start().await.unwrap() else {
        return;
    };
    let storm = Schedule::stormy(4);
    let proxy = Proxy::start(minio.endpoint(), storm).await.unwrap();
    conformance(&through(&minio, &proxy, "storm")).await;
    let injected = proxy.injected();
    for fault in Fault::ALL {
        assert!(injected.contains_key(&fault), "{fault:?} of {injected:?}");
    }
    eprintln!("{} requests, injected {injected:?}", proxy.requests());
}

/// Writers of different bytes race while answers are lost. Exactly one writer is told that it created the
/// object, and the object has its bytes.
#[tokio::test(flavor = "multi_thread")]
async fn racing_creates_under_faults_have_one_winner() {
    let Some(minio) = Minio::start().await.unwrap() else {
        return;
    };
    // Faults after which a writer cannot know the outcome, on every third request.
    let doubt = Schedule {
        share: 1.0 / 3.0,
        faults: vec![
            Fault::Conflict,
            Fault::CutRequest,
            Fault::CutAnswer,
            Fault::LostAnswer,
            Fault::InternalAfterEffect,
        ],
        ..Schedule::stormy(5)
    };
    let proxy = Proxy::start(minio.endpoint(), doubt).await.unwrap();
    let store = through(&minio, &proxy, "races");
    let calm = minio.store("races").unwrap();
    for race in 0..RACES {
        let path = format!("races/{race:03}");
        let start = Arc::new(Barrier::new(WRITERS));
        let writers = (0..WRITERS).map(|writer| {
            let (store, start, path) = (store.clone(), start.clone(), path.clone());
            tokio::spawn(async move {
                start.wait().await;
                let bytes = format!("writer {writer}");
                (writer, store.create(&path, bytes).await.unwrap())
            })
        });
        let results = join_all(writers).await.into_iter().map(Result::unwrap);
        let won: Vec<usize> = results
            .filter(|(_, created)| *created == Created::Created)
            .map(|(writer, _)| writer)
            .collect();
        assert_eq!(won.len(), 1, "race {race}: winners {won:?}");
        let stored = calm.get(&path).await.unwrap();
        assert_eq!(stored, format!("writer {}", won[0]), "race {race}");
    }
    let objects = calm.list("races").await.unwrap();
    assert_eq!(objects.len(), RACES, "exactly one object per race");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_keeps_failing_is_a_transient_error() {
    let Some(minio) = Minio::start().await.unwrap() else {
        return;
    };
    minio
        .store("ill")
        .unwrap()
        .create("runs/a", &b"x"[..])
        .await
        .unwrap();
    for (fault, code) in [
        (Fault::SlowDown, "SlowDown"),
        (Fault::Internal, "InternalError"),
        (Fault::CutAnswer, ""),
    ] {
        let always = Schedule::always(fault);
        let proxy = Proxy::start(minio.endpoint(), always).await.unwrap();
        let store = through(&minio, &proxy, "ill");
        let (read, written) = tokio::join!(store.get("runs/a"), store.create("runs/b", &b"x"[..]));
        for error in [read.unwrap_err(), written.unwrap_err()] {
            assert!(matches!(error, Error::Store { .. }), "{fault:?}: {error:?}");
            assert_eq!(error.kind(), FailureKind::Transient);
            let line = capstan_plan::failure::chain(&error);
            assert!(line.contains("s3://capstan/ill"), "{line}");
            assert!(line.contains(code) && !line.contains('\n'), "{line}");
        }
        assert!(
            proxy.requests() <= 32,
            "retries are bounded: {}",
            proxy.requests()
        );
    }
    // A conflict without a winner, on every request.
    let always = Schedule::always(Fault::Conflict);
    let proxy = Proxy::start(minio.endpoint(), always).await.unwrap();
    let store = through(&minio, &proxy, "ill");
    let error = store.create("runs/c", &b"x"[..]).await.unwrap_err();
    assert!(matches!(error, Error::Contended { .. }), "{error:?}");
    assert_eq!(store.try_get("runs/c").await.unwrap(), None);
}
