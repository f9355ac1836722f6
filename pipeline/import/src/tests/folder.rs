//! Folders of pictures with texts beside them.

use super::*;

#[tokio::test]
async fn pictures_take_the_lines_of_the_text_of_their_name() {
    let temp = tempfile::tempdir().unwrap();
    let at = temp.path();
    fs::create_dir_all(at.join("b/c")).unwrap();
    fs::create_dir(at.join(".cache")).unwrap();
    let one = picture(20);
    for name in [
        "z.png",
        "a.JPG",
        "mute.png",
        "b/c/deep.png",
        ".cache/x.png",
        "cut.png",
    ] {
        fs::write(at.join(name), &one).unwrap();
    }
    fs::write(at.join("cut.png"), &one[..one.len() / 2]).unwrap();
    fs::write(
        at.join("z.txt"),
        "a red ball\n\n  a  ball, red \na red ball\n",
    )
    .unwrap();
    for name in ["a.txt", "b/c/deep.txt", "cut.txt", "lonely.txt"] {
        fs::write(at.join(name), format!("text of {name}")).unwrap();
    }
    fs::write(at.join("README.md"), "passed over").unwrap();
    let (pairs, rejects) = import_as("folder", at).await.unwrap();
    let urls: Vec<_> = pairs.iter().map(|pair| pair.image_url.as_str()).collect();
    assert_eq!(
        urls,
        [
            "file:human/a.JPG",
            "file:human/z.png",
            "file:human/b/c/deep.png"
        ]
    );
    assert_eq!(words(&pairs[1]), ["a red ball", "a ball, red"]);
    assert_eq!(pairs[1].texts[0].origin, Origin::Caption);
    assert_eq!(pairs[2].page_url, "file:human/b/c/deep.txt");
    let expected = [
        (RejectCode::Decode, "cut.png"),
        (RejectCode::Record, "lonely.txt"),
        (RejectCode::Record, "mute.png"),
    ];
    assert_eq!(codes(&rejects), expected);
    slices_are_the_whole("folder", at).await;
}

#[tokio::test]
async fn texts_that_cannot_be_read_refuse_their_picture() {
    let temp = tempfile::tempdir().unwrap();
    let at = temp.path();
    let one = picture(20);
    for name in ["empty", "long", "many", "odd", "good"] {
        fs::write(at.join(format!("{name}.png")), &one).unwrap();
    }
    fs::write(at.join("empty.txt"), " \n\n").unwrap();
    fs::write(at.join("long.txt"), "x".repeat(101)).unwrap();
    fs::write(at.join("many.txt"), "a line\n".repeat(400)).unwrap();
    fs::write(at.join("odd.txt"), b"\xff\xfe").unwrap();
    fs::write(at.join("good.txt"), "a ball").unwrap();
    let (pairs, rejects) = import_as("folder", at).await.unwrap();
    assert_eq!(pairs.len(), 1);
    let expected = [
        (RejectCode::TextBytes, "long.png"),
        (RejectCode::TextBytes, "many.png"),
        (RejectCode::Record, "empty.png"),
        (RejectCode::Record, "odd.png"),
    ];
    let mut expected = expected.to_vec();
    expected.sort();
    assert_eq!(codes(&rejects), expected);
}

#[cfg(unix)]
#[tokio::test]
async fn a_linked_folder_is_not_followed() {
    let temp = tempfile::tempdir().unwrap();
    let at = temp.path();
    fs::write(at.join("a.png"), picture(20)).unwrap();
    fs::write(at.join("a.txt"), "a ball").unwrap();
    std::os::unix::fs::symlink(at, at.join("circle")).unwrap();
    let (pairs, rejects) = import_as("folder", at).await.unwrap();
    assert_eq!(pairs.len(), 1);
    assert_eq!(codes(&rejects), [(RejectCode::Record, "circle")]);
}

#[tokio::test]
async fn a_folder_without_pictures_is_foreign() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("a.txt"), "a ball").unwrap();
    let error = import_as("folder", temp.path()).await.unwrap_err();
    assert!(
        error.to_string().contains("is no folder of pictures"),
        "{error}"
    );
    let file = import_as("folder", &temp.path().join("a.txt")).await;
    assert_eq!(
        file.unwrap_err().kind(),
        capstan_plan::FailureKind::BadInput
    );
}
