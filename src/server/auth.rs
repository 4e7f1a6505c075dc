//! Who may call: the key, and what a browser says of the page that calls.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};

use super::ServeOptions;
use super::error::ApiError;

/// Refuses a caller without the key, and pages of other places. Without a key and on this machine's own address, the
/// `Host` must be this machine as well: a page whose name was made to lead here (DNS rebinding) says its own.
pub(crate) fn check(options: &ServeOptions, headers: &HeaderMap, needs_key: bool) -> Result<(), ApiError> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let host = text(header::HOST).unwrap_or_default();
    if options.api_key.is_none() && !options.insecure && !is_local(host) {
        let message =
            format!("the host is {host:?}: this server is for this machine only (hint: --api-key or --insecure)");
        return Err(ApiError::new(StatusCode::FORBIDDEN, message));
    }
    if let Some(origin) = text(header::ORIGIN)
        && origin.split_once("://").is_none_or(|(_, from)| from != host)
        && allowed_origin(options, origin).is_none()
    {
        let message = format!("pages of {origin} may not call this server (hint: --cors-origin {origin})");
        return Err(ApiError::new(StatusCode::FORBIDDEN, message));
    }
    let Some(key) = options.api_key.as_ref().filter(|_| needs_key) else { return Ok(()) };
    // the word has no case (RFC 9110)
    let words = text(header::AUTHORIZATION).and_then(|value| value.trim_start().split_once(' '));
    let bearer = words.filter(|(word, _)| word.eq_ignore_ascii_case("bearer")).map(|(_, key)| key);
    let given = bearer.or(text(header::HeaderName::from_static("x-api-key")));
    match given {
        Some(given) if is_same(given.trim().as_bytes(), key.as_bytes()) => Ok(()),
        Some(_) => {
            Err(ApiError::new(StatusCode::UNAUTHORIZED, "the API key is not the right one").code("invalid_api_key"))
        }
        None => {
            let message = "an API key is needed: Authorization: Bearer KEY, or x-api-key: KEY";
            Err(ApiError::new(StatusCode::UNAUTHORIZED, message).code("invalid_api_key"))
        }
    }
}

/// The answer's `Access-Control-Allow-Origin` for pages of `origin`, if they may call.
pub(crate) fn allowed_origin<'a>(options: &ServeOptions, origin: &'a str) -> Option<&'a str> {
    options.cors_origins.iter().any(|allowed| allowed == "*" || allowed == origin).then_some(origin)
}

fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let is_loopback = name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    // a client of HTTP/1.0 names no host
    host.is_empty() || is_loopback || name == "localhost" || name.ends_with(".localhost")
}

/// Compares in a time that depends on the lengths only.
fn is_same(given: &[u8], key: &[u8]) -> bool {
    let differing = given.iter().zip(key).fold(0, |differing, (a, b)| differing | (a ^ b));
    std::hint::black_box(differing) == 0 && given.len() == key.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn options(api_key: Option<&str>, origins: &[&str]) -> ServeOptions {
        ServeOptions {
            address: ([127, 0, 0, 1], 0).into(),
            api_key: api_key.map(str::to_owned),
            insecure: false,
            cors_origins: origins.iter().map(|origin| (*origin).to_owned()).collect(),
            queue: 1,
            drain: Duration::ZERO,
            connections: 8,
            patience: Duration::ZERO,
            model: String::new(),
            reasoning: crate::server::ReasoningField::default(),
            sessions: None,
            session_memory: None,
        }
    }

    fn may(options: &ServeOptions, headers: &[(&'static str, &'static str)]) -> bool {
        let headers = headers
            .iter()
            .map(|(name, value)| (header::HeaderName::from_static(name), HeaderValue::from_static(value)));
        check(options, &headers.collect(), true).is_ok()
    }

    #[test]
    fn keys_are_compared_whole() {
        let keyed = options(Some("secret"), &[]);
        for good in [("authorization", "Bearer secret"), ("x-api-key", "secret")] {
            assert!(may(&keyed, &[good, ("host", "example.org")]), "{good:?}");
        }
        for bad in [
            ("authorization", "Bearer secre"),
            ("authorization", "Bearer secrets"),
            ("authorization", "secret"),
            ("x-api-key", ""),
        ] {
            assert!(!may(&keyed, &[bad]), "{bad:?}");
        }
        assert!(!may(&keyed, &[]));
        assert!(check(&keyed, &HeaderMap::new(), false).is_ok());
    }

    #[test]
    fn pages_of_other_places_may_not_call() {
        let open = options(None, &["https://good.example"]);
        for host in ["127.0.0.1:8080", "localhost", "[::1]:8080", "app.localhost:1"] {
            assert!(may(&open, &[("host", host)]), "{host}");
        }
        // a name that was made to lead to this machine
        for host in ["evil.example", "127.0.0.1.evil.example:8080", "[fe80::1]"] {
            assert!(!may(&open, &[("host", host)]), "{host}");
        }
        assert!(may(&open, &[("host", "localhost:8080"), ("origin", "http://localhost:8080")]));
        assert!(may(&open, &[("host", "localhost:8080"), ("origin", "https://good.example")]));
        for origin in ["https://evil.example", "null", "http://localhost:8081"] {
            assert!(!may(&open, &[("host", "localhost:8080"), ("origin", origin)]), "{origin}");
        }
        assert!(may(&options(None, &["*"]), &[("host", "localhost"), ("origin", "https://any.example")]));
    }
}
