//! Errors of certificates: one line each, with the file and the fix.

use std::path::PathBuf;

use super::Role;

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file is missing or cannot be read.
    #[error("{}: cannot be read (`capstan certs` issues it)", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: std::io::Error,
    },
    /// A file does not contain what its name says.
    #[error("{}: contains no {what} in PEM: issue it again with `capstan certs`", path.display())]
    NotPem {
        /// The file.
        path: PathBuf,
        /// `certificate` or `private key`.
        what: &'static str,
    },
    /// The key does not belong to the certificate.
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
        /// The end of its validity, in UTC.
        at: String,
    },
    /// The certificate is not valid yet.
    #[error(
        "{}: is not valid before {at}: correct this machine's clock, or issue it again with \
         `capstan certs`",
        path.display()
    )]
    NotYetValid {
        /// The file.
        path: PathBuf,
        /// The start of its validity, in UTC.
        at: String,
    },
    /// Another CA issued the certificate.
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
    /// The certificate is for another role.
    #[error(
        "{}: is the certificate of role {found}, not {wanted}: `capstan certs` issues one per role",
        path.display()
    )]
    OtherRole {
        /// The file.
        path: PathBuf,
        /// What it names.
        found: Role,
        /// The role of this process.
        wanted: Role,
    },
    /// The certificate names no role, or several roles.
    #[error(
        "{}: must contain the alternative name {} and that of no other role",
        path.display(), wanted.dns_name()
    )]
    NoRole {
        /// The file.
        path: PathBuf,
        /// The role of this process.
        wanted: Role,
    },
    /// TLS rejects the file for another reason.
    #[error("{}: cannot be used", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// The error of TLS.
        #[source]
        source: rustls::Error,
    },
}
