//! Base and pixels files are paired by order, digest and rows.

use super::*;

fn file(kind: FileKind, name: &str, base: Option<&File>) -> File {
    File {
        kind,
        digest: Digest::of(name.as_bytes()),
        rows_digest: Digest::of(format!("rows of {name}").as_bytes()),
        rows: 10,
        size_bytes: 100,
        base: base.map(|base| base.digest),
    }
}

fn split(name: &str) -> [File; 2] {
    let base = file(FileKind::Base, name, None);
    let pixels = file(FileKind::Pixels, &format!("{name} pixels"), Some(&base));
    [base, pixels]
}

#[test]
fn a_pixels_file_belongs_to_the_base_before_it() {
    let [first, second] = [split("a"), split("b")];
    let rejects = file(FileKind::Rejects, "rejects", None);
    let files: Vec<File> = [&first[..], &second[..], &[rejects]].concat();
    let parts = parts_of(&files).unwrap();
    assert_eq!(parts.len(), 2);
    assert_eq!(
        (&parts[0].base, parts[0].pixels.as_ref()),
        (&first[0], Some(&first[1]))
    );
    assert_eq!(
        (&parts[1].base, parts[1].pixels.as_ref()),
        (&second[0], Some(&second[1]))
    );
    assert_eq!(parts_of([]).unwrap(), []);
}

#[test]
fn bases_without_any_pixels_file_hold_the_pictures() {
    let bases = [
        file(FileKind::Base, "a", None),
        file(FileKind::Base, "b", None),
    ];
    let parts = parts_of(&bases).unwrap();
    assert!(parts.iter().all(|part| part.pixels.is_none()));
    assert_eq!(parts[1].pixels_file(), &bases[1]);
}

#[test]
fn missing_stray_and_misaligned_pixels_are_errors() {
    let [a, a_pixels] = split("a");
    let [b, b_pixels] = split("b");
    let missing = parts_of([&a, &a_pixels, &b]).unwrap_err();
    assert_eq!(missing, PartsError::MissingPixels { base: b.digest });
    for files in [vec![&a_pixels, &a], vec![&a, &a_pixels, &a_pixels]] {
        let stray = parts_of(files).unwrap_err();
        let pixels = a_pixels.digest;
        assert_eq!(stray, PartsError::StrayPixels { pixels });
    }
    let other = parts_of([&a, &b_pixels]).unwrap_err();
    let (pixels, base) = (b_pixels.digest, a.digest);
    assert_eq!(other, PartsError::OtherBase { pixels, base });
    let short = File {
        rows: 9,
        ..a_pixels.clone()
    };
    let error = parts_of([&a, &short]).unwrap_err().to_string();
    assert!(
        error.contains("of 9 rows") && error.ends_with("of 10 rows"),
        "{error}"
    );
}

/// The recipes of stores written before the split must stay what they were.
#[test]
fn without_a_pixels_file_both_digests_are_of_base_and_overlays() {
    let [base, pixels] = split("a");
    let overlay = file(FileKind::Curation, "curated", Some(&base));
    let old = Part {
        base: base.clone(),
        pixels: None,
        overlays: vec![overlay.clone()],
    };
    let rows = [base.rows_digest.0, overlay.rows_digest.0];
    let expected = Digest::of_parts(rows.iter().map(|digest| &digest[..]));
    assert_eq!(old.digest_of_metadata(), expected);
    assert_eq!(old.digest_with_pixels(), expected);
    let new = Part {
        pixels: Some(pixels),
        ..old
    };
    assert_eq!(new.digest_of_metadata(), expected);
    assert_ne!(new.digest_with_pixels(), expected);
}

#[test]
fn a_part_written_before_the_split_is_read_and_written_as_it_was() {
    let json = serde_json::json!({
        "base": {
            "kind": "base",
            "digest": Digest::of(b"a"),
            "rows_digest": Digest::of(b"rows"),
            "rows": 3,
            "size_bytes": 99,
        },
        "overlays": [],
    });
    let part: Part = serde_json::from_value(json.clone()).unwrap();
    assert_eq!(part.pixels, None);
    assert_eq!(serde_json::to_value(&part).unwrap(), json);
}
