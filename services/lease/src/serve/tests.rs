//! The loop of a slot against a coordinator that answers as tests say.

use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use capstan_dataset::{recipes, settings};
use capstan_plan::Pipeline;
use capstan_plan::commit::Outputs;
use capstan_plan::id::{RecipeHash, ShardId};
use capstan_plan::stage::ImportWork;
use capstan_plan::task::{Slice, Task, Work};

use super::*;
use crate::assignment::{Assignment, Control, Done, Failure};
use crate::fake::{self, Fake};

struct Idle;

#[async_trait::async_trait]
impl Executor for Idle {
    async fn execute(&self, _: Assignment, _: Control) -> Result<Option<Done>, Failure> {
        Ok(None)
    }
}

/// Commits no files.
struct Committing;

#[async_trait::async_trait]
impl Executor for Committing {
    async fn execute(&self, _: Assignment, _: Control) -> Result<Option<Done>, Failure> {
        Ok(Some(Done {
            outputs: Outputs::default(),
            inputs: Vec::new(),
            cpu_seconds: 0.0,
            wall_seconds: 0.0,
        }))
    }
}

/// The slots of a worker whose lease requests go through `channel`.
fn slots(channel: Channel, shutdown: CancellationToken) -> Arc<SlotContext> {
    let options = fake::options();
    let endpoint = options.endpoint().unwrap();
    Arc::new(SlotContext {
        client: CoordinatorClient::new(channel),
        heartbeat: Heartbeat::start(endpoint, &options, Session::random()).unwrap(),
        session: Session::random(),
        is_name_warned: AtomicBool::new(false),
        options,
        store: Store::memory(),
        settings: SettingsCache::default(),
        sent_tag: AtomicU64::new(0),
        executor: Arc::new(Idle),
        shutdown,
        overdue: CancellationToken::new(),
    })
}

/// Lets a slot ask until the coordinator has answered `calls` times, and returns the time that
/// this took.
async fn asked(calls: usize, answer: Result<(), tonic::Status>) -> Duration {
    let shutdown = CancellationToken::new();
    let (stop, count) = (shutdown.clone(), AtomicUsize::new(1));
    let fake = Fake {
        lease: Box::new(move |_| {
            if count.fetch_add(1, Ordering::Relaxed) == calls {
                stop.cancel();
            }
            answer.clone().map(|()| v1::LeaseResponse::default())
        }),
        ..Fake::default()
    };
    let began = Instant::now();
    slots(fake.serve(), shutdown).slot().await.unwrap();
    began.elapsed()
}

// These tests check the least time, which delays of 0.4 s on average all but always exceed.
// Without delays, the calls take a few milliseconds.

#[tokio::test]
async fn a_worker_that_is_sent_away_at_once_asks_ever_more_rarely() {
    let took = asked(7, Ok(())).await;
    assert!(took > Duration::from_millis(20), "{took:?}");
}

#[tokio::test]
async fn a_worker_waits_after_every_error_of_the_coordinator() {
    let took = asked(7, Err(tonic::Status::unavailable("busy"))).await;
    assert!(took > Duration::from_millis(20), "{took:?}");
}

#[tokio::test]
async fn a_worker_whose_name_is_taken_retries_and_then_names_the_cause() {
    let count = Arc::new(AtomicUsize::new(0));
    let calls = count.clone();
    let fake = Fake {
        lease: Box::new(move |_| {
            calls.fetch_add(1, Ordering::Relaxed);
            Err(tonic::Status::already_exists("another process uses `w`"))
        }),
        ..Fake::default()
    };
    let mut context = slots(fake.serve(), CancellationToken::new());
    Arc::get_mut(&mut context).unwrap().options.patience = Duration::from_millis(100);
    let error = context.slot().await.unwrap_err();
    let Error::NameTaken { reason, .. } = error else {
        panic!("ended for another reason: {error}")
    };
    assert_eq!(reason, "another process uses `w`");
    assert!(count.load(Ordering::Relaxed) > 1);
}

#[tokio::test]
async fn a_worker_leaves_with_the_session_of_its_requests() {
    let shutdown = CancellationToken::new();
    let (stop, seen) = (shutdown.clone(), Arc::new(Mutex::new(Vec::new())));
    let (asked, left) = (seen.clone(), seen.clone());
    let fake = Fake {
        lease: Box::new(move |request| {
            asked.lock().unwrap().push(("lease", request.session));
            stop.cancel();
            Ok(v1::LeaseResponse::default())
        }),
        leave: Box::new(move |request| {
            assert_eq!(request.worker, "w");
            left.lock().unwrap().push(("leave", request.session));
            Ok(v1::LeaveResponse {})
        }),
        ..Fake::default()
    };
    let context = slots(fake.serve(), shutdown);
    context.clone().slot().await.unwrap();
    context.leave().await;
    let session = context.session.to_bytes();
    assert_eq!(session.len(), 16);
    let expected = vec![("lease", session.clone()), ("leave", session)];
    assert_eq!(*seen.lock().unwrap(), expected);
}

fn recipe(shard: &str) -> RecipeHash {
    RecipeHash(Digest::of(shard.as_bytes()))
}

/// An assignment of a task whose settings are in the store.
async fn assignment(store: &Store, shard: &str) -> v1::Assignment {
    let toml = "name = \"p\"\n[[stage]]\nname = \"s\"\nkind = \"import\"\n\
        dataset = \"d\"\nformat = \"folder\"\nsource = \"f\"\n";
    let pipeline = Pipeline::from_toml(toml, "p.toml").unwrap();
    let task = Task {
        run: "r".into(),
        stage: "s".into(),
        shard: ShardId(shard.to_owned()),
        recipe: recipe(shard),
        seed: 0,
        settings: settings::put(store, &pipeline.stages[0].kind)
            .await
            .unwrap(),
        work: Work::Import(ImportWork {
            slice: Slice::default(),
        }),
    };
    v1::Assignment {
        lease: Some(v1::LeaseRef {
            run: "r".to_owned(),
            stage: "s".to_owned(),
            shard: shard.to_owned(),
            attempt: format!("attempt-{shard}"),
            lease_epoch: Some(v1::LeaseEpoch::default()),
            ..v1::LeaseRef::default()
        }),
        task_json: serde_json::to_string(&task).unwrap(),
        world_size: 1,
        lease_ms: 60_000,
        ..v1::Assignment::default()
    }
}

#[tokio::test]
async fn a_worker_leases_its_next_task_with_the_completion_of_the_last() {
    let shutdown = CancellationToken::new();
    let store = Store::memory();
    let first = assignment(&store, "0").await;
    let second = assignment(&store, "1").await;
    let (stop, seen) = (shutdown.clone(), Arc::new(Mutex::new(Vec::new())));
    let (asked, completed) = (seen.clone(), seen.clone());
    let fake = Fake {
        lease: Box::new(move |request| {
            asked.lock().unwrap().push("lease".to_owned());
            assert_eq!(request.worker, "w");
            let assignments = vec![first.clone()];
            Ok(v1::LeaseResponse {
                assignments,
                send_cached: false,
            })
        }),
        complete: Box::new(move |request| {
            let shard = request.lease.unwrap().shard;
            let next = request.next.expect("the worker does not stop");
            assert_eq!((next.worker.as_str(), next.session.len()), ("w", 16));
            assert!(request.recipe_published);
            let is_first = shard == "0";
            completed.lock().unwrap().push(shard);
            let assignments = match is_first {
                true => vec![second.clone()],
                false => {
                    stop.cancel();
                    Vec::new()
                }
            };
            let next = Some(v1::LeaseResponse {
                assignments,
                send_cached: false,
            });
            Ok(v1::CompleteResponse { mine: true, next })
        }),
        ..Fake::default()
    };
    let mut context = slots(fake.serve(), shutdown);
    let worker = Arc::get_mut(&mut context).unwrap();
    worker.store = store.clone();
    worker.executor = Arc::new(Committing);
    context.slot().await.unwrap();
    assert_eq!(*seen.lock().unwrap(), ["lease", "0", "1"]);
    for shard in ["0", "1"] {
        let adopted = recipes::adopt(&store, &recipe(shard)).await.unwrap();
        assert_eq!(adopted.unwrap().shard.as_str(), shard);
    }
}

async fn panicking() -> Result<(), Error> {
    panic!("no such index")
}

#[tokio::test]
async fn a_slot_that_panics_stops_the_others_and_is_not_a_rejection() {
    let shutdown = CancellationToken::new();
    let mut slots = JoinSet::new();
    slots.spawn(panicking());
    let stopped = shutdown.clone();
    slots.spawn(async move {
        stopped.cancelled().await;
        Ok(())
    });
    let error = join_slots(slots, &shutdown).await.unwrap_err();
    assert!(matches!(error, Error::Panicked(_)), "{error}");
    assert!(error.to_string().contains("no such index"), "{error}");
}
