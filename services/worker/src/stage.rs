//! The work of each kind of stage, one file per kind, under the names of `plan/src/stage/`.

use capstan_lease::Done;
use capstan_plan::stage::Kind;
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
///
/// - `kind`: the settings of its stage.
pub(crate) async fn run(context: &Context, kind: &Kind, work: Work) -> Result<Done, Error> {
    match (kind, work) {
        (Kind::Crawl(config), Work::Crawl(work)) => crawl::run(context, config, work).await,
        (Kind::Import(config), Work::Import(work)) => import::run(context, config, work).await,
        (Kind::Model(config), Work::Model(_)) => model::run(context, config).await,
        (Kind::Curate(config), Work::Curate(work)) => curate::run(context, config, work).await,
        (Kind::Balance(config), Work::Balance(work)) => balance::run(context, config, work).await,
        (Kind::Tokenizer(config), Work::Tokenizer(work)) => {
            tokenizer::run(context, config, work).await
        }
        (Kind::Caption(config), Work::Caption(work)) => caption::run(context, config, work).await,
        (Kind::Filter(config), Work::Filter(work)) => filter::run(context, config, work).await,
        (Kind::Evaluate(config), Work::Evaluate(work)) => {
            evaluate::run(context, config, work).await
        }
        (Kind::Train(_), _) => Err(Error::Role("train")),
        _ => Err(Error::Role("work by the settings of another kind of stage")),
    }
}
