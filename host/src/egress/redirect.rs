//! Where an answer sends a request on to. PURE.
//!
//! RFC 9110, 15.4, as browsers and curl read it: 303 asks for the answer with GET; 301 and 302 do
//! that to a POST; 307 and 308 repeat the request as it is. What was said to one origin (scheme,
//! host and port) is not said to another.

use bytes::Bytes;
use http::Method;
use url::{Origin, Url};

use super::head::{self, Head};

/// Redirects followed: as many as honest sites need; a loop is not worth more.
pub const REDIRECTS_MAX: usize = 5;

/// A request on its way to one place.
#[derive(Debug, Clone, PartialEq)]
pub struct Hop {
    pub method: Method,
    pub url: Url,
    pub head: Head,
    pub body: Bytes,
}

/// The next hop; none if the answer is the answer. An error if its location is no URL.
pub fn next(hop: &Hop, status: u16, location: Option<&[u8]>) -> Result<Option<Hop>, String> {
    let (301 | 302 | 303 | 307 | 308, Some(location)) = (status, location) else {
        return Ok(None);
    };
    let malformed = || "the answer redirects to something that is no URL".to_owned();
    let location = std::str::from_utf8(location).map_err(|_| malformed())?;
    let mut url = hop.url.join(location).map_err(|_| malformed())?;
    // A location without a fragment keeps the request's; neither is sent.
    url.set_fragment(None);
    let mut next = hop.clone();
    let asks_again = match status {
        303 => hop.method != Method::HEAD,
        301 | 302 => hop.method == Method::POST,
        _ => false,
    };
    if asks_again {
        next.method = Method::GET;
        next.body = Bytes::new();
        next.head = head::without_body(next.head);
    }
    if !is_same(&hop.url.origin(), &url.origin()) {
        next.head = head::for_another_origin(&next.head);
    }
    next.url = url;
    Ok(Some(next))
}

/// An opaque origin is not even the same as itself.
fn is_same(one: &Origin, other: &Origin) -> bool {
    one.is_tuple() && one == other
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(method: Method) -> Hop {
        let header = |name: &str| (name.to_owned(), "x".to_owned());
        let names = ["cookie", "accept", "content-type"];
        Hop {
            method,
            url: Url::parse("https://a.example/one/two?q#f").unwrap(),
            head: head::check(&names.map(header)).unwrap(),
            body: Bytes::from_static(b"body"),
        }
    }

    /// Method, bytes of the body, and names of headers after a redirect.
    fn after(method: Method, status: u16, location: &str) -> (String, usize, String) {
        let next = next(&hop(method), status, Some(location.as_bytes()));
        let next = next.unwrap().expect("it goes on");
        let names: Vec<&str> = next.head.iter().map(|(name, _)| name.as_str()).collect();
        (
            format!("{} {}", next.method, next.url),
            next.body.len(),
            names.join(" "),
        )
    }

    #[test]
    fn methods_and_bodies_go_on_as_the_status_says() {
        for (status, method, becomes, bytes) in [
            (301, Method::POST, "GET", 0),
            (302, Method::POST, "GET", 0),
            (303, Method::POST, "GET", 0),
            (307, Method::POST, "POST", 4),
            (308, Method::POST, "POST", 4),
            (301, Method::PUT, "PUT", 4),
            (302, Method::PUT, "PUT", 4),
            (303, Method::PUT, "GET", 0),
            (307, Method::PUT, "PUT", 4),
            (301, Method::GET, "GET", 4),
            (303, Method::HEAD, "HEAD", 4),
            (303, Method::DELETE, "GET", 0),
            (308, Method::DELETE, "DELETE", 4),
        ] {
            let (request, body, names) = after(method.clone(), status, "/three");
            assert_eq!(
                request,
                format!("{becomes} https://a.example/three"),
                "{status} {method}"
            );
            assert_eq!(body, bytes, "{status} {method}");
            assert_eq!(
                names.contains("content-type"),
                bytes > 0,
                "{status} {method}"
            );
        }
    }

    #[test]
    fn what_one_origin_was_told_another_is_not() {
        for (location, url, told) in [
            (
                "three",
                "https://a.example/one/three",
                "cookie accept content-type",
            ),
            (
                "https://a.example:443/",
                "https://a.example/",
                "cookie accept content-type",
            ),
            (
                "http://a.example/",
                "http://a.example/",
                "accept content-type",
            ),
            (
                "https://a.example:444/",
                "https://a.example:444/",
                "accept content-type",
            ),
            (
                "//b.example/x",
                "https://b.example/x",
                "accept content-type",
            ),
            (
                "https://sub.a.example/",
                "https://sub.a.example/",
                "accept content-type",
            ),
            (
                "data:text/plain,x",
                "data:text/plain,x",
                "accept content-type",
            ),
        ] {
            let (request, _, names) = after(Method::PUT, 307, location);
            assert_eq!((request, names), (format!("PUT {url}"), told.to_owned()));
        }
    }

    #[test]
    fn other_answers_are_answers() {
        let hop = hop(Method::GET);
        for status in [200, 201, 300, 304, 305, 306, 399, 404] {
            assert_eq!(next(&hop, status, Some(b"/x")), Ok(None), "{status}");
        }
        assert_eq!(next(&hop, 302, None), Ok(None));
        for location in [&b"https://"[..], b"http://[", b"\xff"] {
            assert!(next(&hop, 302, Some(location)).is_err());
        }
    }
}
