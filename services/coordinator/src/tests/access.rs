//! Access control over real sockets: each kind of caller that must be rejected, with the one line that
//! it receives.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use capstan_lease::{Assignment, Control, Done, Executor, Failure};
use capstan_plan::task::Role as Task;
use capstan_proto::v1;
use capstan_proto::v1::coordinator_client::CoordinatorClient;
use capstan_proto::v1::ring_client::RingClient;
use capstan_runtime::bearer::Bearer;
use capstan_runtime::certificates::{self, Validity};
use capstan_runtime::config::{Safety, Secret};
use capstan_runtime::health::{CONTACT, Readiness};
use capstan_runtime::tls::{Identity, Role, refusal};
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Status};

use super::sandbox::{ONE_TASK, Sandbox};
use crate::{Access, Options};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const DAY: Duration = Duration::from_secs(86_400);

type Client = CoordinatorClient<InterceptedService<Channel, Bearer>>;

/// A coordinator that requires certificates and the token, and the folder of the certificates.
struct Guarded {
    sandbox: Sandbox,
    certificates: tempfile::TempDir,
}

impl Guarded {
    async fn start() -> Self {
        let certificates = authority();
        let identity = identity(certificates.path(), Role::Coordinator);
        let options = Options {
            access: Access::new(Some(&identity), Some(secret(TOKEN))),
            readiness: Readiness::lasting(),
        };
        Self {
            sandbox: Sandbox::guarded(options).await,
            certificates,
        }
    }

    fn endpoint(&self, tls: ClientTlsConfig) -> Endpoint {
        let endpoint = Endpoint::from_shared(self.sandbox.address.clone()).unwrap();
        endpoint.tls_config(tls).unwrap()
    }

    fn client_with(&self, tls: ClientTlsConfig, token: Option<&str>) -> Client {
        let bearer = Bearer::new(token.map(secret).as_ref());
        CoordinatorClient::with_interceptor(self.endpoint(tls).connect_lazy(), bearer)
    }

    /// A client of this role with the right token.
    fn client(&self, role: Role) -> Client {
        let tls = identity(self.certificates.path(), role).client();
        self.client_with(tls, Some(TOKEN))
    }

    /// The one line that a client with these certificates receives.
    async fn refused(&self, tls: ClientTlsConfig) -> String {
        let mut client = self.client_with(tls, Some(TOKEN));
        // A connection that was reset before the client read the reason: connect again.
        for _ in 0..100 {
            let status = client.list_runs(v1::ListRunsRequest::default()).await;
            let status = status.expect_err("the client was accepted");
            if let Some(line) = refusal(&status) {
                assert!(!line.contains('\n'), "{line}");
                return line;
            }
        }
        panic!("the client never received a reason");
    }

    /// The identity and the trusted CA of a client, from files.
    fn shows(&self, folder: &Path, role: Role) -> ClientTlsConfig {
        let read = |name: String| std::fs::read(folder.join(name)).unwrap();
        let identity = tonic::transport::Identity::from_pem(
            read(format!("{role}.pem")),
            read(format!("{role}.key")),
        );
        self.trusts_ours().identity(identity)
    }

    fn trusts_ours(&self) -> ClientTlsConfig {
        let authority = std::fs::read(self.certificates.path().join("ca.pem")).unwrap();
        ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(authority))
            .domain_name(Role::Coordinator.dns_name())
    }
}

fn authority() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    certificates::create(
        folder.path(),
        &[],
        Validity::days(1, SystemTime::now()).unwrap(),
    )
    .unwrap();
    folder
}

fn identity(folder: &Path, role: Role) -> Identity {
    let safety = Safety {
        certificates: folder.to_owned(),
        ..Safety::default()
    };
    Identity::load(&safety, role).unwrap().unwrap()
}

fn secret(text: &str) -> Secret {
    Secret::from(text.to_owned())
}

fn submission() -> v1::SubmitRunRequest {
    v1::SubmitRunRequest {
        pipeline: Some(v1::submit_run_request::Pipeline::Toml(ONE_TASK.to_owned())),
        run: "r".to_owned(),
        ..v1::SubmitRunRequest::default()
    }
}

fn question(roles: &[v1::Role]) -> v1::LeaseRequest {
    v1::LeaseRequest {
        worker: "w".to_owned(),
        roles: roles.iter().map(|role| *role as i32).collect(),
        wait_ms: 1,
        ..v1::LeaseRequest::default()
    }
}

fn code_and_message(status: &Status) -> (Code, &str) {
    (status.code(), status.message())
}

#[tokio::test]
async fn each_role_can_make_its_own_calls() {
    let guarded = Guarded::start().await;
    let mut operator = guarded.client(Role::Operator);
    operator.submit_run(submission()).await.unwrap();
    operator
        .get_run(v1::GetRunRequest {
            run: "r".to_owned(),
        })
        .await
        .unwrap();
    let mut worker = guarded.client(Role::Worker);
    let patient = v1::LeaseRequest {
        wait_ms: 10_000,
        ..question(&[v1::Role::Crawl])
    };
    let leased = worker.lease(patient).await.unwrap();
    let assignments = leased.into_inner().assignments;
    let lease = assignments.into_iter().next().and_then(|given| given.lease);
    let release = v1::ReleaseRequest {
        worker: "w".to_owned(),
        lease,
    };
    worker.release(release).await.unwrap();
    let mut trainer = guarded.client(Role::Trainer);
    trainer.lease(question(&[v1::Role::Train])).await.unwrap();
    guarded.sandbox.stop().await;
}

#[tokio::test]
async fn a_role_cannot_make_the_calls_of_another() {
    use v1::Role::{Crawl, Train};
    let guarded = Guarded::start().await;
    let mut worker = guarded.client(Role::Worker);
    let mut trainer = guarded.client(Role::Trainer);
    let mut operator = guarded.client(Role::Operator);
    let denied = |status: &Status, line: &str| {
        assert_eq!(code_and_message(status), (Code::PermissionDenied, line));
    };

    let status = worker.submit_run(submission()).await.unwrap_err();
    let line = "the certificate has role worker, this call requires role operator";
    denied(&status, line);
    let status = worker.lease(question(&[Crawl, Train])).await.unwrap_err();
    let line = "the certificate has role worker, these tasks require role trainer";
    denied(&status, line);
    let status = trainer.lease(question(&[Crawl])).await.unwrap_err();
    let line = "the certificate has role trainer, these tasks require role worker";
    denied(&status, line);
    let status = operator.lease(question(&[Crawl])).await.unwrap_err();
    let line = "the certificate has role operator, this call requires role worker or trainer";
    denied(&status, line);

    let tls = identity(guarded.certificates.path(), Role::Worker).client();
    let mut ring = RingClient::new(guarded.endpoint(tls).connect_lazy());
    let status = ring
        .join_ring(v1::JoinRingRequest::default())
        .await
        .unwrap_err();
    let line = "the certificate has role worker, this call requires role trainer";
    denied(&status, line);
    guarded.sandbox.stop().await;
}

#[tokio::test]
async fn operators_need_the_token() {
    let guarded = Guarded::start().await;
    let tls = || identity(guarded.certificates.path(), Role::Operator).client();
    let mut without = guarded.client_with(tls(), None);
    let status = without.submit_run(submission()).await.unwrap_err();
    let line = "a token is required: set [safety] token or token_file to the coordinator's";
    assert_eq!(code_and_message(&status), (Code::Unauthenticated, line));
    let mut wrong = guarded.client_with(tls(), Some("0123456789abcdef0123456789abcdee"));
    let line = "the token is wrong: set [safety] token or token_file to the coordinator's";
    let run = || "r".to_owned();
    let statuses = [
        wrong.submit_run(submission()).await.unwrap_err(),
        wrong.plan_run(submission()).await.unwrap_err(),
        wrong
            .cancel_run(v1::CancelRunRequest { run: run() })
            .await
            .unwrap_err(),
        wrong
            .retry_run(v1::RetryRunRequest {
                run: run(),
                ..v1::RetryRunRequest::default()
            })
            .await
            .unwrap_err(),
        wrong
            .watch(v1::WatchRequest { run: run() })
            .await
            .unwrap_err(),
    ];
    for status in statuses {
        assert_eq!(code_and_message(&status), (Code::Unauthenticated, line));
    }
    guarded.sandbox.stop().await;
}

#[tokio::test]
async fn the_token_is_required_without_certificates_too() {
    let options = Options {
        access: Access::new(None, Some(secret(TOKEN))),
        readiness: Readiness::lasting(),
    };
    let sandbox = Sandbox::guarded(options).await;
    let status = sandbox.submit(ONE_TASK, "r").await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    let channel = Endpoint::from_shared(sandbox.address.clone())
        .unwrap()
        .connect_lazy();
    let bearer = Bearer::new(Some(&secret(TOKEN)));
    let mut client = CoordinatorClient::with_interceptor(channel, bearer);
    client.submit_run(submission()).await.unwrap();
    // A worker needs no token.
    assert!(sandbox.worker("w1").await.poll(1_000).await.is_some());
    sandbox.stop().await;
}

#[tokio::test]
async fn foreign_certificates_are_rejected_in_one_line() {
    let guarded = Guarded::start().await;
    let folder = guarded.certificates.path();
    let refused = "this process's certificate was refused:";

    let line = guarded.refused(guarded.trusts_ours()).await;
    let none = format!("{refused} it is missing: set [safety] certificates");
    assert_eq!(line, none);

    let other = authority();
    let foreign = guarded.shows(other.path(), Role::Operator);
    let line = guarded.refused(foreign).await;
    assert_eq!(line, format!("{refused} another CA issued it"));

    let past = Validity {
        from: SystemTime::now() - 2 * DAY,
        until: SystemTime::now() - DAY,
    };
    certificates::issue(folder, Role::Operator, &[], past).unwrap();
    let line = guarded.refused(guarded.shows(folder, Role::Operator)).await;
    assert_eq!(line, format!("{refused} it is expired or not valid yet"));

    // The coordinator's own certificate is valid for servers only.
    let line = guarded
        .refused(guarded.shows(folder, Role::Coordinator))
        .await;
    assert_eq!(line, format!("{refused} it does not allow this use"));
    guarded.sandbox.stop().await;
}

#[tokio::test]
async fn callers_reject_a_foreign_coordinator() {
    let guarded = Guarded::start().await;
    let other = authority();
    let stranger = identity(other.path(), Role::Operator).client();
    let line = guarded.refused(stranger).await;
    let wanted = "the other side's certificate was refused: another CA issued it";
    assert_eq!(line, wanted);
    let elsewhere = identity(guarded.certificates.path(), Role::Operator)
        .client()
        .domain_name("worker.capstan");
    let line = guarded.refused(elsewhere).await;
    let wanted = "the other side's certificate was refused: it is for another role";
    assert_eq!(line, wanted);
    guarded.sandbox.stop().await;
}

/// An executor that gets no task.
struct Idle;

#[tonic::async_trait]
impl Executor for Idle {
    async fn execute(&self, _: Assignment, _: Control) -> Result<Option<Done>, Failure> {
        unreachable!("nothing is leased")
    }
}

/// The error of a worker with this identity.
async fn worker_ends(guarded: &Guarded, roles: Vec<Task>, identity: Option<Identity>) -> String {
    let options = capstan_lease::Options {
        coordinator: guarded.sandbox.address.clone(),
        worker: "w".into(),
        roles,
        slots: 1,
        device: "cpu".to_owned(),
        heartbeat: Duration::from_secs(1),
        poll: Duration::from_secs(1),
        patience: Duration::from_secs(20),
        grace: Duration::from_secs(1),
        identity,
        readiness: Readiness::within(CONTACT),
    };
    let (store, idle) = (guarded.sandbox.store.clone(), Arc::new(Idle));
    let ended = capstan_lease::serve(options, store, idle, CancellationToken::new()).await;
    let line = ended.unwrap_err().to_string();
    assert!(!line.contains('\n'), "{line}");
    line
}

#[tokio::test]
async fn a_rejected_worker_exits_with_the_reason() {
    let guarded = Guarded::start().await;
    let (folder, address) = (guarded.certificates.path(), &guarded.sandbox.address);
    let worker = identity(folder, Role::Worker);
    let line = worker_ends(&guarded, vec![Task::Train], Some(worker)).await;
    let wanted = "coordinator rejected the worker: the certificate has role worker, these tasks \
                  require role trainer";
    assert_eq!(line, wanted);

    let foreign = authority();
    let stranger = identity(foreign.path(), Role::Worker);
    let line = worker_ends(&guarded, vec![Task::Crawl], Some(stranger)).await;
    let wanted = format!(
        "coordinator at {address}: the other side's certificate was refused: another CA \
         issued it"
    );
    assert_eq!(line, wanted);

    // Valid when it is loaded, expired when it is presented.
    let validity = Validity {
        from: SystemTime::now() - DAY,
        until: SystemTime::now() + Duration::from_secs(2),
    };
    certificates::issue(folder, Role::Worker, &[], validity).unwrap();
    let expiring = identity(folder, Role::Worker);
    while SystemTime::now() < validity.until + Duration::from_secs(1) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let line = worker_ends(&guarded, vec![Task::Crawl], Some(expiring)).await;
    let wanted = format!(
        "coordinator at {address}: this process's certificate was refused: it is expired or not \
         valid yet"
    );
    assert_eq!(line, wanted);
    guarded.sandbox.stop().await;
}

#[tokio::test]
async fn readiness_follows_the_server() {
    let options = Options::default();
    let readiness = options.readiness.clone();
    assert!(!readiness.is_ready());
    let sandbox = Sandbox::guarded(options).await;
    let mut client = sandbox.client().await;
    client
        .list_runs(v1::ListRunsRequest::default())
        .await
        .unwrap();
    assert!(readiness.is_ready());
    sandbox.stop().await;
    assert!(!readiness.is_ready());
}
