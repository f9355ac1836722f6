//! `capstan certs`: a development CA and certificates for every role.

use capstan_plan::clock::{Clock, SystemClock};
use capstan_runtime::certificates::{self, Error, Validity};
use capstan_runtime::tls::Role;

use crate::args;
use crate::error::{Exit, ExpectedError, OrExit};
use crate::output;

/// Creates the certificates and prints the files that were written.
///
/// # Errors
/// Usage, for files that exist or a name, role or number of days that is invalid; run failed, if
/// the folder cannot be written.
pub fn run(args: &args::Certs) -> Result<(), ExpectedError> {
    let validity = Validity::days(args.days, SystemClock::new().wall()).or_exit(Exit::Usage)?;
    let written = match &args.role {
        None => certificates::create(&args.out, &args.names, validity),
        Some(name) => {
            let role = Role::from_name(name).ok_or_else(|| {
                let line = format!("--role {name}: one of coordinator, worker, trainer, operator");
                ExpectedError::new(Exit::Usage, line)
            })?;
            certificates::issue(&args.out, role, &args.names, validity)
        }
    };
    let written = written.map_err(|error| {
        let exit = match &error {
            Error::Write { .. } | Error::Make(_) | Error::Random => Exit::RunFailed,
            _ => Exit::Usage,
        };
        ExpectedError::from_error(exit, &error)
    })?;
    if args.json {
        return output::json(&written);
    }
    for file in &written {
        println!("{}", file.display());
    }
    let folder = args.out.display();
    eprintln!(
        "every process: [safety] certificates = \"{folder}\"; coordinator and operators: [safety] \
         token_file = \"{folder}/token\"; [coordinator] address with https://"
    );
    Ok(())
}
