//! Executes leased tasks and measures what they cost.

use capstan_dataset::Store;
use capstan_import::Roots;
use capstan_lease::{Assignment, Control, Done, Executor, Failure};
use capstan_plan::clock::Stopwatch;

use crate::context::{Context, Options};
use crate::error::Error;
use crate::kept::KeptModels;
use crate::stage;

/// Executes tasks of every role but training.
pub(crate) struct Worker {
    options: Options,
    store: Store,
    models: KeptModels,
}

impl Worker {
    pub(crate) fn new(options: Options, store: Store, models: KeptModels) -> Self {
        Self {
            options,
            store,
            models,
        }
    }

    fn context(&self, control: Control, assignment: &Assignment) -> Context {
        let options = &self.options;
        Context {
            store: self.store.clone(),
            net: options.net.clone(),
            import_roots: Roots::new(options.import_roots.clone()),
            cache: options.cache.clone(),
            device: options.device,
            threads: options.threads,
            turns: options.turns.clone(),
            models: self.models.clone(),
            control,
            seed: assignment.task.seed,
            attempt: assignment.lease.attempt.clone(),
        }
    }
}

#[async_trait::async_trait]
impl Executor for Worker {
    async fn execute(
        &self,
        assignment: Assignment,
        control: Control,
    ) -> Result<Option<Done>, Failure> {
        let context = self.context(control, &assignment);
        let began = Stopwatch::start();
        // Cancellation drops this future at once. A computation on a thread of its own checks for
        // it after each batch.
        let cancel = context.control.cancel.clone();
        let work = cancel.run_until_cancelled(stage::run(
            &context,
            &assignment.kind,
            assignment.task.work,
        ));
        let done = work.await.unwrap_or(Err(Error::Cancelled));
        let mut done = done.map_err(|error| Failure::new(error.kind(), &error))?;
        if done.wall_seconds == 0.0 {
            done.wall_seconds = began.seconds();
        }
        Ok(Some(done))
    }
}
