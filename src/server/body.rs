//! Reads the body of a request as JSON.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;

use super::error::ApiError;
use crate::request::BodyKeys;

/// Longest body, bytes.
pub(crate) const LONGEST: usize = 16 << 20;

/// How much of a longer body is read and dropped, so that its sender hears why: who still writes does not read.
const DROPPED: usize = 4 * LONGEST;

/// The whole body, as `T`.
pub(crate) async fn json<T: DeserializeOwned>(request: Request<Body>) -> Result<T, ApiError> {
    let bytes = read(request.into_body()).await?;
    let parsed = serde_json::from_slice(&bytes).or_else(|e| {
        // half a character, which JavaScript may write: its sender cannot mend a history, so it is read as U+FFFD
        without_lone_surrogates(&bytes).map_or(Err(e), |bytes| serde_json::from_slice(&bytes))
    });
    parsed.map_err(|e| {
        let what = if e.is_data() { "the request does not fit" } else { "the body is not JSON" };
        ApiError::invalid(format!("{what}: {e}"))
    })
}

/// The keys of the body.
pub(crate) async fn keys(request: Request<Body>) -> Result<BodyKeys, ApiError> {
    Ok(BodyKeys::new(json(request).await?)?)
}

/// JSON in which a `\uD83D` without its other half is `\uFFFD`; `None` where there is none.
fn without_lone_surrogates(json: &[u8]) -> Option<Vec<u8>> {
    let escape = |at: usize| -> Option<u16> {
        let digits = json.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let (mut mended, mut at, mut found) = (Vec::with_capacity(json.len()), 0, false);
    while at < json.len() {
        let taken = match (json[at], escape(at), escape(at + 6)) {
            (b'\\', Some(0xD800..0xDC00), Some(0xDC00..0xE000)) => 12,
            (b'\\', Some(0xD800..0xE000), _) => {
                mended.extend_from_slice(b"\\uFFFD");
                (at, found) = (at + 6, true);
                continue;
            }
            // whatever else is escaped, a backslash among them
            (b'\\', ..) => 2.min(json.len() - at),
            _ => 1,
        };
        mended.extend_from_slice(&json[at..at + taken]);
        at += taken;
    }
    found.then_some(mended)
}

async fn read(body: Body) -> Result<Vec<u8>, ApiError> {
    let mut bytes = Vec::new();
    let mut found = 0;
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|e| ApiError::invalid(format!("the body ended early: {e}")))?;
        found += piece.len();
        if found <= LONGEST {
            bytes.extend_from_slice(&piece);
        } else {
            bytes = Vec::new();
            if found > DROPPED {
                break;
            }
        }
    }
    if found > LONGEST {
        let message = format!("the body has more than {} MiB", LONGEST >> 20);
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message).code("request_too_large"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn half_characters_are_replaced() {
        let mended = |json: &str| without_lone_surrogates(json.as_bytes()).map(|b| String::from_utf8(b).unwrap());
        assert_eq!(mended(r#""a\ud83d b""#).as_deref(), Some(r#""a\uFFFD b""#));
        assert_eq!(mended(r#""\udc00\ud83d\ude00""#).as_deref(), Some(r#""\uFFFD\ud83d\ude00""#));
        assert_eq!(mended(r#""\ud83d\u0041""#).as_deref(), Some(r#""\uFFFD\u0041""#));
        // no escape: a backslash stands before
        assert_eq!(mended(r#""\\ud83d""#), None);
        assert_eq!(mended(r#""\ud83d\ude00 \"#), None);
    }
}
