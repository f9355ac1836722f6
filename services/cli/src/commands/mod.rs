//! Every command but the demo, a module each.

mod caption;
mod certs;
mod check;
mod config;
mod dataset;
mod demoweb;
mod describe;
mod matching;
mod models;
mod pictures;
mod process;
mod report;
mod role;
mod run;
mod runs;
mod state;
#[cfg(test)]
mod tests;
mod up;

pub use process::bind;

use crate::args::{Args, Command};
use crate::error::{Exit, ExpectedError, OrExit};

/// Runs the command.
///
/// # Errors
/// One line and an exit code, see [`Exit`].
pub fn run(args: Args) -> Result<(), ExpectedError> {
    let settings = &args.settings;
    match &args.command {
        Command::Demo(demo) => crate::demo::run(demo),
        Command::Up(up) => up::run(up, settings),
        Command::Check(args) => check::run(args),
        Command::Run(run) => run::run(run, settings),
        Command::Watch(watch) => run::watch(watch, settings),
        Command::Runs(args) => runs::list(args, settings),
        Command::Report(args) => report::run(args, settings),
        Command::Cancel(args) => runs::cancel(args, settings),
        Command::Retry(args) => runs::retry(args, settings),
        Command::Coordinator(args) => role::coordinator(args, settings),
        Command::Worker(args) => role::worker(args, settings),
        Command::Trainer(args) => role::trainer(args, settings),
        Command::Demoweb(args) => demoweb::run(args, settings),
        Command::State(args) => state::run(args, settings),
        Command::Caption(args) => caption::caption(args),
        Command::Match(args) => matching::matching(args),
        Command::Dataset(args) => dataset::run(args, settings),
        Command::Model(args) => models::run(args, settings),
        Command::Certs(args) => certs::run(args),
        Command::Config => config::print(settings),
    }
}

/// Runs an async command on a runtime of its own.
fn block_on<T>(work: impl Future<Output = Result<T, ExpectedError>>) -> Result<T, ExpectedError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .or_exit(Exit::RunFailed)?
        .block_on(work)
}
