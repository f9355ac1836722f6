//! A small web on real sockets: hosts by name, responses by path, a log of requests.

// Each test file uses a part of this module.
#![allow(dead_code)]
// The lint allows `unwrap` in tests, but not in their shared modules.
#![allow(clippy::unwrap_used)]
#![allow(
    clippy::disallowed_methods,
    reason = "a test of real sockets waits in real time"
)]

use std::collections::{BTreeMap, HashMap};
use std::io::Cursor;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use capstan_crawl::{Control, Net, NetConfig};
use capstan_plan::row::{ImageLink, PageLink, Pair, Reject};
use capstan_plan::stage::Crawl;
use tokio_util::sync::CancellationToken;

/// The response to a path.
#[derive(Clone)]
pub enum Answer {
    /// Status, headers, body.
    Give(u16, Vec<(String, String)>, Vec<u8>),
    /// Status `1` this many times, then the other answer.
    Then(u16, usize, Box<Answer>),
    /// Headers, then single bytes at intervals, without end.
    Drip,
    /// Zeros without end, without a length.
    Endless,
    /// Waits, then answers.
    Late(Duration, Box<Answer>),
    /// Ten of a hundred announced bytes, then a closed connection.
    Cut,
}

/// A request as received.
#[derive(Debug, Clone)]
pub struct Logged {
    pub at: Instant,
    pub host: String,
    pub path: String,
    pub agent: String,
}

#[derive(Default)]
struct Shared {
    answers: HashMap<(String, String), Answer>,
    asked: HashMap<(String, String), usize>,
    log: Vec<Logged>,
}

/// The responses of the web, and its server once it runs.
#[derive(Clone, Default)]
pub struct Web(Arc<Mutex<Shared>>);

pub fn html(body: &str) -> Answer {
    give(
        200,
        &[("content-type", "text/html; charset=utf-8")],
        body.as_bytes(),
    )
}

pub fn give(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let headers = headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_string()));
    Answer::Give(status, headers.collect(), body.to_vec())
}

pub fn status(status: u16) -> Answer {
    give(status, &[], b"")
}

pub fn to(location: &str) -> Answer {
    give(302, &[("location", location)], b"")
}

/// A different picture for every number.
pub fn png(number: u32) -> Vec<u8> {
    let shade = |x: u32, k: u32| ((x * (3 + number % 5) + number * k) % 256) as u8;
    let picture = image::RgbImage::from_fn(40, 40, |x, y| {
        image::Rgb([shade(x, 7), shade(y, 11), shade(x ^ y, 13)])
    });
    let mut bytes = Vec::new();
    picture
        .write_to(&mut Cursor::new(&mut bytes), image::ImageFormat::Png)
        .unwrap();
    bytes
}

pub fn picture(number: u32) -> Answer {
    give(200, &[("content-type", "image/png")], &png(number))
}

impl Web {
    pub fn put(&self, host: &str, path: &str, answer: Answer) -> &Self {
        let key = (host.to_owned(), path.to_owned());
        self.0.lock().unwrap().answers.insert(key, answer);
        self
    }

    pub fn log(&self) -> Vec<Logged> {
        self.0.lock().unwrap().log.clone()
    }

    pub fn paths(&self, host: &str) -> Vec<String> {
        let log = self.log().into_iter().filter(|logged| logged.host == host);
        log.map(|logged| logged.path).collect()
    }

    /// Serves all hosts on one port and returns the crawler's configuration for them.
    pub async fn serve(&self) -> NetConfig {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at: SocketAddr = listener.local_addr().unwrap();
        let app = axum::Router::new()
            .fallback(answer)
            .with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        let hosts = ["a.test", "b.test", "c.test", "slow.test"];
        NetConfig {
            hosts: hosts
                .iter()
                .map(|name| (name.to_string(), at))
                .collect::<BTreeMap<_, _>>(),
            allow_private: Vec::new(),
        }
    }

    fn take(&self, host: &str, path: &str, agent: &str) -> Answer {
        let mut shared = self.0.lock().unwrap();
        shared.log.push(Logged {
            at: Instant::now(),
            host: host.to_owned(),
            path: path.to_owned(),
            agent: agent.to_owned(),
        });
        let key = (host.to_owned(), path.to_owned());
        let asked = shared.asked.entry(key.clone()).or_default();
        *asked += 1;
        let asked = *asked;
        match shared.answers.get(&key).cloned() {
            Some(Answer::Then(code, times, _)) if asked <= times => {
                give(code, &[("retry-after", "1")], b"")
            }
            Some(Answer::Then(_, _, then)) => *then,
            Some(answer) => answer,
            None => status(404),
        }
    }
}

async fn answer(State(web): State<Web>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let header = |name: &str| {
        let value = parts.headers.get(name);
        value
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default()
            .to_owned()
    };
    let path = parts
        .uri
        .path_and_query()
        .map(|p| p.to_string())
        .unwrap_or_default();
    let mut answer = web.take(&header("host"), &path, &header("user-agent"));
    if let Answer::Late(wait, then) = answer {
        tokio::time::sleep(wait).await;
        answer = *then;
    }
    respond(answer)
}

fn respond(answer: Answer) -> Response {
    match answer {
        Answer::Give(status, headers, body) => {
            let mut response = Response::new(Body::from(body));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            for (name, value) in headers {
                let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
                response
                    .headers_mut()
                    .append(name, HeaderValue::from_str(&value).unwrap());
            }
            response
        }
        Answer::Drip => stream(vec![0; 1], Duration::from_millis(50)),
        Answer::Endless => stream(vec![0; 1 << 16], Duration::ZERO),
        Answer::Cut => {
            let first = futures::stream::iter([
                Ok(Bytes::from_static(b"\x89PNG\r\n\x1a\nxx")),
                Err(std::io::Error::other("gone")),
            ]);
            let mut response = Response::new(Body::from_stream(first));
            response
                .headers_mut()
                .insert("content-length", HeaderValue::from_static("100"));
            response
        }
        Answer::Then(..) | Answer::Late(..) => unreachable!("taken apart above"),
    }
}

fn stream(piece: Vec<u8>, pause: Duration) -> Response {
    let piece = Bytes::from(piece);
    let pieces = futures::stream::unfold(piece, move |piece| async move {
        tokio::time::sleep(pause).await;
        Some((Ok::<_, std::io::Error>(piece.clone()), piece))
    });
    let mut response = Response::new(Body::from_stream(pieces));
    response
        .headers_mut()
        .insert("content-type", HeaderValue::from_static("text/html"));
    response
}

/// Settings for small tests.
pub fn config() -> Crawl {
    serde_json::from_value(serde_json::json!({
        "dataset": "web",
        "seeds": ["http://a.test/"],
        "snapshot": "test",
        "user_agent": "testbot",
        "shards": 2,
        "timeout_ms": 1500,
        "tries": 2,
        "max_page_bytes": 1 << 20,
        "max_image_bytes": 1 << 20,
        "max_text_bytes": 1000,
        "storing": {"min_side_px": 8, "max_side_px": 32, "max_pixels": 1_000_000},
    }))
    .unwrap()
}

pub fn control() -> Control {
    Control::new(CancellationToken::new(), |_| {}, || 0)
}

pub fn page(url: &str) -> PageLink {
    let url = url.to_owned();
    PageLink { url, depth: 0 }
}

pub fn image(url: &str, page: &str) -> ImageLink {
    ImageLink {
        image_url: url.to_owned(),
        raw_url: url.to_owned(),
        page_url: page.to_owned(),
        texts: Vec::new(),
        opt_out: Vec::new(),
        licence: None,
        attribution: None,
    }
}

/// Fetches pictures and collects the pairs.
pub async fn pictures(
    config: &Crawl,
    net: &Net,
    images: Vec<ImageLink>,
) -> (Vec<Pair>, Vec<Reject>) {
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    let gather = async {
        let mut pairs = Vec::new();
        while let Some(pair) = receiver.recv().await {
            pairs.push(pair);
        }
        pairs
    };
    let control = control();
    let fetch = capstan_crawl::fetch_images(config, net, images, &control, sender);
    let (rejects, pairs) = tokio::join!(fetch, gather);
    (pairs, rejects.unwrap())
}
