//! The certificates and the token that a process presents, and those that a coordinator requires.

use capstan_runtime::Config;
use capstan_runtime::config::Secret;
use capstan_runtime::tls::{Identity, Role};

use crate::client::Access;
use crate::error::{Exit, ExpectedError, OrExit};

/// What the operator presents to a coordinator.
///
/// # Errors
/// Configuration, for certificates or a token that cannot be used.
pub fn operator(config: &Config) -> Result<Access, ExpectedError> {
    Ok(Access {
        tls: identity(config, Role::Operator)?.map(|identity| identity.client()),
        token: token(config)?,
        insecure: config.safety.insecure,
    })
}

/// What a coordinator requires of its callers.
///
/// # Errors
/// Configuration, for certificates or a token that cannot be used.
pub fn coordinator(config: &Config) -> Result<capstan_coordinator::Access, ExpectedError> {
    let identity = identity(config, Role::Coordinator)?;
    let token = token(config)?;
    Ok(capstan_coordinator::Access::new(identity.as_ref(), token))
}

/// The certificate of a role, where certificates are configured.
///
/// # Errors
/// Configuration, naming the file and what is wrong with it.
pub fn identity(config: &Config, role: Role) -> Result<Option<Identity>, ExpectedError> {
    Identity::load(&config.safety, role).or_exit(Exit::Configuration)
}

fn token(config: &Config) -> Result<Option<Secret>, ExpectedError> {
    config.safety.read_token().or_exit(Exit::Configuration)
}
