//! The page of a run and its figures. (The page follows; `summary` is what it shows.)

pub mod summary;
