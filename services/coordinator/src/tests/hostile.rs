//! Hostile clients: their requests are rejected with the right status, while an honest worker keeps
//! working.

use std::time::{Duration, Instant};

use bytes::Bytes;
use capstan_proto::v1;
use capstan_proto::v1::coordinator_client::CoordinatorClient;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use tokio::net::TcpStream;
use tonic::Code;
use tonic::codegen::http;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;

use super::sandbox::{ONE_TASK, Sandbox, Worker, settings};
use crate::connection::WATCHERS;

const LIMIT: Duration = Duration::from_secs(30);

/// The honest worker, which holds a lease during the attack.
struct Honest {
    sandbox: Sandbox,
    worker: Worker,
    held: v1::Assignment,
}

impl Honest {
    async fn start() -> Self {
        let sandbox = Sandbox::memory().await;
        sandbox.submit(ONE_TASK, "r").await.unwrap();
        let mut worker = sandbox.worker("w1").await;
        let held = worker.lease().await;
        Self {
            sandbox,
            worker,
            held,
        }
    }

    /// Renews its lease, completes it with the first attempt, and waits for the end of the run.
    async fn finish(mut self) {
        let kept = self.worker.heartbeat(&self.held).await;
        assert_eq!(kept, v1::LeaseStatus::Keep);
        self.worker.work(&self.held).await;
        self.sandbox
            .until("r", |status| status.state() == v1::RunState::Done)
            .await;
        assert_eq!(self.sandbox.status("r").await.leased, 1);
        self.sandbox.stop().await;
    }

    async fn client(&self) -> CoordinatorClient<Channel> {
        self.sandbox.client().await
    }

    /// A raw HTTP/2 client.
    async fn raw(&self) -> SendRequest<Bytes> {
        let address = self.sandbox.address.strip_prefix("http://").unwrap();
        let socket = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = h2::client::handshake(socket).await.unwrap();
        tokio::spawn(connection);
        sender.ready().await.unwrap()
    }

    /// Opens a call without sending its body.
    fn open(
        &self,
        sender: &mut SendRequest<Bytes>,
        method: &str,
    ) -> (ResponseFuture, SendStream<Bytes>) {
        let path = format!("{}/capstan.v1.Coordinator/{method}", self.sandbox.address);
        let request = http::Request::post(path)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        sender.send_request(request, false).unwrap()
    }
}

/// The `grpc-status` of a response.
async fn status(response: http::Response<RecvStream>) -> Code {
    let (head, mut body) = response.into_parts();
    let headers = match head.headers.contains_key("grpc-status") {
        true => head.headers,
        false => {
            while let Some(data) = body.data().await {
                data.unwrap();
            }
            body.trailers().await.unwrap().unwrap()
        }
    };
    let code: i32 = headers["grpc-status"].to_str().unwrap().parse().unwrap();
    Code::from(code)
}

#[tokio::test]
async fn leases_and_names_of_others_cannot_be_used() {
    let honest = Honest::start().await;
    let mut thief = honest.worker.clone();
    thief.session = b"a guess".to_vec();
    let mut forged = honest.held.clone();
    forged.lease.as_mut().unwrap().token = vec![7; 32];
    assert_eq!(thief.heartbeat(&forged).await, v1::LeaseStatus::Stale);
    let refusals = [
        thief.complete(&forged).await.unwrap_err(),
        thief
            .fail(&forged, v1::FailureKind::Fatal)
            .await
            .unwrap_err(),
        thief.release(&forged).await.unwrap_err(),
        thief.join(&forged).await.unwrap_err(),
        thief.leave().await.unwrap_err(),
    ];
    let codes = refusals.map(|refused| refused.code());
    assert_eq!(codes, [Code::PermissionDenied; 5]);
    // While the lease is held, the name belongs to the honest worker.
    assert_eq!(thief.ask(0).await.unwrap_err().code(), Code::AlreadyExists);
    honest.finish().await;
}

#[tokio::test]
async fn messages_and_headers_that_are_too_large_are_rejected() {
    let honest = Honest::start().await;
    let mut client = honest.client().await;
    let large = || "x".repeat(5 << 20);
    let lease = v1::LeaseRequest {
        worker: large(),
        ..v1::LeaseRequest::default()
    };
    let fail = v1::FailRequest {
        worker: "w1".to_owned(),
        lease: honest.held.lease.clone(),
        kind: v1::FailureKind::Fatal as i32,
        message: large(),
    };
    let codes = [
        client.lease(lease).await.unwrap_err().code(),
        client.fail(fail).await.unwrap_err().code(),
    ];
    assert_eq!(codes, [Code::OutOfRange; 2]);
    // A pipeline may have this size: it is rejected for its text.
    let submission = v1::SubmitRunRequest {
        pipeline: Some(v1::submit_run_request::Pipeline::Toml(large())),
        ..v1::SubmitRunRequest::default()
    };
    let refused = client.submit_run(submission).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);

    let mut request = tonic::Request::new(v1::ListRunsRequest::default());
    let value = MetadataValue::try_from("x".repeat(32 << 10)).unwrap();
    request.metadata_mut().insert("x-large", value);
    let refused = client.list_runs(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unknown, "{refused}");

    // The server does not wait for the bytes of a length that is too large.
    let mut raw = honest.raw().await;
    for method in ["SubmitRun", "Heartbeat"] {
        let (response, mut body) = honest.open(&mut raw, method);
        let prefix = Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff]);
        body.send_data(prefix, false).unwrap();
        let response = tokio::time::timeout(LIMIT, response).await;
        let code = status(response.unwrap().unwrap()).await;
        assert_eq!(code, Code::OutOfRange, "{method}");
    }
    honest.finish().await;
}

#[tokio::test]
async fn a_flood_of_requests_is_rejected_on_its_own_connection_only() {
    let mut honest = Honest::start().await;
    let per_second = settings("sqlite::memory:").max_requests_per_second;
    let mut client = honest.client().await;
    let mut flood = async || client.heartbeat(v1::HeartbeatRequest::default()).await;
    for _ in 0..per_second * 2 {
        flood().await.unwrap();
    }
    let refused = flood().await.unwrap_err();
    let line =
        format!("a connection may have at most {per_second} requests a second: ask again later");
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::ResourceExhausted, line.as_str())
    );
    let kept = honest.worker.heartbeat(&honest.held).await;
    assert_eq!(kept, v1::LeaseStatus::Keep);
    let one = Duration::from_secs(1) / u32::try_from(per_second).unwrap();
    honest.sandbox.clock.advance(one);
    flood().await.unwrap();
    assert_eq!(flood().await.unwrap_err().code(), Code::ResourceExhausted);
    honest.finish().await;
}

#[tokio::test]
async fn half_open_requests_and_silent_connections_block_no_client() {
    let mut honest = Honest::start().await;
    let mut raw = honest.raw().await;
    let open: Vec<_> = (0..500).map(|_| honest.open(&mut raw, "Lease")).collect();
    let address = honest.sandbox.address.strip_prefix("http://").unwrap();
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let kept = honest.worker.heartbeat(&honest.held).await;
    assert_eq!(kept, v1::LeaseStatus::Keep);
    // Another request of the same connection is served.
    let (response, mut body) = honest.open(&mut raw, "ListRuns");
    body.send_data(Bytes::from_static(&[0; 5]), true).unwrap();
    let response = tokio::time::timeout(LIMIT, response).await.unwrap();
    assert_eq!(status(response.unwrap()).await, Code::Ok);
    let most = settings("sqlite::memory:").max_streams_per_connection;
    assert_eq!(raw.current_max_send_streams(), most as usize);
    drop((open, silent));
    honest.finish().await;
}

#[tokio::test]
async fn one_connection_cannot_take_all_watchers() {
    let honest = Honest::start().await;
    let watch = || v1::WatchRequest {
        run: "r".to_owned(),
    };
    let mut client = honest.client().await;
    let mut streams = Vec::new();
    for _ in 0..WATCHERS {
        streams.push(client.watch(watch()).await.unwrap());
    }
    let refused = client.watch(watch()).await.unwrap_err();
    let line = "a connection may have at most 16 streams of events: ask again later";
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::ResourceExhausted, line)
    );
    honest.client().await.watch(watch()).await.unwrap();

    // A stream that ends frees its permit.
    streams.pop();
    let began = Instant::now();
    while client.watch(watch()).await.is_err() {
        assert!(
            began.elapsed() < LIMIT,
            "the permit of a stream was not freed"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    honest.finish().await;
}
