//! The progress of an evaluation, and its cancellation.

use std::cell::Cell;

use crate::error::Error;

/// Counts finished batches and reports them to the caller.
pub(crate) struct BatchProgress<'a> {
    done: Cell<u64>,
    total: u64,
    report: &'a dyn Fn(u64, u64) -> bool,
}

impl<'a> BatchProgress<'a> {
    pub fn new(total: usize, report: &'a dyn Fn(u64, u64) -> bool) -> Self {
        Self {
            done: Cell::new(0),
            total: total as u64,
            report,
        }
    }

    /// Adds `batches` finished batches. Returns [`Error::Cancelled`] if the caller cancels.
    pub fn advance(&self, batches: usize) -> Result<(), Error> {
        self.done.set(self.done.get() + batches as u64);
        if (self.report)(self.done.get(), self.total) {
            Ok(())
        } else {
            Err(Error::Cancelled)
        }
    }
}
