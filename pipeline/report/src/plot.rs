//! Plots: bars as HTML, lines and flows as inline SVG. No plot takes a number for granted:
//! what is not finite is left out.

pub mod bar;
pub mod line;
pub mod range;
pub mod sankey;
