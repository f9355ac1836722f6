//! What a failed handshake means, from the side that was refused or that refused.

use std::error::Error as StdError;

use rustls::{AlertDescription, CertificateError};

/// In one line, why TLS refused: this process's certificate by the other side, or the other
/// side's by this process. `None` where the error is none of TLS.
///
/// Trying again does not help, but for one thing: in TLS 1.3 a client learns of its refusal only
/// after its side of the handshake is done, and a connection that was reset meanwhile says
/// nothing of it. Whoever asks again then hears.
pub fn refusal(error: &(dyn StdError + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = of_tls(error) {
            return Some(found);
        }
        next = error.source();
    }
    None
}

fn of_tls(error: &(dyn StdError + 'static)) -> Option<String> {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return explain(tls);
    }
    // `source` of an I/O error is its inner error's source, not the inner error.
    if let Some(inner) = error
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::get_ref)
        && let Some(tls) = inner.downcast_ref::<rustls::Error>()
    {
        return explain(tls);
    }
    // HTTP/2 keeps the text of an I/O error, not the error.
    let text = error.to_string();
    ALERTS
        .into_iter()
        .find(|alert| text.contains(&rustls::Error::AlertReceived(*alert).to_string()))
        .map(theirs)
}

/// What the other side may say of a certificate.
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
        rustls::Error::AlertReceived(alert) => Some(theirs(*alert)),
        rustls::Error::InvalidCertificate(wrong) => Some(ours(wrong)),
        rustls::Error::NoCertificatesPresented => {
            Some("the other side shows no certificate".to_owned())
        }
        // It speaks, but not TLS: plain HTTP most likely.
        rustls::Error::InvalidMessage(_) => Some(
            "the other side does not speak TLS: is it started without certificates?".to_owned(),
        ),
        other => Some(format!("TLS failed: {other}")),
    }
}

/// The other side refused.
fn theirs(alert: AlertDescription) -> String {
    let reason = match alert {
        AlertDescription::CertificateExpired => "it expired, or is not valid yet",
        AlertDescription::UnknownCA | AlertDescription::DecryptError => "another CA has issued it",
        AlertDescription::CertificateRequired => "there is none: name it in [safety] certificates",
        AlertDescription::AccessDenied => "it is of another role",
        AlertDescription::CertificateRevoked => "it was revoked",
        AlertDescription::UnsupportedCertificate => "it is not made for this use",
        AlertDescription::BadCertificate | AlertDescription::CertificateUnknown => {
            "it cannot be used"
        }
        other => return format!("the other side ended the TLS handshake: {other:?}"),
    };
    format!("this process's certificate was refused: {reason}")
}

/// This process refused.
fn ours(wrong: &CertificateError) -> String {
    use CertificateError::{
        ApplicationVerificationFailure, BadSignature, Expired, ExpiredContext, InvalidPurpose,
        InvalidPurposeContext, NotValidForName, NotValidForNameContext, NotValidYet,
        NotValidYetContext, UnknownIssuer,
    };
    let reason = match wrong {
        Expired | ExpiredContext { .. } => "it expired".to_owned(),
        NotValidYet | NotValidYetContext { .. } => "it is not valid yet".to_owned(),
        UnknownIssuer | BadSignature => "another CA has issued it".to_owned(),
        NotValidForName | NotValidForNameContext { .. } | ApplicationVerificationFailure => {
            "it is of another role".to_owned()
        }
        InvalidPurpose | InvalidPurposeContext { .. } => "it is not made for this use".to_owned(),
        other => other.to_string(),
    };
    format!("the other side's certificate was refused: {reason}")
}
