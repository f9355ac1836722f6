//! What a process shows of itself, by its role: certificates and the token.

use capstan_runtime::Config;
use capstan_runtime::tls::{Identity, Role};

use crate::client::Access;
use crate::error::{Exit, ExpectedError, OrExit};

/// What somebody at a command line shows.
///
/// # Errors
/// Configuration, for certificates or a token that cannot be used.
pub fn operator(config: &Config) -> Result<Access, ExpectedError> {
    Ok(Access {
        tls: identity(config, Role::Operator)?.map(|identity| identity.client()),
        token: config.safety.read_token().or_exit(Exit::Configuration)?,
    })
}

/// The certificate of a role, where certificates are configured.
///
/// # Errors
/// Configuration, naming the file and what is wrong with it.
pub fn identity(config: &Config, role: Role) -> Result<Option<Identity>, ExpectedError> {
    Identity::load(&config.safety, role).or_exit(Exit::Configuration)
}
