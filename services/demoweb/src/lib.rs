//! A miniature web to crawl: rendered scenes on pages with correct and incorrect texts.
//!
//! This crate holds the world file, the scenes and their pictures, the texts, the pages of several
//! hosts with everything that a crawler must reject or survive, the server, its log, and the judge,
//! which compares texts with scenes. Only the command line and tests use this crate: no stage of a
//! pipeline has access to the ground truth. It calls no other crate of the workspace.
//!
//! ```text
//! World (TOML) ──► Site::build(world, seed) ──► serve(site, listeners, shutdown) ──► a crawler
//!                    │        │
//!                    │        └► write_annotations(dir): human, evaluation, zero_shot
//!                    └► expected(), scene(url), judge(scene, text), violations(log)
//! ```

mod annotations;
mod draw;
mod judge;
mod log;
mod picture;
mod robots;
mod scene;
mod serve;
mod site;
mod wording;
mod world;

pub use annotations::AnnotationError;
pub use judge::{Judge, Judgement, judge};
pub use log::LogEntry;
pub use picture::{encode_jpeg, encode_png, render};
pub use scene::{Background, Colour, Key, Object, Relation, Scene, Size, Thing, Things};
pub use serve::{ServeError, serve};
pub use site::{Expected, Fate, Found, Site};
pub use wording::TextKind;
pub use world::{Counts, Hosts, Noise, Planted, Scenes, Style, Words, World, WorldError};
