//! The HTTP side of a replica: the fleet's page, JSON, metrics, health, and what is released.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::Mutex as StdMutex;
use std::time::Duration;

use axum::Router;
use axum::extract::State as Shared;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Json, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Notify};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::clock::unix_ms;
use crate::fleet::{self, Shown, State, Totals};
use crate::metrics::{Metrics, PhaseLabel};
use crate::registry::{Device, Objects};
use crate::server::Factory;
use crate::store::{StoreError, hex};

mod ota;

/// How old a look into the registry may be.
const LOOK_KEPT: Duration = Duration::from_secs(3);
/// A store that takes longer does not answer.
const READY_MAX: Duration = Duration::from_secs(5);
/// Time between two points of the rate, and how many of them there are: a minute.
const RATE_EVERY: Duration = Duration::from_secs(5);
const RATE_POINTS: usize = 13;
/// What `close` gives answers that are under way.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// A running listener.
#[derive(Debug)]
pub struct Server {
    serving: JoinHandle<()>,
    stop: Arc<Notify>,
    _rate: JoinSet<()>,
}

struct Web {
    factory: Arc<Factory>,
    /// The last look into the registry. Who holds it looks for all others.
    look: Mutex<Look>,
    points: StdMutex<VecDeque<(Instant, u64)>>,
}

#[derive(Default)]
struct Look {
    at: Option<Instant>,
    objects: Objects,
    devices: Vec<Device>,
}

impl Server {
    /// Serves on a socket, on the current tokio runtime.
    pub fn start(socket: TcpListener, factory: Arc<Factory>) -> Self {
        let web = Arc::new(Web {
            factory,
            look: Mutex::default(),
            points: StdMutex::default(),
        });
        let mut rate = JoinSet::new();
        rate.spawn(keep_rate(web.clone()));
        let router = Router::new()
            .route("/", get(page))
            .route("/api/devices", get(devices))
            .route("/metrics", get(metrics))
            .route("/health", get(|| async { "ok\n" }))
            .route("/ready", get(ready))
            .route("/ota/{*path}", get(ota::file))
            .with_state(web);
        let stop = Arc::new(Notify::new());
        let stopped = stop.clone();
        let serve = axum::serve(socket, router)
            .with_graceful_shutdown(async move { stopped.notified().await });
        let serving = tokio::spawn(async move {
            if let Err(error) = serve.await {
                tracing::error!(%error, "the fleet's page is gone");
            }
        });
        Self {
            serving,
            stop,
            _rate: rate,
        }
    }

    /// Ends.
    pub async fn close(mut self) {
        self.stop.notify_one();
        let _ = tokio::time::timeout(CLOSE_MAX, &mut self.serving).await;
        self.serving.abort();
    }
}

async fn keep_rate(web: Arc<Web>) {
    let mut tick = tokio::time::interval(RATE_EVERY);
    loop {
        let at = tick.tick().await;
        let mut points = web
            .points
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        points.push_back((at, web.factory.metrics.received_bytes.get()));
        while points.len() > RATE_POINTS {
            points.pop_front();
        }
    }
}

impl Web {
    /// Bytes a second over the last minute.
    fn rate(&self) -> f64 {
        let points = self
            .points
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let (Some((from, before)), Some((to, after))) = (points.front(), points.back()) else {
            return 0.0;
        };
        let seconds = (*to - *from).as_secs_f64();
        if seconds > 0.0 {
            (after - before) as f64 / seconds
        } else {
            0.0
        }
    }

    /// All boxes, as the registry has them, or as this replica knows better.
    async fn boxes(&self) -> Result<Vec<Shown>, StoreError> {
        let mut devices = {
            let mut look = self.look.lock().await;
            if look.at.is_none_or(|at| at.elapsed() > LOOK_KEPT) {
                let mut objects = std::mem::take(&mut look.objects);
                let devices = self.factory.registry.devices(&mut objects);
                look.devices = self.factory.metrics.timed("fleet", devices).await?;
                look.objects = objects;
                look.at = Some(Instant::now());
            }
            look.devices.clone()
        };
        let known = self.factory.contacts.snapshot().into_iter();
        let mut known: HashMap<_, _> = known
            .map(|(id, contact, live)| (hex(&id), (contact, live)))
            .collect();
        let now = unix_ms();
        let mut boxes = Vec::with_capacity(devices.len() + known.len());
        for mut device in devices.drain(..) {
            let mut connected = false;
            if let Some((contact, live)) = known.remove(&device.appliance) {
                connected = live;
                if contact.unix_ms > 0 {
                    device.contact = Some(contact);
                }
            }
            boxes.push(Shown::new(device, connected, now));
        }
        for (appliance, (contact, connected)) in known {
            let device = Device {
                appliance,
                enrolment: None,
                contact: Some(contact),
                revocation: None,
            };
            boxes.push(Shown::new(device, connected, now));
        }
        fleet::sort(&mut boxes);
        Ok(boxes)
    }
}

async fn page(Shared(web): Shared<Arc<Web>>, uri: Uri) -> Response {
    let boxes = match web.boxes().await {
        Ok(boxes) => boxes,
        Err(error) => return unavailable(&error),
    };
    let wanted = uri.query().and_then(|query| query.strip_prefix("state="));
    let only = State::ALL
        .into_iter()
        .find(|state| Some(state.word()) == wanted);
    let html = fleet::page(&boxes, &Totals::new(&boxes, web.rate()), only);
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, html).into_response()
}

async fn devices(Shared(web): Shared<Arc<Web>>) -> Response {
    match web.boxes().await {
        Ok(boxes) => {
            let totals = Totals::new(&boxes, web.rate());
            Json(serde_json::json!({ "totals": totals, "devices": boxes })).into_response()
        }
        Err(error) => unavailable(&error),
    }
}

async fn metrics(Shared(web): Shared<Arc<Web>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    // Without the registry the other numbers are still true.
    if let Ok(boxes) = web.boxes().await {
        count_phases(&web.factory.metrics, &boxes);
    }
    ([(header::CONTENT_TYPE, kind)], web.factory.metrics.text()).into_response()
}

/// Rings that are counted: names that boxes invent do not fill the memory.
const RINGS_MAX: usize = 64;

fn count_phases(metrics: &Metrics, boxes: &[Shown]) {
    let mut counts: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    for shown in boxes {
        let named = outstation_wire::release::check_name(&shown.ring).is_ok();
        if named && shown.state != State::Revoked {
            *counts.entry((&shown.ring, &shown.phase)).or_default() += 1;
        }
    }
    metrics.release_boxes.clear();
    for ((ring, phase), count) in counts.into_iter().take(RINGS_MAX * 5) {
        let label = PhaseLabel {
            ring: ring.to_owned(),
            phase: phase.to_owned(),
        };
        metrics.release_boxes.get_or_create(&label).set(count);
    }
}

/// Whether the store answers. That nothing is there is an answer.
async fn ready(Shared(web): Shared<Arc<Web>>) -> Response {
    let asked = web
        .factory
        .metrics
        .timed("ready", web.factory.registry.code(&[0; 32]));
    match tokio::time::timeout(READY_MAX, asked).await {
        Ok(Ok(_)) => "ready\n".into_response(),
        Ok(Err(error)) => unavailable(&error),
        Err(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the store does not answer\n",
        )
            .into_response(),
    }
}

fn unavailable(error: &StoreError) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response()
}

#[cfg(test)]
mod tests;
