//! `/v1/stream/…`: Durable Streams, and sessions as such.
//!
//! - `asked`: what a request asks for. `answers`: heads of answers. `refusals`: errors.
//! - `subscriptions`: who is woken when streams grow.
//! - `source`: what can be read. `live`: following it by server-sent events.
//!
//! Invariant: the tenant comes from the key, or, without one, from the one setting that opens a tenant's streams;
//! what is another tenant's is not there.

mod answers;
mod asked;
mod live;
mod refusals;
mod source;
pub(super) mod subscriptions;

use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode, Uri, header};

use self::answers::Heads;
use self::asked::{Live, Reading, Start};
use self::source::Source;
use super::Api;
use super::auth::{Caller, StreamCaller};
use super::body::{Names, StreamBody};
use super::error::{ApiError, ApiResult};
use crate::id::{Seq, SessionId, TenantId};
use crate::session::Holding;
use crate::streams::{NewStream, StreamPath, Verdict, Wish, essence, flatten};
use crate::tenants::Right;

/// A reading may be kept for so long, and shown while a newer one is fetched: the protocol's.
const PRIVATE: &str = "private, max-age=60, stale-while-revalidate=300";
const PUBLIC: &str = "public, max-age=60, stale-while-revalidate=300";

/// A fresh cursor.
fn cursor(api: &Api, own: Option<u64>) -> u64 {
    let mut random = [0; 2];
    // Without randomness clients of one cache jump alike, which is slower and not wrong.
    let _ = getrandom::fill(&mut random);
    answers::cursor(api.clock.now(), own, u16::from_ne_bytes(random))
}

async fn room(api: &Api, tenant: &TenantId, bytes: usize) -> ApiResult<()> {
    let more = Holding::Bytes(bytes as u64);
    let held = api.sessions.may_hold(tenant, more).await?;
    held.map_err(|exceeded| ApiError::quota_exceeded(&exceeded))
}

/// Scheme and host of this server, as whoever sent this request reached it.
fn authority(api: &Api, uri: &Uri, headers: &HeaderMap) -> Option<String> {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let host = host.or(uri.authority().map(http::uri::Authority::as_str))?;
    let scheme = match api.settings.is_secure {
        true => "https",
        false => "http",
    };
    Some(format!("{scheme}://{host}"))
}

/// The address of this request, as whoever sent it sees it.
fn location(api: &Api, uri: &Uri, headers: &HeaderMap) -> String {
    let authority = authority(api, uri, headers).unwrap_or_default();
    format!("{authority}{}", uri.path())
}

pub(super) async fn put(
    State(api): State<Api>,
    caller: StreamCaller,
    Names(path): Names<StreamPath>,
    uri: Uri,
    headers: HeaderMap,
    StreamBody(body): StreamBody,
) -> ApiResult<Response> {
    caller.need(Right::Invoke)?;
    let new = NewStream {
        content_type: asked::content_type(&headers)?,
        expiry: asked::expiry(&headers)?,
        closed: asked::closes(&headers),
        fork: asked::fork(&headers)?,
        body,
    };
    room(&api, caller.tenant(), new.body.len()).await?;
    let (stream, is_new) = api.durable.create(caller.tenant(), &path, new).await?;
    let mark = stream.mark();
    let status = match is_new {
        true => StatusCode::CREATED,
        false => StatusCode::OK,
    };
    let heads = Heads::new()
        .with("content-type", &stream.content_type)
        .with_if(is_new, "location", &location(&api, &uri, &headers))
        .place(mark.tail, false, mark.closed);
    Ok(heads.answer(status, ()))
}

pub(super) async fn append(
    State(api): State<Api>,
    caller: StreamCaller,
    Names(path): Names<StreamPath>,
    headers: HeaderMap,
    StreamBody(body): StreamBody,
) -> ApiResult<Response> {
    caller.need(Right::Invoke)?;
    let stream = api.durable.find(caller.tenant(), &path).await?;
    let mut wish = Wish {
        producer: asked::producer(&headers)?,
        order: asked::order(&headers)?,
        closes: asked::closes(&headers),
        has_data: !body.is_empty(),
        is_of_other_type: false,
    };
    if !wish.has_data && !wish.closes {
        let message =
            "there is nothing to append: send a body, or close with `Stream-Closed: true`";
        return Err(ApiError::bad("empty_body", message));
    }
    let mut data = body;
    if wish.has_data {
        let kind = asked::content_type(&headers)?.ok_or_else(|| {
            let message = "a body needs the `Content-Type` of its stream";
            ApiError::bad("invalid_header", message)
        })?;
        wish.is_of_other_type = essence(&kind) != essence(&stream.content_type);
        // What is not taken anyway need not be JSON.
        if stream.is_json && !wish.is_of_other_type {
            let (messages, count) =
                flatten(&data).map_err(|error| ApiError::bad("invalid_json", error.to_string()))?;
            if count == 0 {
                let message = "an empty array holds no message";
                return Err(ApiError::bad("empty_body", message));
            }
            data = messages;
        }
        room(&api, caller.tenant(), data.len()).await?;
    }
    let (had_data, producer) = (wish.has_data, wish.producer.clone());
    let appended = stream.append(wish, data).await?;
    let (status, echoed) = match (appended.verdict, producer) {
        (Verdict::Accept, Some(tag)) => {
            let status = match had_data {
                true => StatusCode::OK,
                false => StatusCode::NO_CONTENT,
            };
            (status, Some((tag.epoch, tag.seq)))
        }
        (Verdict::Accept, None) => (StatusCode::NO_CONTENT, None),
        (Verdict::Done { producer }, _) => (StatusCode::NO_CONTENT, producer),
    };
    let mut heads = Heads::new().place(appended.tail, false, appended.closed);
    if let Some((epoch, seq)) = echoed {
        heads = heads
            .with("producer-epoch", &epoch.to_string())
            .with("producer-seq", &seq.to_string());
    }
    Ok(heads.answer(status, ()))
}

pub(super) async fn remove(
    State(api): State<Api>,
    caller: StreamCaller,
    Names(path): Names<StreamPath>,
) -> ApiResult<StatusCode> {
    caller.need(Right::Invoke)?;
    api.durable.delete(caller.tenant(), &path).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What it is and where it ends. Nobody's use of it.
pub(super) async fn head(
    State(api): State<Api>,
    caller: StreamCaller,
    Names(path): Names<StreamPath>,
) -> ApiResult<Response> {
    caller.need(Right::Read)?;
    let stream = api.durable.find(caller.tenant(), &path).await?;
    let expiry = stream.expiry;
    Ok(headed(&Source::Stream(stream))
        .expiry(expiry)
        .answer(StatusCode::OK, ()))
}

fn headed(source: &Source) -> Heads {
    let (tail, closed) = source.end();
    Heads::new()
        .with("content-type", source.content_type())
        .with("cache-control", "no-store")
        .place(tail, false, closed)
}

pub(super) async fn read(
    State(api): State<Api>,
    caller: StreamCaller,
    Names(path): Names<StreamPath>,
    uri: Uri,
    headers: HeaderMap,
) -> ApiResult<Response> {
    caller.need(Right::Read)?;
    let reading = Reading::parse(uri.query())?;
    let stream = api.durable.find(caller.tenant(), &path).await?;
    stream.touch();
    let tenant = caller.tenant().clone();
    let cache = if caller.is_anybody() { PUBLIC } else { PRIVATE };
    let lapsed = caller.lapsed(api.clone());
    served(
        api,
        tenant,
        lapsed,
        Source::Stream(stream),
        reading,
        (&headers, cache),
    )
    .await
}

/// A session's events: read-only, and of nobody without a key.
pub(super) async fn read_session(
    State(api): State<Api>,
    caller: Caller,
    Names(id): Names<SessionId>,
    uri: Uri,
    headers: HeaderMap,
) -> ApiResult<Response> {
    caller.enter(&id, Right::Read)?;
    let reading = Reading::parse(uri.query())?;
    let session = api.sessions.get(caller.tenant(), &id).await?;
    let tenant = caller.tenant().clone();
    let lapsed = caller.lapsed(api.clone());
    served(
        api,
        tenant,
        lapsed,
        Source::Session(session),
        reading,
        (&headers, PRIVATE),
    )
    .await
}

pub(super) async fn head_session(
    State(api): State<Api>,
    caller: Caller,
    Names(id): Names<SessionId>,
) -> ApiResult<Response> {
    caller.enter(&id, Right::Read)?;
    let session = api.sessions.get(caller.tenant(), &id).await?;
    Ok(headed(&Source::Session(session)).answer(StatusCode::OK, ()))
}

async fn served(
    api: Api,
    tenant: TenantId,
    lapsed: impl Future<Output = ()> + Send + 'static,
    source: Source,
    reading: Reading,
    (headers, cache): (&HeaderMap, &str),
) -> ApiResult<Response> {
    let (tail, _) = source.end();
    let after = match reading.start {
        None => Seq(0),
        Some(Start::After(seq)) => seq,
        Some(Start::Now) => tail,
    };
    if after > tail {
        let message = "the offset is beyond the end of the stream";
        return Err(ApiError::bad("offset_ahead", message));
    }
    match reading.live {
        Some(Live::Sse) => {
            let permit = api.streams.permit(&tenant)?;
            Ok(live::follow(
                api,
                source,
                after,
                reading.cursor,
                permit,
                lapsed,
            ))
        }
        Some(Live::LongPoll) => {
            let _permit = api.streams.permit(&tenant)?;
            tokio::select! {
                answer = polled(&api, source, after, reading.cursor, cache) => answer,
                () = lapsed => Err(super::auth::unknown()),
            }
        }
        None => caught_up(&api, &source, after, reading.start, (headers, cache)).await,
    }
}

async fn caught_up(
    api: &Api,
    source: &Source,
    after: Seq,
    start: Option<Start>,
    (headers, cache): (&HeaderMap, &str),
) -> ApiResult<Response> {
    let batch = source.read(after, api.settings.stream_read_bytes).await?;
    let mut heads = Heads::new().place(batch.at, batch.up_to_date, batch.closed);
    // What the end is may not be kept.
    heads = match start {
        Some(Start::Now) => heads.with("cache-control", "no-store"),
        Some(Start::After(_)) | None => {
            let tag = answers::tag(source, after, &batch);
            heads = heads.with("etag", &tag).with("cache-control", cache);
            if answers::has(headers, &tag) {
                return Ok(heads.answer(StatusCode::NOT_MODIFIED, ()));
            }
            heads
        }
    };
    let body = answers::body(source, &batch);
    let heads = heads.with("content-type", source.content_type());
    Ok(heads.answer(StatusCode::OK, body))
}

async fn polled(
    api: &Api,
    mut source: Source,
    after: Seq,
    own_cursor: Option<u64>,
    cache: &str,
) -> ApiResult<Response> {
    let mut waiter = source.waiter(api, after);
    let deadline = tokio::time::sleep(api.settings.stream_wait);
    let mut deadline = std::pin::pin!(deadline);
    let (mut at, mut is_over) = (after, false);
    loop {
        let batch = source.read(at, api.settings.stream_read_bytes).await?;
        let heads = Heads::new().place(batch.at, batch.up_to_date, batch.closed);
        let cursor = cursor(api, own_cursor).to_string();
        if !batch.pieces.is_empty() {
            let heads = heads
                .with(answers::CURSOR, &cursor)
                .with("etag", &answers::tag(&source, at, &batch))
                .with("cache-control", cache)
                .with("content-type", source.content_type());
            return Ok(heads.answer(StatusCode::OK, answers::body(&source, &batch)));
        }
        if batch.closed || is_over {
            let heads = heads
                .with(answers::CURSOR, &cursor)
                .with(answers::UP_TO_DATE, "true")
                .with("cache-control", "no-store");
            return Ok(heads.answer(StatusCode::NO_CONTENT, ()));
        }
        // As far as it was looked: what nobody is shown is not looked at again.
        at = batch.at;
        tokio::select! {
            more = waiter.more(at) => {
                if let Some(newer) = more? {
                    source = newer;
                }
            }
            () = deadline.as_mut() => is_over = true,
            () = api.shutdown.stopping() => is_over = true,
        }
    }
}
