//! Roles as processes: start, readiness, signals, exit status and logs.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Limit for a role to start listening, and to stop.
const LIMIT: Duration = Duration::from_secs(60);
/// Interval of polling.
const LOOK: Duration = Duration::from_millis(10);
/// Number of SIGKILL.
const SIGKILL: i32 = 9;

/// Polls until `look` returns a value.
///
/// # Panics
/// After `limit`, naming `what` was waited for.
pub fn await_some<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(LOOK);
    }
}

/// A running role; killed on drop.
pub struct Role {
    child: Child,
    /// The command, for messages.
    shown: String,
    ready_file: PathBuf,
    log: PathBuf,
    /// Content of its ready file; null before [`Role::await_ready`].
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

    /// Starts a command under a name of its own and does not wait. The log of an earlier role of the same
    /// name is continued.
    pub fn spawn(command: &mut Command, name: &str, folder: &Path) -> Self {
        let ready_file = folder.join(format!("{name}.ready"));
        // The file of an earlier process of this name would look like this one's.
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
    /// If it exits before.
    pub fn await_ready(&mut self) {
        self.ready = await_some("a ready file", LIMIT, || {
            // Read the status first: a ready file written before the exit counts.
            let exited = self.exited();
            if let Ok(text) = std::fs::read(&self.ready_file) {
                return Some(serde_json::from_slice(&text).unwrap());
            }
            if let Some(status) = exited {
                let (shown, log) = (&self.shown, self.log());
                panic!("{shown} exited ({status}) before it listened:\n{log}");
            }
            None
        });
    }

    /// URL of a coordinator.
    pub fn url(&self) -> String {
        format!("http://{}", self.ready["listen"].as_str().unwrap())
    }

    /// Its exit status, once it has exited.
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

    /// Waits until it exits.
    pub fn ended(&mut self) -> ExitStatus {
        self.ended_within(LIMIT)
    }

    fn ended_within(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("the exit of {}", self.shown);
        await_some(&what, limit, || self.exited())
    }

    /// Sends SIGTERM and waits until it exits.
    pub fn terminate(&mut self) -> ExitStatus {
        self.terminate_within(LIMIT)
    }

    /// Sends SIGTERM and waits until it exits, at most `limit`.
    pub fn terminate_within(&mut self, limit: Duration) -> ExitStatus {
        self.signal("TERM");
        self.ended_within(limit)
    }

    /// Sends SIGKILL and waits until it exits.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        let status = self.ended();
        assert_eq!(status.signal(), Some(SIGKILL), "{}: {status}", self.shown);
    }

    /// The answer of its health port to `path`. Call [`Role::await_ready`] first.
    pub fn health(&self, path: &str) -> String {
        let address = self.ready["health"].as_str().expect("a health port");
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// What it and earlier roles of its name wrote to stderr.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Its log events in order.
    pub fn events(&self) -> Vec<Value> {
        let log = self.log();
        log.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Its log events with this message.
    pub fn events_with(&self, message: &str) -> Vec<Value> {
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
