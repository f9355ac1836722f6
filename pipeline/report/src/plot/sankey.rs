//! Flow diagrams: columns of nodes, ribbons between them, one scale for all.

use maud::{Markup, html};

use super::line::px;
use crate::number;

const WIDTH: f64 = 1120.0;
const HEIGHT: f64 = 400.0;
/// Space for the heads of the columns.
const TOP: f64 = 34.0;
/// Space for the labels of the last column.
const RIGHT: f64 = 150.0;
const NODE: f64 = 10.0;
/// Distance between the nodes of a column: two lines of label.
const GAP: f64 = 40.0;

/// A node.
pub struct Node {
    /// What it counts.
    pub label: &'static str,
    /// The count.
    pub count: u64,
    /// Class by which the style sheet colours it.
    pub class: &'static str,
}

/// A column: its head and its nodes from top to bottom.
pub struct Column {
    /// What it counts.
    pub head: &'static str,
    /// Nodes from top to bottom.
    pub nodes: Vec<Node>,
}

/// A ribbon between two nodes of neighbouring columns, each given as (column, node).
pub struct Ribbon {
    /// The node that it leaves.
    pub from: (usize, usize),
    /// The node that it enters.
    pub to: (usize, usize),
    /// Its share of the node that it leaves, and of the one that it enters, in their units.
    pub counts: (u64, u64),
    /// Class by which the style sheet colours it.
    pub class: &'static str,
}

/// Draws the diagram. Ribbons leave and enter each node from top to bottom in the order
/// given; nodes of 0 are left out. `label` describes the diagram in words.
pub fn diagram(columns: &[Column], ribbons: &[Ribbon], label: &str) -> Markup {
    let places = Places::of(columns);
    html! {
        svg class="sankey" viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label=(label) {
            @for (index, column) in columns.iter().enumerate() {
                text class="head" x=(px(places.x(index))) y="14" { (column.head) }
            }
            @for path in places.ribbons(ribbons) { (path) }
            @for (index, column) in columns.iter().enumerate() {
                @for (node, y) in column.nodes.iter().zip(&places.tops[index]) {
                    @if node.count > 0 { (places.node(index, node, *y)) }
                }
            }
        }
    }
}

/// Positions of the nodes.
struct Places {
    /// Pixels per unit.
    scale: f64,
    /// Of each node, by column.
    tops: Vec<Vec<f64>>,
}

impl Places {
    fn of(columns: &[Column]) -> Self {
        let total = |column: &Column| column.nodes.iter().map(|node| node.count).sum::<u64>();
        let gaps = |column: &Column| {
            GAP * column
                .nodes
                .iter()
                .filter(|node| node.count > 0)
                .count()
                .saturating_sub(1) as f64
        };
        let room = HEIGHT - TOP - 16.0;
        let scales = columns
            .iter()
            .filter(|column| total(column) > 0)
            .map(|column| (room - gaps(column)) / total(column) as f64);
        let scale = scales.fold(f64::INFINITY, f64::min);
        let scale = if scale.is_finite() {
            scale.max(0.0)
        } else {
            0.0
        };
        let tops = columns.iter().map(|column| {
            let height = gaps(column) + scale * total(column) as f64;
            let mut y = TOP + (room - height) / 2.0;
            let top = |node: &Node| {
                let top = y;
                if node.count > 0 {
                    y += scale * node.count as f64 + GAP;
                }
                top
            };
            column.nodes.iter().map(top).collect()
        });
        Self {
            scale,
            tops: tops.collect(),
        }
    }

    fn x(&self, column: usize) -> f64 {
        let last = self.tops.len().saturating_sub(1).max(1);
        column as f64 * (WIDTH - RIGHT - NODE) / last as f64
    }

    /// Thin nodes stay visible.
    fn height(&self, count: u64) -> f64 {
        (self.scale * count as f64).max(1.5)
    }

    fn node(&self, column: usize, node: &Node, top: f64) -> Markup {
        let x = self.x(column);
        let middle = top + self.height(node.count) / 2.0;
        html! {
            rect class={ "node " (node.class) } x=(px(x)) y=(px(top)) width=(NODE) height=(px(self.height(node.count))) rx="2" {}
            text class="flow-number" x=(px(x + NODE + 7.0)) y=(px(middle - 1.0)) { (number::count(node.count)) }
            text class="flow-label" x=(px(x + NODE + 7.0)) y=(px(middle + 13.0)) { (node.label) }
        }
    }

    fn ribbons(&self, ribbons: &[Ribbon]) -> Vec<Markup> {
        // Used height of the edges of each node.
        let mut left: Vec<Vec<f64>> = self.tops.iter().map(|tops| vec![0.0; tops.len()]).collect();
        let mut right = left.clone();
        let draw = |ribbon: &Ribbon| {
            let (from, to) = (ribbon.from, ribbon.to);
            let heights = (
                self.scale * ribbon.counts.0 as f64,
                self.scale * ribbon.counts.1 as f64,
            );
            let start = self.tops[from.0][from.1] + right[from.0][from.1];
            let end = self.tops[to.0][to.1] + left[to.0][to.1];
            right[from.0][from.1] += heights.0;
            left[to.0][to.1] += heights.1;
            let (x0, x1) = (self.x(from.0) + NODE, self.x(to.0));
            let d = band(
                (x0, start, heights.0.max(1.0)),
                (x1, end, heights.1.max(1.0)),
            );
            html! { path class={ "ribbon " (ribbon.class) } d=(d) {} }
        };
        ribbons
            .iter()
            .filter(|ribbon| ribbon.counts.0.min(ribbon.counts.1) > 0)
            .map(draw)
            .collect()
    }
}

/// A band between two vertical edges, each `(x, top, height)`, horizontal at both ends.
fn band(from: (f64, f64, f64), to: (f64, f64, f64)) -> String {
    let (x0, y0, h0) = from;
    let (x1, y1, h1) = to;
    let middle = px((x0 + x1) / 2.0);
    let (left, right) = (px(x0), px(x1));
    let (a, b, c, d) = (px(y0), px(y1), px(y1 + h1), px(y0 + h0));
    format!(
        "M{left} {a}C{middle} {a} {middle} {b} {right} {b}V{c}C{middle} {c} {middle} {d} {left} {d}Z"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(label: &'static str, count: u64) -> Node {
        Node {
            label,
            count,
            class: "c",
        }
    }

    #[test]
    fn nodes_share_one_scale_and_ribbons_fill_their_edges() {
        let columns = [
            Column {
                head: "a",
                nodes: vec![node("all", 100)],
            },
            Column {
                head: "b",
                nodes: vec![node("most", 75), node("rest", 25), node("none", 0)],
            },
        ];
        let places = Places::of(&columns);
        assert!((places.height(75) - 3.0 * places.height(25)).abs() < 1e-9);
        assert!(places.tops[1][0] >= TOP && places.tops[1][1] + places.height(25) <= HEIGHT);
        let ribbons = [(0, 75), (1, 25), (2, 0)].map(|(to, count)| Ribbon {
            from: (0, 0),
            to: (1, to),
            counts: (count, count),
            class: "c",
        });
        let svg = diagram(&columns, &ribbons, "flow").into_string();
        assert_eq!(svg.matches("<path").count(), 2);
        assert_eq!(svg.matches("<rect").count(), 3, "nodes of 0 are left out");
    }

    #[test]
    fn nothing_at_all_gives_no_nan() {
        let svg = diagram(
            &[Column {
                head: "a",
                nodes: vec![node("x", 0)],
            }],
            &[],
            "flow",
        )
        .into_string();
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
