//! The server on real sockets with plain HTTP, and its log of a client's requests.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use capstan_demoweb::{Fate, Site, World, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

const AGENT: &str = "capstanbot/0.1 (test)";

fn small() -> World {
    let mut world = World::shipped();
    world.counts.pairs = 200;
    world.planted.longest_text_bytes = 200_000;
    world.planted.too_many_bytes = 3_000_000;
    world
}

struct Web {
    site: Arc<Site>,
    address: SocketAddr,
    shutdown: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

impl Web {
    async fn start() -> Self {
        let site = Arc::new(Site::build(&small(), 1));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let running = serve(site.clone(), vec![listener], shutdown.clone());
        let serving = tokio::spawn(async move { running.await.unwrap() });
        Self {
            site,
            address,
            shutdown,
            serving,
        }
    }

    async fn get(&self, url: &str) -> Got {
        self.get_as(url, AGENT).await
    }

    async fn get_as(&self, url: &str, agent: &str) -> Got {
        let rest = url.strip_prefix("http://").unwrap();
        let (host, path) = rest.split_once('/').unwrap();
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!(
            "GET /{path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {agent}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        // If the connection breaks, the bytes received before remain.
        let _ = stream.read_to_end(&mut bytes).await;
        Got::parse(&bytes)
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.serving.await.unwrap();
    }
}

struct Got {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Got {
    fn parse(bytes: &[u8]) -> Self {
        let end = bytes
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .unwrap();
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self {
            status,
            head: head.to_ascii_lowercase(),
            body: bytes[end + 4..].to_vec(),
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        let line = self.head.lines().find_map(|line| line.strip_prefix(name));
        line.map(|value| value.trim_start_matches(':').trim())
    }
}

/// Follows redirects on the site like a crawler.
async fn follow(web: &Web, url: &str) -> Option<Got> {
    let mut url = url.to_owned();
    for _ in 0..=5 {
        let got = web.get(&url).await;
        if !(300..400).contains(&got.status) {
            return Some(got);
        }
        let target = got.header("location")?.to_owned();
        url = if target.starts_with("http") {
            target
        } else {
            let host = url.split('/').nth(2).unwrap();
            format!("http://{host}{target}")
        };
        if !web
            .site
            .hosts()
            .iter()
            .any(|host| url.split('/').nth(2) == Some(host))
        {
            return None;
        }
    }
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn every_picture_on_a_page_answers_as_planned() {
    let web = Web::start().await;
    let site = web.site.clone();
    for found in site.found() {
        let url = &found.image_url;
        match &found.fate {
            Fate::Row(_) | Fate::Duplicate(_) => {
                let mut got = follow(&web, url).await.unwrap();
                if got.status == 503 {
                    assert_eq!(got.header("retry-after"), Some("1"));
                    got = follow(&web, url).await.unwrap();
                }
                assert_eq!(got.status, 200, "{url}");
                let picture = image::load_from_memory(&got.body).unwrap();
                assert_eq!((picture.width(), picture.height()), (64, 64), "{url}");
            }
            Fate::Reject("http_status") => assert!(follow(&web, url).await.unwrap().status >= 400),
            Fate::Reject("redirects") => assert!(follow(&web, url).await.is_none(), "{url}"),
            Fate::Reject("opt_out") if !url.contains("artist") => {
                let got = web.get(url).await;
                assert!(got.head.contains("x-robots-tag"), "{url}: {}", got.head);
            }
            Fate::Reject("decode") => {
                let got = web.get(url).await;
                assert!(image::guess_format(&got.body).is_ok(), "{url}");
                assert!(image::load_from_memory(&got.body).is_err(), "{url}");
            }
            Fate::Reject("not_image") => {
                assert!(
                    image::guess_format(&web.get(url).await.body).is_err(),
                    "{url}"
                );
            }
            Fate::Reject("too_small") => {
                let picture = image::load_from_memory(&web.get(url).await.body).unwrap();
                assert!(picture.width() < 32);
            }
            Fate::Reject("bytes") => {
                let got = web.get(url).await;
                assert!(got.body.len() >= 3_000_000);
                let announced = got.header("content-length").is_some();
                assert_ne!(announced, got.header("transfer-encoding").is_some());
            }
            Fate::Reject("network") => {
                let got = web.get(url).await;
                let length: usize = got.header("content-length").unwrap().parse().unwrap();
                assert!(got.body.len() < length, "{url}");
            }
            Fate::Reject("url") => assert!(url.len() > 2_000),
            Fate::Reject(_) => {}
        }
    }
    web.stop().await;
}

/// Every link and picture of every page, found without the site's own parser.
#[tokio::test(flavor = "multi_thread")]
async fn every_url_on_a_page_leads_to_a_planned_answer() {
    let web = Web::start().await;
    let site = web.site.clone();
    let mut open = site.seeds();
    let mut seen: std::collections::BTreeSet<String> = open.iter().cloned().collect();
    let (mut pages, mut pictures) = (0, std::collections::BTreeSet::new());
    while let Some(url) = open.pop() {
        let Some(got) = follow(&web, &url).await else {
            continue;
        };
        let is_html = got
            .header("content-type")
            .is_some_and(|value| value.starts_with("text/html"));
        if got.status != 200 || !is_html {
            continue;
        }
        pages += 1;
        let html = String::from_utf8(got.body).unwrap();
        let has_base = html.contains("<base href=\"/img/\">");
        let host = url.split('/').nth(2).unwrap().to_owned();
        let own = url.replacen("/old/s", "/s", 1).replacen(
            "-p",
            "/p",
            usize::from(url.contains("/old/")),
        );
        let base = if has_base {
            format!("http://{host}/img/")
        } else {
            own
        };
        for part in html.split("<a href=\"").skip(1) {
            let target = part.split('"').next().unwrap().split('#').next().unwrap();
            if target.is_empty() || target.contains("mailto:") || target.contains("javascript:") {
                continue;
            }
            let target = resolve(&base, target);
            if seen.insert(target.clone()) {
                open.push(target);
            }
        }
        for part in html.split(" src=\"").skip(1) {
            let target = part.split('"').next().unwrap();
            if !target.starts_with("data:") {
                pictures.insert(resolve(&base, target));
            }
        }
    }
    // The old addresses redirect to pages that are also linked by their own address.
    let expected = site.expected().pages;
    assert!(pages >= expected, "{pages} of {expected} pages");
    for found in site
        .found()
        .iter()
        .filter(|found| matches!(found.fate, Fate::Reject("decode" | "pixels")))
    {
        assert!(pictures.contains(&found.image_url), "{found:?}");
    }
    web.stop().await;
}

/// The WHATWG rules that the references of the site need.
fn resolve(base: &str, target: &str) -> String {
    if target.starts_with("http") {
        return target.to_owned();
    }
    let host = base.split('/').nth(2).unwrap();
    if let Some(rest) = target.strip_prefix("//") {
        return format!("http://{rest}");
    }
    if target.starts_with('/') {
        return format!("http://{host}{target}");
    }
    let path = base.splitn(4, '/').nth(3).unwrap();
    let mut folders: Vec<&str> = path.split('/').collect();
    folders.pop();
    let mut target = target;
    while let Some(rest) = target.strip_prefix("../") {
        folders.pop();
        target = rest;
    }
    folders.push(target);
    format!("http://{host}/{}", folders.join("/"))
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_are_distinguished_and_unknown_ones_refused() {
    let web = Web::start().await;
    assert!(
        web.get("http://gallery.demo.test/robots.txt")
            .await
            .body
            .starts_with(b"User-agent: *")
    );
    assert_eq!(
        web.get("http://blog.demo.test/robots.txt").await.status,
        404
    );
    assert_eq!(
        web.get("http://down.demo.test/robots.txt").await.status,
        503
    );
    let quiet = web.get("http://quiet.demo.test/robots.txt").await;
    assert!(
        String::from_utf8(quiet.body)
            .unwrap()
            .contains("Crawl-delay: 1")
    );
    assert_eq!(web.get("http://elsewhere.test/").await.status, 421);
    assert_eq!(web.get("http://gallery.demo.test:8080/").await.status, 200);
    assert_eq!(
        web.get("http://gallery.demo.test/nothing").await.status,
        404
    );
    let log = web.site.log();
    assert_eq!(log.len(), 7);
    assert!(log.windows(2).all(|two| two[0].at <= two[1].at));
    assert_eq!(
        (log[2].host.as_str(), log[2].path.as_str(), log[2].status),
        ("down.demo.test", "/robots.txt", 503)
    );
    web.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_answer_ends_with_the_server() {
    let web = Web::start().await;
    let stream = TcpStream::connect(web.address).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    writer
        .write_all(b"GET /hang/0.png HTTP/1.1\r\nHost: slow.demo.test\r\n\r\n")
        .await
        .unwrap();
    let mut byte = [0];
    let waited = tokio::time::timeout(Duration::from_millis(300), reader.read(&mut byte)).await;
    assert!(waited.is_err(), "the server answered");
    web.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_polite_client_has_no_violations_and_a_rude_one_has() {
    let web = Web::start().await;
    let site = web.site.clone();
    let own = |path: &str| {
        site.found()
            .iter()
            .find(|found| found.image_url.contains(path))
            .unwrap()
            .image_url
            .clone()
    };
    let mine = own("/img/mine-0");
    let host = mine.split('/').nth(2).unwrap().to_owned();
    web.get(&format!("http://{host}/robots.txt")).await;
    web.get(&mine).await;
    web.get("http://quiet.demo.test/robots.txt").await;
    web.get("http://quiet.demo.test/").await;
    tokio::time::sleep(Duration::from_millis(1000)).await;
    web.get("http://quiet.demo.test/1.html").await;
    let broken = site.violations(&site.log(), "capstanbot");
    assert!(broken.is_empty(), "{broken:?}");

    let rude = "rudebot/1";
    let artist = own("/img/artist-");
    for url in [
        "http://gallery.demo.test/",
        "http://gallery.demo.test/private/0.png",
        "http://gallery.demo.test/private/open/0.png",
        "http://closed.demo.test/",
        "http://down.demo.test/robots.txt",
        "http://down.demo.test/img/3.png",
        "http://quiet.demo.test/robots.txt",
        "http://quiet.demo.test/2.html",
        "http://quiet.demo.test/3.html",
        &mine,
        &mine,
        &artist,
    ] {
        web.get_as(url, rude).await;
    }
    let broken = site.violations(&site.log(), "RudeBot");
    let count = |part: &str| broken.iter().filter(|line| line.contains(part)).count();
    assert_eq!(count("disallowed by robots.txt"), 3, "{broken:#?}");
    assert!(count("before robots.txt") >= 2, "{broken:#?}");
    assert_eq!(count("Crawl-delay is 1000 ms"), 1, "{broken:#?}");
    assert_eq!(count("again after it had opted out"), 1, "{broken:#?}");
    assert_eq!(count("its page opts out"), 1, "{broken:#?}");
    assert!(
        !broken
            .iter()
            .any(|line| line.contains("/private/open/0.png is disallowed"))
    );
    assert!(site.violations(&site.log(), "capstanbot").is_empty());
    web.stop().await;
}
