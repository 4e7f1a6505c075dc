//! Reads the body of a request as JSON, packed or not.

use std::io::Read;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode, header};
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;

use tokio::sync::{Semaphore, SemaphorePermit};

use super::connections::Patience;
use super::error::ApiError;
use super::request::blocking;
use crate::request::BodyKeys;

/// Longest body, bytes, packed and unpacked.
pub(crate) const LONGEST: usize = 16 << 20;

/// How much of a longer body is read and dropped, so that its sender hears why: who still writes does not read.
const DROPPED: usize = 4 * LONGEST;

/// How long a body may take to come where nobody said otherwise.
const PATIENCE: Duration = Duration::from_secs(15);

/// Bytes that come in a second at least, once that time is over.
const SLOWEST: u64 = 64 << 10;

/// Bytes of a body that may come whatever others are on their way.
const SHORT: usize = 256 << 10;

/// KiB that the longer ones have together, until they are read as JSON.
static LONG_BODIES: Semaphore = Semaphore::const_new(128 << 10);

/// The whole body, as `T`.
pub(crate) async fn json<T: DeserializeOwned>(request: Request<Body>) -> Result<T, ApiError> {
    let packing = packing(request.headers())?;
    let patience = request.extensions().get::<Patience>().map_or(PATIENCE, |patience| patience.0);
    let (bytes, _held) = read(request.into_body(), patience).await?;
    let bytes = match packing {
        Packing::None => bytes,
        packing => blocking(move || unpacked(packing, &bytes)).await?,
    };
    let parsed = serde_json::from_slice(&bytes).or_else(|e| {
        // half a character, which JavaScript may write: its sender cannot mend a history, so it is read as U+FFFD
        without_lone_surrogates(&bytes).map_or(Err(e), |bytes| serde_json::from_slice(&bytes))
    });
    parsed.map_err(|e| {
        let what = if e.is_data() { "the request does not fit" } else { "the body is not JSON" };
        ApiError::invalid(format!("{what}: {e}"))
    })
}

/// How a body is packed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Packing {
    None,
    Gzip,
    Deflate,
}

/// What `Content-Encoding` says.
fn packing(headers: &HeaderMap) -> Result<Packing, ApiError> {
    let values = headers.get_all(header::CONTENT_ENCODING).iter();
    let words = values.flat_map(|value| value.to_str().unwrap_or("(not a text)").split(','));
    let words = words.map(|word| word.trim().to_ascii_lowercase());
    let words: Vec<String> = words.filter(|word| !word.is_empty() && word != "identity").collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Ok(Packing::None),
        ["gzip" | "x-gzip"] => Ok(Packing::Gzip),
        ["deflate"] => Ok(Packing::Deflate),
        _ => {
            let found = words.join(", ");
            let message = format!("Content-Encoding: expected gzip, deflate or identity, found {found:?}");
            Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message).code("unsupported_encoding"))
        }
    }
}

/// A packed body as it was. It may be a thousand times as long: no more than [`LONGEST`] is unpacked.
fn unpacked(packing: Packing, bytes: &[u8]) -> Result<Vec<u8>, ApiError> {
    let unpack = |from: &mut dyn Read| -> Result<Vec<u8>, ApiError> {
        let mut unpacked = Vec::new();
        let read = from.take(LONGEST as u64 + 1).read_to_end(&mut unpacked);
        read.map_err(|e| ApiError::invalid(format!("the body cannot be unpacked: {e}")))?;
        if unpacked.len() > LONGEST { Err(too_long()) } else { Ok(unpacked) }
    };
    match packing {
        Packing::None => Ok(bytes.to_vec()),
        Packing::Gzip => unpack(&mut MultiGzDecoder::new(bytes)),
        // the name means zlib's format; some send what is within it alone, which never begins like that
        Packing::Deflate => match bytes {
            [first, second, ..] if first & 0x0F == 8 && (u16::from(*first) << 8 | u16::from(*second)) % 31 == 0 => {
                unpack(&mut ZlibDecoder::new(bytes))
            }
            _ => unpack(&mut DeflateDecoder::new(bytes)),
        },
    }
}

fn too_long() -> ApiError {
    let message = format!("the body has more than {} MiB", LONGEST >> 20);
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message).code("request_too_large")
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

/// The bytes of a body, and its part of the memory that long ones have together.
async fn read(body: Body, patience: Duration) -> Result<(Vec<u8>, Option<SemaphorePermit<'static>>), ApiError> {
    let since = Instant::now();
    let (mut bytes, mut found) = (Vec::new(), 0);
    let mut held: Option<SemaphorePermit<'static>> = None;
    let mut pieces = body.into_data_stream();
    loop {
        let deadline = since + patience + Duration::from_secs(found as u64 / SLOWEST);
        let Ok(piece) = tokio::time::timeout_at(deadline.into(), pieces.next()).await else {
            return Err(too_slow(found, since.elapsed()));
        };
        let Some(piece) = piece else { break };
        let piece = piece.map_err(|e| ApiError::invalid(format!("the body ended early: {e}")))?;
        found += piece.len();
        if found > LONGEST {
            (bytes, held) = (Vec::new(), None);
            if found > DROPPED {
                break;
            }
            continue;
        }
        let wanted = found.saturating_sub(SHORT).div_ceil(1024);
        let more = wanted.saturating_sub(held.as_ref().map_or(0, SemaphorePermit::num_permits));
        if more > 0 {
            let permit = LONG_BODIES.acquire_many(u32::try_from(more).unwrap_or(u32::MAX));
            let permit = tokio::time::timeout(patience / 3, permit).await.ok().and_then(Result::ok);
            let permit = permit.ok_or_else(no_memory)?;
            match &mut held {
                Some(held) => held.merge(permit),
                None => held = Some(permit),
            }
        }
        bytes.extend_from_slice(&piece);
    }
    if found > LONGEST {
        return Err(too_long());
    }
    Ok((bytes, held))
}

fn too_slow(found: usize, after: Duration) -> ApiError {
    let message = format!("the body is not there after {} s: {found} bytes of it are", after.as_secs());
    ApiError::new(StatusCode::REQUEST_TIMEOUT, message).code("request_timeout")
}

fn no_memory() -> ApiError {
    let message = "too many long bodies are on their way; try again later";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message).code("bodies_busy")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::io::Write;

    use axum::http::HeaderValue;
    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    use super::*;

    #[test]
    fn packed_bodies_are_unpacked_up_to_a_limit() {
        let text = "flash flood ".repeat(1000);
        let level = Compression::default();
        let (mut gzip, mut zlib, mut raw) = (
            GzEncoder::new(Vec::new(), level),
            ZlibEncoder::new(Vec::new(), level),
            DeflateEncoder::new(Vec::new(), level),
        );
        for writer in [&mut gzip as &mut dyn Write, &mut zlib, &mut raw] {
            writer.write_all(text.as_bytes()).unwrap();
        }
        let (gzip, zlib, raw) = (gzip.finish().unwrap(), zlib.finish().unwrap(), raw.finish().unwrap());
        let read = |packing, bytes: &[u8]| unpacked(packing, bytes).map(|b| String::from_utf8(b).unwrap());
        assert_eq!(read(Packing::Gzip, &gzip).unwrap(), text);
        assert_eq!(read(Packing::Gzip, &gzip.repeat(2)).unwrap(), text.repeat(2));
        assert_eq!(
            (read(Packing::Deflate, &zlib).unwrap(), read(Packing::Deflate, &raw).unwrap()),
            (text.clone(), text)
        );
        for cut in [0, 1, 9, gzip.len() - 5] {
            assert!(unpacked(Packing::Gzip, &gzip[..cut]).is_err_and(|e| e.message().contains("unpacked")), "{cut}");
        }
        let mut bomb = GzEncoder::new(Vec::new(), level);
        bomb.write_all(&vec![b' '; LONGEST + 1]).unwrap();
        let bomb = bomb.finish().unwrap();
        assert!(bomb.len() < 100_000 && unpacked(Packing::Gzip, &bomb).is_err_and(|e| e.message().contains("MiB")));
    }

    #[test]
    fn encodings_that_are_not_read_are_named() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            values.iter().for_each(|value| {
                headers.append(header::CONTENT_ENCODING, HeaderValue::from_static(value));
            });
            packing(&headers)
        };
        assert_eq!(of(&[]).unwrap(), Packing::None);
        assert_eq!((of(&["identity, GZIP"]).unwrap(), of(&["deflate"]).unwrap()), (Packing::Gzip, Packing::Deflate));
        for wrong in [&["br"][..], &["gzip", "gzip"], &["zstd, gzip"]] {
            assert!(of(wrong).is_err_and(|e| e.message().contains("gzip, deflate")), "{wrong:?}");
        }
    }

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
