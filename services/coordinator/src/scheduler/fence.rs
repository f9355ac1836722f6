//! The lookout: a coordinator that is no longer the newest one over its store stops.

use std::sync::Arc;
use std::time::Duration;

use capstan_plan::failure;
use tokio::time::Instant;

use super::Inner;
use super::core::Gate;
use crate::error::Error;
use crate::generation;

impl Inner {
    /// Asks the store once per heartbeat period whether a newer generation was taken. Where one
    /// was, this coordinator answers nobody any more and goes down.
    ///
    /// While the store does not answer, leases go on being given for one lease period: what two
    /// coordinators lease twice costs work and nothing else, since the commit record decides, and
    /// a store that hiccups should not stop a cluster. After that period nobody new is set to work
    /// (a worker could not commit to such a store anyway), and leases that are held go on being
    /// renewed, until the store answers again.
    pub(super) async fn look_out(self: Arc<Self>) {
        let period = Duration::from_secs(self.settings.heartbeat_seconds);
        let bound = Duration::from_secs(self.settings.lease_seconds);
        // The start has just taken the newest generation: the first look is due a period later.
        let mut looks = tokio::time::interval_at(Instant::now() + period, period);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut answered = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return,
                _ = looks.tick() => {}
            }
            let look = generation::is_taken(&self.store, self.generation + 1);
            match tokio::time::timeout(period, look).await {
                Ok(Ok(false)) => {
                    answered = Instant::now();
                    self.open();
                }
                Ok(Ok(true)) => return self.step_down(self.generation, self.generation + 1),
                Ok(Err(error)) => {
                    tracing::warn!(
                        error = failure::chain(&error),
                        "the store does not say who coordinates"
                    );
                }
                Err(_) => tracing::warn!("the store does not say in time who coordinates"),
            }
            if answered.elapsed() > bound {
                self.shut();
            }
        }
    }

    fn open(&self) {
        let mut core = self.lock();
        if core.gate == Gate::Shut {
            tracing::info!("the store answers again: leases begin again");
            core.gate = Gate::Open;
            self.pump.notify_one();
        }
    }

    fn shut(&self) {
        let mut core = self.lock();
        if core.gate == Gate::Open {
            tracing::error!("the store has not answered for a lease period: no lease begins");
            core.gate = Gate::Shut;
        }
    }

    /// A newer coordinator is there: this one goes down.
    pub(super) fn step_down(&self, ours: u64, newer: u64) {
        tracing::error!(ours, newer, "a newer coordinator is there: this one stops");
        self.stop(Gate::Superseded { ours, newer });
    }

    /// A part of the coordinator cannot go on: it goes down, so that whoever supervises the process
    /// starts it again.
    pub(super) fn break_down(&self, why: Error) {
        tracing::error!(
            error = failure::chain(&why),
            "the coordinator cannot go on: it stops"
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
