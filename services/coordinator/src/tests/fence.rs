//! One coordinator at a time, per database and per store.

use std::path::Path;
use std::sync::Arc;

use capstan_dataset::Store;
use capstan_proto::v1;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::sandbox::{ManualClock, ONE_TASK, Sandbox, settings};
use crate::Completion;
use crate::scheduler::core::Gate;
use crate::state::{self, Database, Known, Sqlite};
use crate::{Error, Handle, generation, rebuild};

fn database(folder: &Path, name: &str) -> String {
    format!("sqlite:{}", folder.join(name).display())
}

/// Starts a coordinator without a listener.
async fn start(store: &Store, database: &str) -> Result<(Handle, CancellationToken), Error> {
    let (clock, shutdown) = (Arc::new(ManualClock::default()), CancellationToken::new());
    let settings = settings(database);
    let handle = Handle::start(settings, store.clone(), clock, shutdown.clone()).await?;
    Ok((handle, shutdown))
}

async fn stop((handle, shutdown): (Handle, CancellationToken)) {
    shutdown.cancel();
    handle.stopped().await.unwrap();
}

#[tokio::test]
async fn two_coordinators_cannot_open_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let (store, url) = (Store::memory(), database(folder.path(), "capstan.db"));
    let first = start(&store, &url).await.unwrap();
    let refused = start(&store, &url).await.err().unwrap();
    let Error::Database(held) = &refused else {
        panic!("{refused}")
    };
    assert!(matches!(**held, state::Error::Held { .. }), "{refused}");
    let text = refused.to_string();
    assert!(text.contains("capstan.db is held by another"), "{text}");
    let generation = first.0.generation();
    stop(first).await;
    let second = start(&store, &url).await.unwrap();
    assert_eq!(
        second.0.generation(),
        generation + 1,
        "the second one took no generation"
    );
    stop(second).await;
}

#[tokio::test]
async fn a_database_without_the_newest_generation_is_rejected_until_it_is_rebuilt() {
    let folder = tempfile::tempdir().unwrap();
    let (store, url) = (Store::memory(), database(folder.path(), "a.db"));
    let fresh = database(folder.path(), "b.db");
    stop(start(&store, &url).await.unwrap()).await;

    let refused = start(&store, &fresh).await.err().unwrap();
    let Error::Behind { known, newest, .. } = refused else {
        panic!("{refused}")
    };
    assert_eq!((known, newest), (0, 1));
    let text = refused.to_string();
    assert!(text.contains("`capstan state rebuild`"), "{text}");
    assert!(!text.contains('\n'), "{text}");

    let rebuilt = rebuild(&settings(&fresh), &store).await.unwrap();
    assert_eq!((rebuilt.runs, rebuilt.generation), (0, 1));
    let second = start(&store, &fresh).await.unwrap();
    assert_eq!(second.0.generation(), 2);
    stop(second).await;
    let refused = start(&store, &url).await.err().unwrap();
    assert!(
        matches!(
            refused,
            Error::Behind {
                known: 1,
                newest: 2,
                ..
            }
        ),
        "the first one's database is outdated: {refused}"
    );
    let other = start(&Store::memory(), &url).await.err().unwrap();
    assert!(
        matches!(
            other,
            Error::Behind {
                known: 1,
                newest: 0,
                ..
            }
        ),
        "a database of another store is rejected: {other}"
    );
}

#[tokio::test]
async fn a_start_recovers_from_a_crash_between_taking_and_storing_a_generation() {
    let folder = tempfile::tempdir().unwrap();
    let (store, url) = (Store::memory(), database(folder.path(), "capstan.db"));
    stop(start(&store, &url).await.unwrap()).await;

    // The crash was before the record was created.
    let memory = Sqlite::open(&url).await.unwrap();
    let about_to = Known {
        intended: "mine".to_owned(),
        ..memory.known().await.unwrap()
    };
    memory.know(&about_to).await.unwrap();
    memory.close().await;
    let second = start(&store, &url).await.unwrap();
    assert_eq!(second.0.generation(), 2);
    stop(second).await;

    // The crash was after the record was created, and before the database was updated.
    let memory = Sqlite::open(&url).await.unwrap();
    let about_to = Known {
        intended: "mine".to_owned(),
        ..memory.known().await.unwrap()
    };
    memory.know(&about_to).await.unwrap();
    memory.close().await;
    let record = generation::Record {
        generation: 3,
        started_unix_ms: 0,
        start: "mine".to_owned(),
    };
    let json = serde_json::to_vec(&record).unwrap();
    let path = "coordinator/generations/3.json";
    store.create(path, json).await.unwrap();
    let fourth = start(&store, &url).await.unwrap();
    assert_eq!(fourth.0.generation(), 4);
    stop(fourth).await;

    // Another coordinator took the generation.
    let json = serde_json::to_vec(&generation::Record {
        generation: 5,
        start: "theirs".to_owned(),
        ..record
    });
    let path = "coordinator/generations/5.json";
    store.create(path, json.unwrap()).await.unwrap();
    let refused = start(&store, &url).await.err().unwrap();
    assert!(
        matches!(refused, Error::Behind { newest: 5, .. }),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_superseded_coordinator_stops_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (
        database(folder.path(), "old.db"),
        database(folder.path(), "new.db"),
    );
    let sandbox = Sandbox::start(Store::memory(), &old).await;
    sandbox.submit(ONE_TASK, "r").await.unwrap();
    let mut worker = sandbox.worker("w1").await;
    let held = worker.lease().await;
    let mut waiting = sandbox.worker("w2").await;
    let waits = tokio::spawn(async move {
        let request = v1::LeaseRequest {
            worker: "w2".to_owned(),
            roles: vec![v1::Role::Crawl as i32],
            wait_ms: 20_000,
            ..v1::LeaseRequest::default()
        };
        waiting.client.lease(request).await.unwrap_err().code()
    });

    let store = sandbox.store.clone();
    rebuild(&settings(&new), &store).await.unwrap();
    let newer = start(&store, &new).await.unwrap();
    assert_eq!(waits.await.unwrap(), Code::Unavailable);
    let handle = sandbox.handle.clone();
    let Error::Superseded {
        ours,
        newer: theirs,
    } = sandbox.stopped().await.unwrap_err()
    else {
        panic!("stopped for another reason")
    };
    assert_eq!((ours, theirs), (1, 2));
    let claim = crate::convert::claim("w1", held.lease).unwrap();
    let completion = Completion {
        claim,
        recipe_published: false,
        next: None,
    };
    let refused = handle.complete(completion).await.unwrap_err();
    assert_eq!(tonic::Status::from(refused).code(), Code::Unavailable);
    assert!(
        newer.0.run(&"r".into()).await.is_ok(),
        "the newer one has the run"
    );
    stop(newer).await;
}

#[tokio::test]
async fn no_task_is_leased_while_the_store_does_not_confirm_the_generation() {
    let (clock, shutdown) = (Arc::new(ManualClock::default()), CancellationToken::new());
    let settings = crate::config::Coordinator {
        // Long enough that no check of the generation happens in between.
        heartbeat_seconds: 3_600,
        lease_seconds: 7_200,
        ..settings("sqlite::memory:")
    };
    let store = Store::memory();
    let handle = Handle::start(settings, store, clock, shutdown.clone())
        .await
        .unwrap();
    let pipeline = capstan_plan::Pipeline::from_toml(ONE_TASK, "one.toml").unwrap();
    handle.submit(pipeline, None, None).await.unwrap();
    let offer = crate::machine::Offer {
        worker: "w".into(),
        roles: [capstan_plan::task::Role::Crawl].into(),
        device: "cpu-avx512".into(),
        slots: 1,
        cached: Default::default(),
    };
    let wait = std::time::Duration::from_millis;
    let session = crate::Session::new(b"w");
    let lease = |wait| handle.lease(offer.clone(), session, wait);
    let held = lease(wait(20_000)).await.unwrap();
    let claim = crate::convert::claim("w", held[0].lease.clone()).unwrap();
    handle.release(claim).await.unwrap();

    handle.inner.lock().gate = Gate::Shut;
    assert!(lease(wait(300)).await.unwrap().is_empty());
    handle.inner.lock().gate = Gate::Open;
    let held = lease(wait(20_000)).await.unwrap();
    assert_eq!(held.len(), 1);
    stop((handle, shutdown)).await;
}
