//! Mutual TLS: the identity of a process, and the processes that it accepts.
//!
//! A certificate names its role in a DNS alternative name, `<role>.capstan`; nothing else in it is
//! read. The coordinator defines what each role may do. Certificates are loaded and checked before
//! a port binds, so that an error of the first handshake is reported at start, in one line.
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
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
use tonic::transport::server::TlsConnectInfo;

pub use error::Error;
pub use identity::Identity;
pub(crate) use identity::{Paths, Pem};
pub use refusal::refusal;

/// The role of a process in its certificate. [`capstan_plan::task::Role`] is the role of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The coordinator. All others dial it; otherwise only trainers dial each other.
    Coordinator,
    /// A worker, which executes every stage but training.
    Worker,
    /// A trainer: one rank of a training gang.
    Trainer,
    /// The command line of an operator.
    Operator,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 4] = [
        Self::Coordinator,
        Self::Worker,
        Self::Trainer,
        Self::Operator,
    ];

    /// The name of the role, as in file names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Worker => "worker",
            Self::Trainer => "trainer",
            Self::Operator => "operator",
        }
    }

    /// The DNS name of the role in certificates.
    pub fn dns_name(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator.capstan",
            Self::Worker => "worker.capstan",
            Self::Trainer => "trainer.capstan",
            Self::Operator => "operator.capstan",
        }
    }

    /// The role with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    /// [`Role::dns_name`] as a type of TLS.
    pub fn server_name(self) -> ServerName<'static> {
        ServerName::try_from(self.dns_name()).expect("the four names are DNS names")
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The role of the client that sent a request. `None` if it has no certificate, or one that names
/// no role or several. The handshake has checked that the CA issued the certificate and that it is
/// valid now.
///
/// - `C`: the information that connections of the listener carry.
pub fn peer_role<C>(request: &tonic::Extensions) -> Option<Role>
where
    C: Clone + Send + Sync + 'static,
{
    let certificates = request.get::<TlsConnectInfo<C>>()?.peer_certs()?;
    role_of(certificates.first()?)
}

/// The role that a certificate names; `None` if it names none or several.
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

/// The crypto provider of this process, installed as the default on the first call: tonic and the
/// HTTP client take the default.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    // An error means that a default is installed already.
    let _ = ring::default_provider().install_default();
    CryptoProvider::get_default()
        .cloned()
        .unwrap_or_else(|| Arc::new(ring::default_provider()))
}
