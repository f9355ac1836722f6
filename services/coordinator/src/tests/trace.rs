//! The trace of one attempt in the logs of the coordinator and of the worker.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use capstan_dataset::Store;
use capstan_lease::{Assignment, Control, Done, Executor, Failure};
use capstan_plan::task::Role as Task;
use capstan_proto::v1;
use capstan_runtime::health::{CONTACT, Readiness};
use capstan_runtime::telemetry;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::sandbox::{ONE_TASK, Sandbox, outputs};

/// The log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'writer> MakeWriter<'writer> for Log {
    type Writer = Self;

    fn make_writer(&'writer self) -> Self {
        self.clone()
    }
}

impl Log {
    /// The line with this message, as JSON. If `attempt` is given, only lines of that attempt count.
    fn line(&self, target: &str, message: &str, attempt: Option<&Value>) -> Value {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let mut lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        let found = lines.find(|line: &Value| {
            line["message"] == message
                && line["target"].as_str().unwrap().starts_with(target)
                && attempt.is_none_or(|attempt| line["span"]["attempt"] == *attempt)
        });
        found.unwrap_or_else(|| panic!("no `{message}` of {target} in {text}"))
    }
}

/// Commits the output of the task, and logs it.
struct Works(Store);

#[tonic::async_trait]
impl Executor for Works {
    async fn execute(&self, given: Assignment, _: Control) -> Result<Option<Done>, Failure> {
        tracing::info!("working");
        Ok(Some(Done {
            outputs: outputs(&self.0, &given.task).await,
            ..Done::default()
        }))
    }
}

#[tokio::test]
async fn an_attempt_has_one_trace_on_both_sides() {
    let log = Log::default();
    let subscriber = telemetry::json(EnvFilter::new("info"), log.clone());
    // With a single dispatcher, `tracing` caches for good whether the thread that first reaches an event
    // wants it. Threads of other tests do not. With a second dispatcher, it asks all of them.
    let _second = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    let _logging = tracing::subscriber::set_default(subscriber);
    let sandbox = Sandbox::memory().await;
    sandbox.submit(ONE_TASK, "traced").await.unwrap();
    let options = capstan_lease::Options {
        coordinator: sandbox.address.clone(),
        worker: "w1".into(),
        roles: vec![Task::Crawl],
        slots: 1,
        device: "cpu".to_owned(),
        heartbeat: Duration::from_secs(5),
        poll: Duration::from_secs(5),
        patience: Duration::from_secs(20),
        grace: Duration::from_secs(1),
        identity: None,
        readiness: Readiness::within(CONTACT),
    };
    let readiness = options.readiness.clone();
    let (store, stop) = (sandbox.store.clone(), CancellationToken::new());
    let works = Arc::new(Works(store.clone()));
    let worker = tokio::spawn(capstan_lease::serve(options, store, works, stop.clone()));
    sandbox
        .until("traced", |status| status.state() == v1::RunState::Done)
        .await;
    stop.cancel();
    worker.await.unwrap().unwrap();
    assert!(readiness.is_ready(), "it reached the coordinator");
    sandbox.stop().await;

    // A lease that could not be delivered does not count: use the attempt that was executed.
    let committed = log.line("capstan_lease", "committed", None)["span"].clone();
    let of = |target, message| {
        let line = log.line(target, message, Some(&committed["attempt"]));
        line["span"].clone()
    };
    let leased = of("capstan_coordinator", "leased");
    assert_eq!(leased["run"], "traced");
    assert_eq!(leased["stage"], "human");
    assert_eq!(leased["shard"], "all");
    assert_eq!(leased["trace_id"].as_str().unwrap().len(), 32);
    let others = [
        of("capstan_coordinator", "working"),
        of("capstan_coordinator", "completed"),
        committed,
    ];
    for other in others {
        for field in ["run", "stage", "shard", "attempt", "trace_id"] {
            assert_eq!(other[field], leased[field], "{field}");
        }
    }
}
