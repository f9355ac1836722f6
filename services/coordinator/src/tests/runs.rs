//! Submitting, cancelling and listing runs, and rejected requests.

use capstan_proto::v1;
use tonic::Code;

use super::sandbox::{ONE_TASK, PIPELINE, Sandbox};

#[tokio::test]
async fn a_run_without_an_id_gets_the_same_id_each_time() {
    let sandbox = Sandbox::memory().await;
    let first = sandbox.submit(ONE_TASK, "").await.unwrap();
    assert!(first.run.starts_with("one-"), "{}", first.run);
    let again = sandbox.submit(ONE_TASK, "").await.unwrap();
    assert_eq!(
        (again.run.as_str(), again.resumed),
        (first.run.as_str(), true)
    );
    let seeded = ONE_TASK.replace("name = \"one\"", "name = \"one\"\nseed = 9");
    assert_ne!(sandbox.submit(&seeded, "").await.unwrap().run, first.run);
    sandbox.stop().await;
}

#[tokio::test]
async fn unusable_requests_are_rejected_in_one_line() {
    let sandbox = Sandbox::memory().await;
    let wrong = ONE_TASK.replace("source = \"human\"", "source = 1");
    let refused = sandbox.submit(&wrong, "r").await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(
        refused
            .message()
            .starts_with("small.toml:8: stage `human`: `source = 1`: "),
        "{refused}"
    );
    assert!(!refused.message().contains('\n'));

    let refused = sandbox.submit(ONE_TASK, "Not/A/Run").await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);

    sandbox.submit(PIPELINE, "r").await.unwrap();
    let refused = sandbox.submit(ONE_TASK, "r").await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
    assert!(
        refused.message().starts_with("run r has another pipeline"),
        "{refused}"
    );

    let mut client = sandbox.client().await;
    let watch = client
        .watch(v1::WatchRequest {
            run: "x".to_owned(),
        })
        .await;
    assert_eq!(watch.unwrap_err().code(), Code::NotFound);
    let cancel = client
        .cancel_run(v1::CancelRunRequest {
            run: "x".to_owned(),
        })
        .await;
    assert_eq!(cancel.unwrap_err().code(), Code::NotFound);
    let lease = client.lease(v1::LeaseRequest::default()).await;
    assert_eq!(lease.unwrap_err().code(), Code::InvalidArgument);
    let complete = client.complete(v1::CompleteRequest::default()).await;
    assert_eq!(complete.unwrap_err().code(), Code::InvalidArgument);
    sandbox.stop().await;
}

#[tokio::test]
async fn workers_learn_that_a_run_is_cancelled_and_it_can_be_resumed() {
    let sandbox = Sandbox::memory().await;
    sandbox.submit(ONE_TASK, "r").await.unwrap();
    let mut worker = sandbox.worker("w1").await;
    let held = worker.lease().await;
    let (events, cancelled) = tokio::join!(sandbox.events("r"), async {
        let mut client = sandbox.client().await;
        client
            .cancel_run(v1::CancelRunRequest {
                run: "r".to_owned(),
            })
            .await
            .unwrap()
    });
    assert_eq!(cancelled.into_inner().state(), v1::RunState::Cancelled);
    let last = events.last().unwrap().what.clone();
    assert!(
        matches!(last, Some(v1::event::What::RunEnded(_))),
        "{last:?}"
    );
    assert_eq!(worker.heartbeat(&held).await, v1::LeaseStatus::Cancelled);
    assert_eq!(
        worker.complete(&held).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
    assert!(worker.poll(300).await.is_none(), "its tasks are removed");

    assert!(sandbox.submit(ONE_TASK, "r").await.unwrap().resumed);
    assert_eq!(
        worker.heartbeat(&held).await,
        v1::LeaseStatus::Stale,
        "a lease of the earlier submission"
    );
    assert_eq!(sandbox.play_out("r").await.state(), v1::RunState::Done);
    sandbox.stop().await;
}

#[tokio::test]
async fn runs_are_listed_without_their_stages() {
    let sandbox = Sandbox::memory().await;
    sandbox.submit(ONE_TASK, "a").await.unwrap();
    sandbox.clock.advance(std::time::Duration::from_secs(1));
    sandbox.submit(PIPELINE, "b").await.unwrap();
    let mut client = sandbox.client().await;
    let runs = client
        .list_runs(v1::ListRunsRequest { limit: 0 })
        .await
        .unwrap()
        .into_inner()
        .runs;
    let names: Vec<_> = runs
        .iter()
        .map(|run| (run.run.as_str(), run.stages.len()))
        .collect();
    assert_eq!(names, [("b", 0), ("a", 0)]);
    assert_eq!(runs[0].seed, 3);
    sandbox.stop().await;
}
