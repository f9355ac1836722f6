//! The comparison as a table for the terminal.

use capstan_report::arm::{Texts, groups};
use capstan_report::summary::{COLUMNS, Summary};
use comfy_table::{Cell, CellAlignment, Table, presets};

/// One row a model, one column a figure; figures that no model has are left out.
pub fn comparison(summary: &Summary) -> Table {
    let columns: Vec<_> = COLUMNS
        .iter()
        .filter(|(_, figure)| summary.models.values().any(|model| figure(model).is_some()))
        .collect();
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    let titles = columns.iter().map(|(title, _)| (*title).to_owned());
    table.set_header(["model".to_owned()].into_iter().chain(titles));
    let blind = summary
        .blind
        .iter()
        .map(|(name, model)| (format!("{name}, blind"), model));
    let sighted = summary
        .models
        .iter()
        .map(|(name, model)| (name.clone(), model));
    for (name, model) in sighted.chain(blind) {
        let mut row = vec![Cell::new(name)];
        row.extend(columns.iter().map(|(_, figure)| figure_cell(figure(model))));
        table.add_row(row);
    }
    table
}

fn figure_cell(figure: Option<f64>) -> Cell {
    let text = figure.map_or_else(String::new, |figure| format!("{figure:.1}"));
    Cell::new(text).set_alignment(CellAlignment::Right)
}

/// What bootstrapping gained, in one sentence a family; empty where no family has both arms.
pub fn sentence(summary: &Summary) -> String {
    let groups = groups(summary);
    let sentences = groups.iter().filter_map(|group| {
        let web = group.mean_at_1(summary, Texts::Web)?;
        let bootstrapped = group.mean_at_1(summary, Texts::Bootstrapped)?;
        Some(format!(
            "{}: mean R@1 {web:.1} on web + human pairs, {bootstrapped:.1} after bootstrapping \
             ({:+.1} points)",
            group.title(),
            bootstrapped - web
        ))
    });
    sentences.collect::<Vec<_>>().join("\n")
}
