//! Fencing: a coordinator stops when a newer one has started over the same store.

use std::sync::Arc;
use std::time::Duration;

use capstan_plan::failure;
use tokio::time::Instant;

use super::Inner;
use super::core::Gate;
use crate::error::Error;
use crate::generation;

impl Inner {
    /// Checks once per heartbeat period whether a newer generation was taken in the store. If so,
    /// this coordinator rejects every request and shuts down.
    ///
    /// If the store does not answer, tasks are leased for one more lease period. Two coordinators
    /// may then lease the same task, which costs only work, because the commit record decides; and a
    /// short failure of the store does not stop the cluster. After that period no task is leased,
    /// since a worker could not commit to such a store. Existing leases are renewed meanwhile.
    pub(super) async fn watch_generation(self: Arc<Self>) {
        let period = Duration::from_secs(self.settings.heartbeat_seconds);
        let bound = Duration::from_secs(self.settings.lease_seconds);
        // The start has taken the newest generation, so the first check is due one period later.
        let mut checks = tokio::time::interval_at(Instant::now() + period, period);
        checks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut answered = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return,
                _ = checks.tick() => {}
            }
            let check = generation::is_taken(&self.store, self.generation + 1);
            match tokio::time::timeout(period, check).await {
                Ok(Ok(false)) => {
                    answered = Instant::now();
                    self.open();
                }
                Ok(Ok(true)) => return self.step_down(self.generation, self.generation + 1),
                Ok(Err(error)) => {
                    tracing::warn!(
                        error = failure::chain(&error),
                        "cannot read the newest generation from the store"
                    );
                }
                Err(_) => tracing::warn!("the store did not return the newest generation in time"),
            }
            if answered.elapsed() > bound {
                self.shut();
            }
        }
    }

    fn open(&self) {
        let mut core = self.lock();
        if core.gate == Gate::Shut {
            tracing::info!("the store answers again: leasing resumes");
            core.gate = Gate::Open;
            self.pump.notify_one();
        }
    }

    fn shut(&self) {
        let mut core = self.lock();
        if core.gate == Gate::Open {
            tracing::error!("the store has not answered for a lease period: no task is leased");
            core.gate = Gate::Shut;
        }
    }

    /// Shuts down because a newer coordinator has started.
    pub(super) fn step_down(&self, ours: u64, newer: u64) {
        tracing::error!(
            ours,
            newer,
            "a newer coordinator has started: this one stops"
        );
        self.stop(Gate::Superseded { ours, newer });
    }

    /// Shuts down because a part of the coordinator failed. The supervisor of the process restarts
    /// it.
    pub(super) fn break_down(&self, why: Error) {
        tracing::error!(
            error = failure::chain(&why),
            "the coordinator failed: it stops"
        );
        self.lock().broken.get_or_insert(why);
        self.stop(Gate::Broken);
    }

    fn stop(&self, gate: Gate) {
        let mut core = self.lock();
        core.gate = gate;
        core.waiting.clear();
        drop(core);
        self.works.send_replace(false);
        self.shutdown.cancel();
    }
}
