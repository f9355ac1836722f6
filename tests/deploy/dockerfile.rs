//! Checks `deploy/docker/Dockerfile`, parsed by the crate `dockerfile-parser-rs`.

use std::collections::BTreeSet;
use std::str::FromStr;

use dockerfile_parser_rs::{Dockerfile, Instruction};

use super::{assert_none, files};

const PATH: &str = "deploy/docker/Dockerfile";

/// Names of its stages. Each can be a build target.
pub fn targets() -> Vec<String> {
    stages(&parse(&files::read(PATH)))
        .into_iter()
        .map(|stage| stage.name)
        .collect()
}

/// A finding if the Dockerfile's build commands do not produce this image.
pub fn unknown_image(image: &str) -> Option<String> {
    let built = images(&files::read(PATH));
    let is_built = built.iter().any(|(_, tag)| tag == image);
    (!is_built).then(|| format!("image `{image}` is not built by the Dockerfile's commands"))
}

/// Target and tag of every build command in the Dockerfile's comment.
fn images(text: &str) -> Vec<(String, String)> {
    let commands = text
        .lines()
        .filter_map(|line| line.strip_prefix("#   docker build "));
    let build = |command: &str| {
        let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        let value = |flag| super::program::value_of(&words, flag).map(str::to_owned);
        Some((value("--target")?, value("--tag")?))
    };
    commands.filter_map(build).collect()
}

fn parse(text: &str) -> Dockerfile {
    Dockerfile::from_str(text).unwrap_or_else(|error| panic!("{PATH}: {error}"))
}

/// A stage and its instructions.
struct Stage {
    name: String,
    /// An image or an earlier stage.
    from: String,
    instructions: Vec<Instruction>,
}

fn stages(file: &Dockerfile) -> Vec<Stage> {
    let mut stages: Vec<Stage> = Vec::new();
    for instruction in &file.instructions {
        match instruction {
            Instruction::From { image, alias, .. } => stages.push(Stage {
                name: alias.clone().unwrap_or_default(),
                from: image.clone(),
                instructions: Vec::new(),
            }),
            other => {
                if let Some(stage) = stages.last_mut() {
                    stage.instructions.push(other.clone());
                }
            }
        }
    }
    stages
}

/// References to missing stages and files, root users, and wrong versions.
pub fn check(text: &str) -> Vec<String> {
    let file = parse(text);
    let stages = stages(&file);
    let mut findings = Vec::new();
    let names: BTreeSet<&str> = stages.iter().map(|stage| &*stage.name).collect();
    for stage in &stages {
        for instruction in &stage.instructions {
            if let Instruction::Copy { from, sources, .. } = instruction {
                match from {
                    Some(from) if !names.contains(&**from) => {
                        findings.push(format!(
                            "{}: copies from `{from}`, which is no stage",
                            stage.name
                        ));
                    }
                    Some(_) => {}
                    None => findings.extend(missing(sources)),
                }
            }
        }
    }
    for (target, tag) in images(text) {
        let version = env!("CARGO_PKG_VERSION");
        if !tag.ends_with(&format!(":{version}")) {
            findings.push(format!("{tag}: the program has version {version}"));
        }
        if !names.contains(&*target) {
            findings.push(format!("{target}: is a build target but no stage"));
            continue;
        }
        let last_user = chain(&stages, &target).into_iter().rev().find_map(user);
        match last_user {
            Some(user) if !user.starts_with('0') && user != "root" => {}
            other => findings.push(format!("{target}: runs as {other:?}")),
        }
    }
    findings
}

fn user(instruction: &Instruction) -> Option<String> {
    match instruction {
        Instruction::User { user, group } => {
            let group = group.as_ref().map(|group| format!(":{group}"));
            Some(format!("{user}{}", group.unwrap_or_default()))
        }
        _ => None,
    }
}

fn missing(sources: &[String]) -> impl Iterator<Item = String> {
    let is_missing = |source: &&String| !files::root().join(source).exists();
    sources
        .iter()
        .filter(is_missing)
        .map(|source| format!("copies `{source}`, which does not exist"))
}

/// Instructions of a stage and of the stages it is based on, in order.
fn chain<'a>(stages: &'a [Stage], name: &str) -> Vec<&'a Instruction> {
    let Some(stage) = stages.iter().find(|stage| stage.name == name) else {
        return Vec::new();
    };
    let mut instructions = chain(stages, &stage.from);
    instructions.extend(&stage.instructions);
    instructions
}

#[test]
fn the_dockerfile_is_valid_and_no_image_runs_as_root() {
    assert_none(&check(&files::read(PATH)));
    let targets: BTreeSet<String> = images(&files::read(PATH))
        .into_iter()
        .map(|(t, _)| t)
        .collect();
    assert_eq!(targets, ["cpu", "cuda"].map(str::to_owned).into());
}

#[test]
fn images_contain_the_line_tables_beside_the_program() {
    let text = files::read(PATH);
    assert!(!text.contains("strip"), "the program is stripped");
    let stages = stages(&parse(&text));
    for target in ["cpu", "cuda"] {
        let copied = chain(&stages, target)
            .into_iter()
            .find_map(|instruction| match instruction {
                Instruction::Copy {
                    sources,
                    destination,
                    ..
                } if destination == "/usr/local/bin/" => Some(sources.clone()),
                _ => None,
            });
        let expected = ["/out/capstan", "/out/capstan.dwp"].map(str::to_owned);
        assert_eq!(copied.as_deref(), Some(&expected[..]), "{target}");
    }
}

#[test]
fn exposed_ports_are_those_that_the_roles_listen_on() {
    let file = parse(&files::read(PATH));
    let exposed: BTreeSet<u16> = file
        .instructions
        .iter()
        .filter_map(|instruction| match instruction {
            Instruction::Expose { ports } => Some(ports),
            _ => None,
        })
        .flatten()
        .map(|port| port.parse().unwrap())
        .collect();
    let listened: BTreeSet<u16> = super::compose::processes(&super::compose::file())
        .iter()
        .filter(|process| process.command() != "demoweb")
        .filter_map(|process| process.settings().ok())
        .flat_map(|settings| {
            let health = super::process::port_of(&settings.telemetry.health_listen);
            let ring = settings.trainer.listen.port();
            let ring = (ring != 0).then_some(ring);
            [Some(settings.coordinator.listen.port()), health, ring]
        })
        .flatten()
        .collect();
    assert_eq!(exposed, listened);
}

#[test]
fn package_features_and_rust_version_exist() {
    let text = files::read(PATH);
    let manifest: toml::Table = files::read("services/cli/Cargo.toml").parse().unwrap();
    let features = manifest["features"].as_table().unwrap();
    let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    let feature = super::program::value_of(&words, "--features").unwrap();
    assert!(features.contains_key(feature), "no feature {feature}");
    let package = super::program::value_of(&words, "--package").unwrap();
    assert_eq!(manifest["package"]["name"].as_str(), Some(package));
    let rust = files::read("Cargo.toml");
    let rust: toml::Table = rust.parse().unwrap();
    let needed = rust["workspace"]["package"]["rust-version"]
        .as_str()
        .unwrap();
    assert!(
        text.contains(&format!("ARG RUST_VERSION={needed}")),
        "Rust {needed} is needed"
    );
}
