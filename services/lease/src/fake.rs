//! A coordinator for tests, reached through memory.

use std::time::Duration;

use capstan_proto::v1;
use capstan_proto::v1::coordinator_server::{Coordinator, CoordinatorServer};
use futures::StreamExt;
use futures::channel::mpsc;
use futures::stream::Pending;
use hyper_util::rt::TokioIo;
use tokio::io::DuplexStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

use crate::options::Options;

/// Bytes in flight in one direction of a connection.
const BUFFER: usize = 1 << 16;

type Answer<Q, A> = dyn Fn(Q) -> Result<A, Status> + Send + Sync;

/// Answers to the calls that tests make. Other calls are rejected.
pub(crate) struct Fake {
    pub(crate) lease: Box<Answer<v1::LeaseRequest, v1::LeaseResponse>>,
    pub(crate) heartbeat: Box<Answer<v1::HeartbeatRequest, v1::HeartbeatResponse>>,
    pub(crate) complete: Box<Answer<v1::CompleteRequest, v1::CompleteResponse>>,
    pub(crate) leave: Box<Answer<v1::LeaveRequest, v1::LeaveResponse>>,
}

impl Default for Fake {
    fn default() -> Self {
        Self {
            lease: Box::new(|_| Err(unused())),
            heartbeat: Box::new(|_| Err(unused())),
            complete: Box::new(|_| Err(unused())),
            leave: Box::new(|_| Err(unused())),
        }
    }
}

impl Fake {
    /// Serves in the runtime of the test.
    pub(crate) fn serve(self) -> Channel {
        let (connector, accepted) = pipes();
        let server = Server::builder().add_service(CoordinatorServer::new(self));
        let accepted = accepted.map(Ok::<_, std::io::Error>);
        tokio::spawn(server.serve_with_incoming(accepted));
        connector
    }
}

/// A channel, and the far end of each of its connections.
pub(crate) fn pipes() -> (Channel, mpsc::UnboundedReceiver<DuplexStream>) {
    let (sender, accepted) = mpsc::unbounded();
    let connect = move |_| {
        let sender = sender.clone();
        async move {
            let (near, far) = tokio::io::duplex(BUFFER);
            let sent = sender.unbounded_send(far);
            sent.map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>(TokioIo::new(near))
        }
    };
    let endpoint = endpoint();
    let channel = endpoint.connect_with_connector_lazy(tower::service_fn(connect));
    (channel, accepted)
}

fn endpoint() -> Endpoint {
    options().endpoint().expect("the address is a URL")
}

/// The options of a worker. Its own period of heartbeats is longer than any test.
pub(crate) fn options() -> Options {
    Options {
        coordinator: "http://127.0.0.1:1".to_owned(),
        worker: "w".into(),
        roles: vec![capstan_plan::task::Role::Crawl],
        slots: 1,
        device: "cpu".to_owned(),
        heartbeat: Duration::from_secs(3_600),
        poll: Duration::from_secs(20),
        patience: Duration::from_secs(300),
        grace: Duration::ZERO,
        identity: None,
        readiness: capstan_runtime::health::Readiness::lasting(),
    }
}

fn unused() -> Status {
    Status::unimplemented("the test does not expect this call")
}

macro_rules! unused {
    ($($call:ident($request:ident) -> $response:ident;)*) => {
        #[tonic::async_trait]
        impl Coordinator for Fake {
            type WatchStream = Pending<Result<v1::Event, Status>>;

            async fn lease(
                &self,
                request: Request<v1::LeaseRequest>,
            ) -> Result<Response<v1::LeaseResponse>, Status> {
                (self.lease)(request.into_inner()).map(Response::new)
            }

            async fn heartbeat(
                &self,
                request: Request<v1::HeartbeatRequest>,
            ) -> Result<Response<v1::HeartbeatResponse>, Status> {
                (self.heartbeat)(request.into_inner()).map(Response::new)
            }

            async fn complete(
                &self,
                request: Request<v1::CompleteRequest>,
            ) -> Result<Response<v1::CompleteResponse>, Status> {
                (self.complete)(request.into_inner()).map(Response::new)
            }

            async fn leave(
                &self,
                request: Request<v1::LeaveRequest>,
            ) -> Result<Response<v1::LeaveResponse>, Status> {
                (self.leave)(request.into_inner()).map(Response::new)
            }

            async fn watch(
                &self,
                _: Request<v1::WatchRequest>,
            ) -> Result<Response<Self::WatchStream>, Status> {
                Err(unused())
            }

            $(async fn $call(
                &self,
                _: Request<v1::$request>,
            ) -> Result<Response<v1::$response>, Status> {
                Err(unused())
            })*
        }
    };
}

unused! {
    submit_run(SubmitRunRequest) -> SubmitRunResponse;
    fail(FailRequest) -> FailResponse;
    prune_runs(PruneRunsRequest) -> PruneRunsResponse;
    release(ReleaseRequest) -> ReleaseResponse;
    list_runs(ListRunsRequest) -> ListRunsResponse;
    get_run(GetRunRequest) -> GetRunResponse;
    cancel_run(CancelRunRequest) -> CancelRunResponse;
    retry_run(RetryRunRequest) -> RetryRunResponse;
    plan_run(SubmitRunRequest) -> PlanRunResponse;
}
