//! The operations on the CPU, each with its own backward pass.
//!
//! The primitives of the library would make ten steps of a layer norm and copies of
//! an attention; at the sizes of the demo those steps, not the arithmetic, are what a
//! training step costs. Every operation here is held against `plain` by a test.

mod attention;
mod linear;
mod loss;
mod node;
mod norm;
mod rows;

pub(super) use attention::attention;
pub(super) use linear::linear;
pub(super) use loss::cross_entropy_sum;
pub(super) use node::on_cpu;
pub(super) use norm::{activation, add_layer_norm, layer_norm};
pub(super) use rows::{embed, normalise, picture_tokens, select_rows};

#[cfg(test)]
mod tests;
