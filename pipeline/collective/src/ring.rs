//! The TCP ring and its operations.

use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use crate::link::{Call, Exchange, Links, Operation};
use crate::operation::{AllGather, AllReduce, Broadcast};
use crate::{Collective, RingError, RingPlan, Tls, connect};

/// How a rank joins a ring.
#[derive(Debug, Clone, Copy)]
pub struct Joining<'a> {
    /// The step that this rank would do next; all ranks must agree.
    pub step: u64,
    /// Limit for joining as a whole.
    pub deadline: Instant,
    /// Where given, every rank must prove by certificate that it is a trainer, before it says
    /// anything.
    pub tls: Option<&'a Tls>,
    /// Set by another thread to wait no longer: a neighbour may have died before it dialled.
    pub given_up: &'a AtomicBool,
}

/// One rank's place in a ring of TCP connections.
pub struct Ring {
    rank: usize,
    world_size: usize,
    /// To the next and from the previous rank; `None` in a world of one.
    links: Option<Links>,
    sequence: u64,
    /// Room for values that are to be added, kept from call to call.
    aside: Vec<f32>,
    broken: bool,
}

impl Ring {
    /// Joins the ring of `plan`: dials the next rank, accepts the previous one, proves the secret
    /// to both and has them prove it.
    ///
    /// - `listener`: bound by the caller beforehand at `plan.peers[plan.rank]`. Strangers that
    ///   connect to it are turned away and hold up nothing.
    /// - `step`: the step that this rank would do next; all ranks must agree.
    /// - `deadline`: limit for the whole call.
    ///
    /// # Errors
    /// [`RingError::StaleEpoch`], [`RingError::ForeignRun`], [`RingError::WrongStep`],
    /// [`RingError::WrongRank`], [`RingError::Unauthenticated`]: a neighbour belongs elsewhere.
    /// [`RingError::NotJoined`]: a neighbour did not come in time.
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

    /// [`Ring::connect`] over TLS where it is given, and until somebody gives it up.
    ///
    /// # Errors
    /// As [`Ring::connect`]; [`RingError::Untrusted`] where a neighbour refuses this rank's
    /// certificate or this rank the neighbour's; [`RingError::GivenUp`].
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
            aside: Vec::new(),
            broken: false,
        })
    }

    /// To end this rank's part of the ring from another thread, whatever its own thread waits for.
    ///
    /// # Errors
    /// [`RingError::Setup`] where the system gives no further hold on the connections.
    pub fn breaker(&self) -> Result<Breaker, RingError> {
        let Some(links) = &self.links else {
            return Ok(Breaker(Vec::new()));
        };
        let setup = |source| RingError::Setup {
            doing: "hold the connections",
            source,
        };
        links.sockets().map(Breaker).map_err(setup)
    }

    /// Runs one call; after an error the ring is broken and the neighbours are told by the end of
    /// their connections.
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

/// Ends a rank's part of a ring; see [`Ring::breaker`].
#[derive(Debug)]
pub struct Breaker(Vec<TcpStream>);

impl Breaker {
    /// Ends the connections: the rank's call under way fails at once, and so do its neighbours'.
    pub fn end(&self) {
        for socket in &self.0 {
            // One that has ended already is what was wanted.
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

    /// Pipelined ring: reduce-scatter, then all-gather, what has come of a chunk being
    /// added and passed on while the rest arrives. Each rank sends `2(n-1)/n * size_of_val(values)`
    /// bytes. Chunk `c` is summed as `((x_c + x_c+1) + x_c+2) ..`, ranks modulo n.
    ///
    /// Cost model: nccl-tests, `doc/PERFORMANCE.md`.
    fn all_reduce_sum(&mut self, values: &mut [f32], deadline: Instant) -> Result<(), RingError> {
        if self.links.is_none() {
            return Ok(());
        }
        let bytes = size_of_val(values);
        let aside = std::mem::take(&mut self.aside);
        let mut exchange = AllReduce::new(values, self.rank, self.world_size, aside);
        let result = self.call((Operation::AllReduce, 0), bytes, deadline, &mut exchange);
        self.aside = exchange.into_aside();
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
