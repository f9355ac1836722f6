//! Roles as processes: started, known to listen, stopped.

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest that a role may take until it listens, or until it has stopped.
const LIMIT: Duration = Duration::from_secs(60);

/// A role under way; killed where a test ends without stopping it.
pub struct Role {
    child: Child,
    /// What its ready file says.
    pub ready: Value,
}

impl Role {
    /// Starts a command with `--ready-file` in `folder` and waits until it listens.
    pub fn start(command: &mut Command, folder: &Path) -> Self {
        let name = command.get_args().next().unwrap().to_owned();
        let ready_file = folder.join(format!("{}.ready", name.display()));
        let log = std::fs::File::create(folder.join(format!("{}.log", name.display()))).unwrap();
        let child = command.arg("--ready-file").arg(&ready_file);
        let mut child = child.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let began = Instant::now();
        let ready = loop {
            if let Ok(text) = std::fs::read(&ready_file) {
                break serde_json::from_slice(&text).unwrap();
            }
            if let Some(status) = child.try_wait().unwrap() {
                panic!("{command:?} ended ({status}) before it listened");
            }
            assert!(began.elapsed() < LIMIT, "{command:?} never listened");
            std::thread::sleep(Duration::from_millis(10));
        };
        Self { child, ready }
    }

    /// URL of a coordinator.
    pub fn url(&self) -> String {
        format!("http://{}", self.ready["listen"].as_str().unwrap())
    }

    /// Sends SIGTERM and waits for the end.
    pub fn terminate(&mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        assert!(sent.success());
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < LIMIT, "it never stopped");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
