//! Texts as they are stored: one line, single spaces.

/// Joins `parts`, replaces each run of whitespace by one space and trims both ends.
pub fn collapse_whitespace<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut collapsed = String::new();
    let mut needs_space = false;
    for c in parts.into_iter().flat_map(str::chars) {
        if c.is_whitespace() {
            needs_space = true;
            continue;
        }
        if needs_space && !collapsed.is_empty() {
            collapsed.push(' ');
        }
        needs_space = false;
        collapsed.push(c);
    }
    collapsed
}
