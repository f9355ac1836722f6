//! The gRPC services: convert messages, and call [`Handle`].

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use capstan_plan::Pipeline;
use capstan_plan::failure;
use capstan_plan::id::{Digest, RunId, ShardId, StageName};
use capstan_proto::v1;
use capstan_proto::v1::coordinator_server::Coordinator;
use capstan_proto::v1::ring_server::Ring;
use capstan_proto::v1::submit_run_request::Pipeline as Given;
use futures::{Stream, StreamExt};
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Response, Status};
use tracing::Instrument;

use crate::access::check_roles;
use crate::connection::Connection;
use crate::convert;
use crate::error::Error;
use crate::machine::{Claim, Offer};
use crate::scheduler::{Completion, Handle, Session};
use crate::trace;
use crate::view::UnitProgress;

/// Maximum number of tasks that one request leases.
const SLOTS: u32 = 64;
/// Maximum number of leases in one heartbeat.
const LEASES: usize = 4_096;
/// Maximum length of a failure's message, in bytes.
const MESSAGE: usize = 2_000;
/// Number of runs in a list whose request has no limit.
const LISTED: u32 = 100;

type Events = Pin<Box<dyn Stream<Item = Result<v1::Event, Status>> + Send>>;

#[tonic::async_trait]
impl Coordinator for Handle {
    async fn submit_run(
        &self,
        request: Request<v1::SubmitRunRequest>,
    ) -> Result<Response<v1::SubmitRunResponse>, Status> {
        let request = request.into_inner();
        let pipeline = read_pipeline(request.pipeline, &request.file_name)?;
        let run = (!request.run.is_empty()).then_some(RunId::from(request.run));
        let submitted = self.submit(pipeline, request.seed, run).await?;
        Ok(Response::new(v1::SubmitRunResponse {
            warnings: submitted.warnings,
            run: submitted.run.to_string(),
            resumed: submitted.resumed,
        }))
    }

    async fn lease(
        &self,
        request: Request<v1::LeaseRequest>,
    ) -> Result<Response<v1::LeaseResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let longest = Duration::from_secs(self.inner.settings.poll_seconds);
        let wait = Duration::from_millis(request.wait_ms).min(longest);
        let requested = self.lease_request(request, &extensions)?;
        let assignments = self.lease(requested.offer, requested.session, wait).await?;
        let mut metadata = MetadataMap::new();
        trace::append_to(&mut metadata, &assignments);
        let answer = v1::LeaseResponse {
            assignments,
            send_cached: requested.send_cached,
        };
        Ok(Response::from_parts(metadata, answer, Extensions::new()))
    }

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatResponse>, Status> {
        let request = request.into_inner();
        if request.leases.len() > LEASES {
            return Err(Error::Request {
                reason: "names more leases than a worker holds",
            }
            .into());
        }
        let session = Session::new(&request.session);
        let worker = &request.worker;
        let claims = request.leases.into_iter().map(|mut lease| {
            let progress = UnitProgress {
                done: lease.done,
                total: lease.total,
                unit: lease.unit,
                waiting: lease.waiting,
            };
            let token = take_token(&mut lease.lease);
            let claim = convert::claim(worker, lease.lease);
            // Without a valid token, the lease does not belong to this worker.
            (
                claim.filter(|claim| self.inner.tokens.is_valid(claim, &token)),
                progress,
            )
        });
        let statuses = self.heartbeat(session, claims.collect()).await?;
        let statuses = statuses.into_iter().map(|status| status as i32).collect();
        Ok(Response::new(v1::HeartbeatResponse { statuses }))
    }

    async fn complete(
        &self,
        request: Request<v1::CompleteRequest>,
    ) -> Result<Response<v1::CompleteResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let span = trace::request_span(&metadata, request.lease.as_ref());
        let next = request
            .next
            .map(|next| self.lease_request(next, &extensions));
        let next = next.transpose()?;
        let send_cached = next.as_ref().map(|next| next.send_cached);
        let claim = match self.claim(&request.worker, request.lease) {
            Err(Error::Token { key }) => {
                // After `state rebuild` no earlier token is valid, but the commit counts.
                self.inner.find_commit(&key).await;
                return Err(Error::Token { key }.into());
            }
            claim => claim?,
        };
        let completion = Completion {
            claim,
            recipe_published: request.recipe_published,
            next: next.map(|next| (next.offer, next.session)),
        };
        let completed = async {
            let (mine, leased) = self.complete(completion).await?;
            tracing::info!(mine, "completed");
            Ok::<_, Error>((mine, leased))
        };
        let (mine, assignments) = completed.instrument(span).await?;
        let mut metadata = MetadataMap::new();
        trace::append_to(&mut metadata, &assignments);
        let next = send_cached.map(|send_cached| v1::LeaseResponse {
            assignments,
            send_cached,
        });
        let answer = v1::CompleteResponse { mine, next };
        Ok(Response::from_parts(metadata, answer, Extensions::new()))
    }

    async fn fail(
        &self,
        request: Request<v1::FailRequest>,
    ) -> Result<Response<v1::FailResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let span = trace::request_span(&metadata, request.lease.as_ref());
        let kind = capstan_proto::convert::failure_kind(request.kind);
        let message = bounded(
            request
                .message
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" "),
        );
        let claim = self.claim(&request.worker, request.lease)?;
        let failed = self.fail(claim, kind, &message).instrument(span);
        let state = failed.await?;
        Ok(Response::new(v1::FailResponse {
            state: state as i32,
        }))
    }

    async fn release(
        &self,
        request: Request<v1::ReleaseRequest>,
    ) -> Result<Response<v1::ReleaseResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let span = trace::request_span(&metadata, request.lease.as_ref());
        let claim = self.claim(&request.worker, request.lease)?;
        self.release(claim).instrument(span).await?;
        Ok(Response::new(v1::ReleaseResponse {}))
    }

    async fn leave(
        &self,
        request: Request<v1::LeaveRequest>,
    ) -> Result<Response<v1::LeaveResponse>, Status> {
        let request = request.into_inner();
        if request.session.is_empty() {
            // All processes without a session count as one, so none can leave for the others.
            let reason = "names no session";
            return Err(Error::Request { reason }.into());
        }
        let session = Session::new(&request.session);
        self.leave(request.worker.into(), session).await?;
        Ok(Response::new(v1::LeaveResponse {}))
    }

    type WatchStream = Events;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Events>, Status> {
        let connection = request.extensions().get::<Connection>();
        let permit = connection.map(Connection::watch).transpose()?;
        let events = self.watch(request.into_inner().run.into()).await?;
        let events = events.map(move |event| {
            // The stream holds the permit until it ends.
            let _ = &permit;
            Ok(event)
        });
        Ok(Response::new(Box::pin(events)))
    }

    async fn list_runs(
        &self,
        request: Request<v1::ListRunsRequest>,
    ) -> Result<Response<v1::ListRunsResponse>, Status> {
        let limit = match request.into_inner().limit {
            0 => LISTED,
            limit => limit,
        };
        let runs = self.runs(limit).await?;
        Ok(Response::new(v1::ListRunsResponse { runs }))
    }

    async fn get_run(
        &self,
        request: Request<v1::GetRunRequest>,
    ) -> Result<Response<v1::GetRunResponse>, Status> {
        let view = self.run(&request.into_inner().run.into()).await?;
        Ok(Response::new(v1::GetRunResponse {
            status: Some(view.to_message(true)),
            pipeline_json: view.pipeline_json.to_string(),
        }))
    }

    async fn cancel_run(
        &self,
        request: Request<v1::CancelRunRequest>,
    ) -> Result<Response<v1::CancelRunResponse>, Status> {
        let state = self.cancel(&request.into_inner().run.into()).await?;
        Ok(Response::new(v1::CancelRunResponse {
            state: state as i32,
        }))
    }

    async fn prune_runs(
        &self,
        request: Request<v1::PruneRunsRequest>,
    ) -> Result<Response<v1::PruneRunsResponse>, Status> {
        let age = Duration::from_millis(request.into_inner().older_than_ms);
        let (runs, more) = self.prune(age).await?;
        let runs = runs.iter().map(ToString::to_string).collect();
        Ok(Response::new(v1::PruneRunsResponse { runs, more }))
    }

    async fn retry_run(
        &self,
        request: Request<v1::RetryRunRequest>,
    ) -> Result<Response<v1::RetryRunResponse>, Status> {
        let request = request.into_inner();
        let stage = (!request.stage.is_empty()).then_some(StageName::from(request.stage));
        let shard = (!request.shard.is_empty()).then_some(ShardId(request.shard));
        let retried = self.retry(&request.run.into(), stage, shard).await?;
        Ok(Response::new(v1::RetryRunResponse {
            state: retried.state as i32,
            shards: retried.shards,
        }))
    }

    async fn plan_run(
        &self,
        request: Request<v1::SubmitRunRequest>,
    ) -> Result<Response<v1::PlanRunResponse>, Status> {
        let request = request.into_inner();
        let pipeline = read_pipeline(request.pipeline, &request.file_name)?;
        let run = (!request.run.is_empty()).then_some(RunId::from(request.run));
        let plan = self.plan(pipeline, request.seed, run).await?;
        Ok(Response::new(plan))
    }
}

#[tonic::async_trait]
impl Ring for Handle {
    async fn join_ring(
        &self,
        request: Request<v1::JoinRingRequest>,
    ) -> Result<Response<v1::RingPlan>, Status> {
        let (metadata, _, request) = request.into_parts();
        let span = trace::request_span(&metadata, request.lease.as_ref());
        let claim = self.claim(&request.worker, request.lease)?;
        let joined = self.join_ring(claim, request.address, request.last_applied_step);
        let plan = joined.instrument(span).await?;
        Ok(Response::new(plan))
    }
}

fn read_pipeline(given: Option<Given>, file_name: &str) -> Result<Pipeline, Error> {
    let file = if file_name.is_empty() {
        "pipeline"
    } else {
        file_name
    };
    let read = match given {
        Some(Given::Toml(text)) => {
            Pipeline::from_toml(&text, file).map_err(|error| failure::chain(&error))
        }
        Some(Given::Json(text)) => {
            serde_json::from_str(&text).map_err(|error| format!("{file}: {error}"))
        }
        None => Err("the request holds no pipeline".to_owned()),
    };
    read.map_err(|reason| Error::Pipeline {
        reason: bounded(reason),
    })
}

fn offer(request: v1::LeaseRequest, cached: Arc<BTreeSet<Digest>>) -> Result<Offer, Error> {
    if request.worker.is_empty() {
        return Err(Error::Request {
            reason: "names no worker",
        });
    }
    let roles: BTreeSet<_> = request
        .roles
        .into_iter()
        .filter_map(capstan_proto::convert::role)
        .collect();
    if roles.is_empty() {
        return Err(Error::Request {
            reason: "names no role",
        });
    }
    Ok(Offer {
        worker: request.worker.into(),
        roles,
        device: request.device.into(),
        slots: request.slots.clamp(1, SLOTS) as usize,
        cached,
    })
}

/// A validated lease request.
struct Requested {
    offer: Offer,
    session: Session,
    /// Whether the worker must send its list of cached files.
    send_cached: bool,
}

impl Handle {
    /// Validates a lease request.
    fn lease_request(
        &self,
        request: v1::LeaseRequest,
        extensions: &Extensions,
    ) -> Result<Requested, Status> {
        let session = Session::new(&request.session);
        let worker = request.worker.as_str().into();
        let cached = &self.inner.cached;
        let cached = cached.of(&worker, request.cached_tag, &request.cached);
        let send_cached = cached.is_none();
        let offer = offer(request, cached.unwrap_or_default())?;
        check_roles(extensions, &offer.roles)?;
        Ok(Requested {
            offer,
            session,
            send_cached,
        })
    }

    /// The claim of a request. Its token proves that the lease was granted to the caller.
    fn claim(&self, worker: &str, mut lease: Option<v1::LeaseRef>) -> Result<Claim, Error> {
        let token = take_token(&mut lease);
        let claim = convert::claim(worker, lease).ok_or(Error::Request {
            reason: "names no lease with an epoch",
        })?;
        match self.inner.tokens.is_valid(&claim, &token) {
            true => Ok(claim),
            false => Err(Error::Token { key: claim.key }),
        }
    }
}

fn take_token(lease: &mut Option<v1::LeaseRef>) -> Vec<u8> {
    let token = lease.as_mut().map(|lease| &mut lease.token);
    token.map(std::mem::take).unwrap_or_default()
}

/// Truncates a text at a character boundary. Line breaks stay, because each line is one problem.
fn bounded(mut text: String) -> String {
    let end = (0..=MESSAGE.min(text.len()))
        .rev()
        .find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or(0));
    text
}
