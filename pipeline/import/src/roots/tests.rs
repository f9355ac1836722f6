//! Sources and links that lead out, and those that stay inside.

use std::fs;
use std::os::unix::fs::symlink;

use capstan_plan::FailureKind;

use super::*;

/// `<temp>/allowed/pairs/a.txt`, `<temp>/more/pairs/b.txt`, `<temp>/more/other`, and
/// `<temp>/secret/key.txt`, which no root holds.
fn place() -> tempfile::TempDir {
    let temp = tempfile::tempdir().unwrap();
    for folder in ["allowed/pairs", "more/pairs", "more/other", "secret"] {
        fs::create_dir_all(temp.path().join(folder)).unwrap();
    }
    for file in ["allowed/pairs/a.txt", "more/pairs/b.txt", "secret/key.txt"] {
        fs::write(temp.path().join(file), file).unwrap();
    }
    temp
}

fn roots(temp: &Path) -> Roots {
    Roots::new(["allowed", "more"].map(|root| temp.join(root)))
}

#[test]
fn a_relative_source_is_below_the_first_root_that_has_it() {
    let temp = place();
    let at = temp.path().canonicalize().unwrap();
    for (source, expected) in [
        ("pairs", "allowed/pairs"),
        ("other", "more/other"),
        (".", "allowed"),
        ("pairs/../pairs", "allowed/pairs"),
    ] {
        let folder = roots(&at).resolve(source).unwrap();
        assert_eq!(folder.path(), at.join(expected), "{source}");
    }
}

#[test]
fn an_absolute_source_below_a_root_is_read() {
    let temp = place();
    let at = temp.path().canonicalize().unwrap();
    let source = at.join("more/pairs");
    let folder = roots(&at).resolve(source.to_str().unwrap()).unwrap();
    let mut text = String::new();
    let mut file = folder.open(&source.join("b.txt")).unwrap();
    io::Read::read_to_string(&mut file, &mut text).unwrap();
    assert_eq!(text, "more/pairs/b.txt");
}

#[test]
fn a_source_that_leads_out_is_refused_with_source_roots_and_fix() {
    let temp = place();
    let at = temp.path().canonicalize().unwrap();
    symlink(at.join("secret"), at.join("allowed/link")).unwrap();
    let secret = at.join("secret");
    let absolute = secret.to_str().unwrap();
    let missing = secret.join("missing");
    for source in [
        "../secret",
        "pairs/../../secret",
        absolute,
        "link",
        "../missing",
        missing.to_str().unwrap(),
        "/",
    ] {
        let error = roots(&at).resolve(source).unwrap_err();
        assert!(matches!(error, Error::Outside { .. }), "{source}: {error}");
        assert_eq!(error.kind(), FailureKind::BadInput);
    }
    let error = roots(&at).resolve("../secret").unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "source `../secret` leads to `{at}/secret`, outside the import roots (`{at}/allowed`, \
             `{at}/more`): move it below a root, or add its folder to `[import] roots` of the \
             worker's configuration",
            at = at.display()
        )
    );
}

#[test]
fn a_source_that_no_root_has_is_named_with_the_roots() {
    let temp = place();
    let at = temp.path().canonicalize().unwrap();
    let error = roots(&at).resolve("nowhere").unwrap_err();
    assert!(matches!(error, Error::NoSource { .. }), "{error}");
    assert_eq!(error.kind(), FailureKind::BadInput);
    let line = error.to_string();
    let expected = format!(
        "source `nowhere` is in none of the import roots (`{}`",
        at.join("allowed").display()
    );
    assert!(line.starts_with(&expected), "{line}");
    let none = Roots::default().resolve("pairs").unwrap_err();
    assert!(none.to_string().contains("import roots (none)"), "{none}");
}

#[test]
fn a_root_that_is_a_link_holds_what_it_leads_to() {
    let temp = place();
    let at = temp.path().canonicalize().unwrap();
    symlink(at.join("allowed"), at.join("entrance")).unwrap();
    let folder = Roots::new([at.join("entrance")]).resolve("pairs").unwrap();
    assert_eq!(folder.path(), at.join("allowed/pairs"));
    let sibling = Roots::new([at.join("allowed/pa")]).resolve("../pairs");
    assert!(sibling.is_err(), "a root is no prefix of a name");
}

#[test]
fn a_file_is_opened_only_where_its_links_stay_inside() {
    let temp = place();
    let at = temp.path().canonicalize().unwrap();
    let pairs = at.join("allowed/pairs");
    symlink(at.join("secret/key.txt"), pairs.join("out.txt")).unwrap();
    symlink("../../secret/key.txt", pairs.join("relative.txt")).unwrap();
    symlink(at.join("secret"), pairs.join("out")).unwrap();
    symlink(at.join("more/pairs/b.txt"), pairs.join("in.txt")).unwrap();
    let folder = roots(&at).resolve("pairs").unwrap();
    for name in [
        "out.txt",
        "relative.txt",
        "out/key.txt",
        "../../secret/key.txt",
    ] {
        let error = folder.open(&pairs.join(name)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name}");
        assert_eq!(error.to_string(), "it leads out of the import roots");
    }
    for name in ["a.txt", "in.txt"] {
        folder.open(&pairs.join(name)).unwrap();
    }
    let error = folder.open(&pairs).unwrap_err();
    assert_eq!(error.to_string(), "it is not a regular file");
}

#[test]
fn a_folder_with_a_link_that_leads_out_is_found_at_any_depth() {
    let temp = place();
    let at = temp.path().canonicalize().unwrap();
    let deep = at.join("allowed/pairs/deep");
    fs::create_dir(&deep).unwrap();
    symlink(at.join("more/pairs/b.txt"), deep.join("in.txt")).unwrap();
    let folder = roots(&at).resolve("pairs").unwrap();
    folder.check_links().unwrap();
    symlink(at.join("secret"), deep.join("out")).unwrap();
    let error = folder.check_links().unwrap_err();
    assert_eq!(error.kind(), FailureKind::BadInput);
    assert_eq!(
        error.to_string(),
        format!("cannot read {}", deep.join("out").display())
    );
}
