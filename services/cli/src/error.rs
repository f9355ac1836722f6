//! The one error of the command line: a line for people and a stable exit code for scripts.

use std::fmt;
use std::process::ExitCode;

/// Why the command ended. The number is the exit code and stays what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The command line asks for something that cannot be done.
    Usage = 2,
    /// A configuration, world or pipeline file is wrong.
    Configuration = 3,
    /// A store, coordinator or address cannot be reached.
    Unavailable = 4,
    /// The run failed.
    RunFailed = 5,
    /// A file given is unreadable or of another kind.
    ForeignInput = 6,
    /// A signal ended a command before what it waits for: 128 + SIGINT, as shells have it.
    Interrupted = 130,
}

/// An error that somebody who runs the program can mend.
#[derive(Debug)]
pub struct ExpectedError {
    exit: Exit,
    line: String,
}

impl ExpectedError {
    /// An error with its exit code. The text is brought onto one line.
    pub fn new(exit: Exit, text: impl fmt::Display) -> Self {
        let line = text
            .to_string()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        Self { exit, line }
    }

    /// An error whose text is a list, one item a line, such as the problems of a pipeline file.
    pub fn lines(exit: Exit, text: impl fmt::Display) -> Self {
        let line = text.to_string().trim_end().to_owned();
        Self { exit, line }
    }

    /// What kind of error it is.
    #[cfg(test)]
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// The exit code for the operating system.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.exit as u8)
    }
}

impl fmt::Display for ExpectedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

impl std::error::Error for ExpectedError {}

/// Gives a library's error its exit code.
pub trait OrExit<T> {
    /// The value, or the error's whole chain of causes on one line under this code.
    fn or_exit(self, exit: Exit) -> Result<T, ExpectedError>;
}

impl<T, E: Into<anyhow::Error>> OrExit<T> for Result<T, E> {
    fn or_exit(self, exit: Exit) -> Result<T, ExpectedError> {
        self.map_err(|error| ExpectedError::new(exit, format!("{:#}", error.into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_however_it_was_written() {
        let error = ExpectedError::new(Exit::Usage, "a\n  b\tc");
        assert_eq!(error.to_string(), "a b c");
    }
}
