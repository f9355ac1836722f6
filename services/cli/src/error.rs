//! The error of the command line: one line for people and a stable exit code for scripts.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

use capstan_plan::failure;

/// Why the command ended. The numbers are the exit codes; they never change.
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
    /// An input file is unreadable or of another kind.
    ForeignInput = 6,
    /// A signal ended the command before its work was done: 128 + SIGINT, as in shells.
    Interrupted = 130,
}

/// An error that the user of the program can fix.
#[derive(Debug)]
pub struct ExpectedError {
    exit: Exit,
    line: String,
}

impl ExpectedError {
    /// An error with its exit code. Line breaks in `text` become spaces.
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

    /// The error of a library: its text and those of its sources, each once, joined with `: `.
    pub fn from_error(exit: Exit, error: &dyn Error) -> Self {
        Self::new(exit, failure::chain(error))
    }

    /// The error of a library about a file or another thing that the library does not name.
    pub fn about(exit: Exit, subject: impl fmt::Display, error: &dyn Error) -> Self {
        Self::new(exit, format!("{subject}: {}", failure::chain(error)))
    }

    /// The exit code.
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

impl Error for ExpectedError {}

/// Gives the error of a library its exit code.
pub trait OrExit<T> {
    /// The value, or [`ExpectedError::from_error`] with this code.
    fn or_exit(self, exit: Exit) -> Result<T, ExpectedError>;
}

impl<T, E: Into<anyhow::Error>> OrExit<T> for Result<T, E> {
    fn or_exit(self, exit: Exit) -> Result<T, ExpectedError> {
        self.map_err(|error| ExpectedError::from_error(exit, error.into().as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    impl fmt::Display for Layer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.text)
        }
    }

    impl Error for Layer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.source.as_deref().map(|source| source as _)
        }
    }

    fn layer(text: &'static str, source: Option<Layer>) -> Layer {
        let source = source.map(Box::new);
        Layer { text, source }
    }

    #[test]
    fn an_error_is_one_line_however_it_was_written() {
        let error = ExpectedError::new(Exit::Usage, "a\n  b\tc");
        assert_eq!(error.to_string(), "a b c");
    }

    #[test]
    fn every_cause_is_printed_once_and_in_order() {
        let cause = layer("no space left", None);
        let error = layer("cannot write\nreport.html", Some(cause));
        let error = Err::<(), _>(error).or_exit(Exit::RunFailed).unwrap_err();
        assert_eq!(error.exit(), Exit::RunFailed);
        assert_eq!(error.to_string(), "cannot write report.html: no space left");
    }

    #[test]
    fn the_subject_comes_before_the_causes() {
        let error = layer("cannot be decoded", Some(layer("unknown format", None)));
        let error = ExpectedError::about(Exit::ForeignInput, "notes.txt", &error);
        assert_eq!(
            error.to_string(),
            "notes.txt: cannot be decoded: unknown format"
        );
    }
}
