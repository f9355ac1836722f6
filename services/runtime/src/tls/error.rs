//! Why a certificate cannot be used. Each on one line, with the file and the mend.

use std::path::PathBuf;

use super::Role;

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file is not there or cannot be read.
    #[error("{}: cannot be read (`capstan certs` issues it)", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// A file does not hold what its name promises.
    #[error("{}: holds no {what} in PEM: issue it again with `capstan certs`", path.display())]
    NotPem {
        /// The file.
        path: PathBuf,
        /// `certificate` or `private key`.
        what: &'static str,
    },
    /// Key and certificate are not of one pair.
    #[error(
        "{}: is not the key of {}: issue both again with `capstan certs`",
        key.display(), certificate.display()
    )]
    Key {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// The certificate is no longer valid.
    #[error("{}: expired at {at}: issue it again with `capstan certs`", path.display())]
    Expired {
        /// The file.
        path: PathBuf,
        /// When, in UTC.
        at: String,
    },
    /// The certificate is not valid yet.
    #[error(
        "{}: is not valid before {at}: set this machine's clock, or issue it again with \
         `capstan certs`",
        path.display()
    )]
    NotYetValid {
        /// The file.
        path: PathBuf,
        /// When it will be, in UTC.
        at: String,
    },
    /// Another CA has issued the certificate.
    #[error(
        "{}: was not issued by {}: take both from one folder of `capstan certs`",
        path.display(), authority.display()
    )]
    ForeignAuthority {
        /// The certificate's file.
        path: PathBuf,
        /// The CA's file.
        authority: PathBuf,
    },
    /// The certificate is of another role.
    #[error(
        "{}: is the certificate of role {found}, not {wanted}: each role has its own, from `capstan certs`",
        path.display()
    )]
    OtherRole {
        /// The file.
        path: PathBuf,
        /// What it names.
        found: Role,
        /// What this process is.
        wanted: Role,
    },
    /// The certificate names no role of ours, or several.
    #[error(
        "{}: names no role: its alternative names need {} and no other of ours",
        path.display(), wanted.dns_name()
    )]
    NoRole {
        /// The file.
        path: PathBuf,
        /// What this process is.
        wanted: Role,
    },
    /// Anything else that TLS finds wrong.
    #[error("{}: cannot be used", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What TLS says.
        #[source]
        source: rustls::Error,
    },
}
