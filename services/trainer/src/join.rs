//! From a lease to a ring: the rendezvous through the coordinator.

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

/// Binds the ring's listener before anybody is told its address.
pub(crate) fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let listen = |source| Error::Listen { address, source };
    let listener = TcpListener::bind(address).map_err(listen)?;
    let bound = listener.local_addr().map_err(listen)?;
    Ok((listener, bound))
}

/// A rank's place, and where the ring begins.
pub(crate) struct Meeting {
    pub(crate) plan: RingPlan,
    /// Steps that the most advanced rank has applied, by the checkpoint that it found: all begin
    /// there. Ranks look for checkpoints one after the other, and one may be written meanwhile.
    pub(crate) step: u64,
}

/// Asks the coordinator for this rank's place; answers when all ranks have joined.
///
/// - `advertised`: where the other ranks reach this one's listener.
/// - `step`: steps applied so far (by the checkpoint).
pub(crate) async fn rendezvous(
    channel: Channel,
    worker: &str,
    assignment: &Assignment,
    advertised: SocketAddr,
    step: u64,
    limit: Duration,
) -> Result<Meeting, Error> {
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
        .map_err(|_| Error::Rendezvous("not all ranks came in time".to_owned()))?
        .map_err(|status| match refusal(&status) {
            Some(reason) => Error::Certificate(reason),
            None => Error::Rendezvous(status.message().to_owned()),
        })?
        .into_inner();
    let step = plan.last_applied_step.map_or(0, |applied| applied + 1);
    let plan = plan_of(plan, assignment)?;
    fault::point("trainer.after_join");
    Ok(Meeting { plan, step })
}

fn plan_of(plan: v1::RingPlan, assignment: &Assignment) -> Result<RingPlan, Error> {
    let wrong = |what: &str| Error::Rendezvous(format!("the coordinator's plan has {what}"));
    let epoch = plan.ring_epoch.ok_or_else(|| wrong("no epoch"))?;
    let peers = plan.peers.iter().map(|peer| peer.parse::<SocketAddr>());
    let peers = peers
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| wrong("an address that is none"))?;
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

/// What a trainer shows to other ranks, and demands of them.
pub(crate) fn tls(identity: &Identity) -> Tls {
    Tls {
        client: identity.ring_client(),
        server: identity.ring_server(),
        name: Role::Trainer.server_name(),
    }
}

/// Forms the ring. Blocks, so it runs where computation does.
///
/// - `given_up`: set where this rank's attempt is over.
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
    // A rank that did not come stays that, whatever strangers were refused meanwhile.
    ring.map_err(|error| match (&error, refusal(&error)) {
        (RingError::GivenUp { .. }, _) => Error::Cancelled,
        (RingError::Untrusted { rank, .. }, Some(reason)) => {
            Error::Certificate(format!("rank {rank}: {reason}"))
        }
        _ => Error::Ring(error),
    })
}
