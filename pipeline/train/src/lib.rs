//! Training: one step loop for every objective, on one rank or many.
//!
//! What lives here: the objectives over the global batch, optimiser and schedule, augmentation,
//! the step loop with its metrics, and the state that a checkpoint holds. It calls `plan`,
//! `dataset` (for the order of samples), `model` and `collective`. It knows no store and no
//! network: pictures come through [`PictureSource`], checkpoints go through [`Checkpoints`],
//! ranks meet in a [`capstan_collective::Collective`], and a [`Validator`] measures the model.
//!
//! ```text
//! Loader: global batch ─► this rank's slice ─► Pictures ─► Augment ─► Objectives::gradient
//!                                                                              │ sum over ranks
//!      metrics, checkpoints ◄── one step ◄── AdamW ◄── clip by global norm ◄───┘
//! ```
//! Every rank holds all parameters, momentum copies and the queue, and applies the same update from
//! the same bits, so nothing but gradients and features ever travels. All draws are keyed by seed,
//! step and sample: the outcome is a function of the settings, the samples, the world size and the
//! threads of a rank.

mod augment;
mod curve;
mod error;
mod link;
mod loader;
mod metrics;
pub mod momentum;
pub mod network;
pub mod objective;
mod optimizer;
mod pictures;
mod pool;
mod samples;
mod schedule;
mod state;
mod step;
mod tensorboard;
mod validation;

pub use augment::Augment;
pub use curve::Curve;
pub use error::TrainError;
pub use link::Link;
pub use metrics::Metrics;
pub use optimizer::{AdamW, AdamWConfig, Update, clip_factor, global_norm};
pub use pictures::{Encoded, PictureFiles, PictureSource, Pictures, SourceError};
pub use pool::RankPool;
pub use samples::{PictureRow, Sample, tokenised};
pub use schedule::Schedule;
pub use state::{State, StateError};
pub use step::{Checkpoints, Job, Trained, Watch, train};
pub use tensorboard::Events;
pub use validation::{Validated, Validator};
