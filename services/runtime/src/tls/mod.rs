//! Mutual TLS: who a process is, and whom it talks to.
//!
//! A certificate names its role in a DNS alternative name, `<role>.capstan`; nothing else in it is
//! read. What each role may do, the coordinator's room says. All of it is loaded and checked
//! before a port binds: whatever would fail in the first handshake fails at start, in one line.
//!
//! ```text
//!  ca.pem ──┬─ trusted by all            gRPC: coordinator.capstan ◄─ worker, trainer, operator
//!  <role>.pem, <role>.key ─► Identity    ring: trainer.capstan     ◄─ trainer
//! ```

mod error;
mod identity;
mod refusal;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};

pub use error::Error;
pub use identity::Identity;
pub(crate) use identity::{Paths, Pem};
pub use refusal::refusal;

/// What a process is to the others. Not the tasks that a worker takes: that is [`capstan_plan::task::Role`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Schedules; the only one that others dial, but for ranks among themselves.
    Coordinator,
    /// Does every stage but training.
    Worker,
    /// One rank of a training gang.
    Trainer,
    /// A person's command line.
    Operator,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Coordinator,
        Self::Worker,
        Self::Trainer,
        Self::Operator,
    ];

    /// As files are called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Worker => "worker",
            Self::Trainer => "trainer",
            Self::Operator => "operator",
        }
    }

    /// As the role's certificates name it.
    pub fn dns_name(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator.capstan",
            Self::Worker => "worker.capstan",
            Self::Trainer => "trainer.capstan",
            Self::Operator => "operator.capstan",
        }
    }

    /// The role of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    /// [`Role::dns_name`], as TLS has it.
    pub fn server_name(self) -> ServerName<'static> {
        ServerName::try_from(self.dns_name()).expect("the four names are DNS names")
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The role of whoever sent a request; `None` without a certificate, or with one that names no
/// role or several. The handshake has proven that the certificate is of our CA and current.
pub fn peer_role(request: &tonic::Extensions) -> Option<Role> {
    let certificates = request
        .get::<TlsConnectInfo<TcpConnectInfo>>()?
        .peer_certs()?;
    role_of(certificates.first()?)
}

/// The one role that a certificate names.
fn role_of(certificate: &CertificateDer<'_>) -> Option<Role> {
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    let mut named = Role::ALL
        .into_iter()
        .filter(|role| verify_server_name(&parsed, &role.server_name()).is_ok());
    match (named.next(), named.next()) {
        (Some(role), None) => Some(role),
        _ => None,
    }
}

/// The one crypto provider of this process. Two are built in (the HTTP clients bring one each),
/// so the choice is made by name and before anybody else makes none.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    // An error only says that the process has one already.
    let _ = aws_lc_rs::default_provider().install_default();
    CryptoProvider::get_default()
        .cloned()
        .unwrap_or_else(|| Arc::new(aws_lc_rs::default_provider()))
}
