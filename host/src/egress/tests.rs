//! Sending over real sockets: an origin in this process that answers with bytes from a script.

use std::net::SocketAddr;
use std::sync::Mutex;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// Answers each connection's one request with the bytes that stand for its path.
struct Origin {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Origin {
    async fn start(pages: &[(&str, &str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let own = |(path, answer): &(&str, &str)| ((*path).to_owned(), (*answer).to_owned());
        let pages: BTreeMap<String, String> = pages.iter().map(own).collect();
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = seen.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = Vec::new();
                while !is_whole(&request) && stream.read_buf(&mut request).await.unwrap_or(0) > 0 {}
                let text = String::from_utf8_lossy(&request).into_owned();
                let path = text.split(' ').nth(1).unwrap_or_default();
                let answer = pages.get(path).cloned().unwrap_or_default();
                let answer = answer.replace("PORT", &address.port().to_string());
                log.lock().unwrap().push(text);
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self { address, seen }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    /// It may be dialled, by address and as `one.example` and `two.example`.
    fn egress(&self) -> Egress {
        let names = ["one.example", "two.example"];
        let names = names.map(|name| (name.to_owned(), vec![self.address.ip()]));
        Egress::new(&[self.address.to_string()], names.into()).unwrap()
    }

    fn rules(&self, rules: &str) -> Vec<Rule> {
        let rules = rules.replace("PORT", &self.address.port().to_string());
        serde_json::from_str(&rules).unwrap()
    }
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    body.len() >= length.map_or(0, |length| length.parse().unwrap())
}

const BOUNDS: Bounds = Bounds {
    ms_max: 30_000,
    request_bytes_max: 100,
    response_bytes_max: 100,
    header_bytes_max: 1_000,
};

fn request(method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> Request {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Request {
        method: method.to_owned(),
        url: url.to_owned(),
        headers: headers.iter().map(own).collect(),
        body: Bytes::copy_from_slice(body.as_bytes()),
    }
}

/// The secret `s` is there, and no other.
fn secrets() -> Lookup {
    Arc::new(|source: SecretSource| {
        let is_there = source.to_string() == "s";
        Box::pin(async move { is_there.then(|| Secret::new("sk-very-secret")) })
    })
}

async fn send(origin: &Origin, rules: &str, request: Request) -> Result<Response, EgressError> {
    let rules = origin.rules(rules);
    let egress = origin.egress();
    egress
        .send(&request, &rules, &secrets(), BOUNDS, "key-1")
        .await
}

const LOCAL: &str =
    r#"[{"scheme":"http","host":"127.0.0.1","port":PORT,"methods":["GET","POST","PUT","HEAD"]}]"#;
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nX-One: a\r\n\r\nok";

#[tokio::test]
async fn a_request_arrives_as_it_was_written_and_nothing_is_added_but_its_key() {
    let origin = Origin::start(&[("/a?b=c", OK)]).await;
    let sent = request(
        "POST",
        &origin.url("/a?b=c#d"),
        &[("X-Two", "b"), ("accept", "c")],
        "body",
    );
    let answer = send(&origin, LOCAL, sent).await.unwrap();
    assert_eq!((answer.status, &answer.body[..]), (200, &b"ok"[..]));
    assert!(answer.headers.contains(&("x-one".into(), "a".into())));
    let seen = origin.seen().concat();
    assert!(seen.starts_with("POST /a?b=c HTTP/1.1\r\n"), "{seen}");
    assert!(seen.ends_with("\r\n\r\nbody"), "{seen}");
    let mut names: Vec<&str> = seen
        .lines()
        .filter_map(|line| Some(line.split_once(": ")?.0))
        .collect();
    names.sort_unstable();
    let expected = [
        "accept",
        "content-length",
        "host",
        "idempotency-key",
        "user-agent",
        "x-two",
    ];
    assert_eq!(names, expected, "{seen}");
    assert!(seen.contains("idempotency-key: key-1\r\n"), "{seen}");
}

#[tokio::test]
async fn what_no_rule_covers_is_not_sent() {
    let origin = Origin::start(&[("/", OK)]).await;
    for refused in [
        request("DELETE", &origin.url("/"), &[], ""),
        request("GET", "http://one.example/", &[], ""),
        request("GET", &origin.url("/${secret:s}"), &[], ""),
        request("GET", &origin.url("/\n"), &[], ""),
        request("GET", "not a url", &[], ""),
        request("G T", &origin.url("/"), &[], ""),
        request("GET", &origin.url("/"), &[("host", "x")], ""),
        request("GET", &origin.url("/"), &[("x-tangle-runid", "x")], ""),
        request(
            "GET",
            &origin.url("/"),
            &[("authorization", "Bearer x")],
            "",
        ),
        request("GET", &origin.url("/"), &[("x", "${secret:s}")], ""),
    ] {
        let error = send(&origin, LOCAL, refused.clone()).await.unwrap_err();
        assert!(
            matches!(error, EgressError::Refused(_)),
            "{refused:?}: {error:?}"
        );
    }
    assert!(origin.seen().is_empty());
    assert!(
        send(&origin, LOCAL, request("GET", &origin.url("/"), &[], ""))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn an_address_that_is_not_granted_is_not_dialled_whatever_leads_there() {
    let origin = Origin::start(&[("/", OK)]).await;
    let port = origin.address.port();
    let rules = origin.rules(
        r#"[{"scheme":"http","host":"127.0.0.1","port":PORT},{"scheme":"http","host":"one.example","port":PORT},
            {"scheme":"http","host":"[::ffff:127.0.0.1]","port":PORT},{"scheme":"http","host":"169.254.169.254"},
            {"scheme":"http","host":"localhost","port":PORT}]"#,
    );
    let names = BTreeMap::from([("One.Example".to_owned(), vec![origin.address.ip()])]);
    let to = |host: &str| request("GET", &format!("http://{host}:{port}/"), &[], "");
    let other = format!("127.0.0.1:{}", port ^ 1);
    for (grants, hosts, is_allowed) in [
        (vec![], ["127.0.0.1", "one.example", "localhost"], false),
        (
            vec![other],
            ["127.0.0.1", "one.example", "localhost"],
            false,
        ),
        (
            vec!["10.0.0.0/8".to_owned()],
            ["127.0.0.1", "one.example", "localhost"],
            false,
        ),
        (
            vec![origin.address.to_string()],
            ["127.0.0.1", "one.example", "localhost"],
            true,
        ),
        (
            vec!["127.0.0.0/8".to_owned()],
            ["127.0.0.1", "one.example", "localhost"],
            true,
        ),
    ] {
        let egress = Egress::new(&grants, names.clone()).unwrap();
        for host in hosts {
            let sent = egress
                .send(&to(host), &rules, &secrets(), BOUNDS, "k")
                .await;
            match sent {
                Ok(_) => assert!(is_allowed, "{grants:?} {host}"),
                Err(EgressError::Refused(text)) => {
                    assert!(!is_allowed, "{grants:?} {host}");
                    assert!(!text.contains("127.0.0.1") || host == "127.0.0.1", "{text}");
                }
                Err(error) => panic!("{grants:?} {host}: {error:?}"),
            }
        }
    }
    let egress = origin.egress();
    for url in [
        format!("http://[::ffff:127.0.0.1]:{port}/"),
        "http://169.254.169.254/".to_owned(),
    ] {
        let sent = request("GET", &url, &[], "");
        let sent = egress.send(&sent, &rules, &secrets(), BOUNDS, "k").await;
        assert!(
            matches!(sent, Err(EgressError::Refused(_))),
            "{url}: {sent:?}"
        );
    }
}

const TWO_HOSTS: &str = r#"[
    {"scheme":"http","host":"one.example","port":PORT,"methods":["GET","POST"],
        "secret":{"name":"s","header":"authorization","format":"Bearer {}"}},
    {"scheme":"http","host":"two.example","port":PORT,"path":"/open","methods":["GET","POST"]}]"#;

fn page(head: &str) -> String {
    format!("HTTP/1.1 {head}\r\ncontent-length: 0\r\n\r\n")
}

#[tokio::test]
async fn each_hop_is_checked_and_dressed_anew() {
    let pages = [
        (
            "/to-two",
            page("302 Found\r\nlocation: http://two.example:PORT/open"),
        ),
        (
            "/to-closed",
            page("302 Found\r\nlocation: http://two.example:PORT/closed"),
        ),
        (
            "/to-metadata",
            page("302 Found\r\nlocation: http://169.254.169.254/latest"),
        ),
        ("/to-one", page("307 Found\r\nlocation: /end")),
        ("/open", OK.to_owned()),
        ("/end", OK.to_owned()),
        ("/loop", page("301 Moved\r\nlocation: /loop")),
    ];
    let pages: Vec<(&str, &str)> = pages
        .iter()
        .map(|(path, page)| (*path, page.as_str()))
        .collect();
    let origin = Origin::start(&pages).await;
    let port = origin.address.port();
    let from_one = |path: &str| {
        let headers = [
            ("cookie", "c=1"),
            ("x-key", "${secret:s}"),
            ("x-plain", "p"),
        ];
        request(
            "POST",
            &format!("http://one.example:{port}{path}"),
            &headers,
            "body",
        )
    };

    assert!(send(&origin, TWO_HOSTS, from_one("/to-two")).await.is_ok());
    let [first, second] = &origin.seen()[..] else {
        panic!("{:?}", origin.seen())
    };
    for told in [
        "authorization: Bearer sk-very-secret",
        "x-key: sk-very-secret",
        "cookie: c=1",
        "x-plain: p",
    ] {
        assert!(first.contains(told), "{first}");
    }
    assert!(second.starts_with("GET /open "), "{second}");
    for kept in ["authorization", "sk-very-secret", "cookie", "x-key", "body"] {
        assert!(!second.contains(kept), "{second}");
    }
    assert!(second.contains("x-plain: p"), "{second}");

    let before = origin.seen().len();
    for path in ["/to-closed", "/to-metadata"] {
        let error = send(&origin, TWO_HOSTS, from_one(path)).await.unwrap_err();
        assert!(
            matches!(error, EgressError::Refused(_)),
            "{path}: {error:?}"
        );
    }
    assert_eq!(
        origin.seen().len(),
        before + 2,
        "only the first hops were made"
    );

    assert!(send(&origin, TWO_HOSTS, from_one("/to-one")).await.is_ok());
    let last = origin.seen().pop().unwrap();
    assert!(
        last.starts_with("POST /end ") && last.ends_with("body"),
        "{last}"
    );
    assert!(
        last.contains("authorization: Bearer sk-very-secret"),
        "{last}"
    );

    let before = origin.seen().len();
    let error = send(&origin, TWO_HOSTS, from_one("/loop"))
        .await
        .unwrap_err();
    assert_eq!(
        error,
        EgressError::Refused("redirected more than 5 times".into())
    );
    assert_eq!(origin.seen().len(), before + 6);
}

#[tokio::test]
async fn a_secret_that_comes_back_is_hidden() {
    let echo = "HTTP/1.1 200 OK\r\nx-echo: Bearer sk-very-secret!\r\ncontent-length: 31\r\n\r\n(sk-very-secret sk-very-secret)";
    let origin = Origin::start(&[("/", echo)]).await;
    let url = format!("http://one.example:{}/", origin.address.port());
    let answer = send(&origin, TWO_HOSTS, request("GET", &url, &[], ""))
        .await
        .unwrap();
    assert!(
        answer
            .headers
            .contains(&("x-echo".into(), "Bearer (secret)!".into()))
    );
    assert_eq!(&answer.body[..], b"((secret) (secret))");
}

#[tokio::test]
async fn a_missing_secret_is_named_and_nothing_is_sent() {
    let origin = Origin::start(&[("/", OK)]).await;
    let rules = TWO_HOSTS.replace(r#""name":"s""#, r#""name":"gone""#);
    let url = format!("http://one.example:{}/", origin.address.port());
    let error = send(&origin, &rules, request("GET", &url, &[], ""))
        .await
        .unwrap_err();
    assert_eq!(
        error,
        EgressError::Refused("there is no secret `gone`".into())
    );
    assert!(origin.seen().is_empty());
}

#[tokio::test]
async fn bounds_are_met_and_not_crossed() {
    let answer = |bytes: usize| {
        format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\n\r\n{}",
            "x".repeat(bytes)
        )
    };
    let endless = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(101));
    let heads = format!(
        "HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 0\r\n\r\n",
        "x".repeat(1_000)
    );
    let (fits, over) = (answer(100), answer(101));
    let pages = [
        ("/fits", fits.as_str()),
        ("/over", &over),
        ("/endless", &endless),
        ("/heads", &heads),
    ];
    let origin = Origin::start(&pages).await;
    let get = |path: &str| request("GET", &origin.url(path), &[], "");
    assert_eq!(
        send(&origin, LOCAL, get("/fits")).await.unwrap().body.len(),
        100
    );
    for path in ["/over", "/endless", "/heads"] {
        let error = send(&origin, LOCAL, get(path)).await.unwrap_err();
        assert!(
            matches!(error, EgressError::TooLarge(_)),
            "{path}: {error:?}"
        );
    }
    let head = request("HEAD", &origin.url("/over"), &[], "");
    assert_eq!(send(&origin, LOCAL, head).await.unwrap().body.len(), 0);

    let before = origin.seen().len();
    let body = |bytes: usize| request("POST", &origin.url("/fits"), &[], &"x".repeat(bytes));
    assert!(send(&origin, LOCAL, body(100)).await.is_ok());
    let long = "x".repeat(1_000);
    for large in [
        body(101),
        request("GET", &origin.url("/fits"), &[("x", &long)], ""),
    ] {
        let error = send(&origin, LOCAL, large).await.unwrap_err();
        assert!(matches!(error, EgressError::TooLarge(_)), "{error:?}");
    }
    assert_eq!(origin.seen().len(), before + 1);
}

#[tokio::test]
async fn what_broke_off_says_whether_it_may_have_happened() {
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort";
    let origin = Origin::start(&[("/none", ""), ("/cut", cut), ("/junk", "SSH-2.0\r\n\r\n")]).await;
    for path in ["/none", "/cut", "/junk"] {
        for (method, is_known) in [("GET", true), ("PUT", true), ("POST", false)] {
            let sent = request(method, &origin.url(path), &[], "body");
            let error = send(&origin, LOCAL, sent).await.unwrap_err();
            match error {
                EgressError::Other(_) => assert!(is_known, "{method} {path}"),
                EgressError::OutcomeUnknown => assert!(!is_known, "{method} {path}"),
                error => panic!("{method} {path}: {error:?}"),
            }
        }
    }
    // Nobody listens there any more.
    let gone = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let egress = Egress::new(&["127.0.0.0/8".to_owned()], BTreeMap::new()).unwrap();
    let rules = LOCAL.replace("PORT", &gone.port().to_string());
    let rules: Vec<Rule> = serde_json::from_str(&rules).unwrap();
    let sent = request("POST", &format!("http://{gone}/"), &[], "");
    let error = egress
        .send(&sent, &rules, &secrets(), BOUNDS, "k")
        .await
        .unwrap_err();
    assert!(matches!(error, EgressError::Unreachable(_)), "{error:?}");
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let egress = Egress::new(&[address.to_string()], BTreeMap::new()).unwrap();
    let rules: Vec<Rule> =
        serde_json::from_str(&LOCAL.replace("PORT", &address.port().to_string())).unwrap();
    let bounds = Bounds {
        ms_max: 20,
        ..BOUNDS
    };
    let sent = request("GET", &format!("http://{address}/"), &[], "");
    let sent = egress.send(&sent, &rules, &secrets(), bounds, "k").await;
    assert_eq!(sent, Err(EgressError::Deadline));
}
