//! Which work goes to which module, and what it cost.

use capstan_dataset::Store;
use capstan_lease::{Assignment, Control, Done, Executor, Failure};
use capstan_plan::clock::Stopwatch;
use capstan_plan::task::{Task, Work};

use crate::context::{Context, Options};
use crate::error::Error;
use crate::{crawl, curate, models, score};

/// Executes tasks of every role but training.
pub(crate) struct Worker {
    options: Options,
    store: Store,
}

impl Worker {
    pub(crate) fn new(options: Options, store: Store) -> Self {
        Self { options, store }
    }

    fn context(&self, control: Control, assignment: &Assignment) -> Context {
        let options = &self.options;
        Context {
            store: self.store.clone(),
            net: options.net.clone(),
            import_root: options.import_root.clone(),
            cache: options.cache.clone(),
            device: options.device,
            threads: options.threads,
            turns: options.turns.clone(),
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
        // Whatever waits ends at once; a computation on a thread of its own sees it at its next
        // batch.
        let cancel = context.control.cancel.clone();
        let work = cancel.run_until_cancelled(dispatch(&context, assignment.task));
        let done = work.await.unwrap_or(Err(Error::Cancelled));
        let mut done = done.map_err(|error| Failure::new(error.kind(), &error))?;
        if done.wall_seconds == 0.0 {
            done.wall_seconds = began.seconds();
        }
        Ok(Some(done))
    }
}

async fn dispatch(context: &Context, task: Task) -> Result<Done, Error> {
    match task.work {
        Work::Frontier {
            config,
            wave,
            seen,
            links,
        } => crawl::frontier(context, &config, wave, &seen, &links).await,
        Work::Pages { config, pages } => crawl::pages(context, &config, &pages).await,
        Work::ImageFrontier { config, links } => {
            crawl::image_frontier(context, &config, &links).await
        }
        Work::Images { config, images } => crawl::images(context, &config, &images).await,
        Work::Import { config, slice } => crawl::import(context, &config, slice).await,
        Work::Model { config } => models::given(context, &config).await,
        Work::Curate { config, part } => curate::curate(context, config, part).await,
        Work::Balance { config, parts } => curate::balance(context, config, parts).await,
        Work::Tokenizer { config, data } => models::tokenizer(context, config, &data).await,
        Work::Caption {
            config,
            part,
            model,
        } => models::caption(context, config, part, &model).await,
        Work::Filter {
            config,
            part,
            model,
        } => models::filter(context, config, part, &model).await,
        Work::Evaluate {
            config,
            model,
            captioner,
            retrieval,
            captioning,
            zero_shot,
        } => {
            let sets = score::Sets {
                retrieval,
                captioning,
                zero_shot,
            };
            score::evaluate(context, config, &model, captioner.as_ref(), sets).await
        }
        Work::Train { .. } => Err(Error::Role("train")),
    }
}
