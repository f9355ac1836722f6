//! The checked certificate, key and CA of a role, and the TLS configurations built from them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore,
    ServerConfig, SignatureScheme,
};
use tonic::transport::{Certificate, ClientTlsConfig, ServerTlsConfig};

use super::{Error, Role, provider, role_of};
use crate::config::Safety;

/// Limit for one TLS handshake of gRPC. The ring's handshake is limited by its deadline.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The identity of this process: its certificate and key. Cheap to clone; `Debug` prints no key.
#[derive(Clone)]
pub struct Identity {
    role: Role,
    pem: Arc<Pem>,
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
}

/// The contents of the three files.
pub(crate) struct Pem {
    pub(crate) authority: Vec<u8>,
    pub(crate) certificate: Vec<u8>,
    pub(crate) key: Vec<u8>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.role)
    }
}

impl Identity {
    /// Reads and checks `ca.pem`, `<role>.pem` and `<role>.key`. Returns `None` if no certificates
    /// are configured. Call it before a port binds.
    ///
    /// # Errors
    /// [`Error`]: a file is missing, the certificate is expired, not valid yet, or of another CA or
    /// role, or the key does not belong to it.
    pub fn load(safety: &Safety, role: Role) -> Result<Option<Self>, Error> {
        if !safety.has_certificates() {
            return Ok(None);
        }
        Self::read(&safety.certificates, role, UnixTime::now()).map(Some)
    }

    /// [`Identity::load`] from a folder, at a given time.
    pub(crate) fn read(folder: &Path, role: Role, now: UnixTime) -> Result<Self, Error> {
        let paths = Paths::new(folder, role);
        let pem = Pem {
            authority: read(&paths.authority)?,
            certificate: read(&paths.certificate)?,
            key: read(&paths.key)?,
        };
        Self::from_pem(&paths, role, pem, now)
    }

    /// An identity from the contents of the files at `paths`, which are checked.
    pub(crate) fn from_pem(
        paths: &Paths,
        role: Role,
        pem: Pem,
        now: UnixTime,
    ) -> Result<Self, Error> {
        let authority = certificates(&paths.authority, &pem.authority)?;
        let chain = certificates(&paths.certificate, &pem.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&pem.key).map_err(|_| Error::NotPem {
            path: paths.key.clone(),
            what: "private key",
        })?;
        let mut roots = RootCertStore::empty();
        for certificate in authority {
            roots
                .add(certificate)
                .map_err(|source| unusable(&paths.authority, source))?;
        }
        let identity = Self {
            role,
            pem: Arc::new(pem),
            roots: Arc::new(roots),
            chain,
            key: Arc::new(key),
        };
        identity.check(paths, now)?;
        Ok(identity)
    }

    /// Checks that the files belong together and are valid at `now`.
    fn check(&self, paths: &Paths, now: UnixTime) -> Result<(), Error> {
        let provider = provider();
        let pair = CertifiedKey::from_der(self.chain.clone(), self.key.clone_key(), &provider);
        pair.map_err(|source| match source {
            rustls::Error::InconsistentKeys(_) => Error::Key {
                key: paths.key.clone(),
                certificate: paths.certificate.clone(),
            },
            // The key or the certificate cannot be parsed.
            rustls::Error::General(_) => unusable(&paths.key, source),
            source => unusable(&paths.certificate, source),
        })?;
        let (own, between) = self.chain.split_first().expect("the chain is not empty");
        self.verify(own, between, now)
            .map_err(|source| explain(paths, source))?;
        match role_of(own) {
            Some(role) if role == self.role => Ok(()),
            Some(found) => Err(Error::OtherRole {
                path: paths.certificate.clone(),
                found,
                wanted: self.role,
            }),
            None => Err(Error::NoRole {
                path: paths.certificate.clone(),
                wanted: self.role,
            }),
        }
    }

    /// Verifies the certificate as the other side of a handshake would.
    fn verify(
        &self,
        own: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        if self.role == Role::Coordinator {
            let parsed = ParsedCertificate::try_from(own)?;
            let algorithms = provider().signature_verification_algorithms.all;
            return verify_server_cert_signed_by_trust_anchor(
                &parsed,
                &self.roots,
                between,
                now,
                algorithms,
            );
        }
        self.clients().verify_client_cert(own, between, now)?;
        Ok(())
    }

    fn clients(&self) -> Arc<dyn ClientCertVerifier> {
        WebPkiClientVerifier::builder_with_provider(self.roots.clone(), provider())
            .build()
            .expect("the roots are not empty and there is no revocation list")
    }

    /// The role of this process.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The configuration of a gRPC server. Every client must present a certificate of the CA.
    pub fn server(&self) -> ServerTlsConfig {
        // tonic uses the provider of the process, which must be selected before.
        provider();
        ServerTlsConfig::new()
            .identity(self.grpc())
            .client_ca_root(Certificate::from_pem(&self.pem.authority))
            .timeout(HANDSHAKE)
    }

    /// The configuration of a gRPC client. The server must present a coordinator's certificate,
    /// whatever its host.
    pub fn client(&self) -> ClientTlsConfig {
        provider();
        ClientTlsConfig::new()
            .identity(self.grpc())
            .ca_certificate(Certificate::from_pem(&self.pem.authority))
            .domain_name(Role::Coordinator.dns_name())
            .timeout(HANDSHAKE)
    }

    fn grpc(&self) -> tonic::transport::Identity {
        tonic::transport::Identity::from_pem(&self.pem.certificate, &self.pem.key)
    }

    /// The configuration of a rank that dials. The other rank must be `trainer.capstan`.
    pub fn ring_client(&self) -> Arc<ClientConfig> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider supports TLS 1.3")
            .with_root_certificates(self.roots.clone())
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .expect("key and certificate were checked on loading");
        Arc::new(config)
    }

    /// The configuration of a rank that is dialled. The dialling rank must be a trainer.
    pub fn ring_server(&self) -> Arc<ServerConfig> {
        let verifier = OfRole {
            inner: self.clients(),
            role: Role::Trainer,
        };
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider supports TLS 1.3")
            .with_client_cert_verifier(Arc::new(verifier))
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .expect("key and certificate were checked on loading");
        // A rank does not read from the connection that it sends on. Unread bytes would reset the
        // connection when it closes, and the last frames would be lost.
        config.send_tls13_tickets = 0;
        Arc::new(config)
    }
}

/// Accepts only clients of one role.
#[derive(Debug)]
struct OfRole {
    inner: Arc<dyn ClientCertVerifier>,
    role: Role,
}

impl ClientCertVerifier for OfRole {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self
            .inner
            .verify_client_cert(end_entity, intermediates, now)?;
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_name(&parsed, &self.role.server_name())
            .map_err(|_| CertificateError::ApplicationVerificationFailure)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// The paths of a role's files.
pub(crate) struct Paths {
    pub(crate) authority: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Paths {
    pub(crate) fn new(folder: &Path, role: Role) -> Self {
        Self {
            authority: folder.join("ca.pem"),
            certificate: folder.join(format!("{role}.pem")),
            key: folder.join(format!("{role}.key")),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::Unreadable {
        path: path.to_owned(),
        source,
    })
}

/// Parses the certificates of a file, of which there must be at least one.
fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(Error::NotPem {
            path: path.to_owned(),
            what: "certificate",
        }),
    }
}

/// Converts an error of TLS about a role's certificate.
fn explain(paths: &Paths, source: rustls::Error) -> Error {
    use CertificateError::{
        BadSignature, Expired, ExpiredContext, NotValidYet, NotValidYetContext, UnknownIssuer,
    };
    let path = paths.certificate.clone();
    let rustls::Error::InvalidCertificate(wrong) = &source else {
        return unusable(&path, source);
    };
    match wrong {
        ExpiredContext { not_after, .. } => Error::Expired {
            path,
            at: utc(*not_after),
        },
        NotValidYetContext { not_before, .. } => Error::NotYetValid {
            path,
            at: utc(*not_before),
        },
        Expired | NotValidYet => unusable(&path, source),
        // Two CAs with the same name differ only in their keys.
        UnknownIssuer | BadSignature => Error::ForeignAuthority {
            path,
            authority: paths.authority.clone(),
        },
        _ => unusable(&path, source),
    }
}

fn utc(time: UnixTime) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs());
    humantime::format_rfc3339_seconds(time).to_string()
}

fn unusable(path: &Path, source: rustls::Error) -> Error {
    Error::Unusable {
        path: path.to_owned(),
        source,
    }
}
