//! How far an evaluation is, and whether it goes on.

use std::cell::Cell;

use crate::error::Error;

/// Counts batches done and tells the caller.
pub(crate) struct BatchProgress<'a> {
    done: Cell<u64>,
    total: u64,
    tell: &'a dyn Fn(u64, u64) -> bool,
}

impl<'a> BatchProgress<'a> {
    pub fn new(total: usize, tell: &'a dyn Fn(u64, u64) -> bool) -> Self {
        Self {
            done: Cell::new(0),
            total: total as u64,
            tell,
        }
    }

    /// Notes `batches` more; [`Error::Cancelled`] where the caller wants no more.
    pub fn advance(&self, batches: usize) -> Result<(), Error> {
        self.done.set(self.done.get() + batches as u64);
        if (self.tell)(self.done.get(), self.total) {
            Ok(())
        } else {
            Err(Error::Cancelled)
        }
    }
}
