//! The coordinator: schedules the stages of runs over workers and trainers.

pub mod machine;
