//! The server: every layer put together, started, and stopped in order.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ::http::HeaderValue;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::agents::Agents;
use crate::audit::Audit;
use crate::budgets::{BookError, Budgets, TenantBudget, Terms};
use crate::clock::{Clock, DAY_MS};
use crate::config::{self, Config, Durability as DurabilitySetting};
use crate::egress::{Egress, SetupError as EgressSetupError};
use crate::fair;
use crate::http::{self, Bounds, Patience, Settings, Tls, TlsError};
use crate::journal::entry::Price;
use crate::logs::Logs;
use crate::model::{CacheBounds, ModelConfig, Models, SetupError};
use crate::notices::webhook::Patience as PushPatience;
use crate::notices::webhooks::{self, Webhooks};
use crate::notices::{Kept, Notices};
use crate::runtime::compiler::Compiling;
use crate::runtime::cpu::Minutes;
use crate::runtime::engine::Runtime;
use crate::runtime::limits::TurnLimits;
use crate::seal::{Seal, SealError};
use crate::secrets::{self, SecretError, Secrets};
use crate::session::{Instances, Parts, Sessions};
use crate::shutdown::Shutdown;
use crate::store::components::{ComponentError, Components};
use crate::store::{self, Durability, ReadError, SledOptions, Store, StoreOpenError};
use crate::streams::Streams;
use crate::subscriptions::keys::Keys;
use crate::subscriptions::{self, Subscriptions};
use crate::telemetry::Telemetry;
use crate::tenants::{TenantError, Tenants};

/// How long the last connections may take after the drain.
const LAST_CONNECTIONS: Duration = Duration::from_secs(2);

/// How often days of usage that have become old are looked for: nobody waits for it.
const FORGET_EVERY: Duration = Duration::from_secs(60 * 60);

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("the data folder {path}: {error}")]
    Data { path: String, error: io::Error },
    #[error(transparent)]
    Store(#[from] StoreOpenError),
    #[error(transparent)]
    Components(#[from] ComponentError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Tenant(#[from] TenantError),
    #[error(transparent)]
    Model(#[from] SetupError),
    #[error("`egress.private_allowed`: {0}")]
    Egress(#[from] EgressSetupError),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error("`secrets.env_allowed`: the variable {variable}: {error}")]
    Secret {
        variable: String,
        error: SecretError,
    },
    #[error("the WebAssembly engine: {0}")]
    Engine(io::Error),
    #[error("`http.cors_origins`: {0:?} is not an origin")]
    Origin(String),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the listening socket: {0}")]
    Listener(io::Error),
    #[error("starting was interrupted")]
    Interrupted,
}

/// Serve on `listener` until `shutdown` says stop; then drain as configured. Returns when
/// everything acknowledged is durable and nothing runs any more.
pub async fn serve(
    listener: TcpListener,
    config: Config,
    shutdown: Shutdown,
) -> Result<(), ServeError> {
    let address = listener.local_addr().map_err(ServeError::Listener)?;
    // Before the store is touched: these are mistakes of settings.
    let settings = settings(&config)?;
    let tls = open_tls(&config).await?;
    let opening = config.clone();
    let host = tokio::task::spawn_blocking(move || Host::open(&opening));
    let host = host.await.map_err(|_| ServeError::Interrupted)??;
    host.tenants.bootstrap(&config.data).await?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    write_url(&config.data, &format!("{scheme}://{address}"))?;

    let due = host.sessions.clone();
    let tenants = host.tenants.clone();
    host.sessions.take_up_tenants(&host.tenants).await?;
    let listed = tokio::task::spawn_blocking(move || due.read_agenda(&tenants.names()));
    let count = listed.await.map_err(|_| ServeError::Interrupted)??;
    tracing::info!(%address, due = count, pooling = host.runtime.pooling, unclean = host.unclean, "serving");
    let agenda = tokio::spawn(host.sessions.clone().keep_agenda());
    let budgets = host.sessions.budgets().clone();
    let forgetting = forget_old_days(budgets, host.tenants.clone(), host.clock.clone());
    let forgetting = tokio::spawn(forgetting);
    // Before any stream can change.
    host.subscriptions.take_up().await;
    host.webhooks.take_up().await;
    let sweeping = tokio::spawn(host.streams.clone().sweep());
    let waking = tokio::spawn(host.subscriptions.clone().run());
    let forgetting_notices = tokio::spawn(host.notices.clone().sweep());
    let telemetry = Telemetry::new();
    let sorting_in = tokio::spawn(telemetry.clone().keep());

    let audit_entries_max = as_usize(config.limits.audit_entries_max);
    let router = http::router(http::Parts {
        sessions: host.sessions.clone(),
        durable: host.streams.clone(),
        subscriptions: host.subscriptions.clone(),
        notices: host.notices.clone(),
        webhooks: host.webhooks.clone(),
        tenants: host.tenants.clone(),
        secrets: host.secrets.clone(),
        audit: Audit::new(host.store.clone(), audit_entries_max),
        logs: host.logs.clone(),
        clock: host.clock.clone(),
        telemetry,
        shutdown: shutdown.clone(),
        settings,
    });
    let reloading = tls.clone().and_then(reload_on_hangup).map(tokio::spawn);
    // Turns and connections drain side by side: an answer waits for its turn.
    let sessions = host.sessions.clone();
    let stop = async {
        shutdown.stopping().await;
        let drained = sessions.stop(config.drain).await;
        if !drained {
            tracing::info!(
                "turns were still running at the end of the drain; they are taken up at the next start"
            );
        }
    };
    tokio::join!(
        http::run(
            listener,
            tls,
            router,
            &shutdown,
            bounds(&config),
            config.drain + LAST_CONNECTIONS
        ),
        stop
    );
    host.subscriptions.stop().await;
    host.webhooks.stop().await;
    let tasks = [
        agenda,
        forgetting,
        sweeping,
        waking,
        forgetting_notices,
        sorting_in,
    ];
    for task in tasks.into_iter().chain(reloading) {
        task.abort();
        // They hold the store: whoever opens it next must not find it taken.
        let _ = task.await;
    }
    // What administrators began is written down before the store closes.
    if !shutdown.finished(LAST_CONNECTIONS).await {
        tracing::warn!("the last requests were still being answered");
    }
    host.streams.finish().await;
    host.close(&config.data).await;
    Ok(())
}

/// What is opened at the start and closed at the end.
struct Host {
    store: Arc<dyn Store>,
    clock: Clock,
    runtime: Arc<Runtime>,
    tenants: Tenants,
    sessions: Sessions,
    streams: Streams,
    subscriptions: Subscriptions,
    notices: Notices,
    webhooks: Webhooks,
    secrets: Secrets,
    logs: Logs,
    unclean: bool,
}

impl Host {
    /// Blocks: it reads the disk.
    fn open(config: &Config) -> Result<Self, ServeError> {
        let data = &config.data;
        let failed = |error| ServeError::Data {
            path: data.display().to_string(),
            error,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(data)
            .map_err(failed)?;
        let durability = match config.durability {
            DurabilitySetting::Power => Durability::Power,
            DurabilitySetting::Process => Durability::Process,
        };
        let options = SledOptions {
            durability,
            ..SledOptions::default()
        };
        let store = store::open_sled(&data.join("store"), options)?;
        // Only whoever has the store may say that the host runs.
        let unclean = mark_running(data).map_err(failed)?;
        let limits = turn_limits(config);
        let turns_max = u32::try_from(config.limits.turns_max).unwrap_or(u32::MAX);
        let cache = data.join("compiled");
        let runtime = Runtime::new(turns_max, &limits, Some(&cache), compiling(config))
            .map_err(ServeError::Engine)?;
        let runtime = Arc::new(runtime);
        let components = Components::open(&data.join("components"))?;
        let seal = Seal::open_or_make(data)?;
        let clock = Clock::System;
        let tenants = Tenants::open(store.clone(), clock.clone())?;
        let agents = Agents::open(
            store.clone(),
            components,
            runtime.clone(),
            clock.clone(),
            &tenants.names(),
        )?;
        match agents.remove_unused() {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "removed components that no agent has"),
            Err(error) => tracing::warn!(%error, "components that no agent has are not removed"),
        }
        let secrets = secrets(config, &store, seal.clone())?;
        let logs = Logs::new(as_usize(config.limits.log_bytes_max));
        let egress = Egress::new(&config.egress.private_allowed, config.egress.names.clone())?;
        let keys = Keys::of(&seal);
        let sessions = Sessions::new(Parts {
            store: store.clone(),
            clock: clock.clone(),
            instances: Instances::Components(runtime.clone()),
            agents: Arc::new(agents),
            models: models(config)?,
            egress: egress.clone(),
            secrets: secrets.clone(),
            budgets: Budgets::new(store.clone(), terms(config)),
            logs: logs.clone(),
            limits,
            minutes: Minutes::new(
                config.limits.cpu_tenant_minute_ms_max,
                config.limits.computing_max,
            ),
            tenants: tenants.clone(),
            quotas: config.quotas,
            turns_max: as_usize(config.limits.turns_max),
            instance_wait: Duration::from_millis(config.limits.instance_wait_ms_max),
            turns_tenant_max: as_usize(config.limits.turns_tenant_max),
            turns_waiting_max: as_usize(config.limits.turns_waiting_max),
            turns_waiting_tenant_max: as_usize(config.limits.turns_waiting_tenant_max),
            sessions_open_max: as_usize(config.limits.sessions_open_max),
            forks_max: as_usize(config.limits.forks_max),
            invoked_expire_after_ms: u64::try_from(
                config.sessions.invoked_expire_after.as_millis(),
            )
            .unwrap_or(u64::MAX),
            seal: seal.clone(),
            unclean,
        });
        let open_max = as_usize(config.limits.stream_open_max);
        let streams = Streams::new(store.clone(), clock.clone(), tenants.clone(), open_max);
        let gate = Arc::<fair::Gate>::default();
        let host_max = as_usize(config.limits.webhooks_max).max(1);
        let places = fair::Bounds {
            host_max,
            // One tenant's that hang leave room for others'.
            tenant_max: host_max.div_ceil(8),
        };
        let subscriptions = Subscriptions::new(subscriptions::Parts {
            store: store.clone(),
            clock: clock.clone(),
            streams: streams.clone(),
            tenants: tenants.clone(),
            egress: egress.clone(),
            keys,
            gate: gate.clone(),
            places,
            bounds: subscriptions::Bounds {
                subscriptions_max: as_usize(config.limits.subscriptions_max),
                streams_max: as_usize(config.limits.subscription_streams_max),
            },
        });
        let kept = Kept {
            notices_max: config.limits.notices_max,
            ms_max: config.limits.notice_days_max.saturating_mul(DAY_MS),
        };
        let notices = Notices::new(store.clone(), clock.clone(), tenants.clone(), kept);
        let webhooks = Webhooks::new(webhooks::Parts {
            notices: notices.clone(),
            egress,
            seal,
            gate,
            places,
            bounds: webhooks::Bounds {
                webhooks_max: as_usize(config.limits.webhooks_tenant_max),
                dead_letters_max: as_usize(config.limits.dead_letters_max),
                patience: PushPatience {
                    attempts_max: config.limits.webhook_attempts_max,
                    backoff_ms_max: config.limits.webhook_backoff_ms_max,
                },
            },
        });
        Ok(Self {
            store,
            clock,
            runtime,
            tenants,
            sessions,
            streams,
            subscriptions,
            notices,
            webhooks,
            secrets,
            logs,
            unclean,
        })
    }

    async fn close(self, data: &Path) {
        let store = self.store.clone();
        drop(self);
        let latched = store.latched().is_some();
        // Closing waits for the disk.
        let _ = tokio::task::spawn_blocking(move || store.close()).await;
        if !latched && let Err(error) = fs::remove_file(data.join("running")) {
            tracing::warn!(%error, "this stop will look unclean");
        }
    }
}

/// True if the last process did not stop cleanly.
fn mark_running(data: &Path) -> io::Result<bool> {
    match fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(data.join("running"))
    {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(true),
        Err(error) => Err(error),
    }
}

/// Where client commands on this machine find the server.
fn write_url(data: &Path, url: &str) -> Result<(), ServeError> {
    let failed = |error| ServeError::Data {
        path: data.display().to_string(),
        error,
    };
    fs::write(data.join("url"), url).map_err(failed)
}

fn models(config: &Config) -> Result<Models, SetupError> {
    let mut models = BTreeMap::new();
    for (name, model) in &config.models {
        let mut endpoint = ModelConfig::new(&model.base_url, &model.model);
        endpoint.policy = endpoint.policy.with(&model.policy);
        endpoint.api_key = model.api_key.clone();
        models.insert(name.clone(), endpoint);
    }
    let cache = CacheBounds {
        bytes_max: config.limits.cache_bytes_max,
        tenant_bytes_max: config.limits.cache_tenant_bytes_max,
        seconds_max: config.limits.cache_seconds_max,
    };
    Models::new(models, Models::OFFLINE_TOKEN_MS, cache)
}

fn secrets(config: &Config, store: &Arc<dyn Store>, seal: Seal) -> Result<Secrets, ServeError> {
    let environment = config.secrets.environment.clone();
    for (variable, secret) in &environment {
        secrets::check(secret.reveal().as_bytes()).map_err(|error| ServeError::Secret {
            variable: variable.clone(),
            error,
        })?;
    }
    Ok(Secrets::new(store.clone(), seal, environment))
}

fn terms(config: &Config) -> Terms {
    let price = |price: &config::Price| Price {
        input_micros: price.input_micros,
        output_micros: price.output_micros,
    };
    let models = config.models.iter();
    let prices =
        models.filter_map(|(name, model)| Some((name.clone(), price(model.price.as_ref()?))));
    let budgets = &config.budgets;
    let tenants = budgets.tenants.iter();
    let tenants = tenants.map(|(tenant, own)| {
        let own = TenantBudget {
            total_micros_max: own.total_micros_max,
            day_micros_max: own.day_micros_max,
        };
        (tenant.clone(), own)
    });
    Terms {
        prices: prices.collect(),
        budget: TenantBudget {
            total_micros_max: budgets.total_micros_max,
            day_micros_max: budgets.day_micros_max,
        },
        tenants: tenants.collect(),
        usage_days_max: config.limits.usage_days_max,
    }
}

/// Make old days of usage one sum, at the start and as days pass, until it is dropped.
async fn forget_old_days(budgets: Budgets, tenants: Tenants, clock: Clock) {
    loop {
        let (of, listed, now) = (budgets.clone(), tenants.clone(), clock.now());
        let forgetting = tokio::task::spawn_blocking(move || {
            for tenant in listed.names() {
                of.forget_days(&tenant, now)?;
            }
            Ok::<_, BookError>(())
        });
        match forgetting.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "old days of usage are not made one sum yet"),
            Err(error) => tracing::warn!(%error, "old days of usage are not made one sum yet"),
        }
        tokio::time::sleep(FORGET_EVERY).await;
    }
}

fn compiling(config: &Config) -> Compiling {
    let limits = &config.limits;
    Compiling {
        program: config.compiler.clone(),
        ms_max: limits.compile_ms_max,
        memory_bytes_max: limits.compile_memory_bytes_max,
        at_once_max: as_usize(limits.compiles_max),
        waiting_max: as_usize(limits.compiles_waiting_max),
    }
}

fn turn_limits(config: &Config) -> TurnLimits {
    let limits = &config.limits;
    TurnLimits {
        memory_bytes_max: limits.memory_bytes_max,
        cpu_ms_max: limits.cpu_ms_max,
        turn_ms_max: limits.turn_ms_max,
        host_calls_max: limits.host_calls_max,
        host_call_bytes_max: as_usize(limits.host_call_bytes_max),
        written_bytes_max: limits.written_bytes_max,
        handles_max: as_usize(limits.handles_max),
        reply_bytes_max: limits.reply_bytes_max,
        message_bytes_max: as_usize(limits.message_bytes_max),
        slot_bytes_max: as_usize(limits.slot_bytes_max),
        slots_max: as_usize(limits.slots_max),
        mailbox_messages_max: as_usize(limits.mailbox_messages_max),
        call_depth_max: u32::try_from(limits.call_depth_max).unwrap_or(u32::MAX),
        question_bytes_max: as_usize(limits.question_bytes_max),
        question_choices_max: as_usize(limits.question_choices_max),
        questions_turn_max: u32::try_from(limits.questions_turn_max).unwrap_or(u32::MAX),
        question_ms_max: limits.question_ms_max,
        http_calls_max: limits.http_calls_max,
        http_ms_max: limits.http_ms_max,
        http_request_bytes_max: as_usize(limits.http_request_bytes_max),
        http_response_bytes_max: as_usize(limits.http_response_bytes_max),
        http_header_bytes_max: as_usize(limits.http_header_bytes_max),
    }
}

async fn open_tls(config: &Config) -> Result<Option<Arc<Tls>>, ServeError> {
    let Some(files) = config.http.tls.clone() else {
        return Ok(None);
    };
    let opened =
        tokio::task::spawn_blocking(move || Tls::open(&files.certificate, &files.key)).await;
    Ok(Some(Arc::new(
        opened.map_err(|_| ServeError::Interrupted)??,
    )))
}

/// A hangup (SIGHUP) says that there is a new certificate; from this call on it ends nothing.
fn reload_on_hangup(tls: Arc<Tls>) -> Option<impl Future<Output = ()> + Send> {
    use tokio::signal::unix::{SignalKind, signal};
    let hangups = signal(SignalKind::hangup());
    let warn = |error| tracing::warn!(%error, "a new certificate needs a restart");
    let mut hangups = hangups.map_err(warn).ok()?;
    Some(async move {
        while hangups.recv().await.is_some() {
            let tls = tls.clone();
            match tokio::task::spawn_blocking(move || tls.reload()).await {
                Ok(Ok(())) => tracing::info!("the certificate was read again"),
                Ok(Err(error)) => tracing::error!(%error, "the certificate stays as it was"),
                Err(error) => tracing::error!(%error, "the certificate stays as it was"),
            }
        }
    })
}

fn bounds(config: &Config) -> Bounds {
    let limits = &config.limits;
    Bounds {
        header_bytes_max: as_usize(limits.header_bytes_max),
        // As many as a semaphore counts.
        connections_max: as_usize(limits.connections_max).min(Semaphore::MAX_PERMITS),
        connection_streams_max: u32::try_from(limits.connection_streams_max).unwrap_or(u32::MAX),
        handshakes_max: as_usize(limits.handshakes_max).min(Semaphore::MAX_PERMITS),
        handshake: Duration::from_millis(limits.handshake_ms_max),
        patience: Patience {
            head: Duration::from_millis(limits.head_ms_max),
            idle: Duration::from_millis(limits.idle_ms_max),
            write_stall: Duration::from_millis(limits.write_stall_ms_max),
        },
    }
}

fn settings(config: &Config) -> Result<Settings, ServeError> {
    let origin =
        |text: &String| HeaderValue::from_str(text).map_err(|_| ServeError::Origin(text.clone()));
    Ok(Settings {
        component_bytes_max: as_usize(config.limits.component_bytes_max),
        request_bytes_max: as_usize(config.limits.request_bytes_max),
        streams_max: as_usize(config.limits.streams_max),
        streams_tenant_max: as_usize(config.limits.streams_tenant_max),
        recounted_max: as_usize(config.limits.recounted_max),
        chat_expire_after_ms: u64::try_from(config.sessions.chat_expire_after.as_millis())
            .unwrap_or(u64::MAX),
        streams_open_to: config.http.streams_open_to.clone(),
        stream_body_bytes: as_usize(config.limits.stream_body_bytes_max),
        stream_read_bytes: as_usize(config.limits.stream_read_bytes_max),
        question_wait: Duration::from_millis(config.limits.question_wait_ms_max),
        stream_wait: Duration::from_millis(config.limits.stream_wait_ms_max),
        stream_live: Duration::from_millis(config.limits.stream_live_ms_max),
        body_stall: Duration::from_millis(config.limits.body_stall_ms_max),
        body_time: Duration::from_millis(config.limits.body_ms_max),
        write_stall: Duration::from_millis(config.limits.write_stall_ms_max),
        is_secure: config.http.tls.is_some(),
        cors_origins: config
            .http
            .cors_origins
            .iter()
            .map(origin)
            .collect::<Result<_, _>>()?,
    })
}

fn as_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
