//! The TCP ring and its operations.

use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use crate::link::{Call, Exchange, Links, Operation};
use crate::operation::{AllGather, AllReduce, Broadcast};
use crate::{Collective, RingError, RingPlan, Tls, connect};

/// The conditions under which a rank joins a ring.
#[derive(Debug, Clone, Copy)]
pub struct Joining<'a> {
    /// The next step of this rank. All ranks must have the same.
    pub step: u64,
    /// Deadline for joining.
    pub deadline: Instant,
    /// If set, every rank must prove with a certificate that it is a trainer before any other
    /// message.
    pub tls: Option<&'a Tls>,
    /// Another thread sets it to stop the joining, for example because a neighbour died before it
    /// dialled.
    pub given_up: &'a AtomicBool,
}

/// One rank's place in a ring of TCP connections.
pub struct Ring {
    rank: usize,
    world_size: usize,
    /// The connections to the next and from the previous rank; `None` in a world of one.
    links: Option<Links>,
    sequence: u64,
    /// Buffer for received values that are to be added, reused by all calls.
    addends: Vec<f32>,
    broken: bool,
}

impl Ring {
    /// Joins the ring of `plan`: dials the next rank and accepts the previous one. This rank and
    /// its neighbours prove to each other that they know the secret.
    ///
    /// - `listener`: bound by the caller at `plan.peers[plan.rank]`. Connections of processes that
    ///   are not the previous rank are refused and do not delay the joining.
    /// - `step`: the next step of this rank. All ranks must have the same.
    /// - `deadline`: deadline of the whole call.
    ///
    /// # Errors
    /// [`RingError::StaleEpoch`], [`RingError::ForeignRun`], [`RingError::WrongStep`],
    /// [`RingError::WrongRank`], [`RingError::Unauthenticated`]: a neighbour is not a member of
    /// this ring. [`RingError::NotJoined`]: a neighbour did not join in time.
    pub fn connect(
        plan: &RingPlan,
        listener: &TcpListener,
        step: u64,
        deadline: Instant,
    ) -> Result<Self, RingError> {
        let joining = Joining {
            step,
            deadline,
            tls: None,
            given_up: &AtomicBool::new(false),
        };
        Self::connect_with(plan, listener, &joining)
    }

    /// [`Ring::connect`] that may use TLS and that another thread can stop.
    ///
    /// # Errors
    /// As [`Ring::connect`]. [`RingError::Untrusted`]: a neighbour refuses this rank's certificate,
    /// or this rank the neighbour's. [`RingError::GivenUp`]: `joining.given_up` was set.
    pub fn connect_with(
        plan: &RingPlan,
        listener: &TcpListener,
        joining: &Joining<'_>,
    ) -> Result<Self, RingError> {
        plan.check()?;
        let links = if plan.world_size == 1 {
            None
        } else {
            let (next, previous) = connect::neighbours(plan, listener, joining)?;
            Some(Links::new((next, plan.next()), (previous, plan.previous())))
        };
        tracing::debug!(rank = plan.rank, world_size = plan.world_size, ring_epoch = %plan.ring_epoch, step = joining.step, "ring joined");
        Ok(Self {
            rank: plan.rank,
            world_size: plan.world_size,
            links,
            sequence: 0,
            addends: Vec::new(),
            broken: false,
        })
    }

    /// A handle with which another thread ends this rank's connections while its own thread waits.
    ///
    /// # Errors
    /// [`RingError::Setup`] if the system cannot duplicate the sockets.
    pub fn breaker(&self) -> Result<Breaker, RingError> {
        let Some(links) = &self.links else {
            return Ok(Breaker(Vec::new()));
        };
        let setup = |source| RingError::Setup {
            doing: "duplicate the sockets",
            source,
        };
        links.sockets().map(Breaker).map_err(setup)
    }

    /// Runs one call. After an error the ring is broken, and the end of the connections notifies
    /// the neighbours.
    fn call(
        &mut self,
        (operation, root): (Operation, usize),
        bytes: usize,
        deadline: Instant,
        exchange: &mut impl Exchange,
    ) -> Result<(), RingError> {
        if self.broken {
            return Err(RingError::Broken);
        }
        self.sequence += 1;
        let call = Call {
            operation,
            root: root as u32,
            sequence: self.sequence,
            bytes: bytes as u64,
            deadline,
        };
        let links = self.links.as_mut().expect("callers handle a world of one");
        let result = links.run(&call, exchange);
        if result.is_err() {
            self.end();
        }
        result
    }

    fn end(&mut self) {
        self.broken = true;
        self.links.iter().for_each(Links::end);
    }
}

/// Ends a rank's connections from another thread; see [`Ring::breaker`].
#[derive(Debug)]
pub struct Breaker(Vec<TcpStream>);

impl Breaker {
    /// Ends the connections. The current calls of the rank and of its neighbours fail immediately.
    pub fn end(&self) {
        for socket in &self.0 {
            // An error means that the connection has ended already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Collective for Ring {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.world_size
    }

    /// Pipelined ring: reduce-scatter, then all-gather. The received part of a chunk is added and
    /// forwarded while the rest arrives. Each rank sends `2(n-1)/n * size_of_val(values)` bytes.
    /// Chunk `c` is summed as `((x_c + x_c+1) + x_c+2) ..`, with ranks modulo n.
    ///
    /// Cost model: nccl-tests, `doc/PERFORMANCE.md`.
    fn all_reduce_sum(&mut self, values: &mut [f32], deadline: Instant) -> Result<(), RingError> {
        if self.links.is_none() {
            return Ok(());
        }
        let bytes = size_of_val(values);
        let addends = std::mem::take(&mut self.addends);
        let mut exchange = AllReduce::new(values, self.rank, self.world_size, addends);
        let result = self.call((Operation::AllReduce, 0), bytes, deadline, &mut exchange);
        self.addends = exchange.into_addends();
        result
    }

    fn all_gather_bytes(
        &mut self,
        bytes: &[u8],
        deadline: Instant,
    ) -> Result<Vec<Vec<u8>>, RingError> {
        if self.links.is_none() {
            return Ok(vec![bytes.to_vec()]);
        }
        let exchange = AllGather::new(bytes, self.rank, self.world_size);
        let mut exchange = exchange.inspect_err(|_| self.end())?;
        self.call((Operation::AllGather, 0), 0, deadline, &mut exchange)?;
        Ok(exchange.into_blocks())
    }

    fn broadcast(
        &mut self,
        values: &mut [f32],
        root: usize,
        deadline: Instant,
    ) -> Result<(), RingError> {
        if root >= self.world_size {
            return Err(RingError::NoSuchRank {
                rank: root,
                world_size: self.world_size,
            });
        }
        if self.links.is_none() {
            return Ok(());
        }
        let bytes = size_of_val(values);
        let mut exchange = Broadcast::new(values, root, self.rank, self.world_size);
        self.call((Operation::Broadcast, root), bytes, deadline, &mut exchange)
    }

    fn bytes_reduced(&self) -> u64 {
        self.links.as_ref().map_or(0, Links::bytes_sent)
    }
}
