//! `[safety]`: where a process may listen, and how processes authenticate.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::sections::value;
use super::{ConfigError, Secret};

/// Fewest characters of a bearer token. `capstan certs` creates one of 64.
const TOKEN_CHARACTERS: usize = 16;

/// `[safety]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Safety {
    /// Whether a listener that other hosts can reach may start without TLS, and whether the token
    /// may be sent to one.
    pub insecure: bool,
    /// Folder with `ca.pem` and, per role, `<role>.pem` and `<role>.key`; empty for none. A process
    /// reads only `ca.pem` and the files of its own role.
    pub certificates: PathBuf,
    /// The bearer token for submit, cancel, retry and watch; empty for none.
    pub token: Secret,
    /// File that contains the token instead; empty for none.
    pub token_file: PathBuf,
}

impl Safety {
    /// Whether certificates are configured. If so, every gRPC and ring listener requires one.
    pub fn has_certificates(&self) -> bool {
        !self.certificates.as_os_str().is_empty()
    }

    /// Checks whether a listener may start. One on loopback always may; any other needs
    /// certificates or `insecure`.
    ///
    /// # Errors
    /// [`ConfigError::Value`] with the fix.
    pub fn check_listener(
        &self,
        section: &'static str,
        key: &'static str,
        address: SocketAddr,
    ) -> Result<(), ConfigError> {
        if address.ip().is_loopback() || self.has_certificates() || self.insecure {
            return Ok(());
        }
        let reason = format!(
            "{address} is reachable by other hosts and no certificates are configured: create them with \
             `capstan certs` and name their folder in [safety] certificates, listen on 127.0.0.1, \
             or set [safety] insecure = true (--insecure) on a network that you trust"
        );
        Err(value(section, key, reason))
    }

    /// Checks that the coordinator's address is `https` if, and only if, certificates are
    /// configured.
    pub(super) fn check_address(&self, address: &str) -> Result<(), ConfigError> {
        let is_https = address.starts_with("https:");
        let reason = match (self.has_certificates(), is_https) {
            (true, false) => format!(
                "`{address}`: with [safety] certificates the coordinator uses TLS: write https://"
            ),
            (false, true) => format!(
                "`{address}`: https needs certificates: name their folder in [safety] certificates"
            ),
            _ => return Ok(()),
        };
        Err(value("coordinator", "address", reason))
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let has_file = !self.token_file.as_os_str().is_empty();
        if has_file && !self.token.is_empty() {
            let reason = "is set together with `token`: leave one of them empty";
            return Err(value("safety", "token_file", reason));
        }
        check_token(&self.token).map_err(|reason| value("safety", "token", reason))
    }

    /// The bearer token from `token` or `token_file`; `None` if neither is set.
    ///
    /// # Errors
    /// [`ConfigError::Value`]: the file cannot be read or contains no valid token.
    pub fn read_token(&self) -> Result<Option<Secret>, ConfigError> {
        if !self.token.is_empty() {
            return Ok(Some(self.token.clone()));
        }
        if self.token_file.as_os_str().is_empty() {
            return Ok(None);
        }
        let path = self.token_file.display();
        let fail = |reason: String| value("safety", "token_file", reason);
        let text = std::fs::read_to_string(&self.token_file)
            .map_err(|error| fail(format!("{path}: cannot be read: {error}")))?;
        let token = Secret::from(text.trim().to_owned());
        if token.is_empty() {
            return Err(fail(format!("{path}: is empty: write the token into it")));
        }
        check_token(&token).map_err(|reason| fail(format!("{path}: {reason}")))?;
        Ok(Some(token))
    }
}

/// Checks the form of a token. The error does not contain the token.
fn check_token(token: &Secret) -> Result<(), String> {
    if token.is_empty() {
        return Ok(());
    }
    let text = token.reveal();
    if text.len() < TOKEN_CHARACTERS || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(format!(
            "is not a token: give at least {TOKEN_CHARACTERS} letters, digits or signs without spaces"
        ));
    }
    Ok(())
}
