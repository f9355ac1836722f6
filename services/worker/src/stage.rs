//! The work of each kind of stage, one file per kind, under the names of `plan/src/stage/`.

use capstan_lease::Done;
use capstan_plan::task::Work;

use crate::context::Context;
use crate::error::Error;

mod balance;
mod caption;
mod crawl;
mod curate;
mod evaluate;
mod filter;
mod import;
mod model;
mod tokenizer;

/// Works on one task.
pub(crate) async fn run(context: &Context, work: Work) -> Result<Done, Error> {
    match work {
        Work::Crawl(work) => crawl::run(context, work).await,
        Work::Import(work) => import::run(context, work).await,
        Work::Model(work) => model::run(context, work).await,
        Work::Curate(work) => curate::run(context, work).await,
        Work::Balance(work) => balance::run(context, work).await,
        Work::Tokenizer(work) => tokenizer::run(context, work).await,
        Work::Caption(work) => caption::run(context, work).await,
        Work::Filter(work) => filter::run(context, work).await,
        Work::Evaluate(work) => evaluate::run(context, work).await,
        Work::Train(_) => Err(Error::Role("train")),
    }
}
