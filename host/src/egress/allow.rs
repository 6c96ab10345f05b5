//! Where an agent may send requests: the rules of its configuration. PURE.
//!
//! A request is allowed by the first rule that covers its method, scheme, host, port and path.
//! URLs are compared as the WHATWG parser leaves them: hosts lower-case and in ASCII, addresses in
//! their one form, dot segments and backslashes resolved.
//!
//! Invariant: a path that any server could take for one outside of a rule's prefix is not
//! covered by it, however often it decodes. It knows nothing of addresses: `address` does.

use serde::{Deserialize, Serialize};
use url::{Host, Url};

use crate::id::SecretName;

/// Rules of one agent: what a prompt-sized tool set needs, several times over.
const RULES_MAX: usize = 64;
/// Methods of one rule: all there are.
const METHODS_MAX: usize = 16;
/// Where a secret stands in a rule's format.
const FORMAT_HOLE: &str = "{}";
/// Rounds of decoding after which a path is taken for hostile.
const DECODINGS_MAX: usize = 8;
/// Methods that no rule may name: a tunnel, and an echo of what the host adds.
const METHODS_REFUSED: [&str; 2] = ["CONNECT", "TRACE"];

/// One rule, in its public and stored form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    #[serde(default, skip_serializing_if = "Scheme::is_default")]
    pub scheme: Scheme,
    /// A name, an address (IPv6 in brackets), or `*.` and a name, for every name below it.
    pub host: String,
    /// The scheme's own if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(default = "only_get")]
    pub methods: Vec<String>,
    /// Covers paths that go on after it at the border of a segment.
    #[serde(default = "root")]
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretUse>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    #[default]
    Https,
    Http,
}

/// A secret that goes with the requests of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretUse {
    /// The secret's name in the tenant, or `env:NAME` for a variable that the operator offers.
    pub name: SecretSource,
    /// The header that the host sets with it. None: the agent says where, as `${secret:NAME}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// What stands in that header, with `{}` for the secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
}

/// Where a secret comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SecretSource {
    /// Kept for the tenant.
    Tenant(SecretName),
    /// A variable of the host's environment that the operator offers.
    Environment(String),
}

impl Scheme {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    fn name(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Http => "http",
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::Https => 443,
            Self::Http => 80,
        }
    }
}

const ENVIRONMENT: &str = "env:";

impl TryFrom<String> for SecretSource {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if let Some(variable) = text.strip_prefix(ENVIRONMENT) {
            let is_name = |char: char| char.is_ascii_alphanumeric() || char == '_';
            return if !variable.is_empty() && variable.chars().all(is_name) {
                Ok(Self::Environment(variable.to_owned()))
            } else {
                Err(format!("{text:?} names no variable of the environment"))
            };
        }
        let name = SecretName::new(&text).map_err(|error| error.to_string())?;
        Ok(Self::Tenant(name))
    }
}

impl From<SecretSource> for String {
    fn from(source: SecretSource) -> Self {
        source.to_string()
    }
}

impl std::fmt::Display for SecretSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tenant(name) => f.write_str(name.as_str()),
            Self::Environment(variable) => write!(f, "{ENVIRONMENT}{variable}"),
        }
    }
}

fn only_get() -> Vec<String> {
    vec!["GET".to_owned()]
}

fn root() -> String {
    "/".to_owned()
}

/// Check an agent's rules. The error names the field.
pub fn check(rules: &[Rule]) -> Result<(), String> {
    if rules.len() > RULES_MAX {
        return Err(format!("`http` may hold {RULES_MAX} rules"));
    }
    for (at, rule) in rules.iter().enumerate() {
        rule.check()
            .map_err(|(field, what)| format!("`http[{at}].{field}`: {what}"))?;
    }
    Ok(())
}

/// The rule that allows a request, or why none does. The method is in capitals.
pub fn covering<'a>(rules: &'a [Rule], method: &str, url: &Url) -> Result<&'a Rule, String> {
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a URL must not carry a user's name or password".to_owned());
    }
    let shown = || shown(method, url);
    let found = rules.iter().find(|rule| rule.covers(method, url));
    found.ok_or_else(|| format!("no rule of the agent's configuration allows {}", shown()))
}

/// A request in words: without its query, which may hold anything.
pub fn shown(method: &str, url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    // Fails only for URLs that cannot have one.
    let _ = url.set_password(None);
    let _ = url.set_username("");
    format!("{method} {url}")
}

impl Rule {
    fn check(&self) -> Result<(), (&'static str, String)> {
        self.parsed_host().map_err(|what| ("host", what))?;
        if self.port == Some(0) {
            return Err(("port", "0 is no port".to_owned()));
        }
        check_methods(&self.methods).map_err(|what| ("methods", what))?;
        check_path(&self.path).map_err(|what| ("path", what))?;
        if let Some(secret) = &self.secret {
            secret.check()?;
        }
        Ok(())
    }

    fn parsed_host(&self) -> Result<Hosts, String> {
        let text = self.host.as_str();
        let (is_below, name) = match text.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, text),
        };
        if name.contains('*') {
            return Err(format!(
                "{text:?}: `*` stands only at the start, as in `*.example.com`"
            ));
        }
        if name.contains(['/', '@', '?', '#', '\\', '%']) || name.ends_with('.') {
            return Err(format!("{text:?} is not a host's name or address"));
        }
        let host = Host::parse(name).map_err(|error| format!("{text:?}: {error}"))?;
        match host {
            Host::Domain(domain) if is_below && !domain.contains('.') => {
                Err(format!("{text:?} would cover a whole top-level domain"))
            }
            Host::Domain(domain) if is_below => Ok(Hosts::Below(domain)),
            _ if is_below => Err(format!("{text:?}: nothing is below an address")),
            host => Ok(Hosts::One(host)),
        }
    }

    fn covers(&self, method: &str, url: &Url) -> bool {
        let Ok(hosts) = self.parsed_host() else {
            return false;
        };
        let port = self.port.unwrap_or_else(|| self.scheme.port());
        self.methods.iter().any(|allowed| allowed == method)
            && url.scheme() == self.scheme.name()
            && url.port_or_known_default() == Some(port)
            && url.host().is_some_and(|host| hosts.cover(&host))
            && covers_path(&self.path, url.path())
    }
}

/// What a rule's `host` names.
enum Hosts {
    One(Host<String>),
    /// Every name below this domain, not the domain itself.
    Below(String),
}

impl Hosts {
    fn cover(&self, host: &Host<&str>) -> bool {
        match (self, host) {
            (Self::One(one), host) => one == host,
            (Self::Below(domain), Host::Domain(name)) => name
                .strip_suffix(domain.as_str())
                .and_then(|rest| rest.strip_suffix('.'))
                .is_some_and(|below| !below.is_empty()),
            (Self::Below(_), Host::Ipv4(_) | Host::Ipv6(_)) => false,
        }
    }
}

fn check_methods(methods: &[String]) -> Result<(), String> {
    if methods.is_empty() || methods.len() > METHODS_MAX {
        return Err(format!("1 to {METHODS_MAX} methods"));
    }
    for method in methods {
        let is_capitals = |byte: u8| byte.is_ascii_uppercase() || byte == b'-';
        if method.is_empty() || method.len() > 32 || !method.bytes().all(is_capitals) {
            return Err(format!("{method:?} is no method, such as \"GET\""));
        }
        if METHODS_REFUSED.contains(&method.as_str()) {
            return Err(format!("{method:?} cannot be allowed"));
        }
    }
    Ok(())
}

/// A prefix must be written the one way in which paths are compared with it.
fn check_path(path: &str) -> Result<(), String> {
    if !path.starts_with('/') {
        return Err(format!("{path:?} must begin with `/`"));
    }
    let mut url = Url::parse("https://host.invalid/").expect("a URL that stands here");
    url.set_path(path);
    let is_normal = url.path() == path && !path.contains("//") && has_no_way_up(path);
    if is_normal && !path.contains(['?', '#', '\\']) {
        Ok(())
    } else {
        Err(format!(
            "{path:?} is not in its normal form; {:?} is",
            url.path()
        ))
    }
}

/// Whether a path, as the URL parser left it, is the prefix or goes on after it.
fn covers_path(prefix: &str, path: &str) -> bool {
    if prefix == "/" {
        return true;
    }
    let goes_on = match path.strip_prefix(prefix) {
        Some("") => true,
        Some(rest) => prefix.ends_with('/') || rest.starts_with('/'),
        None => false,
    };
    goes_on && has_no_way_up(path)
}

/// Whether no server can find a dot segment in it: decoded until nothing is left to decode, with
/// both slashes as borders, and with parameters (`..;a`) cut off.
fn has_no_way_up(path: &str) -> bool {
    let mut bytes = path.as_bytes().to_vec();
    for _ in 0..DECODINGS_MAX {
        let mut segments = bytes.split(|byte| matches!(byte, b'/' | b'\\'));
        let is_dots = |segment: &[u8]| {
            let end = segment.iter().position(|byte| *byte == b';');
            // Tabs and line ends are skipped by some parsers.
            let segment = segment[..end.unwrap_or(segment.len())].iter();
            let shown: Vec<u8> = segment.copied().filter(|byte| *byte > b' ').collect();
            matches!(shown.as_slice(), b"." | b"..")
        };
        if segments.any(is_dots) || bytes.contains(&0) {
            return false;
        }
        match decode(&bytes) {
            Some(decoded) => bytes = decoded,
            None => return true,
        }
    }
    false
}

/// One round of percent-decoding; none if there is nothing to decode.
fn decode(bytes: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let (mut decoded, mut at, mut changed) = (Vec::with_capacity(bytes.len()), 0, false);
    while at < bytes.len() {
        let pair = match bytes[at..] {
            [b'%', high, low, ..] => digit(high).zip(digit(low)),
            _ => None,
        };
        match pair {
            Some((high, low)) => {
                decoded.push(u8::try_from(high * 16 + low).expect("two digits are a byte"));
                (at, changed) = (at + 3, true);
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    changed.then_some(decoded)
}

impl SecretUse {
    fn check(&self) -> Result<(), (&'static str, String)> {
        let Some(header) = &self.header else {
            return match &self.format {
                Some(_) => Err(("secret.format", "it needs a `header`".to_owned())),
                None => Ok(()),
            };
        };
        super::head::check_secret_header(header).map_err(|what| ("secret.header", what))?;
        if let Some(format) = &self.format {
            let is_plain = |char: char| char == ' ' || char.is_ascii_graphic();
            if format.matches(FORMAT_HOLE).count() != 1 || !format.chars().all(is_plain) {
                let what = format!("{format:?} must hold one `{FORMAT_HOLE}`, in plain ASCII");
                return Err(("secret.format", what));
            }
        }
        Ok(())
    }

    /// What stands in its header.
    pub fn formatted(&self, secret: &str) -> String {
        match &self.format {
            Some(format) => format.replace(FORMAT_HOLE, secret),
            None => secret.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(json: &str) -> Rule {
        serde_json::from_str(json).unwrap()
    }

    fn allows(json: &str, request: &str) -> bool {
        let (method, url) = request.split_once(' ').unwrap();
        let rules = [rule(json)];
        assert_eq!(check(&rules), Ok(()), "{json}");
        Url::parse(url).is_ok_and(|url| covering(&rules, method, &url).is_ok())
    }

    /// Allowed and denied stand side by side: each denied one differs in one thing.
    #[test]
    fn a_rule_covers_what_it_says_and_nothing_beside() {
        let plain = r#"{"host":"api.example.com"}"#;
        let v1 = r#"{"host":"api.example.com","path":"/v1/"}"#;
        let v1_bare = r#"{"host":"api.example.com","path":"/v1"}"#;
        let below = r#"{"host":"*.example.com"}"#;
        let local = r#"{"scheme":"http","host":"127.0.0.1","port":9000,"methods":["GET","POST"]}"#;
        let six = r#"{"host":"[2001:DB8::1]"}"#;
        let idn = r#"{"host":"bücher.example"}"#;
        for (json, allowed, denied) in [
            (
                plain,
                "GET https://api.example.com/",
                "POST https://api.example.com/",
            ),
            (
                plain,
                "GET https://API.Example.COM/x?q",
                "GET https://example.com/x?q",
            ),
            (
                plain,
                "GET https://api.example.com:443/",
                "GET https://api.example.com:444/",
            ),
            (
                plain,
                "GET https://api.example.com/",
                "GET http://api.example.com/",
            ),
            (
                plain,
                "GET https://api.example.com/",
                "GET http://api.example.com:443/",
            ),
            (
                plain,
                "GET https://api.example.com/",
                "GET https://api.example.com./",
            ),
            (
                plain,
                "GET https://api.example.com/",
                "GET https://api.example.com.evil.org/",
            ),
            (
                plain,
                "GET https://api.example.com/@x",
                "GET https://api.example.com@evil.org/",
            ),
            (
                plain,
                "GET https://api.example.com/",
                "GET https://u:p@api.example.com/",
            ),
            (
                plain,
                "GET https://api.example.com/",
                "GET https://u@api.example.com/",
            ),
            (
                plain,
                r"GET https:\\api.example.com\x",
                r"GET https:\\evil.org\api.example.com",
            ),
            (
                plain,
                "GET https://api.example.com/a%2fb",
                "GET ftp://api.example.com/",
            ),
            (
                v1,
                "GET https://api.example.com/v1/",
                "GET https://api.example.com/v1",
            ),
            (
                v1,
                "GET https://api.example.com/v1/x",
                "GET https://api.example.com/v2/x",
            ),
            (
                v1,
                "GET https://api.example.com/v1/x/../y",
                "GET https://api.example.com/v1/../y",
            ),
            (
                v1,
                "GET https://api.example.com/v1/a/%2e/b",
                "GET https://api.example.com/v1/%2E%2e/b",
            ),
            (
                v1,
                "GET https://api.example.com/v1/a%2Fb",
                "GET https://api.example.com/v1/..%2Fb",
            ),
            (
                v1,
                "GET https://api.example.com/v1/a%5Cb",
                "GET https://api.example.com/v1/a%5C..%5C..%5Cb",
            ),
            (
                v1,
                "GET https://api.example.com/v1/%25",
                "GET https://api.example.com/v1/%252e%252e/b",
            ),
            (
                v1,
                r"GET https://api.example.com\v1\x",
                r"GET https://api.example.com/v1\..\x",
            ),
            (
                v1,
                "GET https://api.example.com/v1//x",
                "GET https://api.example.com//v1/x",
            ),
            (
                v1,
                "GET https://api.example.com/v1/a;b",
                "GET https://api.example.com/v1/..;/b",
            ),
            (
                v1,
                "GET https://api.example.com/v1/a%20",
                "GET https://api.example.com/v1/..%00/b",
            ),
            (
                v1,
                "GET https://api.example.com/v1/..x",
                "GET https://api.example.com/v1/.%09./b",
            ),
            (
                v1_bare,
                "GET https://api.example.com/v1",
                "GET https://api.example.com/v1x",
            ),
            (
                v1_bare,
                "GET https://api.example.com/v1/x",
                "GET https://api.example.com/V1/x",
            ),
            (
                below,
                "GET https://a.example.com/",
                "GET https://example.com/",
            ),
            (
                below,
                "GET https://a.b.example.com/",
                "GET https://aexample.com/",
            ),
            (
                local,
                "POST http://127.0.0.1:9000/",
                "POST http://127.0.0.1/",
            ),
            (
                local,
                "POST http://0x7f.1:9000/",
                "POST http://localhost:9000/",
            ),
            (
                local,
                "GET http://2130706433:9000/",
                "GET http://[::ffff:127.0.0.1]:9000/",
            ),
            (
                six,
                "GET https://[2001:db8:0:0::1]/",
                "GET https://[2001:db8::2]/",
            ),
            (
                idn,
                "GET https://BÜCHER.example/",
                "GET https://bucher.example/",
            ),
            (
                idn,
                "GET https://xn--bcher-kva.example/",
                "GET https://xn--bcher-kvb.example/",
            ),
        ] {
            assert!(allows(json, allowed), "{json} should allow {allowed}");
            assert!(!allows(json, denied), "{json} should deny {denied}");
        }
    }

    #[test]
    fn the_first_rule_that_covers_a_request_is_its_rule() {
        let rules = [
            rule(r#"{"host":"a.example","path":"/in","secret":{"name":"one"}}"#),
            rule(r#"{"host":"a.example"}"#),
        ];
        let url = |path: &str| Url::parse(&format!("https://a.example{path}")).unwrap();
        assert_eq!(covering(&rules, "GET", &url("/in/x")), Ok(&rules[0]));
        assert_eq!(covering(&rules, "GET", &url("/out")), Ok(&rules[1]));
        let refused = covering(&rules, "PUT", &url("/out?key=1")).unwrap_err();
        assert!(refused.ends_with("PUT https://a.example/out"), "{refused}");
        assert!(covering(&[], "GET", &url("/")).is_err());
    }

    #[test]
    fn what_is_wrong_with_a_rule_is_named() {
        for (json, named) in [
            (r#"{"host":""}"#, "`http[0].host`"),
            (r#"{"host":"a/b"}"#, "`http[0].host`"),
            (r#"{"host":"u@a.example"}"#, "`http[0].host`"),
            (r#"{"host":"a.example:80"}"#, "`http[0].host`"),
            (r#"{"host":"a.*.example"}"#, "`http[0].host`"),
            (r#"{"host":"*"}"#, "`http[0].host`"),
            (r#"{"host":"*.com"}"#, "top-level"),
            (r#"{"host":"*.127.0.0.1"}"#, "below an address"),
            (r#"{"host":"a b.example"}"#, "`http[0].host`"),
            (r#"{"host":"a.example","port":0}"#, "`http[0].port`"),
            (r#"{"host":"a.example","methods":[]}"#, "`http[0].methods`"),
            (
                r#"{"host":"a.example","methods":["get"]}"#,
                "`http[0].methods`",
            ),
            (
                r#"{"host":"a.example","methods":["CONNECT"]}"#,
                "`http[0].methods`",
            ),
            (r#"{"host":"a.example","path":"v1"}"#, "`http[0].path`"),
            (
                r#"{"host":"a.example","path":"/v1/../x"}"#,
                "`http[0].path`",
            ),
            (r#"{"host":"a.example","path":"/v1//x"}"#, "`http[0].path`"),
            (r#"{"host":"a.example","path":"/v1?x"}"#, "`http[0].path`"),
            (
                r#"{"host":"a.example","path":"/%2e%2e/x"}"#,
                "`http[0].path`",
            ),
            (
                r#"{"host":"a.example","path":"/a%2f..%2fb"}"#,
                "`http[0].path`",
            ),
            (
                r#"{"host":"a.example","secret":{"name":"s","header":"x y"}}"#,
                "`http[0].secret.header`",
            ),
            (
                r#"{"host":"a.example","secret":{"name":"s","header":"host"}}"#,
                "`http[0].secret.header`",
            ),
            (
                r#"{"host":"a.example","secret":{"name":"s","header":"a","format":"x"}}"#,
                "`http[0].secret.format`",
            ),
            (
                r#"{"host":"a.example","secret":{"name":"s","format":"{}"}}"#,
                "`http[0].secret.format`",
            ),
        ] {
            let error = check(&[rule(json)]).unwrap_err();
            assert!(error.contains(named), "{json}: {error}");
        }
        for json in [
            r#"{"host":"a.example","paths":"/"}"#,
            r#"{"host":"a.example","scheme":"ftp"}"#,
            r#"{"host":"a.example","secret":{"name":"a b"}}"#,
            r#"{"host":"a.example","secret":{"name":"env:A-B"}}"#,
            r#"{"path":"/"}"#,
        ] {
            assert!(serde_json::from_str::<Rule>(json).is_err(), "{json}");
        }
        let many = vec![rule(r#"{"host":"a.example"}"#); RULES_MAX + 1];
        assert!(check(&many[1..]).is_ok());
        assert!(check(&many).unwrap_err().contains("64"));
    }

    #[test]
    fn a_rule_is_stored_as_it_was_written() {
        for json in [
            r#"{"host":"a.example","methods":["GET"],"path":"/"}"#,
            r#"{"scheme":"http","host":"a","port":1,"methods":["PUT"],"path":"/b","secret":{"name":"env:KEY","header":"authorization","format":"Bearer {}"}}"#,
        ] {
            assert_eq!(serde_json::to_string(&rule(json)).unwrap(), json);
        }
    }

    /// What a server might make of a path that decodes again and again, merges slashes, takes
    /// backslashes for slashes and cuts parameters off: an oracle that shares nothing with the check.
    fn resolved(path: &str) -> String {
        let mut text = path.to_owned();
        loop {
            let next = percent_encoding::percent_decode_str(&text)
                .decode_utf8_lossy()
                .into_owned();
            if next == text {
                break;
            }
            text = next;
        }
        let mut kept: Vec<&str> = Vec::new();
        for segment in text.split(['/', '\\']) {
            match segment.split(';').next().unwrap_or_default().trim() {
                "" | "." => {}
                ".." => drop(kept.pop()),
                _ => kept.push(segment),
            }
        }
        format!("/{}", kept.join("/"))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]
        #[test]
        fn no_path_that_leads_outside_matches(
            parts in proptest::collection::vec(
                prop_oneof![
                    Just("/"), Just("//"), Just("\\"), Just(".."), Just("."), Just("%2e"), Just("%2E%2e"),
                    Just("%2f"), Just("%5c"), Just("%252e"), Just("%252f"), Just("%25"), Just(";"),
                    Just("v1"), Just("a"), Just("%00"), Just("%09"), Just("%20"), Just("?"), Just("#"), Just("é"),
                ],
                0..12,
            ),
            inside in any::<bool>(),
        ) {
            let start = if inside { "/v1/" } else { "/" };
            let text = format!("https://a.example{start}{}", parts.concat());
            let url = Url::parse(&text).unwrap();
            if covers_path("/v1/", url.path()) {
                let path = format!("{}/", resolved(url.path()));
                prop_assert!(path.starts_with("/v1/"), "{text} leads to {path}");
            }
        }
    }
}
