//! What the stages that fetch or read pictures share: counts of rejects, the control of the crawl
//! room, and the commit of their files.

use std::collections::BTreeMap;

use capstan_lease::Done;
use capstan_plan::clock::{Clock, SystemClock};
use capstan_plan::commit::{File, Outputs};
use capstan_plan::reject::RejectCode;
use capstan_plan::row::Reject;

use crate::context::Context;

/// Pairs between the decoder and the file writer at most.
pub(crate) const PAIRS_IN_FLIGHT: usize = 64;

/// Adds the counts of these rejects to the outputs.
pub(crate) fn count_rejects(outputs: &mut Outputs, rejects: &[Reject]) {
    let mut counts = Rejected::default();
    rejects.iter().for_each(|reject| counts.add(reject));
    counts.write(outputs);
}

/// Rejects, counted.
#[derive(Default)]
pub(crate) struct Rejected {
    by_code: BTreeMap<RejectCode, u64>,
    pictures: u64,
    others: u64,
}

impl Rejected {
    pub(crate) fn add(&mut self, reject: &Reject) {
        *self.by_code.entry(reject.code).or_default() += 1;
        match reject.is_image {
            true => self.pictures += 1,
            false => self.others += 1,
        }
    }

    /// Writes the counts into the outputs: `rejected` counts all rejects, `rejected_pages` those of
    /// them that are not pictures, so that `found = fetched + rejected - rejected_pages`.
    pub(crate) fn write(self, outputs: &mut Outputs) {
        let counts = &mut outputs.counts;
        counts.insert("rejected".to_owned(), self.pictures + self.others);
        counts.insert("rejected_pages".to_owned(), self.others);
        outputs.rejects = self.by_code;
    }
}

/// What a task commits.
pub(crate) fn done<'a>(
    outputs: Outputs,
    inputs: impl IntoIterator<Item = &'a File>,
    cpu_seconds: f64,
) -> Done {
    let inputs = inputs.into_iter().map(|file| file.digest).collect();
    Done {
        outputs,
        inputs,
        cpu_seconds,
        ..Done::default()
    }
}

/// Cancellation, progress and the wall clock for the crawl room.
pub(crate) fn control(context: &Context) -> capstan_crawl::Control {
    let (report, clock) = (context.report_progress(), SystemClock::new());
    capstan_crawl::Control::new(
        context.control.cancel.clone(),
        move |now| {
            report(now.done);
        },
        move || clock.unix_ms(),
    )
}
