//! `http`: requests to places outside.

use crate::egress::{EgressError, Request as Sent, Response as Answer};
use crate::runtime::bindings::antiphon::agent::http::{Host, HttpError, Method, Request, Response};
use crate::runtime::guest::Guest;

fn method(method: Method) -> String {
    match method {
        Method::Get => "GET".to_owned(),
        Method::Head => "HEAD".to_owned(),
        Method::Post => "POST".to_owned(),
        Method::Put => "PUT".to_owned(),
        Method::Delete => "DELETE".to_owned(),
        Method::Options => "OPTIONS".to_owned(),
        Method::Patch => "PATCH".to_owned(),
        Method::Other(name) => name,
    }
}

fn error(error: EgressError) -> HttpError {
    match error {
        EgressError::Refused(text) => HttpError::Refused(text),
        EgressError::Deadline => HttpError::Deadline,
        EgressError::TooLarge(_) => HttpError::TooLarge,
        EgressError::OutcomeUnknown => HttpError::OutcomeUnknown,
        EgressError::Unreachable(text) => HttpError::Unreachable(text),
        EgressError::Other(text) => HttpError::Other(text),
    }
}

fn response(answer: Answer) -> Response {
    Response {
        status: answer.status,
        headers: answer.headers,
        body: answer.body.into(),
    }
}

impl Host for Guest {
    async fn fetch(&mut self, request: Request) -> wasmtime::Result<Result<Response, HttpError>> {
        let scope = self.scope.clone();
        let sent = Sent {
            method: method(request.method),
            url: request.url,
            headers: request.headers,
            body: request.body.into(),
        };
        let answer = scope.fetch(&sent, request.timeout_ms).await?;
        Ok(answer.map(response).map_err(error))
    }
}
