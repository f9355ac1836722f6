//! `capstan`: the one binary. Parses, wires, exits.

mod access;
mod args;
mod client;
mod commands;
mod demo;
mod error;
mod health;
mod hosts;
mod output;
mod report;
mod roles;
mod settings;
mod store;
mod system;
mod watch;

use clap::Parser;

/// Keeps freed memory: a training step allocates and frees the same tensors over and over.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    let args = args::Args::parse();
    match commands::run(args) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("capstan: {error}");
            error.exit_code()
        }
    }
}
