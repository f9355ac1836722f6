//! Roles as processes: started, known to listen, signalled, stopped; what they logged.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest that a role may take until it listens, or until it has stopped.
const LIMIT: Duration = Duration::from_secs(60);
/// Between two looks at something that is waited for.
const LOOK: Duration = Duration::from_millis(10);
/// The signal that nothing survives.
const SIGKILL: i32 = 9;

/// Looks until `look` gives something.
///
/// # Panics
/// After `limit`, saying `what` never came.
pub fn await_some<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < limit, "never in {limit:?}: {what}");
        std::thread::sleep(LOOK);
    }
}

/// A role under way; killed where a test ends without stopping it.
pub struct Role {
    child: Child,
    /// What it was started with, for people.
    shown: String,
    ready_file: PathBuf,
    log: PathBuf,
    /// What its ready file says; null until it is waited for.
    pub ready: Value,
}

impl Role {
    /// Starts a command with `--ready-file` in `folder` and waits until it listens.
    pub fn start(command: &mut Command, folder: &Path) -> Self {
        let name = command.get_args().next().unwrap().to_string_lossy();
        let name = name.into_owned();
        let mut role = Self::spawn(command, &name, folder);
        role.await_ready();
        role
    }

    /// Starts a command under a name of its own and waits for nothing. A role of the same name
    /// that went before has its log continued.
    pub fn spawn(command: &mut Command, name: &str, folder: &Path) -> Self {
        let ready_file = folder.join(format!("{name}.ready"));
        // That of an earlier process of this name must not be taken for this one's.
        let _ = std::fs::remove_file(&ready_file);
        let log = folder.join(format!("{name}.log"));
        let appended = OpenOptions::new().create(true).append(true).open(&log);
        command.arg("--ready-file").arg(&ready_file);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(appended.unwrap())
            .spawn()
            .unwrap();
        Self {
            child,
            shown: format!("{command:?}"),
            ready_file,
            log,
            ready: Value::Null,
        }
    }

    /// Waits until it listens.
    ///
    /// # Panics
    /// Where it ended without ever listening.
    pub fn await_ready(&mut self) {
        self.ready = await_some("a ready file", LIMIT, || {
            // Asked first: a file that was written before the end counts.
            let ended = self.exited();
            if let Ok(text) = std::fs::read(&self.ready_file) {
                return Some(serde_json::from_slice(&text).unwrap());
            }
            if let Some(status) = ended {
                let (shown, log) = (&self.shown, self.log());
                panic!("{shown} ended ({status}) before it listened:\n{log}");
            }
            None
        });
    }

    /// URL of a coordinator.
    pub fn url(&self) -> String {
        format!("http://{}", self.ready["listen"].as_str().unwrap())
    }

    /// How it ended, where it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Sends a signal by its name without SIG.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill")
            .args([&format!("-{name}"), &pid])
            .status();
        assert!(sent.unwrap().success(), "{}", self.shown);
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        self.ended_within(LIMIT)
    }

    fn ended_within(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.shown);
        await_some(&what, limit, || self.exited())
    }

    /// Sends SIGTERM and waits for the end.
    pub fn terminate(&mut self) -> ExitStatus {
        self.terminate_within(LIMIT)
    }

    /// Sends SIGTERM and waits for the end, which comes within `limit`.
    pub fn terminate_within(&mut self, limit: Duration) -> ExitStatus {
        self.signal("TERM");
        self.ended_within(limit)
    }

    /// Kills it as a power cut would, and waits for the end.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        let status = self.ended();
        assert_eq!(status.signal(), Some(SIGKILL), "{}: {status}", self.shown);
    }

    /// What its health port answers to `path`; its announcement must have been waited for.
    pub fn health(&self, path: &str) -> String {
        let address = self.ready["health"].as_str().expect("a health port");
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// What it, and what went before it under its name, wrote to stderr.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The events that were logged, in their order.
    pub fn events(&self) -> Vec<Value> {
        let log = self.log();
        log.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// The events with this message.
    pub fn told(&self, message: &str) -> Vec<Value> {
        let events = self.events().into_iter();
        events.filter(|event| event["message"] == message).collect()
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
