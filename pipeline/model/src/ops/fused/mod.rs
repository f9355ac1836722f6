//! The operations on the CPU, each with its own backward pass.
//!
//! The primitives of the library would make ten steps of a layer norm and copies of
//! an attention; at the sizes of the demo those steps, not the arithmetic, are what a
//! training step costs. Every operation here is held against `plain` by a test.

mod layers;
mod node;
mod rows;

pub(super) use layers::{activation, add_layer_norm, attention, layer_norm, linear};
pub(super) use node::on_cpu;
pub(super) use rows::{cross_entropy_sum, embed, normalise, picture_tokens, select_rows};

#[cfg(test)]
mod tests;
