//! Layers, checks and one-line errors.

use std::io::Write;

use super::*;

const NONE: [(String, String); 0] = [];

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn load(text: &str) -> Result<Config, ConfigError> {
    let file = file(text);
    Config::load_with(Some(file.path()), NONE, Overrides::new())
}

fn variable(name: &str, value: &str) -> [(String, String); 1] {
    [(name.to_owned(), value.to_owned())]
}

fn error(text: &str) -> String {
    let error = load(text).unwrap_err().to_string();
    assert!(!error.contains('\n'), "more than one line: {error}");
    error
}

#[test]
fn the_shipped_example_is_equal_to_the_defaults() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/capstan.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let shipped: toml::Table = toml::from_str(&text).unwrap();
    let defaults: toml::Table = toml::from_str(&Config::default().to_toml()).unwrap();
    assert_eq!(shipped, defaults, "values or keys differ");
    let loaded = Config::load_with(Some(&path), NONE, Overrides::new()).unwrap();
    assert_eq!(loaded, Config::default());
}

#[test]
fn later_layers_win() {
    let file = file("[worker]\nslots = 2\nthreads = 3\n");
    let environment = || variable("CAPSTAN__WORKER__SLOTS", "4");
    let with = |overrides| Config::load_with(Some(file.path()), environment(), overrides).unwrap();
    let config = with(Overrides::new());
    assert_eq!((config.worker.slots, config.worker.threads), (4, 3));
    let config = with(Overrides::new().set("worker.slots", 8));
    assert_eq!((config.worker.slots, config.worker.threads), (8, 3));
    let config = with(Overrides::new().parse("worker.slots=9").unwrap());
    assert_eq!(config.worker.slots, 9);
    assert_eq!(
        Config::load_with(None, NONE, Overrides::new()).unwrap(),
        Config::default()
    );
}

#[test]
fn import_roots_are_a_list_of_folders() {
    let config = load("[import]\nroots = [\"/data\", \"more\"]\n").unwrap();
    assert_eq!(
        config.import.roots,
        ["/data", "more"].map(std::path::PathBuf::from)
    );
    let given = variable("CAPSTAN__IMPORT__ROOTS", "[\"/data/a b\"]");
    let config = Config::load_with(None, given, Overrides::new()).unwrap();
    assert_eq!(
        config.import.roots,
        ["/data/a b"].map(std::path::PathBuf::from)
    );
    let text = error("[import]\nroots = [\"\"]\n");
    assert!(
        text.contains("[import] roots: holds an empty path"),
        "{text}"
    );
    let text = error("[import]\nroot = \"/data\"\n");
    assert!(
        text.contains("[import] root: unknown key; known keys are roots"),
        "{text}"
    );
}

#[test]
fn hosts_are_names_with_dots() {
    let config = load("[crawl.hosts]\n\"gallery.demo.test\" = \"127.0.0.1:81\"\n").unwrap();
    assert_eq!(config.crawl.hosts["gallery.demo.test"], "127.0.0.1:81");
    let config = load("[crawl]\nhosts = { \"a.test\" = \"demoweb:8001\" }\n").unwrap();
    assert_eq!(config.crawl.hosts["a.test"], "demoweb:8001");
    let text = error("[crawl.hosts]\n\"a.test\" = \"demoweb\"\n");
    assert!(
        text.contains("[crawl] hosts: `a.test` is set to `demoweb`: give address:port"),
        "{text}"
    );
}

#[test]
fn errors_name_the_file_the_key_and_the_fix_on_one_line() {
    let text = error("[worker]\nslotz = 2\n");
    assert!(
        text.contains(".toml: [worker] slotz: unknown key; known keys are name, roles"),
        "{text}"
    );
    let text = error("[workers]\nslots = 2\n");
    assert!(
        text.contains("[workers]: unknown key; known keys are store, coordinator"),
        "{text}"
    );
    let text = error("[worker]\nslots = \"many\"\n");
    assert!(
        text.contains("[worker] slots: found the text `many`, expected"),
        "{text}"
    );
    let text = error("[worker]\nroles = [\"crawl\", \"cook\"]\n");
    assert!(
        text.contains("[worker] roles.1: `cook` is not one of crawl, curate"),
        "{text}"
    );
    let text = error("[worker\n");
    assert!(text.contains(".toml: line 1: unclosed table"), "{text}");
    let text = error("[safety]\ntoken = secret-of-somebody\n");
    assert!(text.contains(".toml: line 2: "), "{text}");
    assert!(!text.contains("somebody"), "{text}");
    let text = error("[worker]\nroles = [\"train\"]\n");
    assert_eq!(
        text,
        "configuration: [worker] roles: `train` is not a role of a worker: start `capstan trainer` \
         for it"
    );
    let text = error("[coordinator]\nheartbeat_seconds = 20\n");
    assert!(
        text.contains("[coordinator] heartbeat_seconds: must be at least 1 and at"),
        "{text}"
    );
    let text = error("[telemetry]\nfilter = \"capstan=loud\"\n");
    assert!(
        text.contains("[telemetry] filter: `capstan=loud`"),
        "{text}"
    );
    let text = error("[store]\nurl = \"\"\n");
    assert!(text.contains("[store] url: is empty"), "{text}");
    let missing = Config::load_with(Some(Path::new("/nowhere.toml")), NONE, Overrides::new());
    assert!(
        missing
            .unwrap_err()
            .to_string()
            .starts_with("/nowhere.toml: cannot read")
    );
}

#[test]
fn an_error_in_a_variable_names_the_environment() {
    let wrong = Config::load_with(
        None,
        variable("CAPSTAN__WORKER__SLOTS", "x"),
        Overrides::new(),
    );
    let text = wrong.unwrap_err().to_string();
    assert!(
        text.starts_with("environment: [worker] slots: found the text `x`"),
        "{text}"
    );
    let wrong = Config::load_with(None, NONE, Overrides::new().set("worker.slotz", 1));
    let text = wrong.unwrap_err().to_string();
    assert!(
        text.starts_with("flags: [worker] slotz: unknown key"),
        "{text}"
    );
    assert!(Overrides::new().parse("slots=1").is_err());
}

#[test]
fn a_listener_that_other_hosts_reach_needs_certificates_or_insecure() {
    let text = error("[coordinator]\nlisten = \"0.0.0.0:7400\"\n");
    assert!(
        text.contains(
            "[coordinator] listen: 0.0.0.0:7400 is reachable by other hosts and no \
             certificates are configured: create them with `capstan certs`"
        ),
        "{text}"
    );
    let text = error("[trainer]\nlisten = \"10.0.0.5:0\"\n");
    assert!(
        text.contains("[trainer] listen: 10.0.0.5:0 is reachable by other hosts"),
        "{text}"
    );
    load("[coordinator]\nlisten = \"0.0.0.0:7400\"\n[safety]\ninsecure = true\n").unwrap();
    load("[coordinator]\nlisten = \"[::1]:7400\"\n").unwrap();
    let secured = "[coordinator]\nlisten = \"0.0.0.0:7400\"\naddress = \"https://c:7400\"\n\
                   [safety]\ncertificates = \"certs\"\n";
    assert!(load(secured).unwrap().safety.has_certificates());
}

#[test]
fn the_scheme_of_the_coordinator_depends_on_certificates() {
    let text = error("[safety]\ncertificates = \"certs\"\n");
    assert!(
        text.contains("[coordinator] address: `http://127.0.0.1:7400`: with [safety] certificates"),
        "{text}"
    );
    let text = error("[coordinator]\naddress = \"https://c:7400\"\n");
    assert!(text.contains("https needs certificates"), "{text}");
}

#[test]
fn the_health_port_is_an_address() {
    let config = load("[telemetry]\nhealth_listen = \"0.0.0.0:7401\"\n").unwrap();
    let address = config.telemetry.health_address();
    assert_eq!(address, Some("0.0.0.0:7401".parse().unwrap()));
    assert_eq!(Config::default().telemetry.health_address(), None);
    let text = error("[telemetry]\nhealth_listen = \"7401\"\n");
    assert!(
        text.contains("[telemetry] health_listen: `7401` is not an address"),
        "{text}"
    );
}

#[test]
fn a_token_is_read_from_the_setting_or_from_a_file() {
    const TOKEN: &str = "0123456789abcdef0123";
    let token = |config: &Config| config.safety.read_token().unwrap();
    let given = load(&format!("[safety]\ntoken = \"{TOKEN}\"\n")).unwrap();
    assert!(token(&given).unwrap().matches(TOKEN));
    let of_file = |text: &str| {
        let held = file(text);
        let path = held.path().display().to_string();
        let config = load(&format!("[safety]\ntoken_file = \"{path}\"\n")).unwrap();
        (config.safety.read_token(), held)
    };
    let read = of_file(&format!("{TOKEN}\n")).0.unwrap().unwrap();
    assert!(read.matches(TOKEN));
    assert!(!read.matches("0123456789abcdef0124") && !read.matches(""));
    assert_eq!(token(&Config::default()), None);

    // A variable of digits is still text.
    let digits = variable("CAPSTAN__SAFETY__TOKEN", "12345678901234567890123");
    let config = Config::load_with(None, digits, Overrides::new()).unwrap();
    assert!(token(&config).unwrap().matches("12345678901234567890123"));

    let text = error("[safety]\ntoken = \"hunter2\"\n");
    assert!(text.contains("[safety] token: is not a token"), "{text}");
    let text = error(&format!(
        "[safety]\ntoken = \"{TOKEN}\"\ntoken_file = \"x\"\n"
    ));
    assert!(
        text.contains("[safety] token_file: is set together"),
        "{text}"
    );
    let text = of_file("\n").0.unwrap_err().to_string();
    assert!(text.contains("is empty: write the token into it"), "{text}");
    let missing = load("[safety]\ntoken_file = \"/nowhere/token\"\n").unwrap();
    let text = missing.safety.read_token().unwrap_err().to_string();
    assert!(text.contains("/nowhere/token: cannot be read"), "{text}");
}

#[test]
fn secrets_are_not_printed() {
    let config = load(
        "[store]\nurl = \"s3://user:hunter2@bucket/x\"\n\
         [store.options]\naws_secret_access_key = \"hunter2\"\n",
    )
    .unwrap();
    assert_eq!(
        config.store.options["aws_secret_access_key"].reveal(),
        "hunter2"
    );
    let printed = config.to_toml();
    assert!(!printed.contains("hunter2"), "{printed}");
    assert!(
        printed.contains("aws_secret_access_key = \"(hidden)\""),
        "{printed}"
    );
    assert!(!format!("{:?}", config.store.options).contains("hunter2"));

    let config = load("[safety]\ntoken = \"hunter2hunter2hunter2\"\n").unwrap();
    let printed = config.to_toml();
    assert!(printed.contains("token = \"(hidden)\""), "{printed}");
    assert!(!format!("{printed}{config:?}").contains("hunter2"));
    for wrong in ["token = 12345", "token = \"hunter2 hunter2 hunter2\""] {
        let text = error(&format!("[safety]\n{wrong}\n"));
        assert!(
            !text.contains("12345") && !text.contains("hunter2"),
            "{text}"
        );
    }
}

#[test]
fn a_value_in_place_of_secrets_is_not_printed() {
    for (text, key) in [
        ("[store]\noptions = \"hunter2\"\n", "[store] options: "),
        ("store = \"hunter2\"\n", "[store]: "),
        ("safety = \"hunter2\"\n", "[safety]: "),
    ] {
        let line = error(text);
        assert!(line.contains(&format!(".toml: {key}")), "{line}");
        assert!(line.contains("give a table"), "{line}");
        assert!(!line.contains("hunter2"), "{line}");
    }
    let given = variable("CAPSTAN__STORE__OPTIONS", "hunter2");
    let flags = Overrides::new().parse("store.options=hunter2").unwrap();
    for wrong in [
        Config::load_with(None, given, Overrides::new()),
        Config::load_with(None, NONE, flags),
    ] {
        let line = wrong.unwrap_err().to_string();
        assert!(line.contains(": [store] options: has the wrong"), "{line}");
        assert!(!line.contains("hunter2"), "{line}");
    }
    // TOML 1.1: an older parser would reject it with an error that contains the line.
    let config = load("[store]\noptions = {\n  aws_token = \"hunter2\",\n}\n").unwrap();
    assert_eq!(config.store.options["aws_token"].reveal(), "hunter2");
}
