//! Finds stages that wait for one another, so that the error can name the cycle.

use std::collections::BTreeSet;

use super::Pipeline;
use crate::id::StageName;

/// A cycle of stages, each of which reads the next one and the last one the first; `None` where
/// every stage can run. It begins with the stage that stands first in the file.
pub(super) fn find(pipeline: &Pipeline) -> Option<Vec<&StageName>> {
    let ordered: BTreeSet<StageName> = pipeline.order().into_iter().collect();
    let stuck = |name: &StageName| !ordered.contains(name);
    let mut walk: Vec<&StageName> = Vec::new();
    let mut at = &pipeline.stages.iter().find(|s| stuck(&s.name))?.name;
    // A stage that is stuck reads one that is stuck, so that the walk comes back to itself.
    while !walk.contains(&at) {
        walk.push(at);
        let inputs = pipeline.stage(at)?.kind.inputs();
        let next = inputs.into_iter().find(|input| stuck(input))?;
        at = &pipeline.stage(&next)?.name;
    }
    let begin = walk.iter().position(|name| *name == at)?;
    let mut cycle = walk.split_off(begin);
    let place = |name: &StageName| pipeline.stages.iter().position(|s| &s.name == name);
    let first = (0..cycle.len()).min_by_key(|index| place(cycle[*index]))?;
    cycle.rotate_left(first);
    Some(cycle)
}

/// `a reads b, b reads c, c reads a`.
pub(super) fn describe(cycle: &[&StageName]) -> String {
    let next = cycle.iter().cycle().skip(1);
    let steps = cycle
        .iter()
        .zip(next)
        .map(|(stage, read)| format!("`{stage}` reads `{read}`"));
    steps.collect::<Vec<_>>().join(", ")
}
