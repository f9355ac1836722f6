//! The server: all hosts of the web on loopback sockets, selected by the Host header.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use futures::StreamExt;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::site::{Answer, Picture, Site};

/// The server ended before its shutdown.
#[derive(Debug, thiserror::Error)]
#[error("the server of the demo web failed")]
pub struct ServeError {
    /// The error of the system.
    #[source]
    pub source: std::io::Error,
}

/// Bytes of one chunk of an endless picture.
const PIECE_BYTES: usize = 1 << 16;

#[derive(Clone)]
struct Server {
    site: Arc<Site>,
    /// URLs that have answered their first request with 503.
    failed: Arc<Mutex<HashSet<String>>>,
    shutdown: CancellationToken,
}

/// Serves the site until `shutdown`.
///
/// - `listeners`: one or several, bound by the caller. Each serves every host by the Host header,
///   so that names may be assigned to them in any way.
///
/// # Errors
/// [`ServeError`] if a listener fails.
pub async fn serve(
    site: Arc<Site>,
    listeners: Vec<TcpListener>,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let server = Server {
        site,
        failed: Arc::default(),
        shutdown: shutdown.clone(),
    };
    let app = Router::new().fallback(answer).with_state(server);
    let mut running = JoinSet::new();
    for listener in listeners {
        let end = shutdown.clone().cancelled_owned();
        let serving = axum::serve(listener, app.clone()).with_graceful_shutdown(end);
        running.spawn(async move { serving.await });
    }
    while let Some(ended) = running.join_next().await {
        let result = ended.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        if let Err(source) = result {
            shutdown.cancel();
            return Err(ServeError { source });
        }
    }
    Ok(())
}

async fn answer(State(server): State<Server>, request: Request) -> Response {
    let host = host_of(&request);
    let path = request
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str())
        .to_owned();
    let agent = header_text(request.headers(), header::USER_AGENT);
    // Requests are logged on arrival, so that order and gaps are those of the requests.
    let planned = server.plan(&host, &path, request.method());
    server
        .site
        .request_log()
        .record(&host, &path, &agent, planned.status());
    server.respond(planned).await
}

fn host_of(request: &Request) -> String {
    let named = header_text(request.headers(), header::HOST);
    let name = named
        .split_once(':')
        .map_or(named.as_str(), |(name, _)| name);
    name.to_ascii_lowercase()
}

fn header_text(headers: &HeaderMap, name: header::HeaderName) -> String {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().to_owned()
}

/// The response to a request.
enum Planned {
    Answer(Answer),
    Robots(u16, String),
    Unavailable,
    Refused(StatusCode),
}

impl Planned {
    fn status(&self) -> u16 {
        match self {
            Self::Robots(status, _) => *status,
            Self::Unavailable => 503,
            Self::Refused(status) => status.as_u16(),
            Self::Answer(answer) => match answer {
                Answer::Redirect { status, .. } | Answer::Status(status) => *status,
                Answer::Hang => 0,
                _ => 200,
            },
        }
    }
}

impl Server {
    fn plan(&self, host: &str, path: &str, method: &Method) -> Planned {
        let Some(robots) = self.site.robots(host) else {
            return Planned::Refused(StatusCode::MISDIRECTED_REQUEST);
        };
        if method != Method::GET && method != Method::HEAD {
            return Planned::Refused(StatusCode::METHOD_NOT_ALLOWED);
        }
        if path == "/robots.txt" {
            return Planned::Robots(robots.status, robots.text.clone());
        }
        match self.site.answer(host, path) {
            None => Planned::Refused(StatusCode::NOT_FOUND),
            Some(Answer::Flaky(picture)) => {
                let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
                if failed.insert(format!("{host}{path}")) {
                    Planned::Unavailable
                } else {
                    Planned::Answer(Answer::Picture {
                        picture: picture.clone(),
                        tags: Vec::new(),
                    })
                }
            }
            Some(answer) => Planned::Answer(answer.clone()),
        }
    }

    async fn respond(&self, planned: Planned) -> Response {
        match planned {
            Planned::Robots(status, text) => with_status(
                with_type("text/plain; charset=utf-8", text.into_bytes()),
                status,
            ),
            Planned::Unavailable => {
                let mut response = status_alone(503);
                response
                    .headers_mut()
                    .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
                response
            }
            Planned::Refused(status) => status_alone(status.as_u16()),
            Planned::Answer(answer) => self.respond_with(answer).await,
        }
    }

    async fn respond_with(&self, answer: Answer) -> Response {
        match answer {
            Answer::Page { html, tags } => with_robots_tags(
                with_type("text/html; charset=utf-8", html.as_bytes().to_vec()),
                &tags,
            ),
            Answer::Picture { picture, tags } => {
                with_robots_tags(self.picture(picture).await, &tags)
            }
            Answer::Flaky(picture) => self.picture(picture).await,
            Answer::Redirect { status, location } => {
                let mut response = status_alone(status);
                if let Some(location) = location {
                    let value =
                        HeaderValue::from_str(&location).expect("planned locations are ASCII");
                    response.headers_mut().insert(header::LOCATION, value);
                }
                response
            }
            Answer::Status(status) => status_alone(status),
            Answer::Damaged { picture, damage } => {
                let content_type = picture.content_type();
                let seed = self.site.seed();
                with_type(
                    content_type,
                    blocking(move || picture.damaged(damage, seed)).await,
                )
            }
            Answer::Bytes {
                content_type,
                bytes,
            } => with_type(content_type, bytes.to_vec()),
            Answer::Endless { bytes, announced } => endless(bytes, announced),
            Answer::Hang => {
                self.shutdown.cancelled().await;
                status_alone(503)
            }
            Answer::Cut(picture) => self.cut(picture).await,
        }
    }

    async fn picture(&self, picture: Picture) -> Response {
        let content_type = picture.content_type();
        let seed = self.site.seed();
        with_type(content_type, blocking(move || picture.encode(seed)).await)
    }

    /// Announces the complete picture, sends half of it and breaks the connection.
    async fn cut(&self, picture: Picture) -> Response {
        let seed = self.site.seed();
        let content_type = picture.content_type();
        let bytes = blocking(move || picture.encode(seed)).await;
        let length = bytes.len() as u64;
        let half = Bytes::from(bytes).slice(..length as usize / 2);
        let mut response = Response::new(Body::from_stream(half_and_break(half)));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        response
    }
}

type Piece = Result<Bytes, std::io::Error>;

/// The bytes of `half`, then an error. The pause allows the bytes to be sent before the connection
/// breaks.
fn half_and_break(half: Bytes) -> impl futures::Stream<Item = Piece> {
    let mut half = Some(half);
    futures::stream::repeat(()).then(move |()| {
        let half = half.take();
        async move {
            match half {
                Some(half) => Ok(half),
                None => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset))
                }
            }
        }
    })
}

fn endless(bytes: u64, announced: bool) -> Response {
    let pieces = futures::stream::unfold(0u64, move |sent| async move {
        if sent >= bytes {
            return None;
        }
        let mut piece = vec![0u8; PIECE_BYTES.min((bytes - sent) as usize)];
        if sent == 0 {
            let magic = b"\x89PNG\r\n\x1a\n";
            let most = magic.len().min(piece.len());
            piece[..most].copy_from_slice(&magic[..most]);
        }
        let sent = sent + piece.len() as u64;
        Some((Piece::Ok(Bytes::from(piece)), sent))
    });
    let mut response = Response::new(Body::from_stream(pieces));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("image/png"));
    if announced {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
    }
    response
}

/// Renders on a thread for blocking work.
async fn blocking(render: impl FnOnce() -> Vec<u8> + Send + 'static) -> Vec<u8> {
    tokio::task::spawn_blocking(render)
        .await
        .expect("rendering a planned picture does not panic")
}

fn with_type(content_type: &'static str, bytes: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(bytes));
    let value = HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    response
}

fn with_status(mut response: Response, status: u16) -> Response {
    *response.status_mut() = StatusCode::from_u16(status).expect("planned statuses are valid");
    response
}

fn status_alone(status: u16) -> Response {
    with_status(Response::new(Body::empty()), status)
}

fn with_robots_tags(mut response: Response, tags: &[String]) -> Response {
    for tag in tags {
        let value = HeaderValue::from_str(tag).expect("planned tags are ASCII");
        response.headers_mut().append("x-robots-tag", value);
    }
    response
}
