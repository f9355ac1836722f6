//! Turns at the processor, for roles that share a process.
//!
//! A long computation takes one turn per thread, so that a training gang and the workers of
//! `capstan up` do not slow each other down. Nobody waits for a turn while holding another one: a
//! worker takes all turns of its computation in one request, and the ranks of a gang take theirs in
//! one request together. So no circular wait is possible, whatever the number of turns.
//!
//! ```text
//! rank 0: seat ─► JoinRing ─┐ (returns when every rank has its seat) ┌─► take ─┐ one request for
//! rank 1: seat ─► JoinRing ─┘                                        └─► take ─┘ the turns of all
//! ```

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

/// Turns at the processor. Cheap to clone; clones share the turns.
#[derive(Debug, Clone)]
pub struct Turns {
    all: usize,
    semaphore: Arc<Semaphore>,
    /// The gangs with a rank in this process, by attempt.
    gangs: Arc<Mutex<HashMap<String, Weak<Gang>>>>,
}

/// The turns of a computation. They are free again when it is dropped; those of a gang, when all
/// of its ranks have dropped theirs.
#[derive(Debug)]
pub struct Turn {
    _gang: Arc<Gang>,
}

/// The ranks of one attempt that run in this process. Any other computation is a gang of one.
#[derive(Debug, Default)]
struct Gang {
    /// Threads of all ranks that have a seat.
    threads: AtomicUsize,
    /// The turns of all ranks, once they have them.
    turns: OnceCell<OwnedSemaphorePermit>,
}

/// The place of one rank among the ranks of its gang. Dropping it leaves the gang.
#[derive(Debug)]
pub struct Seat {
    turns: Turns,
    gang: Arc<Gang>,
}

impl Turns {
    /// As many turns as threads may compute at once.
    pub fn new(threads: usize) -> Self {
        let all = threads.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            all,
            semaphore: Arc::new(Semaphore::new(all)),
            gangs: Arc::default(),
        }
    }

    /// No limit, for a process that has the machine to itself.
    pub fn unbounded() -> Self {
        Self::new(Semaphore::MAX_PERMITS)
    }

    /// Waits for a turn per thread; for all turns, if there are fewer.
    pub async fn take(&self, threads: usize) -> Turn {
        let gang = Arc::new(Gang::default());
        self.join(gang, threads).take().await
    }

    /// Gives a rank its seat. Every rank of a gang takes its seat before it joins the ring.
    ///
    /// - `attempt`: the attempt that the ranks share.
    pub fn seat(&self, attempt: &str, threads: usize) -> Seat {
        let mut gangs = self.gangs.lock().unwrap_or_else(PoisonError::into_inner);
        gangs.retain(|_, gang| gang.strong_count() > 0);
        let gang = gangs.get(attempt).and_then(Weak::upgrade);
        let gang = gang.unwrap_or_else(|| {
            let gang = Arc::new(Gang::default());
            gangs.insert(attempt.to_owned(), Arc::downgrade(&gang));
            gang
        });
        self.join(gang, threads)
    }

    fn join(&self, gang: Arc<Gang>, threads: usize) -> Seat {
        gang.threads.fetch_add(threads, Ordering::Relaxed);
        let turns = self.clone();
        Seat { turns, gang }
    }

    async fn acquire(&self, threads: usize) -> OwnedSemaphorePermit {
        let count = threads.clamp(1, self.all);
        // The semaphore would take a larger request for a mistake.
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let permits = self.semaphore.clone().acquire_many_owned(count);
        permits.await.expect("the semaphore is never closed")
    }
}

impl Seat {
    /// Waits for a turn per thread of every rank that has a seat; for all turns, if there are fewer.
    ///
    /// To be called after the rendezvous: it shows that every rank has its seat. The first call
    /// requests the turns of all ranks, the other calls wait for the same request.
    pub async fn take(self) -> Turn {
        let threads = self.gang.threads.load(Ordering::Relaxed);
        let turns = &self.turns;
        self.gang.turns.get_or_init(|| turns.acquire(threads)).await;
        Turn { _gang: self.gang }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// The output of a future that is ready.
    fn now<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Option<T> {
        match std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    #[test]
    fn ranks_do_not_wait_for_a_turn_behind_a_worker_that_waits_for_theirs() {
        for all in [1, 2, 3] {
            let turns = Turns::new(all);
            let (first, second) = (turns.seat("a", 1), turns.seat("a", 1));
            let mut shard = pin!(turns.take(2));
            let shard = now(&mut shard).expect("every turn is free");
            let mut first = pin!(first.take());
            assert!(now(&mut first).is_none(), "{all}");
            // The next shard asks between the two ranks.
            let mut next = pin!(turns.take(2));
            assert!(now(&mut next).is_none(), "{all}");
            let mut second = pin!(second.take());
            assert!(now(&mut second).is_none(), "{all}");
            drop(shard);
            let first = now(&mut first).expect("the turns of both ranks");
            let second = now(&mut second).expect("the turns of both ranks");
            assert!(now(&mut next).is_none(), "{all}");
            drop(first);
            assert!(now(&mut next).is_none(), "{all}: the gang still computes");
            drop(second);
            assert!(now(&mut next).is_some(), "{all}");
        }
    }

    #[test]
    fn a_rank_that_leaves_while_it_waits_keeps_no_turn_from_the_others() {
        let turns = Turns::new(2);
        let (first, second) = (turns.seat("a", 1), turns.seat("a", 1));
        let mut shard = pin!(turns.take(2));
        let shard = now(&mut shard).expect("every turn is free");
        let mut second = pin!(second.take());
        {
            let mut first = Box::pin(first.take());
            assert!(now(&mut first).is_none());
            assert!(now(&mut second).is_none());
            // The request of the first rank ends with it.
        }
        drop(shard);
        let second = now(&mut second).expect("the turns");
        drop(second);
        let mut shard = pin!(turns.take(2));
        assert!(now(&mut shard).is_some());
    }

    #[test]
    fn gangs_and_the_next_attempt_of_a_gang_have_turns_of_their_own() {
        let turns = Turns::new(2);
        let mut old = pin!(turns.seat("a", 2).take());
        let old = now(&mut old).expect("every turn is free");
        let mut new = pin!(turns.seat("b", 2).take());
        assert!(now(&mut new).is_none());
        drop(old);
        assert!(now(&mut new).is_some());
        assert!(turns.gangs.lock().unwrap().len() <= 2);
    }

    #[test]
    fn a_process_with_the_machine_to_itself_never_waits() {
        let turns = Turns::unbounded();
        let taken: Vec<_> = (0..1_000)
            .map(|_| now(&mut Box::pin(turns.take(64))).expect("a turn"))
            .collect();
        assert_eq!(taken.len(), 1_000);
    }
}
