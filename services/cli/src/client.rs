//! The client of a coordinator: token, and one line for every error that it may answer.

use std::error::Error;
use std::net::IpAddr;
use std::time::Duration;

use capstan_plan::backoff::Backoff;
use capstan_proto::v1::coordinator_client::CoordinatorClient;
use capstan_proto::{MAX_MESSAGE_BYTES, v1};
use capstan_runtime::bearer::Bearer;
use capstan_runtime::config::Secret;
use capstan_runtime::{keepalive, tls};
use tokio::time::Instant;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Status, Streaming};

use crate::error::{Exit, ExpectedError, OrExit};

/// Limit for setting up one connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Limits of the delays between two attempts to connect.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// What a client needs to reach a coordinator.
#[derive(Clone, Default)]
pub struct Access {
    /// Certificates, where the address is https.
    pub tls: Option<ClientTlsConfig>,
    /// Bearer token.
    pub token: Option<Secret>,
    /// Whether the token may cross a network without TLS.
    pub insecure: bool,
}

/// A coordinator, near or far. Cheap to clone.
#[derive(Clone)]
pub struct Coordinator {
    client: CoordinatorClient<InterceptedService<Channel, Bearer>>,
    address: String,
}

impl Coordinator {
    /// Connects.
    ///
    /// - `wait`: how long to retry while nothing listens.
    ///
    /// # Errors
    /// Unavailable if nothing answers, configuration if a certificate is refused or if the
    /// token would be sent in the clear; all name the address.
    pub async fn connect(
        address: &str,
        access: &Access,
        wait: Duration,
    ) -> Result<Self, ExpectedError> {
        let endpoint = endpoint(address, access)?;
        let began = Instant::now();
        let mut backoff = Backoff::new(AGAIN.0, AGAIN.1);
        loop {
            match endpoint.connect().await {
                Ok(channel) => return Ok(Self::over(address, channel, access)),
                Err(error) if began.elapsed() >= wait || tls::refusal(&error).is_some() => {
                    return Err(unreachable(address, &error));
                }
                Err(_) => tokio::time::sleep(backoff.next_delay()).await,
            }
        }
    }

    /// A coordinator of this process. Connects at the first call.
    ///
    /// # Errors
    /// Configuration, where the address is none, or where the token would be sent to it in the
    /// clear.
    pub fn lazy(address: &str, access: &Access) -> Result<Self, ExpectedError> {
        let channel = endpoint(address, access)?.connect_lazy();
        Ok(Self::over(address, channel, access))
    }

    fn over(address: &str, channel: Channel, access: &Access) -> Self {
        let bearer = Bearer::new(access.token.as_ref());
        let client = CoordinatorClient::with_interceptor(channel, bearer)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        Self {
            client,
            address: address.to_owned(),
        }
    }

    /// URL of the coordinator.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Creates a run, or resumes the one of the same id.
    pub async fn submit(
        &self,
        request: v1::SubmitRunRequest,
    ) -> Result<v1::SubmitRunResponse, ExpectedError> {
        let answer = self.client.clone().submit_run(request).await;
        self.answered(answer)
    }

    /// The tasks of a run, without starting it.
    pub async fn plan(
        &self,
        request: v1::SubmitRunRequest,
    ) -> Result<v1::PlanRunResponse, ExpectedError> {
        let answer = self.client.clone().plan_run(request).await;
        self.answered(answer)
    }

    /// Events of a run. The caller decides whether an error is worth another attempt.
    pub async fn events(&self, run: &str) -> Result<Streaming<v1::Event>, Status> {
        let request = v1::WatchRequest {
            run: run.to_owned(),
        };
        Ok(self.client.clone().watch(request).await?.into_inner())
    }

    /// Runs, newest first.
    pub async fn runs(&self, limit: u32) -> Result<Vec<v1::RunStatus>, ExpectedError> {
        let request = v1::ListRunsRequest { limit };
        let answer = self.client.clone().list_runs(request).await;
        Ok(self.answered(answer)?.runs)
    }

    /// One run with its stages and its pipeline.
    pub async fn run(&self, run: &str) -> Result<v1::GetRunResponse, ExpectedError> {
        let request = v1::GetRunRequest {
            run: run.to_owned(),
        };
        let answer = self.client.clone().get_run(request).await;
        self.answered(answer)
    }

    /// Deletes runs that ended longer ago than this from the coordinator's database.
    pub async fn prune(&self, age: Duration) -> Result<v1::PruneRunsResponse, ExpectedError> {
        let request = v1::PruneRunsRequest {
            older_than_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
        };
        let answer = self.client.clone().prune_runs(request).await;
        self.answered(answer)
    }

    /// Cancels a run.
    pub async fn cancel(&self, run: &str) -> Result<v1::CancelRunResponse, ExpectedError> {
        let request = v1::CancelRunRequest {
            run: run.to_owned(),
        };
        let answer = self.client.clone().cancel_run(request).await;
        self.answered(answer)
    }

    /// Retries the shards that a run has quarantined.
    pub async fn retry(
        &self,
        request: v1::RetryRunRequest,
    ) -> Result<v1::RetryRunResponse, ExpectedError> {
        let answer = self.client.clone().retry_run(request).await;
        self.answered(answer)
    }

    fn answered<T>(&self, answer: Result<tonic::Response<T>, Status>) -> Result<T, ExpectedError> {
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| refused(&self.address, &status))
    }
}

fn endpoint(address: &str, access: &Access) -> Result<Endpoint, ExpectedError> {
    let endpoint = Endpoint::from_shared(address.to_owned())
        .or_exit(Exit::Configuration)?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true);
    let endpoint = keepalive::client(endpoint);
    check_token(address, &endpoint, access)?;
    match &access.tls {
        Some(tls) => endpoint
            .tls_config(tls.clone())
            .or_exit(Exit::Configuration),
        None => Ok(endpoint),
    }
}

/// Refuses to send the token in the clear: it must use https or stay on this machine.
fn check_token(address: &str, endpoint: &Endpoint, access: &Access) -> Result<(), ExpectedError> {
    let uri = endpoint.uri();
    let is_hidden = uri.scheme_str() == Some("https") || uri.host().is_some_and(is_loopback);
    if access.token.is_none() || access.insecure || is_hidden {
        return Ok(());
    }
    let line = format!(
        "coordinator {address}: the token would cross the network in the clear: make certificates \
         with `capstan certs`, name their folder in [safety] certificates and write https://, or \
         set [safety] insecure = true on a network that you trust"
    );
    Err(ExpectedError::new(Exit::Configuration, line))
}

/// Whether the host of a URL is certainly this machine.
fn is_loopback(host: &str) -> bool {
    // IPv6 addresses are in brackets.
    let ip = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Whether another attempt may reach the coordinator.
pub fn may_come_back(status: &Status) -> bool {
    let lost = matches!(
        status.code(),
        Code::Unavailable
            | Code::Unknown
            | Code::Cancelled
            | Code::Internal
            | Code::ResourceExhausted
    );
    lost && tls::refusal(status).is_none()
}

/// The coordinator's refusal, with its exit code.
pub fn refused(address: &str, status: &Status) -> ExpectedError {
    let message = status.message();
    let said = |exit| ExpectedError::new(exit, message);
    match status.code() {
        Code::InvalidArgument => said(Exit::Configuration),
        Code::NotFound | Code::AlreadyExists | Code::FailedPrecondition => said(Exit::Usage),
        Code::Unauthenticated | Code::PermissionDenied => {
            let line = format!("coordinator {address} refuses: {message}");
            ExpectedError::new(Exit::Configuration, line)
        }
        Code::ResourceExhausted => {
            let line = format!("coordinator {address} is busy: {message}");
            ExpectedError::new(Exit::Unavailable, line)
        }
        Code::Unimplemented => {
            let line = format!("coordinator {address} is of an older version: {message}");
            ExpectedError::new(Exit::Unavailable, line)
        }
        _ => unreachable(address, status),
    }
}

/// The error for a coordinator that was not reached, with its innermost cause.
fn unreachable(address: &str, error: &(dyn Error + 'static)) -> ExpectedError {
    if let Some(refusal) = tls::refusal(error) {
        return ExpectedError::new(
            Exit::Configuration,
            format!("coordinator {address}: {refusal}"),
        );
    }
    let innermost = innermost(error);
    let line = format!(
        "coordinator {address} is unreachable: {innermost}; start one with `capstan up`, or name \
         another with --coordinator"
    );
    ExpectedError::new(Exit::Unavailable, line)
}

/// The innermost cause: the error of the system.
fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut innermost = match error.downcast_ref::<Status>() {
        Some(status) => status.message().to_owned(),
        None => error.to_string(),
    };
    let mut next = error.source();
    while let Some(cause) = next {
        innermost = cause.to_string();
        next = cause.source();
    }
    innermost
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_unreachable_coordinator_is_one_line_with_its_address() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", closed.local_addr().unwrap());
        drop(closed);
        let access = Access::default();
        let error = Coordinator::connect(&address, &access, Duration::ZERO).await;
        let error = error.err().expect("nothing listens");
        assert_eq!(error.exit(), Exit::Unavailable);
        let line = error.to_string();
        assert!(
            line.contains(&address) && line.contains("refused"),
            "{line}"
        );
    }

    #[test]
    fn the_token_is_never_sent_in_the_clear() {
        let access = |insecure| Access {
            token: Some(Secret::from("0123456789abcdef".to_owned())),
            insecure,
            ..Access::default()
        };
        for address in [
            "http://127.0.0.1:7400",
            "http://[::1]:7400",
            "http://localhost:7400",
            "https://coordinator:7400",
        ] {
            assert!(endpoint(address, &access(false)).is_ok(), "{address}");
        }
        for address in [
            "http://coordinator:7400",
            "http://10.0.0.5:7400",
            "http://[2001:db8::1]:7400",
            "http://localhost.example.org:7400",
        ] {
            let error = endpoint(address, &access(false)).unwrap_err();
            assert_eq!(error.exit(), Exit::Configuration);
            let line = error.to_string();
            for part in [address, "[safety] certificates", "insecure = true"] {
                assert!(line.contains(part), "{line}");
            }
            assert!(!line.contains("0123456789abcdef"), "{line}");
            assert!(endpoint(address, &access(true)).is_ok(), "{address}");
            assert!(endpoint(address, &Access::default()).is_ok(), "{address}");
        }
    }

    #[test]
    fn the_status_code_decides_the_exit_code() {
        let exit = |code| refused("http://c:1", &Status::new(code, "x")).exit();
        assert_eq!(exit(Code::NotFound), Exit::Usage);
        assert_eq!(exit(Code::InvalidArgument), Exit::Configuration);
        assert_eq!(exit(Code::Unauthenticated), Exit::Configuration);
        assert_eq!(exit(Code::Unavailable), Exit::Unavailable);
        assert_eq!(exit(Code::ResourceExhausted), Exit::Unavailable);
    }
}
