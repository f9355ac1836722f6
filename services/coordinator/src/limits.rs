//! Limits of requests: rate, message size, and time to receive a body.

use std::task::{Context, Poll};
use std::time::Duration;

use capstan_proto::{MAX_MESSAGE_BYTES, MAX_REQUEST_BYTES};
use futures::future::Either;
use futures::stream;
use http_body_util::{BodyExt, StreamBody};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::server::NamedService;
use tower::{Layer, Service};

use crate::connection::Connection;

/// Maximum size of a request's header list, as HTTP/2 counts it.
pub(crate) const HEADERS_BYTES: u32 = 16 << 10;
/// Longest pause between two parts of a request's body.
const BODY: Duration = Duration::from_secs(30);

/// Adds the limits of requests to every service.
#[derive(Debug, Clone)]
pub(crate) struct LimitLayer;

impl<S> Layer<S> for LimitLayer {
    type Service = Limited<S>;

    fn layer(&self, inner: S) -> Limited<S> {
        Limited { inner }
    }
}

/// A service with the limits of [`LimitLayer`].
#[derive(Debug, Clone)]
pub(crate) struct Limited<S> {
    inner: S,
}

impl<S> Service<Request<Body>> for Limited<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, std::future::Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let connection = request.extensions().get::<Connection>();
        match connection.map_or(Ok(()), Connection::take_request) {
            Ok(()) => Either::Left(self.inner.call(request.map(|body| in_time(body, BODY)))),
            Err(error) => {
                let status = Status::from(error);
                let code = format!("{:?}", status.code());
                metrics::counter!(capstan_runtime::metrics::REFUSALS, "code" => code).increment(1);
                Either::Right(std::future::ready(Ok(status.into_http())))
            }
        }
    }
}

/// Wraps a body. It fails if its next part is not received within `limit`. A request without a body
/// would otherwise keep its stream open as long as the connection.
fn in_time(body: Body, limit: Duration) -> Body {
    let parts = stream::unfold(Some(body), move |body| async move {
        let mut body = body?;
        match tokio::time::timeout(limit, body.frame()).await {
            Ok(part) => Some((part?, Some(body))),
            Err(_) => {
                let reason = format!(
                    "the request's body was not received within {} s",
                    limit.as_secs()
                );
                Some((Err(Status::deadline_exceeded(reason)), None))
            }
        }
    });
    Body::new(StreamBody::new(parts))
}

/// Two copies of a service: one for pipelines, which may be large, and one for all other requests.
#[derive(Debug, Clone)]
pub(crate) struct BySize<S> {
    small: S,
    large: S,
}

impl<S> BySize<S> {
    /// - `with_limit`: makes a service that rejects messages of more bytes.
    pub(crate) fn new(with_limit: impl Fn(usize) -> S) -> Self {
        Self {
            small: with_limit(MAX_REQUEST_BYTES),
            large: with_limit(MAX_MESSAGE_BYTES),
        }
    }

    fn pick(&mut self, path: &str) -> &mut S {
        match path.rsplit('/').next() {
            Some("SubmitRun" | "PlanRun") => &mut self.large,
            _ => &mut self.small,
        }
    }
}

impl<S: NamedService> NamedService for BySize<S> {
    const NAME: &'static str = S::NAME;
}

impl<S: Service<Request<Body>>> Service<Request<Body>> for BySize<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        match self.small.poll_ready(context) {
            Poll::Ready(Ok(())) => self.large.poll_ready(context),
            other => other,
        }
    }

    fn call(&mut self, request: Request<Body>) -> S::Future {
        let path = request.uri().path().to_owned();
        self.pick(&path).call(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_not_received_is_an_error() {
        let never = Body::new(StreamBody::new(stream::pending::<Result<_, Status>>()));
        let refused = in_time(never, BODY).collect().await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::DeadlineExceeded);
        assert_eq!(
            refused.message(),
            "the request's body was not received within 30 s"
        );
        let complete = in_time(Body::new("four".to_owned()), BODY);
        assert_eq!(complete.collect().await.unwrap().to_bytes(), "four");
    }
}
