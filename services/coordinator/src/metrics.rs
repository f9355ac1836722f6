//! Metrics of the coordinator. Their names and help texts are in `runtime::metrics`.

use capstan_runtime::metrics::{
    EJECTIONS, LEASES_EXPIRED, LEASES_GRANTED, QUARANTINES, RETRIES, RUNS, TASKS, TWINS,
    WORKERS_EJECTED, WORKERS_WAITING,
};
use metrics::{counter, gauge};

use crate::machine::{Change, Machine, Notice, Now, State, What};
use crate::scheduler::core::Core;
use crate::view::{RunView, StageView};

/// Counts a change of a task.
pub(crate) fn count(change: &Change) {
    match (&change.what, &change.task.state) {
        (What::Began(_), _) => {
            counter!(LEASES_GRANTED, "stage" => change.key.stage.to_string()).increment(1);
        }
        (What::Moved(leases), State::Blocked { .. } | State::Ready) if !leases.is_empty() => {
            counter!(RETRIES, "stage" => change.key.stage.to_string()).increment(1);
        }
        (_, State::Quarantined) => {
            counter!(QUARANTINES, "stage" => change.key.stage.to_string()).increment(1);
        }
        _ => {}
    }
}

/// Counts expired leases.
pub(crate) fn expired(leases: usize) {
    counter!(LEASES_EXPIRED).increment(leases as u64);
}

/// Counts a notice of the machine.
pub(crate) fn count_notice(notice: &Notice) {
    match notice {
        Notice::Ejected(_) => counter!(EJECTIONS).increment(1),
        Notice::Twin { .. } => counter!(TWINS).increment(1),
    }
}

/// Sets the gauges of runs and tasks. Costs one step per stage, not per task.
pub(crate) fn show(core: &Core, now: Now) {
    let mut running = 0u32;
    let mut states = States::default();
    for active in core.runs.values() {
        if active.view.state == capstan_proto::v1::RunState::Running {
            running += 1;
            states.add(&active.view, &core.machine);
        }
    }
    gauge!(RUNS).set(running);
    gauge!(WORKERS_WAITING).set(core.waiting.len() as f64);
    gauge!(WORKERS_EJECTED).set(core.machine.ejected(now) as f64);
    let states = [
        ("waiting", states.waiting),
        ("leased", states.leased),
        ("committed", states.committed),
        ("quarantined", states.quarantined),
    ];
    for (state, tasks) in states {
        gauge!(TASKS, "state" => state).set(tasks as f64);
    }
}

/// Tasks by state.
#[derive(Debug, Default, PartialEq, Eq)]
struct States {
    /// Ready or blocked.
    waiting: u64,
    leased: u64,
    committed: u64,
    quarantined: u64,
}

impl States {
    fn add(&mut self, run: &RunView, machine: &Machine) {
        for stage in &run.stages {
            let StageView {
                stage: name,
                tasks,
                committed,
                leased,
                ..
            } = stage;
            let leased = leased.len() as u64;
            let quarantined = machine.count_given_up(&run.run, name) as u64;
            self.leased += leased;
            self.committed += committed;
            self.quarantined += quarantined;
            self.waiting += tasks.saturating_sub(committed + leased + quarantined);
        }
    }
}

#[cfg(test)]
mod tests {
    use capstan_runtime::metrics::{STORE_READ_BYTES, STORE_WRITTEN_BYTES};

    #[test]
    fn the_store_counts_under_the_described_names() {
        assert_eq!(capstan_dataset::store::READ_BYTES, STORE_READ_BYTES);
        assert_eq!(capstan_dataset::store::WRITTEN_BYTES, STORE_WRITTEN_BYTES);
    }
}
