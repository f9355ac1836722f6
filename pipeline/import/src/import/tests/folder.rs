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
            "file:human/mute.png",
            "file:human/z.png",
            "file:human/b/c/deep.png"
        ]
    );
    assert_eq!(words(&pairs[1]), [""; 0]);
    assert_eq!(pairs[1].page_url, "file:human/mute.png");
    assert_eq!(words(&pairs[2]), ["a red ball", "a ball, red"]);
    assert_eq!(pairs[2].texts[0].origin, Origin::Caption);
    assert_eq!(pairs[3].page_url, "file:human/b/c/deep.txt");
    let expected = [
        (RejectCode::Decode, "cut.png"),
        (RejectCode::Record, "lonely.txt"),
    ];
    assert_eq!(codes(&rejects), expected);
    let (strict, rejects) = import_with_texts("folder", at).await.unwrap();
    assert_eq!(strict.len(), 3);
    let mute = rejects
        .iter()
        .find(|reject| reject.url == "mute.png")
        .unwrap();
    assert_eq!(
        (mute.code, mute.detail.as_str()),
        (RejectCode::Record, "no `.txt` has its name")
    );
    assert_eq!(mute.page_url, "file:human/mute.txt");
    slices_cover_the_source("folder", at).await;
}

#[tokio::test]
async fn a_text_that_cannot_be_read_rejects_its_picture() {
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
    let urls: Vec<_> = pairs.iter().map(|pair| pair.image_url.as_str()).collect();
    assert_eq!(urls, ["file:human/empty.png", "file:human/good.png"]);
    assert_eq!(words(&pairs[0]), [""; 0]);
    let expected = [
        (RejectCode::TextBytes, "long.png"),
        (RejectCode::TextBytes, "many.png"),
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

#[cfg(unix)]
#[tokio::test]
async fn links_are_read_where_they_stay_inside_the_roots() {
    use std::os::unix::fs::symlink;
    let temp = tempfile::tempdir().unwrap();
    let at = temp.path();
    for folder in ["root/pairs", "root/shared", "secret"] {
        fs::create_dir_all(at.join(folder)).unwrap();
    }
    let pairs = at.join("root/pairs");
    for file in ["root/shared/in.png", "secret/out.png", "root/pairs/own.png"] {
        fs::write(at.join(file), picture(20)).unwrap();
    }
    fs::write(at.join("secret/out.txt"), "a secret").unwrap();
    symlink("../shared/in.png", pairs.join("in.png")).unwrap();
    symlink("../../secret/out.png", pairs.join("out.png")).unwrap();
    symlink(at.join("secret/out.txt"), pairs.join("own.txt")).unwrap();
    symlink(at.join("secret"), pairs.join("folder")).unwrap();
    let source = Roots::new([at.join("root")]).resolve("pairs").unwrap();
    let import = import_with(&config("folder"), &source, Slice::default()).await;
    let (pairs, rejects) = import.unwrap();
    let urls: Vec<_> = pairs.iter().map(|pair| pair.image_url.as_str()).collect();
    assert_eq!(urls, ["file:human/in.png"]);
    let details: Vec<_> = rejects
        .iter()
        .map(|reject| (reject.url.as_str(), reject.detail.as_str()))
        .collect();
    assert_eq!(
        details,
        [
            (
                "out.png",
                "cannot read the file: it leads out of the import roots"
            ),
            (
                "own.png",
                "cannot read its `.txt`: it leads out of the import roots"
            ),
            ("folder", "a link to a folder is not followed"),
        ]
    );
}

#[tokio::test]
async fn a_folder_without_pictures_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("a.txt"), "a ball").unwrap();
    let error = import_as("folder", temp.path()).await.unwrap_err();
    assert!(
        error.to_string().contains("is not a folder of pictures"),
        "{error}"
    );
    let file = import_as("folder", &temp.path().join("a.txt")).await;
    assert_eq!(
        file.unwrap_err().kind(),
        capstan_plan::FailureKind::BadInput
    );
}
