//! Reads the body of a request as JSON.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;

use super::error::ApiError;

/// Longest body, bytes.
pub(crate) const LONGEST: usize = 16 << 20;

/// How much of a longer body is read and dropped, so that its sender hears why: who still writes does not read.
const DROPPED: usize = 4 * LONGEST;

/// The whole body, as `T`.
pub(crate) async fn json<T: DeserializeOwned>(request: Request<Body>) -> Result<T, ApiError> {
    let bytes = read(request.into_body()).await?;
    serde_json::from_slice(&bytes).map_err(|e| {
        let what = if e.is_data() { "the request does not fit" } else { "the body is not JSON" };
        ApiError::invalid(format!("{what}: {e}"))
    })
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
