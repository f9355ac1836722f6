//! One attempt in the logs of both sides.

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

/// What was logged.
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
    /// The line of this text, as JSON; of this attempt where one is given.
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

/// Does what the task asks for, and says so.
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
    // While there is one dispatcher, `tracing` asks that of the thread which comes to an event first
    // whether anybody wants it: for other tests' threads, none, for good. A second one has it ask all.
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
    assert!(readiness.is_ready(), "it has heard of the coordinator");
    sandbox.stop().await;

    // A grant that could not be handed over came to nothing: the attempt that was worked on counts.
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
