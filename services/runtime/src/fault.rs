//! Fault points: named places at which a process kills itself, so that tests can show that no work
//! is lost or duplicated.
//!
//! `CAPSTAN_FAULT_POINT=worker.before_commit` kills the process with SIGKILL when it passes that
//! point for the first time, `worker.before_commit:3` for the third time. As after a kill by the
//! kernel or a power failure, no destructor runs, no answer is sent and no buffer is flushed.
//! Builds without `debug_assertions` (releases) have no fault points.

/// The environment variable that arms a point: its name, optionally with `:n` for the n-th pass.
pub const VARIABLE: &str = "CAPSTAN_FAULT_POINT";

/// Every fault point, five for each role, with the state when it is passed.
pub const POINTS: [(&str, &str); 15] = [
    (
        "coordinator.after_generation",
        "the generation is created in the store, the database does not contain it",
    ),
    (
        "coordinator.after_lease",
        "leases are in the database, the worker has no answer",
    ),
    (
        "coordinator.before_complete",
        "a worker's commit record exists, the completion is not in the database",
    ),
    (
        "coordinator.before_publish",
        "every commit record of a stage exists, its version does not",
    ),
    (
        "coordinator.after_publish",
        "a version is published, the database does not show its stage as done",
    ),
    (
        "worker.after_lease",
        "a task is leased, none of its work is done",
    ),
    (
        "worker.mid_shard",
        "one unit of the shard is done, others are not",
    ),
    (
        "worker.before_commit",
        "the outputs are in the store, no commit record names them",
    ),
    (
        "worker.after_commit",
        "the commit record exists, the coordinator has no report",
    ),
    (
        "worker.in_heartbeat",
        "leases are held, a due heartbeat is not sent",
    ),
    (
        "trainer.after_join",
        "the ranks have their plan, no ring is formed",
    ),
    (
        "trainer.mid_step",
        "the gradient of a step is summed over the ranks, no update is applied",
    ),
    (
        "trainer.in_checkpoint",
        "files of a checkpoint are in the store, its COMMIT is not",
    ),
    (
        "trainer.before_model",
        "the last step is done, its model is not in the store",
    ),
    (
        "trainer.after_commit",
        "the commit record exists, the coordinator has no report",
    ),
];

/// Kills this process with SIGKILL if this is the pass that [`VARIABLE`] names.
///
/// - `name`: one of [`POINTS`].
///
/// # Panics
/// Only in builds with `debug_assertions`: if the name, given here or in the environment, is not in
/// the table. Otherwise a test that kills no process would pass.
#[cfg(debug_assertions)]
pub fn point(name: &str) {
    armed::pass(name);
}

/// Does nothing: builds without `debug_assertions` have no fault points.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn point(_name: &str) {}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    use super::{POINTS, VARIABLE};

    /// The point at which this process dies.
    struct Armed {
        name: String,
        at_pass: u64,
        passes: AtomicU64,
    }

    fn armed() -> Option<&'static Armed> {
        static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
        let from_environment = || {
            let text = std::env::var(VARIABLE).ok()?;
            let (name, at_pass) = super::parse(&text)
                .unwrap_or_else(|| panic!("{VARIABLE}={text} is not a fault point"));
            Some(Armed {
                name: name.to_owned(),
                at_pass,
                passes: AtomicU64::new(0),
            })
        };
        ARMED.get_or_init(from_environment).as_ref()
    }

    pub(super) fn pass(name: &str) {
        debug_assert!(
            POINTS.iter().any(|(known, _)| *known == name),
            "`{name}` is not in the table of fault points"
        );
        let Some(armed) = armed().filter(|armed| armed.name == name) else {
            return;
        };
        if armed.passes.fetch_add(1, Ordering::Relaxed) + 1 == armed.at_pass {
            eprintln!("fault point {name}: killed at pass {}", armed.at_pass);
            kill(Pid::this(), Signal::SIGKILL).expect("a process may kill itself");
            // The kernel may deliver the signal to another thread; this thread must not continue.
            loop {
                std::thread::park();
            }
        }
    }
}

/// The name and pass of `name[:n]`; `None` if the name is not in the table or `n` is not positive.
#[cfg(any(debug_assertions, test))]
fn parse(text: &str) -> Option<(&str, u64)> {
    let (name, pass) = text.split_once(':').unwrap_or((text, "1"));
    let pass = pass.parse().ok().filter(|pass| *pass > 0)?;
    let known = POINTS.iter().any(|(known, _)| *known == name);
    known.then_some((name, pass))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    /// Set in the child process only.
    const CHILD: &str = "CAPSTAN_FAULT_CHILD";

    #[test]
    fn each_role_has_five_points() {
        let names: BTreeSet<&str> = POINTS.iter().map(|(name, _)| *name).collect();
        assert_eq!(names.len(), POINTS.len());
        for role in ["coordinator.", "worker.", "trainer."] {
            assert_eq!(names.iter().filter(|n| n.starts_with(role)).count(), 5);
        }
    }

    #[test]
    fn the_variable_is_a_name_and_a_pass() {
        assert_eq!(parse("worker.mid_shard"), Some(("worker.mid_shard", 1)));
        assert_eq!(parse("worker.mid_shard:7"), Some(("worker.mid_shard", 7)));
        for wrong in [
            "",
            "worker.typo",
            "worker.mid_shard:0",
            "worker.mid_shard:x",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    /// In the child process: passes two points five times each and prints each pass.
    #[test]
    fn passes() {
        if std::env::var_os(CHILD).is_none() {
            return;
        }
        for pass in 1..=5 {
            point("worker.after_commit");
            point("worker.before_commit");
            println!("passed {pass}");
        }
    }

    #[cfg(debug_assertions)]
    #[test]
    fn a_process_dies_by_signal_9_at_the_stated_pass() {
        let child = |armed: Option<&str>| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command
                .args(["--exact", "fault::tests::passes", "--nocapture"])
                .env(CHILD, "1");
            match armed {
                Some(armed) => command.env(VARIABLE, armed),
                None => command.env_remove(VARIABLE),
            };
            let output = command.output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            (output.status, text.matches("passed ").count())
        };
        let (status, _) = child(None);
        assert!(status.success());
        let (status, passed) = child(Some("trainer.mid_step"));
        assert!(
            status.success(),
            "a point that is not passed kills no process"
        );
        assert_eq!(passed, 5);
        for (armed, before) in [("worker.before_commit", 0), ("worker.before_commit:3", 2)] {
            let (status, passed) = child(Some(armed));
            assert_eq!(status.signal(), Some(9), "{armed}: {status}");
            assert_eq!(passed, before, "{armed}");
        }
        let (status, _) = child(Some("worker.typo"));
        assert!(!status.success() && status.signal().is_none());
    }
}
