//! Slow, endless, misleading and malicious servers: each is one reject with its code, and the rest
//! of the task is still fetched.

// The lint allows `unwrap` in tests, but not in their shared functions.
#![allow(clippy::unwrap_used)]
#![allow(
    clippy::disallowed_methods,
    reason = "a test of real sockets waits in real time"
)]

mod web;

use std::io::Write;
use std::time::{Duration, Instant};

use capstan_crawl::{Error, Net, NetConfig, fetch_images, fetch_pages};
use capstan_plan::reject::RejectCode;
use capstan_plan::row::Reject;
use web::*;

fn codes(rejects: &[Reject]) -> Vec<(String, RejectCode)> {
    let mut codes: Vec<_> = rejects.iter().map(|r| (r.url.clone(), r.code)).collect();
    codes.sort();
    codes
}

fn gzip_bomb() -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    for _ in 0..64 {
        encoder.write_all(&vec![b' '; 1 << 20]).unwrap();
    }
    encoder.finish().unwrap()
}

/// A PNG header that states 60,000 x 60,000 pixels, without data.
fn png_bomb() -> Vec<u8> {
    let mut bytes = png(1);
    bytes[16..20].copy_from_slice(&60_000u32.to_be_bytes());
    bytes[20..24].copy_from_slice(&60_000u32.to_be_bytes());
    let crc = crc32fast::hash(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.to_be_bytes());
    bytes
}

fn cut_jpeg() -> Vec<u8> {
    let picture =
        image::RgbImage::from_fn(64, 64, |x, y| image::Rgb([x as u8 * 4, y as u8 * 3, 9]));
    let mut bytes = Vec::new();
    picture
        .write_to(
            &mut std::io::Cursor::new(&mut bytes),
            image::ImageFormat::Jpeg,
        )
        .unwrap();
    bytes.truncate(bytes.len() * 2 / 3);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_picture_is_one_reject() {
    use RejectCode::*;
    let web = Web::default();
    let huge = "x".repeat(1 << 20);
    let cases: Vec<(&str, Answer, RejectCode)> = vec![
        ("/gone", status(404), HttpStatus),
        ("/broken", status(500), HttpStatus),
        ("/drip", Answer::Drip, Timeout),
        (
            "/hang",
            Answer::Late(Duration::from_secs(60), Box::new(status(200))),
            Timeout,
        ),
        ("/endless", Answer::Endless, Bytes),
        ("/announced", give(200, &[], &vec![0; (1 << 20) + 1]), Bytes),
        (
            "/bomb.gz",
            give(200, &[("content-encoding", "gzip")], &gzip_bomb()),
            Bytes,
        ),
        (
            "/badgzip",
            give(200, &[("content-encoding", "gzip")], b"nonsense"),
            Network,
        ),
        ("/cut", Answer::Cut, Network),
        ("/header", give(200, &[("x-huge", &huge)], b""), Network),
        ("/loop", to("/loop2"), Redirects),
        ("/loop2", to("/loop"), Redirects),
        ("/self", to("/self"), Redirects),
        ("/nowhere", give(302, &[], b""), Redirects),
        ("/long", to("/long1"), Redirects),
        ("/inside", to("http://127.0.0.1/x"), Address),
        (
            "/metadata",
            to("http://169.254.169.254/latest/meta-data/"),
            Address,
        ),
        ("/mapped6", to("http://[::ffff:127.0.0.1]/"), Address),
        ("/localhost", to("http://localhost/"), Address),
        ("/port", to("http://b.test:22/"), Address),
        ("/file", to("file:///etc/passwd"), Address),
        ("/html", html("<p>moved"), NotImage),
        (
            "/svg",
            give(200, &[("content-type", "image/png")], b"<svg/>"),
            NotImage,
        ),
        ("/empty", give(200, &[], b""), NotImage),
        ("/pngbomb", give(200, &[], &png_bomb()), Pixels),
        ("/cutjpeg", give(200, &[], &cut_jpeg()), Decode),
        (
            "/optout",
            give(
                200,
                &[
                    ("x-robots-tag", "noarchive"),
                    ("x-robots-tag", "testbot : noai"),
                ],
                &png(3),
            ),
            OptOut,
        ),
        ("/private/x", picture(4), Robots),
    ];
    let mut images = Vec::new();
    for (path, answer, _) in &cases {
        web.put("a.test", path, answer.clone());
        images.push(image(&format!("http://a.test{path}"), "http://p.test/"));
    }
    for hop in 1..20 {
        web.put(
            "a.test",
            &format!("/long{hop}"),
            to(&format!("/long{}", hop + 1)),
        );
    }
    web.put(
        "a.test",
        "/robots.txt",
        give(200, &[], b"User-agent: testbot\nDisallow: /private/\n"),
    );
    web.put("b.test", "/robots.txt", status(503));
    web.put("b.test", "/x", picture(5));
    web.put("c.test", "/good", picture(6))
        .put("c.test", "/moved", to("http://a.test/ok"));
    web.put("c.test", "/topriv", to("http://a.test/private/x"));
    web.put("a.test", "/ok", picture(7)).put(
        "a.test",
        "/flaky",
        Answer::Then(503, 1, Box::new(picture(8))),
    );
    let more = [
        ("http://b.test/x", Some(Robots)),
        ("http://127.0.0.1:9/x", Some(Address)),
        ("http://[::1]/x", Some(Address)),
        ("not a url", Some(Url)),
        // Its robots.txt cannot be fetched.
        ("http://name.invalid/x", Some(Robots)),
        ("http://c.test/good", None),
        ("http://c.test/moved", None),
        ("http://c.test/topriv", Some(Robots)),
        ("http://a.test/flaky", None),
    ];
    images.extend(more.iter().map(|(url, _)| image(url, "http://p.test/")));
    let config = config();
    let net = Net::new(web.serve().await, &config).unwrap();
    let (pairs, rejects) = pictures(&config, &net, images).await;

    let mut expected: Vec<(String, RejectCode)> = cases
        .iter()
        .map(|(path, _, code)| (format!("http://a.test{path}"), *code))
        .chain(
            more.iter()
                .filter_map(|(url, code)| Some((url.to_string(), (*code)?))),
        )
        .collect();
    expected.sort();
    assert_eq!(codes(&rejects), expected);
    let mut had: Vec<&str> = pairs.iter().map(|pair| pair.image_url.as_str()).collect();
    had.sort_unstable();
    assert_eq!(
        had,
        [
            "http://a.test/flaky",
            "http://c.test/good",
            "http://c.test/moved"
        ]
    );
    assert!(
        rejects
            .iter()
            .all(|reject| reject.is_image && reject.detail.chars().count() <= 500)
    );

    // Forbidden URLs received no request; robots.txt was requested once, before anything else.
    assert!(
        !web.paths("a.test")
            .iter()
            .any(|path| path.starts_with("/private"))
    );
    assert!(!web.paths("b.test").contains(&"/x".to_owned()));
    assert_eq!(web.paths("a.test")[0], "/robots.txt");
    assert_eq!(
        web.paths("a.test")
            .iter()
            .filter(|path| *path == "/robots.txt")
            .count(),
        1
    );
    let asked = |path: &str| web.paths("a.test").iter().filter(|p| *p == path).count();
    // Transient failures are tried `tries` times; opt-outs, 404 and damaged pictures once.
    assert_eq!(
        (asked("/broken"), asked("/cut"), asked("/flaky")),
        (2, 2, 2)
    );
    assert_eq!(
        (
            asked("/gone"),
            asked("/optout"),
            asked("/cutjpeg"),
            asked("/html")
        ),
        (1, 1, 1, 1)
    );
    assert!(
        web.log()
            .iter()
            .all(|logged| logged.agent.starts_with("testbot/"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_page_is_one_reject() {
    use RejectCode::*;
    let web = Web::default();
    let cases = [
        ("/gone", status(410), HttpStatus),
        ("/endless", Answer::Endless, Bytes),
        ("/drip", Answer::Drip, Timeout),
        (
            "/bomb",
            give(
                200,
                &[("content-encoding", "gzip"), ("content-type", "text/html")],
                &gzip_bomb(),
            ),
            Bytes,
        ),
        (
            "/pdf",
            give(200, &[("content-type", "application/pdf")], b"%PDF"),
            NotHtml,
        ),
        ("/deep", html(&"<div>".repeat(100_000)), NotHtml),
        ("/loop", to("/loop"), Redirects),
        ("/inside", to("http://10.0.0.1/"), Address),
    ];
    for (path, answer, _) in &cases {
        web.put("a.test", path, answer.clone());
    }
    web.put("a.test", "/", html("<a href=/x>x</a><img src=1.png alt=x>"));
    let mut pages: Vec<_> = cases
        .iter()
        .map(|(path, ..)| page(&format!("http://a.test{path}")))
        .collect();
    pages.push(page("http://a.test/"));
    let config = config();
    let net = Net::new(web.serve().await, &config).unwrap();
    let fetched = fetch_pages(&config, &net, pages, &control()).await.unwrap();
    let mut expected: Vec<_> = cases
        .iter()
        .map(|(path, _, code)| (format!("http://a.test{path}"), *code))
        .collect();
    expected.sort();
    assert_eq!(codes(&fetched.rejects), expected);
    assert!(fetched.rejects.iter().all(|reject| !reject.is_image));
    assert_eq!(
        (
            fetched.links.len(),
            fetched.images.len(),
            fetched.pages_read
        ),
        (1, 1, 1)
    );
}

#[tokio::test]
async fn only_mapped_names_may_be_loopback() {
    let web = Web::default();
    web.put("a.test", "/x", picture(1));
    let port = web.serve().await.hosts["a.test"].port();
    let config = config();
    let net = Net::new(NetConfig::default(), &config).unwrap();
    let urls = [
        format!("http://127.0.0.1:{port}/x"),
        format!("http://localhost:{port}/x"),
        format!("http://[::1]:{port}/x"),
        format!("http://2130706433:{port}/x"),
    ];
    let images = urls.iter().map(|url| image(url, "p")).collect();
    let (pairs, rejects) = pictures(&config, &net, images).await;
    assert!(pairs.is_empty() && web.log().is_empty());
    assert!(
        rejects
            .iter()
            .all(|reject| reject.code == RejectCode::Address),
        "{rejects:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_task_ends_at_once() {
    let web = Web::default();
    web.put(
        "a.test",
        "/hang",
        Answer::Late(Duration::from_secs(60), Box::new(status(200))),
    );
    let config = capstan_plan::stage::Crawl {
        timeout_ms: 60_000,
        ..config()
    };
    let net = Net::new(web.serve().await, &config).unwrap();
    let control = control();
    let cancel = control.cancel.clone();
    let (sender, _receiver) = tokio::sync::mpsc::channel(1);
    let images = vec![image("http://a.test/hang", "p")];
    let begun = Instant::now();
    let fetch = fetch_images(&config, &net, images, &control, sender);
    let stop = async {
        while !web.paths("a.test").contains(&"/hang".to_owned()) {
            tokio::task::yield_now().await;
        }
        cancel.cancel();
    };
    let (outcome, ()) = tokio::join!(fetch, stop);
    assert!(matches!(outcome, Err(Error::Cancelled)));
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn a_dropped_receiver_cancels_the_task() {
    let web = Web::default();
    web.put("a.test", "/x", picture(1));
    let config = config();
    let net = Net::new(web.serve().await, &config).unwrap();
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    drop(receiver);
    let images = vec![image("http://a.test/x", "p")];
    let outcome = fetch_images(&config, &net, images, &control(), sender).await;
    assert!(matches!(outcome, Err(Error::Cancelled)));
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_by_name() {
    for (field, change) in [
        ("user_agent", serde_json::json!({"user_agent": "my bot/1"})),
        ("shards", serde_json::json!({"shards": 0})),
        ("concurrency", serde_json::json!({"concurrency": 0})),
        ("tries", serde_json::json!({"tries": 0})),
    ] {
        let mut value = serde_json::to_value(config()).unwrap();
        value
            .as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        let config = serde_json::from_value(value).unwrap();
        let error = Net::new(NetConfig::default(), &config).unwrap_err();
        assert!(error.to_string().contains(field), "{error}");
        assert_eq!(error.kind(), capstan_plan::FailureKind::BadInput);
    }
}
