//! The contents of a folder of certificates, and the protection of existing files.
#![allow(
    clippy::disallowed_methods,
    reason = "certificates are checked against the real time"
)]

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::config::{Config, Overrides};

fn year() -> Validity {
    Validity::days(365, SystemTime::now()).unwrap()
}

fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read(path).unwrap())
        })
        .collect();
    all.sort();
    all
}

#[test]
fn a_folder_holds_a_ca_every_role_and_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let certs = folder.path().join("made/here");
    let names = ["10.0.0.7".to_owned(), "capstan.example.org".to_owned()];
    let written = create(&certs, &names, year()).unwrap();
    assert_eq!(written.len(), 2 + 2 * Role::ALL.len() + 1);
    for role in Role::ALL {
        let identity = Identity::read(&certs, role, UnixTime::now()).unwrap();
        assert_eq!(identity.role(), role);
    }
    for path in written {
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        let is_public = path.extension().is_some_and(|suffix| suffix == "pem");
        let wanted = if is_public { PUBLIC } else { PRIVATE };
        assert_eq!(mode & !wanted, 0, "{}: mode {mode:o}", path.display());
    }
    let settings = format!("safety.token_file={}", certs.join("token").display());
    let overrides = Overrides::new().parse(&settings).unwrap();
    let config = Config::load_with(None, [], overrides).unwrap();
    let token = config.safety.read_token().unwrap().unwrap();
    assert_eq!(token.reveal().len(), 2 * TOKEN_BYTES);
}

#[test]
fn nothing_is_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    create(folder.path(), &[], year()).unwrap();
    let before = contents(folder.path());
    let error = create(folder.path(), &[], year()).unwrap_err();
    assert!(error.to_string().contains("ca.pem: exists already"));
    assert_eq!(contents(folder.path()), before);

    // A single existing file is kept, and nothing is written beside it.
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("worker.key"), "mine").unwrap();
    let error = create(folder.path(), &[], year()).unwrap_err();
    assert!(error.to_string().contains("worker.key: exists already"));
    assert_eq!(
        contents(folder.path()),
        [("worker.key".to_owned(), b"mine".to_vec())]
    );
}

#[test]
fn one_role_is_issued_again_by_the_same_ca() {
    let folder = tempfile::tempdir().unwrap();
    create(folder.path(), &[], year()).unwrap();
    let before = contents(folder.path());
    let written = issue(folder.path(), Role::Worker, &[], year()).unwrap();
    assert_eq!(written.len(), 2);
    let changed: Vec<String> = contents(folder.path())
        .into_iter()
        .zip(before)
        .filter(|(now, then)| now != then)
        .map(|(now, _)| now.0)
        .collect();
    assert_eq!(changed, ["worker.key", "worker.pem"]);
    Identity::read(folder.path(), Role::Worker, UnixTime::now()).unwrap();
}

#[test]
fn issuing_needs_the_ca_and_its_key() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let again = || issue(folder.path(), Role::Worker, &[], year()).unwrap_err();
    assert!(again().to_string().contains("ca.pem: cannot be read"));
    create(folder.path(), &[], year()).unwrap();
    create(other.path(), &[], year()).unwrap();
    std::fs::copy(other.path().join("ca.key"), folder.path().join("ca.key")).unwrap();
    let before = contents(folder.path());
    assert!(
        again()
            .to_string()
            .contains("ca.key: is not the key of `ca.pem`")
    );
    assert_eq!(contents(folder.path()), before);
}

#[test]
fn names_and_days_are_checked_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let with = |name: &str| create(folder.path(), &[name.to_owned()], year()).unwrap_err();
    for wrong in ["", "a b", "operator.capstan", "*.example.org", "a..b"] {
        let error = with(wrong).to_string();
        let start = format!("`{wrong}` cannot be a name in a certificate");
        assert!(error.starts_with(&start), "{error}");
    }
    for days in [0, 4_000] {
        assert!(matches!(
            Validity::days(days, SystemTime::now()),
            Err(Error::Days { .. })
        ));
    }
    assert_eq!(contents(folder.path()), []);
}

#[test]
fn a_ca_is_valid_for_as_long_as_any_certificate() {
    let now = SystemTime::UNIX_EPOCH + DAY * 20_000;
    let validity = Validity::days(2, now).unwrap();
    assert_eq!((validity.from, validity.until), (now - SKEW, now + DAY * 2));
    let authority = validity.authority_validity();
    assert_eq!(authority, Validity::days(MAX_DAYS, now).unwrap());
}
