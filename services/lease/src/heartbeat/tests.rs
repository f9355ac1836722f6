//! Leases whose coordinator answers, or does not.

use capstan_plan::FailureKind;
use tokio::sync::mpsc;

use super::*;
use crate::assignment::Failure;
use crate::fake::{self, Fake};
use crate::report::Outcome;

/// Far beyond the end of every test.
const LONG_MS: u64 = 3_600_000;
const LIMIT: Duration = Duration::from_secs(60);

fn assignment(lease_ms: u64, heartbeat_ms: u64) -> v1::Assignment {
    v1::Assignment {
        lease_ms,
        heartbeat_ms,
        ..v1::Assignment::default()
    }
}

fn terms(lease_ms: u64, heartbeat_ms: u64, contacts_foreign_hosts: bool) -> Terms {
    let assignment = assignment(lease_ms, heartbeat_ms);
    Terms::new(&assignment, contacts_foreign_hosts, &fake::options())
}

fn lease(attempt: &str) -> v1::LeaseRef {
    v1::LeaseRef {
        attempt: attempt.to_owned(),
        ..v1::LeaseRef::default()
    }
}

/// Holds a lease that was requested at this moment.
fn hold(held: &Arc<Held>, attempt: &str, terms: Terms, requested_at: Instant) -> Control {
    let control = Control::new(CancellationToken::new(), CancellationToken::new());
    let runtime = Handle::current();
    held.add(&runtime, &lease(attempt), &control, terms, requested_at);
    control
}

/// A coordinator that answers this for every lease. Each heartbeat comes as the number of leases.
fn answering(status: v1::LeaseStatus) -> (Channel, mpsc::UnboundedReceiver<usize>) {
    let (sender, heartbeats) = mpsc::unbounded_channel();
    let fake = Fake {
        heartbeat: Box::new(move |request: v1::HeartbeatRequest| {
            let _ = sender.send(request.leases.len());
            let statuses = request.leases.iter().map(|_| status as i32).collect();
            Ok(v1::HeartbeatResponse { statuses })
        }),
        ..Fake::default()
    };
    (fake.serve(), heartbeats)
}

/// Runs a test while heartbeats are sent, for a minute at most.
async fn beating(channel: Channel, held: &Held, test: impl Future<Output = ()>) {
    let (client, options) = (CoordinatorClient::new(channel), fake::options());
    let session = Session::random();
    tokio::select! {
        () = beat(client, &options, &session, held) => unreachable!("heartbeats never end"),
        ended = tokio::time::timeout(LIMIT, test) => ended.expect("the test ends within the limit"),
    }
}

#[test]
fn only_work_that_contacts_no_foreign_hosts_goes_on_after_its_lease() {
    let lease = Duration::from_secs(30);
    assert_eq!(terms(30_000, 5_000, true).work, lease);
    let patience = fake::options().patience;
    assert_eq!(terms(30_000, 5_000, false).work, lease + patience);
}

#[tokio::test]
async fn work_stops_at_the_end_of_its_lease_without_an_answer() {
    let held = Arc::new(Held::default());
    // Accepts connections and never answers.
    let (channel, _accepted) = fake::pipes();
    let crawl = hold(&held, "a", terms(50, 10, true), Instant::now());
    let train = hold(&held, "b", terms(50, 10, false), Instant::now());
    beating(channel, &held, crawl.cancel.cancelled()).await;
    assert!(
        !crawl.is_lost(),
        "the coordinator may still count the lease"
    );
    assert!(!train.cancel.is_cancelled());
}

#[tokio::test]
async fn a_lease_that_ended_is_released_and_counts_no_failure() {
    let held = Arc::new(Held::default());
    let control = hold(&held, "a", terms(1, 1, true), Instant::now());
    control.cancel.cancelled().await;
    let failed = Failure {
        kind: FailureKind::BadInput,
        message: "the task was cancelled".to_owned(),
    };
    let outcome = Outcome::new(Err(failed), &control);
    assert!(matches!(outcome, Outcome::Release), "{outcome:?}");
}

#[tokio::test]
async fn a_lease_ends_a_period_after_its_renewal_was_requested() {
    let held = Arc::new(Held::default());
    let terms = terms(LONG_MS, 5_000, true);
    let granted_at = Instant::now();
    let _control = hold(&held, "a", terms, granted_at);
    let due = |at: Instant| Some((terms.heartbeat, at + terms.heartbeat));
    assert_eq!(held.next(), due(granted_at));
    let renewed_at = granted_at + Duration::from_secs(4);
    let key = key(&lease("a"));
    held.apply(&key, v1::LeaseStatus::Keep, renewed_at);
    assert_eq!(held.next(), due(renewed_at));
    assert_eq!(held.lock()[&key].renewed_at, renewed_at);
}

#[tokio::test]
async fn the_assignment_decides_the_period_of_heartbeats() {
    let held = Arc::new(Held::default());
    let (channel, mut heartbeats) = answering(v1::LeaseStatus::Keep);
    let slow = hold(
        &held,
        "slow",
        terms(LONG_MS, LONG_MS / 2, true),
        Instant::now(),
    );
    let added = held.clone();
    let test = async move {
        let fast = hold(&added, "fast", terms(LONG_MS, 10, true), Instant::now());
        for _ in 0..3 {
            assert_eq!(heartbeats.recv().await, Some(2));
        }
        assert!(!slow.cancel.is_cancelled() && !fast.cancel.is_cancelled());
    };
    beating(channel, &held, test).await;
}

#[tokio::test]
async fn a_lease_that_the_coordinator_calls_stale_is_lost() {
    let held = Arc::new(Held::default());
    let (channel, _heartbeats) = answering(v1::LeaseStatus::Stale);
    let control = hold(&held, "a", terms(LONG_MS, 10, false), Instant::now());
    beating(channel, &held, control.cancel.cancelled()).await;
    assert!(control.is_lost());
}
