use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use api_node::{CreateTimes, ErrorCode, Made, Origin, Sandbox};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// LIMIT: templates with figures of their own. A node has a handful; who makes hundreds gets the
/// rest under one name, and not a node that runs out of memory.
const TEMPLATES_MAX: usize = 32;
/// The name of the rest.
const OTHER_TEMPLATES: &str = "other";
/// LIMIT: creates that are remembered one by one, for the figures people look at.
const RECENT_MAX: usize = 1000;
/// Seconds; a create takes some tens of milliseconds, a build of a template half a minute.
const SECONDS: [f64; 15] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    operation: String,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOperation {
    operation: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByCode {
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Create {
    from: &'static str,
    template: String,
    size: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Phase {
    from: &'static str,
    phase: &'static str,
    template: String,
    size: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByState {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByStatus {
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByQuantile {
    quantile: &'static str,
}

/// What is looked at when somebody asks, rather than counted.
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    /// Sandboxes in each state.
    pub sandboxes: Vec<(&'static str, u64)>,
    /// Databases in each status.
    pub databases: Vec<(&'static str, u64)>,
    /// Shells ready.
    pub pool_ready: u64,
    /// Shells the node keeps.
    pub pool_target: u64,
    /// Memory of the daemon, in bytes.
    pub resident_bytes: u64,
    /// Files the daemon has open.
    pub open_files: u64,
}

/// Figures of a node since it was started. What labels can hold is bounded.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<Request, Counter>,
    request_seconds: Family<ByOperation, Histogram>,
    errors: Family<ByCode, Counter>,
    creates: Family<Create, Histogram>,
    phases: Family<Phase, Histogram>,
    recent_seconds: Family<ByQuantile, Gauge<f64, AtomicU64>>,
    bare_pool: Counter,
    first_output: Histogram,
    sandboxes: Family<ByState, Gauge>,
    databases: Family<ByStatus, Gauge>,
    pool_ready: Gauge,
    pool_target: Gauge,
    resident: Gauge,
    open_files: Gauge,
    templates: Mutex<BTreeSet<String>>,
    recent: Mutex<VecDeque<u64>>,
}

fn histogram() -> Histogram {
    Histogram::new(SECONDS)
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("sandflare");
        let mut new = Self {
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(histogram),
            errors: Family::default(),
            creates: Family::new_with_constructor(histogram),
            phases: Family::new_with_constructor(histogram),
            recent_seconds: Family::default(),
            bare_pool: Counter::default(),
            first_output: histogram(),
            sandboxes: Family::default(),
            databases: Family::default(),
            pool_ready: Gauge::default(),
            pool_target: Gauge::default(),
            resident: Gauge::default(),
            open_files: Gauge::default(),
            templates: Mutex::default(),
            recent: Mutex::default(),
            registry: Registry::default(),
        };
        registry.register("requests", "Requests answered", new.requests.clone());
        let text = "From a request to the head of its answer";
        registry.register("request_seconds", text, new.request_seconds.clone());
        registry.register("errors", "Failures answered, by code", new.errors.clone());
        let text = "From a create to an agent that answers";
        registry.register("create_seconds", text, new.creates.clone());
        let text = "Each step of a create";
        registry.register("create_phase_seconds", text, new.phases.clone());
        let text = "Quantiles of the last thousand creates, without forks; 1 is the slowest";
        registry.register("create_recent_seconds", text, new.recent_seconds.clone());
        let text = "Creates that found no shell in the pool";
        registry.register("create_pool_empty", text, new.bare_pool.clone());
        let text = "From an exec to the first byte of output";
        registry.register("exec_first_output_seconds", text, new.first_output.clone());
        registry.register("sandboxes", "Sandboxes, by state", new.sandboxes.clone());
        registry.register("databases", "Databases, by status", new.databases.clone());
        registry.register("shells_ready", "Shells ready for a create", new.pool_ready.clone());
        registry.register("shells_target", "Shells the node keeps", new.pool_target.clone());
        let text = "Memory of the daemon";
        registry.register("process_resident_bytes", text, new.resident.clone());
        let text = "Files the daemon has open";
        registry.register("process_open_files", text, new.open_files.clone());
        new.registry = registry;
        new
    }

    /// The text Prometheus reads.
    pub fn text(&self, now: &Gauges) -> String {
        for (state, count) in &now.sandboxes {
            self.sandboxes.get_or_create(&ByState { state }).set(signed(*count));
        }
        for (status, count) in &now.databases {
            self.databases.get_or_create(&ByStatus { status }).set(signed(*count));
        }
        let CreateTimes { count: _, p50_us, p99_us, max_us } = self.recent();
        for (quantile, us) in [("0.5", p50_us), ("0.99", p99_us), ("1", max_us)] {
            self.recent_seconds.get_or_create(&ByQuantile { quantile }).set(seconds(us));
        }
        self.pool_ready.set(signed(now.pool_ready));
        self.pool_target.set(signed(now.pool_target));
        self.resident.set(signed(now.resident_bytes));
        self.open_files.set(signed(now.open_files));
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        text
    }

    /// How long the last creates took.
    pub fn recent(&self) -> CreateTimes {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sorted: Vec<u64> = recent.iter().copied().collect();
        drop(recent);
        sorted.sort_unstable();
        let rank = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
            sorted.get(rank).copied().unwrap_or_default()
        };
        CreateTimes {
            count: u32::try_from(sorted.len()).unwrap_or(u32::MAX),
            p50_us: rank(50),
            p99_us: rank(99),
            max_us: rank(100),
        }
    }

    pub(crate) fn request(&self, operation: &str, status: u16, took: Duration) {
        let operation = operation.to_owned();
        self.requests.get_or_create(&Request { operation: operation.clone(), status }).inc();
        let seconds = self.request_seconds.get_or_create(&ByOperation { operation });
        seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn error(&self, code: ErrorCode) {
        self.errors.get_or_create(&ByCode { code: code.as_str() }).inc();
    }

    pub(crate) fn first_output(&self, took: Duration) {
        self.first_output.observe(took.as_secs_f64());
    }

    pub(crate) fn made(&self, made: &Made) {
        for sandbox in &made.sandboxes {
            self.create(made.from, sandbox);
        }
    }

    fn create(&self, from: Origin, made: &Sandbox) {
        let from = match from {
            Origin::Template => "template",
            Origin::Snapshot => "snapshot",
            Origin::Fork => "fork",
        };
        let template = self.template_label(made.template.as_str());
        let (size, times) = (made.size.name(), &made.phases);
        let create = Create { from, template: template.clone(), size };
        self.creates.get_or_create(&create).observe(seconds(times.total_us));
        for (phase, us) in [
            ("claim", times.claim_us),
            ("parse", times.parse_us),
            ("map", times.map_us),
            ("state", times.state_us),
            ("devices", times.devices_us),
            ("resume", times.resume_us),
            ("reseed", times.reseed_us),
        ] {
            let phase = Phase { from, phase, template: template.clone(), size };
            self.phases.get_or_create(&phase).observe(seconds(us));
        }
        if times.pool_empty {
            self.bare_pool.inc();
        }
        if from == "fork" {
            // Their time has the stop of another sandbox in it.
            return;
        }
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == RECENT_MAX {
            recent.pop_front();
        }
        recent.push_back(times.total_us);
    }

    fn template_label(&self, name: &str) -> String {
        let mut known = self.templates.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.contains(name) {
            if known.len() == TEMPLATES_MAX {
                return OTHER_TEMPLATES.to_owned();
            }
            known.insert(name.to_owned());
        }
        name.to_owned()
    }
}

fn seconds(us: u64) -> f64 {
    Duration::from_micros(us).as_secs_f64()
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
