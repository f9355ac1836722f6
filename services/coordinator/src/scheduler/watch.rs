//! Watching: a snapshot, then events. A watcher that lags gets another snapshot.

use std::collections::VecDeque;

use capstan_plan::id::RunId;
use capstan_proto::v1;
use futures::Stream;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, broadcast};

use super::Handle;
use super::core::NumberedEvent;
use crate::error::Error;
use crate::view::RunView;

/// Maximum number of open streams of events, over all runs.
pub(super) const WATCHERS: usize = 1_000;

struct Watching {
    handle: Handle,
    /// Released when the stream ends.
    _permit: OwnedSemaphorePermit,
    run: RunId,
    first: VecDeque<v1::Event>,
    /// Number of the last event that the snapshot includes.
    seen: u64,
    events: Option<broadcast::Receiver<NumberedEvent>>,
}

impl Handle {
    /// Streams the events of a run until it ends; the last one is `RunEnded`. Ends early if the
    /// coordinator shuts down.
    ///
    /// # Errors
    /// [`Error::UnknownRun`], [`Error::Database`]; [`Error::Busy`]: too many streams are open.
    pub async fn watch(
        &self,
        run: RunId,
    ) -> Result<impl Stream<Item = v1::Event> + Send + use<>, Error> {
        let permit = self.inner.watchers.clone().try_acquire_owned();
        let permit = permit.map_err(|_| Error::Busy {
            what: "streams of events",
            most: WATCHERS,
        })?;
        let (seen, active) = {
            let core = self.inner.core()?;
            let events = core.runs.get(&run).map(|active| active.events.subscribe());
            (core.event_count, events.zip(core.run_view(&run)))
        };
        let (receiver, view) = match active {
            Some((receiver, view)) => (Some(receiver), view),
            None => (None, self.run(&run).await?),
        };
        let watching = Watching {
            first: self.snapshot(&view).into(),
            seen,
            events: receiver.filter(|_| view.state == v1::RunState::Running),
            handle: self.clone(),
            _permit: permit,
            run,
        };
        Ok(futures::stream::unfold(watching, Watching::next))
    }

    /// The current state of the run. For one that has ended, `RunEnded` follows.
    fn snapshot(&self, view: &RunView) -> Vec<v1::Event> {
        let event = |what| v1::Event {
            run: view.run.to_string(),
            at_unix_ms: self.inner.clock.unix_ms(),
            what: Some(what),
        };
        let mut events = vec![event(v1::event::What::Snapshot(view.to_message(true)))];
        if view.state != v1::RunState::Running {
            events.push(event(v1::event::What::RunEnded(v1::RunEnded {
                state: view.state as i32,
                reason: view.reason.clone(),
                leased: view.leased,
            })));
        }
        events
    }
}

impl Watching {
    async fn next(mut self) -> Option<(v1::Event, Self)> {
        loop {
            if let Some(event) = self.first.pop_front() {
                return Some((event, self));
            }
            let shutdown = self.handle.inner.shutdown.clone();
            let received = tokio::select! {
                biased;
                received = self.events.as_mut()?.recv() => received,
                () = shutdown.cancelled() => return None,
            };
            match received {
                Ok(next) if next.number <= self.seen => {}
                Ok(NumberedEvent { event, .. }) => {
                    if matches!(event.what, Some(v1::event::What::RunEnded(_))) {
                        self.events = None;
                    }
                    return Some((event, self));
                }
                Err(RecvError::Closed) => return None,
                Err(RecvError::Lagged(_)) => {
                    // Read the number before the view: an event may come twice, but none is lost.
                    self.seen = self.handle.inner.core().ok()?.event_count;
                    let view = self.handle.run(&self.run).await.ok()?;
                    self.first = self.handle.snapshot(&view).into();
                    if view.state != v1::RunState::Running {
                        self.events = None;
                    }
                }
            }
        }
    }
}
