//! Checks `deploy/compose` against the compose specification and against the program. The crate
//! `compose_spec` has the specification's types; it is lighter than a JSON schema validator.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use capstan_demoweb::{Site, World};
use serde_json::Value;

use super::objects::{list, text};
use super::process::{Mount, Process};
use super::{assert_none, dockerfile, files, program, schema};

const FOLDER: &str = "deploy/compose";

/// The file with merge keys applied.
pub fn file() -> Value {
    let text = files::read("deploy/compose/compose.yaml");
    let mut file: Value = serde_yaml::from_str(&text).unwrap();
    merge(&mut file);
    file
}

/// Merges what `<<` names into each mapping, innermost first, and drops templates (`x-...`).
fn merge(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(merge),
        Value::Object(map) => {
            map.retain(|key, _| !key.starts_with("x-"));
            map.values_mut().for_each(merge);
            if let Some(Value::Object(under)) = map.remove("<<") {
                for (key, value) in under {
                    map.entry(key).or_insert(value);
                }
            }
        }
        _ => {}
    }
}

/// Fields that the specification does not have, and values of another type.
pub fn against_the_specification(file: &Value) -> Vec<String> {
    let read: compose_spec::Compose = match serde_json::from_value(file.clone()) {
        Ok(read) => read,
        Err(error) => return vec![error.to_string()],
    };
    if let Err(error) = read.validate_all() {
        return vec![error.to_string()];
    }
    let written = serde_json::to_value(&read).unwrap();
    let mut findings = Vec::new();
    schema::differences(file, &written, "", &mut findings);
    // The types normalise sizes, times and addresses, so these differ in spelling.
    findings.retain(|finding| !finding.contains(" is read as "));
    findings
}

/// References to services, volumes, files and stages that do not exist.
pub fn wiring(file: &Value) -> Vec<String> {
    let services = file["services"].as_object().unwrap();
    let volumes = file["volumes"].as_object().unwrap();
    let mut findings = Vec::new();
    let mut used = BTreeSet::new();
    for (name, service) in services {
        let mut say = |finding: String| findings.push(format!("compose/{name}: {finding}"));
        for (needed, how) in service["depends_on"].as_object().into_iter().flatten() {
            match services.get(needed) {
                None => say(format!("depends on `{needed}`, which is no service")),
                Some(other) => {
                    let is_healthy = how["condition"] == "service_healthy";
                    if is_healthy && other["healthcheck"].is_null() {
                        say(format!(
                            "depends on the health of `{needed}`, which has no check"
                        ));
                    }
                }
            }
        }
        for (source, _, _) in mounted(service) {
            if source.starts_with('.') {
                let path = files::root().join(FOLDER).join(source);
                if !path.exists() {
                    say(format!("mounts {source}, which does not exist"));
                }
            } else if !volumes.contains_key(source) {
                say(format!(
                    "mounts the volume `{source}`, which is not declared"
                ));
            }
            used.insert(source.to_owned());
        }
        if service["restart"].is_null() {
            say("has no restart policy".to_owned());
        }
        if service["deploy"]["resources"]["limits"]["memory"].is_null() {
            say("has no memory limit".to_owned());
        }
        let target = &service["build"]["target"];
        if target.is_string() && !dockerfile::targets().contains(&text(target).to_owned()) {
            say(format!(
                "is built from stage {target}, which the Dockerfile does not have"
            ));
        }
    }
    let unused = volumes.keys().filter(|volume| !used.contains(*volume));
    findings.extend(unused.map(|volume| format!("compose: nothing mounts `{volume}`")));
    findings.extend(interpolated(file));
    findings
}

/// Variables `${...}` of the file that `.env.example` does not set, and the reverse.
fn interpolated(file: &Value) -> Vec<String> {
    let text = file.to_string();
    let pieces = text.split("${").skip(1);
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let wanted: BTreeSet<String> = pieces
        .map(|piece| piece.chars().take_while(|c| is_name(*c)).collect())
        .collect();
    let example = files::read("deploy/compose/.env.example");
    let set: BTreeSet<String> = example
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| Some(line.split_once('=')?.0.to_owned()))
        .collect();
    let differing = wanted.symmetric_difference(&set);
    let say = |name| format!("compose: `{name}` is in only one of compose.yaml, .env.example");
    differing.map(say).collect()
}

/// Source, path and writability of every mount in the short form.
fn mounted(service: &Value) -> impl Iterator<Item = (&str, &str, bool)> {
    list(&service["volumes"]).iter().filter_map(|mount| {
        let mut parts = text(mount).split(':');
        let (source, path) = (parts.next()?, parts.next()?);
        Some((source, path, parts.next() != Some("ro")))
    })
}

/// The services that run the program.
pub fn processes(file: &Value) -> Vec<Process> {
    let services = file["services"].as_object().unwrap().iter();
    services
        .filter(|(_, service)| text(&service["image"]).starts_with("capstan"))
        .map(|(name, service)| process(name, service))
        .collect()
}

fn process(name: &str, service: &Value) -> Process {
    let mut args: Vec<String> = words(&service["command"]);
    if let Some(line) = shell_line(service) {
        args = line.split(' ').map(str::to_owned).collect();
    }
    let mut mounts = BTreeMap::new();
    let mut configurations = BTreeMap::new();
    for (source, path, is_writable) in mounted(service) {
        let mount = Mount {
            is_writable,
            ..Mount::default()
        };
        mounts.insert(path.to_owned(), mount);
        if source.ends_with(".toml") {
            let source = Path::new(FOLDER).join(source).display().to_string();
            configurations.insert(path.to_owned(), files::read(&source));
        }
    }
    let environment = service["environment"].as_object().into_iter().flatten();
    let grace = text(&service["stop_grace_period"])
        .trim_end_matches('s')
        .parse();
    Process {
        name: format!("compose/{name}"),
        image: text(&service["image"]).to_owned(),
        args,
        environment: environment
            .map(|(name, value)| (name.clone(), text(value).to_owned()))
            .collect(),
        configurations,
        mounts,
        ports: None,
        probes: probe(service).into_iter().collect(),
        grace_seconds: grace.unwrap_or(10),
    }
}

fn words(value: &Value) -> Vec<String> {
    list(value)
        .iter()
        .map(|word| text(word).to_owned())
        .collect()
}

/// The program's arguments in a service whose entry point is a shell.
fn shell_line(service: &Value) -> Option<&str> {
    let is_shell = text(&list(&service["entrypoint"]).first()?.clone()).ends_with("sh");
    let (_, line) = text(list(&service["command"]).first()?).split_once("capstan ")?;
    is_shell.then_some(line)
}

/// Port and path that a service's health check requests.
fn probe(service: &Value) -> Option<(u16, String)> {
    let test = words(&service["healthcheck"]["test"]);
    let url = test
        .iter()
        .find_map(|word| word.strip_prefix("http://127.0.0.1:"))?;
    let (port, path) = url.split_once('/')?;
    Some((port.parse().ok()?, format!("/{path}")))
}

#[test]
fn the_file_matches_the_specification() {
    assert_none(&against_the_specification(&file()));
}

#[test]
fn services_reference_only_what_exists() {
    assert_none(&wiring(&file()));
}

#[test]
fn every_service_starts_the_program_correctly() {
    let processes = processes(&file());
    let commands: Vec<&str> = processes.iter().map(|process| process.command()).collect();
    for (command, count) in [
        ("coordinator", 1),
        ("worker", 2),
        ("trainer", 2),
        ("demoweb", 1),
    ] {
        assert_eq!(
            commands.iter().filter(|c| **c == command).count(),
            count,
            "{command}"
        );
    }
    assert_none(
        &processes
            .iter()
            .flat_map(Process::check)
            .collect::<Vec<_>>(),
    );
}

#[test]
fn processes_have_each_others_addresses() {
    let file = file();
    let services = file["services"].as_object().unwrap();
    for process in processes(&file) {
        let Ok(settings) = process.settings() else {
            continue;
        };
        if process.command() == "trainer" {
            let (host, _) = settings.trainer.advertise.rsplit_once(':').unwrap();
            assert_eq!(format!("compose/{host}"), process.name);
        }
        if process.command() == "coordinator" {
            let port = settings.coordinator.listen.port();
            assert_eq!(
                settings.coordinator.address,
                format!("https://coordinator:{port}")
            );
            let published = words(&services["coordinator"]["ports"]);
            assert_eq!(published, [format!("127.0.0.1:{port}:{port}")]);
        }
    }
}

/// The crawlers' map of hosts has the demo web's hosts and ports.
#[test]
fn crawlers_have_the_addresses_of_the_demo_web() {
    let processes = processes(&file());
    let web = processes.iter().find(|p| p.command() == "demoweb").unwrap();
    let worker = processes.iter().find(|p| p.command() == "worker").unwrap();
    let flag = |name| program::value_of(&web.args, name).unwrap();
    let first: std::net::SocketAddr = flag("--listen-from").parse().unwrap();
    let hosts = Site::build(&World::shipped(), 1).hosts().into_iter();
    let served: BTreeMap<String, String> = hosts
        .zip(first.port()..)
        .map(|(host, port)| (host, format!("{}:{port}", flag("--advertise"))))
        .collect();
    let settings = worker.settings().unwrap();
    assert_eq!(settings.crawl.hosts, served);
    let roots = [std::path::PathBuf::from(flag("--annotations"))];
    assert_eq!(settings.import.roots, roots);
    assert!(worker.mounts.contains_key(flag("--annotations")));
    let asked = format!("demoweb:{}", web.probes[0].0);
    assert!(
        served.values().any(|at| *at == asked),
        "its health check requests another port"
    );
}

/// The commands in the comment at the top of the file.
#[test]
fn the_program_accepts_the_commands_in_the_comment() {
    let text = files::read("deploy/compose/compose.yaml");
    let commands: Vec<Vec<String>> = text
        .lines()
        .filter_map(|line| line.split_once("run --rm operator "))
        .map(|(_, rest)| rest.split_whitespace().map(str::to_owned).collect())
        .collect();
    assert_eq!(commands[0][0], "run", "the comment shows no `run`");
    let pipeline = commands[0][1].strip_prefix("/etc/capstan/").unwrap();
    files::read(&format!("deploy/{pipeline}"));
    assert_none(
        &[program::refuses(&commands[0])]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>(),
    );
}
