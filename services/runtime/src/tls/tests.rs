//! Every way in which certificates are wrong, each with its line.
#![allow(
    clippy::disallowed_methods,
    reason = "certificates are checked against the real time"
)]

use std::path::Path;
use std::time::{Duration, SystemTime};

use rustls::pki_types::UnixTime;

use super::*;
use crate::certificates::{self, Validity};
use crate::config::Safety;

const DAY: Duration = Duration::from_secs(86_400);

fn made() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    certificates::create(
        folder.path(),
        &[],
        Validity::days(30, SystemTime::now()).unwrap(),
    )
    .unwrap();
    folder
}

/// The error of loading, without the path of the folder.
fn line(folder: &Path, role: Role) -> String {
    let error = Identity::read(folder, role, UnixTime::now()).unwrap_err();
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    text.replace(&format!("{}/", folder.display()), "")
}

#[test]
fn without_a_folder_there_is_no_identity() {
    let none = Identity::load(&Safety::default(), Role::Worker).unwrap();
    assert!(none.is_none());
    let folder = made();
    let safety = Safety {
        certificates: folder.path().to_owned(),
        ..Safety::default()
    };
    let identity = Identity::load(&safety, Role::Worker).unwrap().unwrap();
    assert_eq!(format!("{identity:?}"), "Identity(worker)");
}

#[test]
fn only_the_files_of_the_role_are_read() {
    let folder = made();
    for role in Role::ALL {
        if role != Role::Trainer {
            std::fs::remove_file(folder.path().join(format!("{role}.key"))).unwrap();
        }
    }
    std::fs::remove_file(folder.path().join("ca.key")).unwrap();
    Identity::read(folder.path(), Role::Trainer, UnixTime::now()).unwrap();
    let text = line(folder.path(), Role::Worker);
    assert_eq!(
        text,
        "worker.key: cannot be read (`capstan certs` issues it)"
    );
}

#[test]
fn certificates_are_checked_against_the_time() {
    let folder = made();
    let (now, root) = (SystemTime::now(), folder.path());
    let issue = |from, until| {
        let validity = Validity { from, until };
        certificates::issue(root, Role::Worker, &[], validity).unwrap();
        certificates::issue(root, Role::Coordinator, &[], validity).unwrap();
    };
    issue(now - 2 * DAY, now - DAY);
    for role in [Role::Worker, Role::Coordinator] {
        let text = line(root, role);
        let start = format!("{role}.pem: expired at 20");
        assert!(text.starts_with(&start), "{text}");
        assert!(
            text.ends_with("Z: issue it again with `capstan certs`"),
            "{text}"
        );
    }
    issue(now + DAY, now + 2 * DAY);
    let text = line(root, Role::Worker);
    assert!(
        text.starts_with("worker.pem: is not valid before 20"),
        "{text}"
    );
}

#[test]
fn certificates_of_another_ca_are_foreign() {
    let (folder, other) = (made(), made());
    for file in ["worker.pem", "worker.key"] {
        std::fs::copy(other.path().join(file), folder.path().join(file)).unwrap();
    }
    let text = line(folder.path(), Role::Worker);
    assert!(
        text.starts_with("worker.pem: was not issued by ca.pem"),
        "{text}"
    );
}

#[test]
fn a_key_belongs_to_its_certificate() {
    let folder = made();
    let key = |name: &str| folder.path().join(name);
    std::fs::copy(key("operator.key"), key("worker.key")).unwrap();
    let text = line(folder.path(), Role::Worker);
    assert!(
        text.starts_with("worker.key: is not the key of worker.pem"),
        "{text}"
    );
    std::fs::write(key("worker.key"), "no key").unwrap();
    let text = line(folder.path(), Role::Worker);
    assert!(
        text.starts_with("worker.key: contains no private key in PEM"),
        "{text}"
    );
    std::fs::write(key("worker.pem"), "no certificate").unwrap();
    let text = line(folder.path(), Role::Worker);
    assert!(
        text.starts_with("worker.pem: contains no certificate in PEM"),
        "{text}"
    );
}

#[test]
fn a_certificate_is_for_one_role() {
    let folder = made();
    for suffix in ["pem", "key"] {
        let path = |role: &str| folder.path().join(format!("{role}.{suffix}"));
        std::fs::copy(path("worker"), path("operator")).unwrap();
    }
    let text = line(folder.path(), Role::Operator);
    assert!(
        text.starts_with("operator.pem: is the certificate of role worker, not operator"),
        "{text}"
    );
}

#[test]
fn alerts_are_recognised_in_text() {
    // HTTP/2 keeps only the text.
    let alert = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateExpired);
    let text = std::io::Error::other(alert.to_string());
    let error: Box<dyn std::error::Error> = text.to_string().into();
    let line = refusal(&*error).unwrap();
    assert_eq!(
        line,
        "this process's certificate was refused: it is expired or not valid yet"
    );
    let typed = std::io::Error::new(std::io::ErrorKind::InvalidData, alert);
    assert_eq!(refusal(&typed).unwrap(), line);
    assert_eq!(refusal(&std::io::Error::other("disk full")), None);
}
