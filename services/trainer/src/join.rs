//! The rendezvous of a gang through the coordinator, and the connection of its ring.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use capstan_collective::{
    Joining, Ring, RingEpoch, RingError, RingPlan, Secret, Tls, deadline_after,
};
use capstan_lease::Assignment;
use capstan_proto::v1;
use capstan_proto::v1::ring_client::RingClient;
use capstan_runtime::fault;
use capstan_runtime::tls::{Identity, Role, refusal};
use tonic::transport::Channel;

use crate::error::Error;

/// Binds the ring's listener. This precedes the rendezvous, which announces its address.
pub(crate) fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let listen = |source| Error::Listen { address, source };
    let listener = TcpListener::bind(address).map_err(listen)?;
    let bound = listener.local_addr().map_err(listen)?;
    Ok((listener, bound))
}

/// A rank's place in the ring, and the step at which the ring starts.
pub(crate) struct Rendezvous {
    pub(crate) plan: RingPlan,
    /// Steps that the most advanced rank has applied, by the checkpoint that it found. All ranks
    /// start there, because a checkpoint may be written between the lookups of two ranks.
    pub(crate) step: u64,
}

/// Requests this rank's place from the coordinator. Returns when all ranks have joined.
///
/// - `advertised`: the address at which the other ranks reach this rank's listener.
/// - `step`: steps that this rank's checkpoint contains.
pub(crate) async fn rendezvous(
    channel: Channel,
    worker: &str,
    assignment: &Assignment,
    advertised: SocketAddr,
    step: u64,
    limit: Duration,
) -> Result<Rendezvous, Error> {
    let request = v1::JoinRingRequest {
        worker: worker.to_owned(),
        lease: Some(assignment.lease.clone()),
        address: advertised.to_string(),
        last_applied_step: step.checked_sub(1),
    };
    let mut request = tonic::Request::new(request);
    let trace = assignment.trace.child();
    trace.append_to(request.metadata_mut());
    let mut client = RingClient::new(channel);
    let plan = tokio::time::timeout(limit, client.join_ring(request))
        .await
        .map_err(|_| Error::Rendezvous("not all ranks joined in time".to_owned()))?
        .map_err(|status| match refusal(&status) {
            Some(reason) => Error::Certificate(reason),
            None => Error::Rendezvous(status.message().to_owned()),
        })?
        .into_inner();
    let step = plan.last_applied_step.map_or(0, |applied| applied + 1);
    let plan = ring_plan(plan, assignment)?;
    fault::point("trainer.after_join");
    Ok(Rendezvous { plan, step })
}

fn ring_plan(plan: v1::RingPlan, assignment: &Assignment) -> Result<RingPlan, Error> {
    let wrong = |what: &str| Error::Rendezvous(format!("the coordinator's plan has {what}"));
    let epoch = plan.ring_epoch.ok_or_else(|| wrong("no ring epoch"))?;
    let peers = plan.peers.iter().map(|peer| peer.parse::<SocketAddr>());
    let peers = peers
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| wrong("an invalid address"))?;
    let secret: [u8; 32] = plan
        .secret
        .as_slice()
        .try_into()
        .map_err(|_| wrong("a secret of another length"))?;
    Ok(RingPlan {
        run: format!("{}/{}", assignment.task.run, assignment.task.stage),
        ring_epoch: RingEpoch {
            generation: epoch.generation,
            counter: epoch.counter,
        },
        rank: plan.rank as usize,
        world_size: plan.world_size as usize,
        peers,
        secret: Secret(secret),
    })
}

/// The TLS settings of a trainer towards other ranks.
pub(crate) fn tls(identity: &Identity) -> Tls {
    Tls {
        client: identity.ring_client(),
        server: identity.ring_server(),
        name: Role::Trainer.server_name(),
    }
}

/// Forms the ring. It blocks, so it runs on a thread for computation.
///
/// - `given_up`: set when this rank's attempt has ended.
pub(crate) fn connect(
    plan: &RingPlan,
    listener: &TcpListener,
    step: u64,
    limit: Duration,
    identity: Option<&Identity>,
    given_up: &AtomicBool,
) -> Result<Ring, Error> {
    let tls = identity.map(tls);
    let joining = Joining {
        step,
        deadline: deadline_after(limit),
        tls: tls.as_ref(),
        given_up,
    };
    let ring = Ring::connect_with(plan, listener, &joining);
    // Report the missing rank as the cause, even if other connections were refused while waiting.
    ring.map_err(|error| match (&error, refusal(&error)) {
        (RingError::GivenUp { .. }, _) => Error::Cancelled,
        (RingError::Untrusted { rank, .. }, Some(reason)) => {
            Error::Certificate(format!("rank {rank}: {reason}"))
        }
        _ => Error::Ring(error),
    })
}
