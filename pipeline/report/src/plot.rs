//! Plots: bars as HTML, lines and flows as inline SVG. Plots leave out
//! values that are not finite.

pub mod bar;
pub mod line;
pub mod range;
pub mod sankey;
