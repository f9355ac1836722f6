//! The meaning of a failed TLS handshake, for the side that was refused and the side that refused.

use std::error::Error as StdError;

use rustls::{AlertDescription, CertificateError};

/// One line that says why TLS failed: the other side refused this process's certificate, or this
/// process refused the other side's. `None` if the error is not an error of TLS.
///
/// A retry succeeds in no case. It may however show the reason: in TLS 1.3 a client learns that it
/// was refused only after its part of the handshake, and if the connection is reset before, the
/// error does not contain the reason.
pub fn refusal(error: &(dyn StdError + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = tls_failure(error) {
            return Some(found);
        }
        next = error.source();
    }
    None
}

fn tls_failure(error: &(dyn StdError + 'static)) -> Option<String> {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return explain(tls);
    }
    // `source` of an I/O error is the source of its inner error, not the inner error.
    if let Some(inner) = error
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::get_ref)
        && let Some(tls) = inner.downcast_ref::<rustls::Error>()
    {
        return explain(tls);
    }
    // HTTP/2 keeps only the text of an I/O error.
    let text = error.to_string();
    ALERTS
        .into_iter()
        .find(|alert| text.contains(&rustls::Error::AlertReceived(*alert).to_string()))
        .map(refused_by_peer)
}

/// The alerts with which the other side refuses a certificate.
const ALERTS: [AlertDescription; 9] = [
    AlertDescription::CertificateExpired,
    AlertDescription::UnknownCA,
    AlertDescription::CertificateRequired,
    AlertDescription::AccessDenied,
    AlertDescription::BadCertificate,
    AlertDescription::DecryptError,
    AlertDescription::UnsupportedCertificate,
    AlertDescription::CertificateRevoked,
    AlertDescription::CertificateUnknown,
];

fn explain(error: &rustls::Error) -> Option<String> {
    match error {
        rustls::Error::AlertReceived(alert) => Some(refused_by_peer(*alert)),
        rustls::Error::InvalidCertificate(wrong) => Some(refused_here(wrong)),
        rustls::Error::NoCertificatesPresented => {
            Some("the other side presented no certificate".to_owned())
        }
        // The other side answers without TLS, most likely in plain HTTP.
        rustls::Error::InvalidMessage(_) => {
            Some("the other side does not use TLS: was it started without certificates?".to_owned())
        }
        other => Some(format!("TLS failed: {other}")),
    }
}

/// The other side refused this process's certificate.
fn refused_by_peer(alert: AlertDescription) -> String {
    let reason = match alert {
        AlertDescription::CertificateExpired => "it is expired or not valid yet",
        AlertDescription::UnknownCA | AlertDescription::DecryptError => "another CA issued it",
        AlertDescription::CertificateRequired => "it is missing: set [safety] certificates",
        AlertDescription::AccessDenied => "it is for another role",
        AlertDescription::CertificateRevoked => "it is revoked",
        AlertDescription::UnsupportedCertificate => "it does not allow this use",
        AlertDescription::BadCertificate | AlertDescription::CertificateUnknown => {
            "it cannot be used"
        }
        other => return format!("the other side ended the TLS handshake: {other:?}"),
    };
    format!("this process's certificate was refused: {reason}")
}

/// This process refused the other side's certificate.
fn refused_here(wrong: &CertificateError) -> String {
    use CertificateError::{
        ApplicationVerificationFailure, BadSignature, Expired, ExpiredContext, InvalidPurpose,
        InvalidPurposeContext, NotValidForName, NotValidForNameContext, NotValidYet,
        NotValidYetContext, UnknownIssuer,
    };
    let reason = match wrong {
        Expired | ExpiredContext { .. } => "it is expired".to_owned(),
        NotValidYet | NotValidYetContext { .. } => "it is not valid yet".to_owned(),
        UnknownIssuer | BadSignature => "another CA issued it".to_owned(),
        NotValidForName | NotValidForNameContext { .. } | ApplicationVerificationFailure => {
            "it is for another role".to_owned()
        }
        InvalidPurpose | InvalidPurposeContext { .. } => "it does not allow this use".to_owned(),
        other => other.to_string(),
    };
    format!("the other side's certificate was refused: {reason}")
}
