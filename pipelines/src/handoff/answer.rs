//! What the appliance says to a client itself, and whether it has to.

use super::{BoardId, Counted};

/// What became of a connection that has to be admitted (`[service.admit]`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is within the limits; what it counts against from now on.
    Admitted(Counted),
    /// A limit is reached.
    OverLimit,
}

/// Why an appliance itself answers a client (the Local Table of system.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// `400 Bad Request`, then close.
    BadRequest,
    /// `408 Request Timeout`, then close.
    RequestTimeout,
    /// `431 Request Header Fields Too Large`, then close.
    HeadTooLarge,
    /// `403 Forbidden`, then close: a row of the URL map says so.
    Forbidden,
    /// `404 Not Found`, then close: a row of the URL map says so.
    NotFound,
    /// `414 URI Too Long`, then close: the request's path does not fit into a redirect's answer.
    UriTooLong,
    /// `429 Too Many Requests`, then close: a row of the URL map says so.
    TooManyRequests,
    /// The same, saying when to come again: a limit of `[service.admit]` is reached.
    OverLimit(RetryAfter),
    /// A redirect of the service, by its number ([`crate::answers::Answers::redirects`]), then close.
    Redirect(u16),
    /// A redirect to the same path and query with the cookie that names this board ([`crate::sessions`]), then close.
    Assign(BoardId),
    /// `503 Service Unavailable`, then close: no board could take the endpoint.
    Unavailable,
    /// The same, saying when to come again: the application is being started, or could not be.
    NotYet(RetryAfter),
    /// A TLS alert, then close. What the others come to where clients speak TLS.
    Alert(Alert),
    /// A RST: the endpoint is lost, or nothing can be said that its client would understand.
    Reset,
}

impl Answer {
    /// Status and reason phrase; `None` for what has none of its own.
    pub const fn status(self) -> Option<(u16, &'static str)> {
        Some(match self {
            Self::BadRequest => (400, "Bad Request"),
            Self::Forbidden => (403, "Forbidden"),
            Self::NotFound => (404, "Not Found"),
            Self::RequestTimeout => (408, "Request Timeout"),
            Self::UriTooLong => (414, "URI Too Long"),
            Self::TooManyRequests | Self::OverLimit(_) => (429, "Too Many Requests"),
            Self::HeadTooLarge => (431, "Request Header Fields Too Large"),
            Self::Unavailable | Self::NotYet(_) => (503, "Service Unavailable"),
            Self::Redirect(_) | Self::Assign(_) | Self::Alert(_) | Self::Reset => return None,
        })
    }

    /// What a row of the URL map may say instead of naming boards, by its status.
    pub const fn of_row(status: u16) -> Option<Self> {
        Some(match status {
            403 => Self::Forbidden,
            404 => Self::NotFound,
            429 => Self::TooManyRequests,
            503 => Self::Unavailable,
            _ => return None,
        })
    }
}

/// The alerts that an appliance sends in the clear (RFC 8446, section 6). All but `close_notify` are fatal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alert {
    /// 0 close_notify: the hello did not come in time.
    CloseNotify,
    /// 50 decode_error: what came is no hello.
    DecodeError,
    /// 80 internal_error: no board took the endpoint.
    InternalError,
    /// 112 unrecognized_name (RFC 6066, section 3).
    UnrecognizedName,
}

/// The seconds of a `Retry-After`: a few, so that every answer is a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RetryAfter {
    /// 1
    S1,
    /// 2
    S2,
    /// 5
    S5,
    /// 10
    S10,
    /// 30
    S30,
    /// 60
    S60,
}

impl RetryAfter {
    /// The first that is not shorter, or the longest.
    pub const fn at_least(seconds: u64) -> Self {
        match seconds {
            0..=1 => Self::S1,
            2 => Self::S2,
            3..=5 => Self::S5,
            6..=10 => Self::S10,
            11..=30 => Self::S30,
            _ => Self::S60,
        }
    }
}
