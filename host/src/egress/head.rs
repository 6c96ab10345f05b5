//! The head of a request as an agent may write it, and as it leaves with its secret. PURE.
//!
//! An agent writes headers that say what it wants. Headers of the connection, of proxies, of the
//! agent bus, and credentials are the host's. Where a secret stands, the agent writes
//! `${secret:NAME}`; the text is put there on the way out.
//!
//! Invariant: a request leaves without a placeholder, and a secret only with a request of the
//! rule that names it.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::allow::SecretUse;

/// Of the connection or of the message's framing: the host writes them.
const OF_THE_HOST: [&str; 11] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

/// Beginnings of names that are the host's too: proxies, the agent bus, our own.
const PREFIXES_OF_THE_HOST: [&str; 3] = ["proxy-", "x-tangle-", "x-antiphon-"];

/// Only ever with a secret: an agent that could write it could pass off one user's for another's.
const CREDENTIALS: &str = "authorization";

/// Said to one origin, and to no other: what a redirect elsewhere leaves behind.
const OF_ONE_ORIGIN: [&str; 3] = ["authorization", "cookie", "origin"];

const PLACEHOLDER: &str = "${secret:";

/// A request's head: names lower-case, values with placeholders, in the agent's order.
pub type Head = Vec<(HeaderName, String)>;

/// What the agent wrote, checked but for what depends on the rule.
pub fn check(headers: &[(String, String)]) -> Result<Head, String> {
    let mut head = Head::with_capacity(headers.len());
    for (name, value) in headers {
        let parsed = HeaderName::from_bytes(name.as_bytes());
        let parsed = parsed.map_err(|_| format!("{name:?} is not a header's name"))?;
        if is_of_the_host(parsed.as_str()) {
            return Err(format!("the header `{parsed}` is the host's"));
        }
        if value.chars().any(char::is_control) {
            return Err(format!("the header `{parsed}` holds a control character"));
        }
        head.push((parsed, value.clone()));
    }
    Ok(head)
}

fn is_of_the_host(name: &str) -> bool {
    OF_THE_HOST.contains(&name) || PREFIXES_OF_THE_HOST.iter().any(|it| name.starts_with(it))
}

/// Whether the host may set this header with a secret.
pub(super) fn check_secret_header(name: &str) -> Result<(), String> {
    let parsed = HeaderName::from_bytes(name.as_bytes());
    let parsed = parsed.map_err(|_| format!("{name:?} is not a header's name"))?;
    if is_of_the_host(parsed.as_str()) {
        return Err(format!("the header `{parsed}` is the host's"));
    }
    Ok(())
}

/// Whether a text asks for a secret.
pub fn has_placeholder(text: &str) -> bool {
    text.contains(PLACEHOLDER)
}

/// Whether the head, or the rule by itself, needs the rule's secret.
pub fn needs_secret(head: &Head, rule: Option<&SecretUse>) -> bool {
    rule.is_some_and(|rule| rule.header.is_some())
        || head.iter().any(|(_, value)| has_placeholder(value))
}

/// The head as it leaves: with the rule's secret where the rule or the agent says. `secret` is
/// there if [`needs_secret`].
pub fn dressed(
    head: &Head,
    rule: Option<&SecretUse>,
    secret: Option<&str>,
) -> Result<HeaderMap, String> {
    let own = rule.and_then(|rule| rule.header.as_deref());
    let mut dressed = HeaderMap::with_capacity(head.len() + 1);
    for (name, value) in head {
        if own.is_some_and(|own| own.eq_ignore_ascii_case(name.as_str())) {
            return Err(format!(
                "the header `{name}` is set with a secret by the host"
            ));
        }
        let is_secret = has_placeholder(value);
        if name.as_str() == CREDENTIALS && !is_secret {
            let text = format!("the header `{name}` may only carry a secret of the rule");
            return Err(text);
        }
        dressed.append(
            name.clone(),
            header_value(name, &filled(value, rule, secret)?, is_secret)?,
        );
    }
    if let (Some(rule), Some(own), Some(secret)) = (rule, own, secret) {
        let name = HeaderName::from_bytes(own.as_bytes());
        let name = name.map_err(|_| format!("{own:?} is not a header's name"))?;
        let value = header_value(&name, &rule.formatted(secret), true)?;
        dressed.insert(name, value);
    }
    Ok(dressed)
}

fn header_value(name: &HeaderName, text: &str, is_secret: bool) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_bytes(text.as_bytes())
        .map_err(|_| format!("the header `{name}` cannot hold its value"))?;
    value.set_sensitive(is_secret);
    Ok(value)
}

/// The value with its placeholders replaced.
fn filled(value: &str, rule: Option<&SecretUse>, secret: Option<&str>) -> Result<String, String> {
    let (mut filled, mut rest) = (String::new(), value);
    while let Some((before, after)) = rest.split_once(PLACEHOLDER) {
        let (name, after) = after
            .split_once('}')
            .ok_or_else(|| format!("a placeholder ends with `}}`: `{PLACEHOLDER}NAME}}`"))?;
        let is_rules = rule.is_some_and(|rule| rule.name.to_string() == name);
        let Some(secret) = secret.filter(|_| is_rules) else {
            // The name may be anything; it is not repeated.
            return Err("the rule for this request does not name that secret".to_owned());
        };
        filled.push_str(before);
        filled.push_str(secret);
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

/// What of a head goes on to another origin: nothing that was said to the first one alone.
pub(super) fn for_another_origin(head: &Head) -> Head {
    let kept = |(name, value): &&(HeaderName, String)| {
        !OF_ONE_ORIGIN.contains(&name.as_str()) && !has_placeholder(value)
    };
    head.iter().filter(kept).cloned().collect()
}

/// What of a head goes on when the body does not.
pub(super) fn without_body(head: Head) -> Head {
    let is_of_body = |name: &HeaderName| name.as_str().starts_with("content-");
    head.into_iter()
        .filter(|(name, _)| !is_of_body(name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(headers: &[(&str, &str)]) -> Result<Head, String> {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        check(&headers.iter().map(own).collect::<Vec<_>>())
    }

    fn rule(json: &str) -> SecretUse {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn what_is_the_hosts_is_refused_and_what_is_like_it_is_not() {
        for (refused, allowed) in [
            ("Host", "x-host"),
            ("connection", "x-connection"),
            ("Content-Length", "content-type"),
            ("transfer-encoding", "content-encoding"),
            ("TE", "tea"),
            ("trailer", "trail"),
            ("upgrade", "upgrade-insecure-requests"),
            ("Proxy-Authorization", "x-proxy-authorization"),
            ("X-Tangle-RunId", "x-tangles"),
            ("x-tangle-forwarded-authorization", "x-api-key"),
            ("x-antiphon-session", "antiphon"),
            ("keep-alive", "keep"),
            ("a b", "a-b"),
            ("a\r\nb", "ab"),
            ("", "a"),
            ("é", "e"),
        ] {
            assert!(head(&[(refused, "x")]).is_err(), "{refused:?}");
            assert!(head(&[(allowed, "x")]).is_ok(), "{allowed:?}");
        }
        for (refused, allowed) in [
            ("a\nb", "a b"),
            ("a\r", "a"),
            ("\0", "0"),
            ("\t", "é"),
            ("\u{85}", ""),
        ] {
            assert!(head(&[("x", refused)]).is_err(), "{refused:?}");
            assert!(head(&[("x", allowed)]).is_ok(), "{allowed:?}");
        }
    }

    #[test]
    fn the_rules_header_is_the_hosts_alone() {
        let bearer = rule(r#"{"name":"s","header":"Authorization","format":"Bearer {}"}"#);
        let plain = head(&[("accept", "text/plain")]).unwrap();
        assert!(needs_secret(&plain, Some(&bearer)));
        let dressed_up = dressed(&plain, Some(&bearer), Some("sk-1")).unwrap();
        assert_eq!(dressed_up["authorization"], "Bearer sk-1");
        assert!(dressed_up["authorization"].is_sensitive());
        assert_eq!(dressed_up["accept"], "text/plain");
        for name in ["authorization", "AUTHORIZATION"] {
            for value in ["Bearer mine", "${secret:s}"] {
                let own = head(&[(name, value)]).unwrap();
                assert!(dressed(&own, Some(&bearer), Some("sk-1")).is_err());
            }
        }
        let key = rule(r#"{"name":"s","header":"x-api-key"}"#);
        assert_eq!(
            dressed(&plain, Some(&key), Some("sk-1")).unwrap()["x-api-key"],
            "sk-1"
        );
    }

    #[test]
    fn a_placeholder_is_filled_where_the_rule_names_its_secret_and_nowhere_else() {
        let named = rule(r#"{"name":"s"}"#);
        let env = rule(r#"{"name":"env:KEY"}"#);
        let with = |value: &str, rule: Option<&SecretUse>| {
            let head = head(&[("x-key", value)]).unwrap();
            let secret = needs_secret(&head, rule).then_some("sk-1");
            let map = dressed(&head, rule, secret)?;
            Ok::<_, String>(map["x-key"].to_str().unwrap().to_owned())
        };
        assert_eq!(with("a ${secret:s} b", Some(&named)), Ok("a sk-1 b".into()));
        assert_eq!(
            with("${secret:s}${secret:s}", Some(&named)),
            Ok("sk-1sk-1".into())
        );
        assert_eq!(with("${secret:env:KEY}", Some(&env)), Ok("sk-1".into()));
        assert_eq!(with("$secret:s", None), Ok("$secret:s".into()));
        for value in [
            "${secret:t}",
            "${secret:}",
            "${secret:s",
            "${secret:S}",
            "${secret: s}",
        ] {
            assert!(with(value, Some(&named)).is_err(), "{value}");
        }
        assert!(with("${secret:s}", None).is_err());
        assert!(with("${secret:s}", Some(&env)).is_err());
    }

    #[test]
    fn authorization_carries_a_secret_or_nothing() {
        let named = rule(r#"{"name":"s"}"#);
        let own = head(&[("authorization", "Bearer ${secret:s}")]).unwrap();
        assert_eq!(
            dressed(&own, Some(&named), Some("sk")).unwrap()["authorization"],
            "Bearer sk"
        );
        let made_up = head(&[("authorization", "Bearer x")]).unwrap();
        assert!(dressed(&made_up, Some(&named), Some("sk")).is_err());
        assert!(dressed(&made_up, None, None).is_err());
    }

    #[test]
    fn what_was_said_to_one_origin_stays_there() {
        let said = head(&[
            ("cookie", "a"),
            ("authorization", "Bearer ${secret:s}"),
            ("x-key", "${secret:s}"),
            ("accept", "b"),
            ("content-type", "c"),
        ]);
        let left = for_another_origin(&said.unwrap());
        let names: Vec<&str> = left.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["accept", "content-type"]);
        assert_eq!(without_body(left).len(), 1);
    }
}
