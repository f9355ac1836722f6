//! A development CA: certificates for every role and a bearer token, in one folder.
//!
//! `ca.key` signs and stays with whoever made the folder; a host gets `ca.pem` and its own role's
//! two files, the command line of an operator the token as well. A cluster with a CA of its own
//! needs none of this: it names the role in the certificate, as [`crate::tls`] says.

use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::UnixTime;

use crate::tls::{Identity, Paths, Pem, Role, provider};

/// Days that a certificate may be valid; the CA is valid for as long as the most.
const MAX_DAYS: u32 = 3_650;
/// How far the clocks of two hosts may differ: a certificate is valid so long before it was made.
const SKEW: Duration = Duration::from_secs(3_600);
/// Bytes of randomness in a token; it is written in hexadecimal.
const TOKEN_BYTES: usize = 32;
/// Mode of private keys and the token.
const PRIVATE: u32 = 0o600;
/// Mode of certificates.
const PUBLIC: u32 = 0o644;

/// Why certificates cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of that name is there.
    #[error(
        "{}: is there already, and nothing is overwritten: give another folder, or issue one role \
         again with `capstan certs --role`",
        path.display()
    )]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// There is no CA to issue from.
    #[error("{}: cannot be read (without --role, `capstan certs` creates a CA)", path.display())]
    NoAuthority {
        /// The CA's file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The CA's key cannot sign for its certificate.
    #[error("{}: is not the key of the CA beside it, or that CA is not of `capstan certs`", path.display())]
    Authority {
        /// The CA's key.
        path: PathBuf,
    },
    /// A name that no certificate can carry.
    #[error("`{name}` cannot stand in a certificate: {reason}")]
    Name {
        /// As it was given.
        name: String,
        /// What would do.
        reason: &'static str,
    },
    /// Too short or too long.
    #[error("{days} days: a certificate is valid for 1 to {MAX_DAYS} days")]
    Days {
        /// As it was given.
        days: u32,
    },
    /// A file cannot be written.
    #[error("{}: cannot be written", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The library cannot make one.
    #[error("cannot create a certificate")]
    Make(#[from] rcgen::Error),
    /// The system gives no randomness.
    #[error("the system gives no random bytes")]
    Random,
}

/// From when until when a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The first moment.
    pub from: SystemTime,
    /// The last one.
    pub until: SystemTime,
}

impl Validity {
    /// From an hour ago (clocks differ) for `days` from now.
    ///
    /// # Errors
    /// [`Error::Days`] for none or too many.
    pub fn days(days: u32) -> Result<Self, Error> {
        if days == 0 || days > MAX_DAYS {
            return Err(Error::Days { days });
        }
        let now = SystemTime::now();
        Ok(Self {
            from: now - SKEW,
            until: now + Duration::from_secs(u64::from(days) * 86_400),
        })
    }
}

/// Makes a CA, a certificate for every role and a token: `ca.pem`, `ca.key`, `<role>.pem`,
/// `<role>.key`, `token`. Keys and token can be read by their owner alone (mode 0600).
///
/// - `names`: host names and addresses that certificates of coordinator and trainer carry beside
///   their role's name. Processes of ours need none.
///
/// Gives the files that were written.
///
/// # Errors
/// [`Error::Exists`] where any of them is there; nothing is written then, nor after any other
/// error.
pub fn create(folder: &Path, names: &[String], validity: Validity) -> Result<Vec<PathBuf>, Error> {
    let mut files = vec![];
    let key = KeyPair::generate()?;
    let authority = authority_params(Validity::days(MAX_DAYS)?).self_signed(&key)?;
    let authority_pem = authority.pem();
    files.push(File::public(folder.join("ca.pem"), authority_pem.clone()));
    files.push(File::private(folder.join("ca.key"), key.serialize_pem()));
    let issuer = Issuer::new(authority_params(validity), key);
    for role in Role::ALL {
        files.extend(of_role(
            folder,
            &authority_pem,
            &issuer,
            role,
            names,
            validity,
        )?);
    }
    files.push(File::private(folder.join("token"), token()?));
    if let Some(file) = files.iter().find(|file| file.path.exists()) {
        return Err(Error::Exists {
            path: file.path.clone(),
        });
    }
    std::fs::create_dir_all(folder).map_err(|source| Error::Write {
        path: folder.to_owned(),
        source,
    })?;
    write_all(&files)
}

/// Issues one role's certificate again, with a new key, from the CA in the folder; the role's two
/// files are replaced. Processes take them when they start next.
///
/// # Errors
/// [`Error::NoAuthority`], [`Error::Authority`]: there is no CA of ours. Nothing is replaced then.
pub fn issue(
    folder: &Path,
    role: Role,
    names: &[String],
    validity: Validity,
) -> Result<Vec<PathBuf>, Error> {
    let authority_path = folder.join("ca.pem");
    let key_path = folder.join("ca.key");
    let authority_pem = read(&authority_path)?;
    let wrong_key = || Error::Authority {
        path: key_path.clone(),
    };
    let key = KeyPair::from_pem(&read(&key_path)?).map_err(|_| wrong_key())?;
    let issuer = Issuer::new(authority_params(validity), key);
    let files = of_role(folder, &authority_pem, &issuer, role, names, validity)?;
    for file in &files {
        file.replace()?;
    }
    Ok(files.into_iter().map(|file| file.path).collect())
}

/// What the CA says of itself. The same for every CA of ours: issuing needs the name alone.
fn authority_params(validity: Validity) -> CertificateParams {
    let mut params = base_params("Capstan development CA", validity);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn base_params(name: &str, validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    params.distinguished_name = subject;
    let moment = |time: SystemTime| {
        let since = time
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        // Certificates know whole seconds.
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(since.as_secs())
    };
    params.not_before = moment(validity.from);
    params.not_after = moment(validity.until);
    params
}

/// A role's certificate and key, checked against the CA that they are to lie beside.
fn of_role(
    folder: &Path,
    authority_pem: &str,
    issuer: &Issuer<'_, KeyPair>,
    role: Role,
    names: &[String],
    validity: Validity,
) -> Result<[File; 2], Error> {
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    let mut params = base_params(role.dns_name(), validity);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params.extended_key_usages = match role {
        Role::Coordinator => vec![ServerAuth],
        Role::Worker | Role::Operator => vec![ClientAuth],
        // Ranks dial one another.
        Role::Trainer => vec![ServerAuth, ClientAuth],
    };
    params.subject_alt_names = vec![SanType::DnsName(role.dns_name().try_into()?)];
    if matches!(role, Role::Coordinator | Role::Trainer) {
        for name in names {
            params.subject_alt_names.push(alternative(name)?);
        }
    }
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, issuer)?.pem();
    let (key, paths) = (key.serialize_pem(), Paths::new(folder, role));
    let pem = Pem {
        authority: authority_pem.as_bytes().to_owned(),
        certificate: certificate.as_bytes().to_owned(),
        key: key.as_bytes().to_owned(),
    };
    let within = validity.from + Duration::from_secs(1);
    let since = within
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Identity::of(&paths, role, pem, UnixTime::since_unix_epoch(since)).map_err(|_| {
        Error::Authority {
            path: folder.join("ca.key"),
        }
    })?;
    Ok([
        File::public(paths.certificate, certificate),
        File::private(paths.key, key),
    ])
}

/// A further name or address of a host.
fn alternative(name: &str) -> Result<SanType, Error> {
    let wrong = |reason| Error::Name {
        name: name.to_owned(),
        reason,
    };
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    if name == "capstan" || name.ends_with(".capstan") {
        return Err(wrong("names under capstan are roles"));
    }
    let label = |label: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        !label.is_empty() && label.len() <= 63 && label.bytes().all(plain)
    };
    if name.len() > 253 || !name.split('.').all(label) {
        return Err(wrong("give a host name or an address"));
    }
    Ok(SanType::DnsName(name.try_into()?))
}

fn token() -> Result<String, Error> {
    let mut bytes = [0; TOKEN_BYTES];
    provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| Error::Random)?;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(hex + "\n")
}

fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::NoAuthority {
        path: path.to_owned(),
        source,
    })
}

/// A file that is made, but not written.
struct File {
    path: PathBuf,
    text: String,
    mode: u32,
}

impl File {
    fn public(path: PathBuf, text: String) -> Self {
        Self {
            path,
            text,
            mode: PUBLIC,
        }
    }

    fn private(path: PathBuf, text: String) -> Self {
        Self {
            path,
            text,
            mode: PRIVATE,
        }
    }

    /// Writes it where there is none, with its mode from the first byte on.
    fn create(&self, path: &Path) -> Result<(), Error> {
        let write = || {
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(self.mode)
                .open(path)?;
            file.write_all(self.text.as_bytes())?;
            file.sync_all()
        };
        write().map_err(|source: std::io::Error| match source.kind() {
            std::io::ErrorKind::AlreadyExists => Error::Exists {
                path: path.to_owned(),
            },
            _ => Error::Write {
                path: path.to_owned(),
                source,
            },
        })
    }

    /// Takes the place of what is there, whole or not at all.
    fn replace(&self) -> Result<(), Error> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let beside = self
            .path
            .with_file_name(format!(".{name}.{}.new", std::process::id()));
        self.create(&beside)?;
        std::fs::rename(&beside, &self.path).map_err(|source| {
            let _ = std::fs::remove_file(&beside);
            Error::Write {
                path: self.path.clone(),
                source,
            }
        })
    }
}

/// Writes them all, or leaves none behind.
fn write_all(files: &[File]) -> Result<Vec<PathBuf>, Error> {
    for (index, file) in files.iter().enumerate() {
        if let Err(error) = file.create(&file.path) {
            for written in &files[..index] {
                let _ = std::fs::remove_file(&written.path);
            }
            // What was cut off in the middle, but not what somebody else made meanwhile.
            if matches!(error, Error::Write { .. }) {
                let _ = std::fs::remove_file(&file.path);
            }
            return Err(error);
        }
    }
    Ok(files.iter().map(|file| file.path.clone()).collect())
}

#[cfg(test)]
mod tests;
