//! A development CA: certificates for every role and a bearer token, in one folder.
//!
//! `ca.key` signs and stays with the operator who created the folder. A host gets `ca.pem` and the
//! two files of its role; an operator's command line also gets the token. A cluster with its own CA
//! does not need this module: its certificates name the role as [`crate::tls`] describes.

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

const DAY: Duration = Duration::from_secs(86_400);
/// Most days that a certificate may be valid. The CA is valid for this long.
const MAX_DAYS: u32 = 3_650;
/// How far the clocks of two hosts may differ. Certificates are valid from this long before their
/// creation.
const SKEW: Duration = Duration::from_secs(3_600);
/// Random bytes of a token, which is written in hexadecimal.
const TOKEN_BYTES: usize = 32;
/// File mode of private keys and of the token.
const PRIVATE: u32 = 0o600;
/// File mode of certificates.
const PUBLIC: u32 = 0o644;

/// Why certificates cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file with this name exists.
    #[error(
        "{}: exists already and is not overwritten: give another folder, or issue one role again \
         with `capstan certs --role`",
        path.display()
    )]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The CA that should issue cannot be read.
    #[error("{}: cannot be read (without --role, `capstan certs` creates a CA)", path.display())]
    NoAuthority {
        /// The CA's file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: std::io::Error,
    },
    /// The CA's key does not belong to its certificate.
    #[error("{}: is not the key of `ca.pem`, or that CA was not created by `capstan certs`", path.display())]
    Authority {
        /// The CA's key.
        path: PathBuf,
    },
    /// A name that a certificate cannot contain.
    #[error("`{name}` cannot be a name in a certificate: {reason}")]
    Name {
        /// The name.
        name: String,
        /// Which names are allowed.
        reason: &'static str,
    },
    /// The validity is too short or too long.
    #[error("{days} days: a certificate is valid for 1 to {MAX_DAYS} days")]
    Days {
        /// The number of days.
        days: u32,
    },
    /// A file cannot be written.
    #[error("{}: cannot be written", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: std::io::Error,
    },
    /// The library cannot create a certificate.
    #[error("cannot create a certificate")]
    Make(#[from] rcgen::Error),
    /// The system's random number generator failed.
    #[error("the system's random number generator failed")]
    Random,
}

/// The period in which a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// Its start.
    pub from: SystemTime,
    /// Its end, inclusive.
    pub until: SystemTime,
}

impl Validity {
    /// From one hour before `now`, because the clocks of hosts differ, to `days` after it.
    ///
    /// # Errors
    /// [`Error::Days`] if `days` is 0 or over the limit.
    pub fn days(days: u32, now: SystemTime) -> Result<Self, Error> {
        if days == 0 || days > MAX_DAYS {
            return Err(Error::Days { days });
        }
        Ok(Self {
            from: now - SKEW,
            until: now + DAY * days,
        })
    }

    /// The validity of a CA that issues certificates of this validity: from the same moment, for
    /// as long as any certificate may be valid.
    fn authority_validity(self) -> Self {
        Self {
            from: self.from,
            until: self.until.max(self.from + SKEW + DAY * MAX_DAYS),
        }
    }
}

/// Creates a CA, a certificate for every role and a token: `ca.pem`, `ca.key`, `<role>.pem`,
/// `<role>.key`, `token`. Only the owner can read the keys and the token (mode 0600).
///
/// - `names`: host names and addresses that the certificates of coordinator and trainer contain
///   beside their role's name. Capstan's own processes do not need them.
///
/// Returns the paths of the files.
///
/// # Errors
/// [`Error::Exists`] if any of the files exists. No file is left behind after an error.
pub fn create(folder: &Path, names: &[String], validity: Validity) -> Result<Vec<PathBuf>, Error> {
    let mut files = vec![];
    let key = KeyPair::generate()?;
    let authority = authority_params(validity.authority_validity()).self_signed(&key)?;
    let authority_pem = authority.pem();
    files.push(File::public(folder.join("ca.pem"), authority_pem.clone()));
    files.push(File::private(folder.join("ca.key"), key.serialize_pem()));
    let issuer = Issuer::new(authority_params(validity), key);
    for role in Role::ALL {
        files.extend(issue_role(
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

/// Issues the certificate of one role again, with a new key, from the CA in the folder. It replaces
/// the role's two files; processes read them at their next start.
///
/// # Errors
/// [`Error::NoAuthority`], [`Error::Authority`]: the folder has no CA of `capstan certs`. Nothing
/// is replaced after an error.
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
    let files = issue_role(folder, &authority_pem, &issuer, role, names, validity)?;
    for file in &files {
        file.replace()?;
    }
    Ok(files.into_iter().map(|file| file.path).collect())
}

/// The contents of a CA certificate. They are the same for every CA of `capstan certs`, because
/// only the name is needed to issue from one.
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
        // The times in certificates are whole seconds.
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(since.as_secs())
    };
    params.not_before = moment(validity.from);
    params.not_after = moment(validity.until);
    params
}

/// Creates a role's certificate and key, and checks them against the CA.
fn issue_role(
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
        // Ranks dial each other.
        Role::Trainer => vec![ServerAuth, ClientAuth],
    };
    params.subject_alt_names = vec![SanType::DnsName(role.dns_name().try_into()?)];
    if matches!(role, Role::Coordinator | Role::Trainer) {
        for name in names {
            params.subject_alt_names.push(alternative_name(name)?);
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
    Identity::from_pem(&paths, role, pem, UnixTime::since_unix_epoch(since)).map_err(|_| {
        Error::Authority {
            path: folder.join("ca.key"),
        }
    })?;
    Ok([
        File::public(paths.certificate, certificate),
        File::private(paths.key, key),
    ])
}

/// The alternative name for a host name or address.
fn alternative_name(name: &str) -> Result<SanType, Error> {
    let wrong = |reason| Error::Name {
        name: name.to_owned(),
        reason,
    };
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    if name == "capstan" || name.ends_with(".capstan") {
        return Err(wrong("names under capstan are reserved for roles"));
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

/// A file that is to be written.
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

    /// Creates the file at `path` with its mode. Fails if the path exists.
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

    /// Replaces the file atomically.
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

/// Creates all files, or removes those that it created.
fn write_all(files: &[File]) -> Result<Vec<PathBuf>, Error> {
    for (index, file) in files.iter().enumerate() {
        if let Err(error) = file.create(&file.path) {
            for written in &files[..index] {
                let _ = std::fs::remove_file(&written.path);
            }
            // Remove the incomplete file, but not one that another process created meanwhile.
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
