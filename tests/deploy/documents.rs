//! Commands of the program in README, `docs/` and the README for Kubernetes: the program accepts each.

use super::{assert_none, files, program};

/// Documents that show commands, and how many each shows at least.
const DOCUMENTS: [(&str, usize); 3] = [
    ("README.md", 10),
    ("docs/cluster.md", 5),
    ("deploy/kubernetes/README.md", 2),
];

/// The arguments of a line that starts the program, without redirection, `&` and remarks.
fn arguments(line: &str) -> Option<Vec<String>> {
    let command = line.trim().strip_prefix("capstan ")?;
    let end = [" #", " >", " &"]
        .iter()
        .filter_map(|end| command.find(end));
    let command = &command[..end.min().unwrap_or(command.len())];
    // Every second piece between double quotes is one word.
    let pieces = command.split('"').enumerate();
    let words = pieces.flat_map(|(at, piece)| match at % 2 {
        0 => piece.split_whitespace().map(str::to_owned).collect(),
        _ => vec![piece.to_owned()],
    });
    Some(words.collect())
}

/// The commands of a document, a line of a code block each.
fn commands(document: &str) -> Vec<Vec<String>> {
    let text = files::read(document);
    let blocks = text.split("```").skip(1).step_by(2);
    blocks.flat_map(str::lines).filter_map(arguments).collect()
}

#[test]
fn the_program_accepts_the_commands_in_documents() {
    let mut findings = Vec::new();
    for (document, least) in DOCUMENTS {
        let commands = commands(document);
        assert!(commands.len() >= least, "{document}: {commands:?}");
        let refused = commands.iter().filter_map(|args| program::refuses(args));
        findings.extend(refused.map(|finding| format!("{document}: {finding}")));
    }
    assert_none(&findings);
}

#[test]
fn arguments_end_before_redirections_and_remarks() {
    let words = |line| arguments(line).unwrap();
    assert_eq!(words("capstan up &    # a remark"), ["up"]);
    assert_eq!(
        words("capstan demo --print-world > w.toml"),
        ["demo", "--print-world"]
    );
    assert_eq!(
        words("  capstan match a.jpg \"a red ball\" --json"),
        ["match", "a.jpg", "a red ball", "--json"]
    );
    assert_eq!(arguments("cargo run"), None);
}
