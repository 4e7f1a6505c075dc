//! Errors as the protocols write them.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use super::worker::Refused;
use crate::{RequestError, RequestErrorKind};

/// Seconds after which a request that found the queue full may try again.
const RETRY_AFTER: u32 = 5;

/// Whose error objects a path has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    OpenAi,
    Anthropic,
    Ollama,
}

/// An error that the caller is told.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    message: String,
    /// A word for programs, such as `context_length_exceeded`.
    code: Option<&'static str>,
    /// Which field of the request is meant.
    parameter: Option<String>,
    /// The methods that a path has.
    allow: Option<&'static str>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        ApiError { status, message: message.into(), code: None, parameter: None, allow: None }
    }

    /// The request cannot be meant.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// The request asks for what is not there.
    pub(crate) fn unsupported(parameter: &str, what: &str) -> Self {
        ApiError { code: Some("unsupported_value"), ..Self::invalid(what) }.at(parameter)
    }

    /// The engine failed.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    pub(crate) fn at(mut self, parameter: impl Into<String>) -> Self {
        self.parameter = Some(parameter.into());
        self
    }

    pub(crate) fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// The methods that the path has.
    pub(crate) fn allow(mut self, methods: &'static str) -> Self {
        self.allow = Some(methods);
        self
    }

    /// For the log.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    fn kind(&self, protocol: Protocol) -> &'static str {
        match (self.status, protocol) {
            (StatusCode::UNAUTHORIZED, _) => "authentication_error",
            (StatusCode::FORBIDDEN, _) => "permission_error",
            (StatusCode::NOT_FOUND, Protocol::Anthropic) => "not_found_error",
            (StatusCode::PAYLOAD_TOO_LARGE, Protocol::Anthropic) => "request_too_large",
            (StatusCode::TOO_MANY_REQUESTS, _) => "rate_limit_error",
            (StatusCode::SERVICE_UNAVAILABLE, Protocol::Anthropic) => "overloaded_error",
            (status, Protocol::OpenAi) if status.is_server_error() => "server_error",
            (status, Protocol::Anthropic) if status.is_server_error() => "api_error",
            _ => "invalid_request_error",
        }
    }

    /// The error object of a protocol.
    pub(crate) fn json(&self, protocol: Protocol) -> Value {
        let kind = self.kind(protocol);
        match protocol {
            Protocol::OpenAi => json!({"error": {
                "message": self.message, "type": kind, "param": self.parameter, "code": self.code,
            }}),
            Protocol::Ollama => json!({"error": self.message}),
            Protocol::Anthropic => json!({"type": "error", "error": {"type": kind, "message": self.message}}),
        }
    }

    pub(crate) fn response(&self, protocol: Protocol) -> Response<Body> {
        let mut response = json_response(self.status, &self.json(protocol));
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER));
        }
        if let Some(methods) = self.allow {
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
        }
        if self.status == StatusCode::UNSUPPORTED_MEDIA_TYPE {
            response.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip, deflate"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        let code = match error.kind {
            RequestErrorKind::Invalid => None,
            RequestErrorKind::Unsupported => Some("unsupported_value"),
            RequestErrorKind::ContextFull => Some("context_length_exceeded"),
            RequestErrorKind::Busy => {
                return Self::new(StatusCode::SERVICE_UNAVAILABLE, error.message).code("grammars_busy");
            }
        };
        ApiError { code, parameter: error.field, ..Self::invalid(error.message) }
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Full => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "the queue is full; try again in some seconds (hint: --queue)")
                    .code("queue_full")
            }
            Refused::Stopping => Self::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping").code("stopping"),
        }
    }
}

/// A response of JSON.
pub(crate) fn json_response(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(value.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
