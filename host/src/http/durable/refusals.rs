//! What becomes of errors of streams: status, code, and the headers that the protocol wants beside them.

use http::{HeaderName, HeaderValue, StatusCode};

use crate::http::error::ApiError;
use crate::id::{Offset, Seq};
use crate::store::CommitError;
use crate::streams::{AppendError, CreateError, Refusal, StreamError};

fn offset(tail: Seq) -> (HeaderName, HeaderValue) {
    let value = HeaderValue::try_from(Offset(tail).to_string());
    let name = HeaderName::from_static("stream-next-offset");
    (name, value.expect("an offset is digits"))
}

pub(super) fn deleted() -> ApiError {
    let message = "the stream was deleted; its forks are still there";
    ApiError::new(StatusCode::GONE, "stream_gone", message)
}

impl From<StreamError> for ApiError {
    fn from(error: StreamError) -> Self {
        let text = error.to_string();
        match error {
            StreamError::NotFound => Self::not_found("stream_not_found", text),
            StreamError::Gone => deleted(),
            StreamError::Busy => Self::overloaded(text),
            StreamError::Latched(latched) => CommitError::from(latched).into(),
            StreamError::Read(error) => error.into(),
        }
    }
}

impl From<CreateError> for ApiError {
    fn from(error: CreateError) -> Self {
        let text = error.to_string();
        match error {
            CreateError::Stream(error) => error.into(),
            CreateError::Exists | CreateError::Deleted => Self::conflict("stream_exists", text),
            CreateError::NoSource => Self::not_found("stream_not_found", text),
            CreateError::SourceDeleted => Self::conflict("source_deleted", text),
            CreateError::OtherType => Self::conflict("content_type_mismatch", text),
            CreateError::Ahead => Self::bad("offset_ahead", text),
            CreateError::SubOffset | CreateError::TooDeep => Self::bad("invalid_header", text),
            CreateError::Json(_) => Self::bad("invalid_json", text),
        }
    }
}

impl From<AppendError> for ApiError {
    fn from(error: AppendError) -> Self {
        let text = error.to_string();
        let (refusal, tail) = match error {
            AppendError::Stream(error) => return error.into(),
            AppendError::Refused { refusal, tail } => (refusal, tail),
        };
        let number = |name, number: u64| (HeaderName::from_static(name), HeaderValue::from(number));
        match refusal {
            Refusal::Closed => Self::conflict("stream_closed", text).headers([
                offset(tail),
                (
                    HeaderName::from_static("stream-closed"),
                    HeaderValue::from_static("true"),
                ),
            ]),
            Refusal::OtherType => Self::conflict("content_type_mismatch", text),
            Refusal::OutOfOrder => Self::conflict("out_of_order", text).headers([offset(tail)]),
            Refusal::Fenced { epoch } => {
                let error = Self::new(StatusCode::FORBIDDEN, "producer_fenced", text);
                error.headers([number("producer-epoch", epoch)])
            }
            Refusal::EpochBegun => Self::bad("invalid_header", text),
            Refusal::Gap { expected, received } => Self::conflict("producer_gap", text).headers([
                number("producer-expected-seq", expected),
                number("producer-received-seq", received),
            ]),
        }
    }
}
