//! The program's command line, environment variables and settings, as the program itself reports them.

use std::process::{Command, Stdio};
use std::str::FromStr;
use std::sync::OnceLock;

use capstan_runtime::{Config, Overrides};
use object_store::aws::AmazonS3ConfigKey;

/// The program's error for a command line; `None` if it accepts the command line.
///
/// A trailing `--help` makes the program parse the arguments without running the command.
pub fn refuses(args: &[String]) -> Option<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_capstan"))
        .args(args)
        .arg("--help")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    if output.status.success() {
        return None;
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let line = said.lines().next().unwrap_or_default();
    Some(format!("`capstan {}`: {line}", args.join(" ")))
}

/// The program's help text.
fn help() -> &'static str {
    static HELP: OnceLock<String> = OnceLock::new();
    HELP.get_or_init(|| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_capstan"));
        let output = command.arg("--help").output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    })
}

/// Whether the program reads a variable of this name. [`settings`] checks the names of variables for
/// settings (`CAPSTAN__...`).
pub fn reads_variable(name: &str) -> bool {
    name.starts_with("CAPSTAN__")
        || help().contains(&format!("[env: {name}="))
        || (name.starts_with("AWS_")
            && AmazonS3ConfigKey::from_str(&name.to_ascii_lowercase()).is_ok())
}

/// The settings of a process from the text of its file, its environment and its flags.
///
/// # Errors
/// The program's error line.
pub fn settings(
    text: &str,
    environment: &[(String, String)],
    args: &[String],
) -> Result<Config, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let roles = value_of(args, "--roles").map(|roles| {
        let roles = roles.split(',').map(str::to_owned);
        roles.collect::<Vec<String>>()
    });
    let flags = Overrides::new().set_some("worker.roles", roles);
    Config::load_with(Some(file.path()), environment.iter().cloned(), flags)
        .map_err(|error| error.to_string())
}

/// The value of a flag.
pub fn value_of<'a>(args: &'a [String], flag: &str) -> Option<&'a str> {
    let at = args.iter().position(|arg| arg == flag)?;
    args.get(at + 1).map(String::as_str)
}

/// Paths that the health port serves.
pub const HEALTH_PATHS: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

#[test]
fn the_program_refuses_unknown_flags_commands_and_missing_values() {
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(refuses(&words("worker --roles crawl")), None);
    let refused = refuses(&words("worker --rolls crawl")).unwrap();
    assert!(refused.contains("--rolls"), "{refused}");
    assert!(refuses(&words("cook")).unwrap().contains("cook"));
    assert!(refuses(&words("worker --roles")).is_some(), "no value");
}

#[test]
fn variables_of_the_store_and_of_flags_are_recognised() {
    assert!(reads_variable("AWS_ENDPOINT_URL") && reads_variable("AWS_SECRET_ACCESS_KEY"));
    assert!(reads_variable("CAPSTAN_CONFIG"));
    assert!(!reads_variable("AWS_SECRET_KEYS") && !reads_variable("CAPSTAN_CONFIGURATION"));
}

#[tokio::test]
async fn the_health_port_serves_every_path() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = tokio_util::sync::CancellationToken::new();
    let readiness = capstan_runtime::health::Readiness::lasting();
    readiness.mark();
    let roles = vec![("worker", readiness)];
    let serving = capstan_runtime::health::serve(listener, roles, shutdown.clone());
    let serving = tokio::spawn(serving);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for path in HEALTH_PATHS {
        let answer = client
            .get(format!("http://{address}{path}"))
            .send()
            .await
            .unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
    }
    let answer = client
        .get(format!("http://{address}/alive"))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), reqwest::StatusCode::NOT_FOUND);
    shutdown.cancel();
    serving.await.unwrap();
}
