use std::io::Write;

use proptest::prelude::*;

use super::*;

/// Resolve from a file's text and variables, or the error as a person reads it.
fn resolve(file: &str, environment: &[(&str, &str)], flags: &Flags) -> Result<Config, String> {
    let mut toml = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    toml.write_all(file.as_bytes()).unwrap();
    let environment = environment
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    Config::resolve(Some(toml.path()), environment, flags).map_err(|error| {
        error
            .to_string()
            .replace(&toml.path().display().to_string(), "FILE")
    })
}

fn check_error(file: &str, environment: &[(&str, &str)], expect: &str) {
    assert_eq!(
        resolve(file, environment, &Flags::default()).unwrap_err(),
        expect
    );
}

#[test]
fn nothing_given_means_the_defaults() {
    assert_eq!(resolve("", &[], &Flags::default()), Ok(Config::default()));
}

#[test]
fn flags_win_over_the_environment_over_the_file_over_defaults() {
    let file = "listen = '127.0.0.1:1'\ndata = 'file'\ndrain = '1s'\n\
                durability = 'process'\n[limits]\nturns_max = 1\nslots_max = 7\n";
    let environment = [
        ("ANTIPHON_LISTEN", "127.0.0.1:2"),
        ("ANTIPHON_DATA", "environment"),
        ("ANTIPHON_LIMITS__TURNS_MAX", "2"),
        ("ANTIPHON_HTTP__CORS_ORIGINS", "[\"https://a.example\"]"),
        ("ANTIPHON_URL", "http://for.clients"),
        ("PATH", "/bin"),
    ];
    let flags = Flags {
        listen: Some(SocketAddr::from(([127, 0, 0, 1], 3))),
        ..Flags::default()
    };
    let config = resolve(file, &environment, &flags).unwrap();
    assert_eq!(config.listen.port(), 3);
    assert_eq!(config.data, Path::new("environment"));
    assert_eq!(config.drain, Duration::from_secs(1));
    assert_eq!(config.durability, Durability::Process);
    assert_eq!((config.limits.turns_max, config.limits.slots_max), (2, 7));
    assert_eq!(config.limits.handles_max, Limits::default().handles_max);
    assert_eq!(config.http.cors_origins, ["https://a.example"]);
}

#[test]
fn errors_name_the_setting_and_where_it_stands() {
    let known = "listen, data, drain, durability, http, sessions, models, egress, secrets, budgets, quotas, limits";
    let known = format!("known here: `{}`", known.replace(", ", "`, `")).replace('`', "");
    check_error(
        "listn = 'x'",
        &[],
        &format!("unknown setting `listn` in FILE; {known}"),
    );
    check_error(
        "",
        &[("ANTIPHON_LISTN", "x")],
        &format!("unknown setting `listn` in the environment (ANTIPHON_LISTN); {known}"),
    );
    check_error(
        "[http]\ncors = []",
        &[],
        "unknown setting `http.cors` in FILE; known here: cors_origins, streams_open_to, tls",
    );
    check_error(
        "[limits]\nturns_max = 'many'",
        &[],
        "setting `limits.turns_max` in FILE: invalid type: found string \"many\", expected u64",
    );
    check_error(
        "",
        &[("ANTIPHON_LIMITS__TURNS_MAX", "0")],
        "setting `limits.turns_max` in the environment (ANTIPHON_LIMITS__TURNS_MAX): must not be 0",
    );
    check_error(
        "drain = 10",
        &[],
        "setting `drain` in FILE: expected a duration such as \"10s\" or \"24h\"",
    );
    check_error(
        "listen = 'here'",
        &[],
        "setting `listen` in FILE: invalid socket address syntax",
    );
    check_error(
        "durability = 'maybe'",
        &[],
        "setting `durability` in FILE: `maybe` is none of power, process",
    );
    let broken = resolve("limits = [", &[], &Flags::default()).unwrap_err();
    assert!(
        broken.starts_with("FILE is not TOML: TOML parse error at line 1"),
        "{broken}"
    );
    assert_eq!(broken.lines().count(), 1, "{broken}");
}

#[test]
fn a_file_that_is_not_there_is_an_error() {
    let missing = Path::new("/nowhere/antiphon.toml");
    let error = Config::resolve(Some(missing), [], &Flags::default()).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cannot read the settings in /nowhere/antiphon.toml")
    );
}

#[test]
fn models_come_from_the_file_and_the_environment() {
    let file = "[models.fast]\nbase_url = 'https://models.example/v1/'\nmodel = 'small'\n\
                api_key_env = 'FAST_KEY'\nprice = { input_micros = 1, output_micros = 2 }\n\
                [models.fast.policy.breaker]\ncooldown_ms = 9\n";
    let environment = [
        ("FAST_KEY", "fast-secret"),
        ("ANTIPHON_MODEL_URL", "http://127.0.0.1:8099/v1"),
        ("ANTIPHON_MODEL_KEY", "default-secret"),
        ("ANTIPHON_MODEL_NAME", "7"),
        ("ANTIPHON_MODELS__FAST__POLICY__ATTEMPTS_MAX", "5"),
    ];
    let config = resolve(file, &environment, &Flags::default()).unwrap();
    let (default, fast) = (&config.models["default"], &config.models["fast"]);
    assert_eq!(fast.base_url, "https://models.example/v1");
    assert_eq!(fast.api_key, Some(Secret::new("fast-secret")));
    assert_eq!(
        fast.price,
        Some(Price {
            input_micros: 1,
            output_micros: 2
        })
    );
    assert_eq!(
        (default.base_url.as_str(), default.model.as_str()),
        ("http://127.0.0.1:8099/v1", "7")
    );
    assert_eq!(
        default.api_key.as_ref().map(Secret::reveal),
        Some("default-secret")
    );
    assert!(!format!("{config:?}").contains("-secret"));

    assert_eq!(fast.policy.breaker.cooldown_ms, Some(9));
    assert_eq!(fast.policy.attempts_max, Some(5));
    assert!(default.policy.is_empty());

    check_error(
        "[models.fast]\nbase_url = 'http://a'\npolicy = { attempts_max = 11 }",
        &[],
        "setting `models.fast.policy.attempts_max` in FILE: must be from 1 to 10",
    );
    check_error(
        "[models.fast]\nbase_url = 'http://a'\n[models.fast.policy.breaker]\nopen = 1",
        &[],
        "unknown setting `models.fast.policy.breaker.open` in FILE; known here: failures_to_open, \
         cooldown_ms, cooldown_ms_max",
    );
    check_error(
        file,
        &[],
        "setting `models.fast.api_key_env` in FILE: the variable FAST_KEY is not set",
    );
    check_error(
        "",
        &[("ANTIPHON_MODEL_NAME", "x")],
        "setting `models.default.base_url` in the environment (ANTIPHON_MODEL_NAME): is missing",
    );
    check_error(
        "",
        &[("ANTIPHON_MODEL_URL", "models.example")],
        "setting `models.default.base_url` in the environment (ANTIPHON_MODEL_URL): must begin \
         with http:// or https://",
    );
}

#[test]
fn the_operator_says_what_agents_may_reach_and_name() {
    let file = "[egress]\nprivate_allowed = ['127.0.0.1:9000']\n\
                [egress.names]\n'db.internal' = ['10.0.0.7']\n\
                [secrets]\nenv_allowed = ['OFFERED']\n";
    let environment = [("OFFERED", "sk-very-secret"), ("OTHER", "sk-other-secret")];
    let config = resolve(file, &environment, &Flags::default()).unwrap();
    assert_eq!(config.egress.private_allowed, ["127.0.0.1:9000"]);
    assert_eq!(
        config.egress.names["db.internal"],
        [IpAddr::from([10, 0, 0, 7])]
    );
    let offered = config.secrets.environment.iter();
    let offered: Vec<(&str, &str)> = offered
        .map(|(name, it)| (name.as_str(), it.reveal()))
        .collect();
    assert_eq!(offered, [("OFFERED", "sk-very-secret")]);
    assert!(!format!("{config:?}").contains("sk-"));
    check_error(
        file,
        &[],
        "setting `secrets.env_allowed` in FILE: the variable OFFERED is not set",
    );
    check_error(
        "[egress]\nprivate = []\n",
        &[],
        "unknown setting `egress.private` in FILE; known here: private_allowed, names",
    );
}

#[test]
fn an_escape_behind_a_letter_that_is_not_ascii_is_text() {
    for text in ["\"\u{2d7f}\\a\"", "\"\u{e9}\\n\"", "[\"\u{e9}\\u00e9\"]"] {
        let config = resolve("", &[("ANTIPHON_DATA", text)], &Flags::default()).unwrap();
        assert_eq!(config.data, Path::new(text));
    }
}

/// Names of settings, right and nearly right, as they stand in a file.
const SETTINGS: [&str; 16] = [
    "listen",
    "data",
    "drain",
    "durability",
    "http",
    "http.tls",
    "http.tls.certificate",
    "http.cors_origins",
    "limits.turns_max",
    "limits",
    "models.default.base_url",
    "models.x.policy.attempts_max",
    "budgets.tenants.a",
    "egress.names",
    "sessions.invoked_expire_after",
    "secrets.env_allowed",
];

fn toml_value() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|it| it.to_string()),
        any::<f64>().prop_map(|it| format!("{it:?}")),
        any::<bool>().prop_map(|it| it.to_string()),
        "[ -~]{0,20}".prop_map(|it| format!("{it:?}")),
        Just("[]".to_owned()),
        Just("{}".to_owned()),
        Just("['127.0.0.1:0', '10.0.0.0/33', '']".to_owned()),
        Just("1979-05-27T07:32:00Z".to_owned()),
        Just("'99999999999999999999h'".to_owned()),
        Just("'10s'".to_owned()),
        "\\PC{0,20}",
    ]
}

/// Errors say which setting, on one line, and what was secret is not in them.
fn is_said_well(result: Result<Config, String>) {
    if let Err(error) = result {
        assert!(!error.is_empty());
        assert!(!error.contains("marker-of-a-secret"), "{error}");
    }
}

proptest! {
    #[test]
    fn any_file_is_settings_or_an_error(text in "\\PC{0,200}") {
        is_said_well(resolve(&text, &[], &Flags::default()));
    }

    #[test]
    fn any_settings_are_taken_or_refused(
        lines in proptest::collection::vec((proptest::sample::select(&SETTINGS[..]), toml_value()), 0..5),
    ) {
        let text: String = lines.iter().map(|(name, value)| format!("{name} = {value}\n")).collect();
        is_said_well(resolve(&text, &[], &Flags::default()));
    }

    #[test]
    fn any_environment_is_taken_or_refused(
        name in "[A-Z_]{0,20}",
        known in proptest::sample::select(&SETTINGS[..]),
        value in prop_oneof![toml_value(), any::<String>()],
    ) {
        let known = format!("ANTIPHON_{}", known.to_uppercase().replace('.', "__"));
        let any = format!("ANTIPHON_{name}");
        for name in [&known, &any] {
            let variables = [(name.as_str(), value.as_str()), ("ANTIPHON_MODEL_KEY", "marker-of-a-secret")];
            is_said_well(resolve("", &variables, &Flags::default()));
        }
    }
}
