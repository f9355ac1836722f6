//! Fault points: named places at which a process kills itself, so that tests can show that nothing
//! is lost or doubled whatever it was doing.
//!
//! `CAPSTAN_FAULT_POINT=worker.before_commit` kills with SIGKILL at the first pass of that point,
//! `worker.before_commit:3` at the third. Nothing runs after it: no destructor, no answer, no
//! flush, as when the kernel or a power cut does it. Builds without `debug_assertions` (releases)
//! hold no fault point at all.

/// The variable that arms a point: its name, and optionally `:n` for the n-th pass.
pub const VARIABLE: &str = "CAPSTAN_FAULT_POINT";

/// Every fault point, five for each role, and what is true when it is passed.
pub const POINTS: [(&str, &str); 15] = [
    (
        "coordinator.after_generation",
        "its generation is created in the store, its database does not know it",
    ),
    (
        "coordinator.after_lease",
        "leases are noted, the worker has no answer",
    ),
    (
        "coordinator.before_complete",
        "a worker's commit stands, the completion is not noted",
    ),
    (
        "coordinator.before_publish",
        "every commit of a stage stands, its version does not",
    ),
    (
        "coordinator.after_publish",
        "a version is published, its stage is not noted as done",
    ),
    (
        "worker.after_lease",
        "a task is leased, nothing of it is done",
    ),
    (
        "worker.mid_shard",
        "a unit of the shard is done, others are not",
    ),
    (
        "worker.before_commit",
        "the outputs are in the store, no commit names them",
    ),
    (
        "worker.after_commit",
        "the commit stands, the coordinator was not told",
    ),
    (
        "worker.in_heartbeat",
        "leases are held, a heartbeat is due and not sent",
    ),
    (
        "trainer.after_join",
        "the coordinator told the ranks their places, no ring is formed",
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
        "the commit stands, the coordinator was not told",
    ),
];

/// Kills this process with SIGKILL if this is the pass that [`VARIABLE`] asks for.
///
/// - `name`: one of [`POINTS`].
///
/// # Panics
/// In builds with `debug_assertions` alone, on a name that is not in the table, given here or in
/// the environment: a test that kills nobody would pass.
#[cfg(debug_assertions)]
pub fn point(name: &str) {
    armed::pass(name);
}

/// Nothing: builds without `debug_assertions` have no fault points.
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
                .unwrap_or_else(|| panic!("{VARIABLE}={text} names no fault point"));
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
            // The signal comes to whichever thread the kernel picks; this one goes no further.
            loop {
                std::thread::park();
            }
        }
    }
}

/// Name and pass of `name[:n]`; `None` where the name is not in the table or `n` is no pass.
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

    /// Set in the child alone.
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

    /// In the child: passes two points five times each, and says so.
    #[test]
    fn passes() {
        if std::env::var_os(CHILD).is_none() {
            return;
        }
        for pass in 1..=5 {
            point("worker.after_commit");
            point("worker.before_commit");
            println!("gone through {pass}");
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
            (output.status, text.matches("gone through").count())
        };
        let (status, _) = child(None);
        assert!(status.success());
        let (status, passed) = child(Some("trainer.mid_step"));
        assert!(status.success(), "a point that is not passed kills nobody");
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
