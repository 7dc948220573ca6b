//! `GET /metrics`: what the engine has done, for Prometheus
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>, text format 0.0.4).

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::Response;

use super::service::Service;
use crate::engine::{DURATION_BOUNDS, Durations, EngineStatistics};

pub(super) async fn metrics(State(service): State<Arc<Service>>) -> Response {
    let mut page = Page::default();
    page.engine(&service.model.engine.statistics());
    page.head(
        "http_responses_total",
        "counter",
        "Answers over HTTP, by place and status.",
    );
    for ((place, status), count) in service.responses.all() {
        page.line(
            &format!("http_responses_total{{path=\"{place}\",status=\"{status}\"}}"),
            count,
        );
    }
    let mut response = Response::new(Body::from(page.text));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a text cannot fail.
        let _ = writeln!(self.text, "# HELP mlx_diagnose_{name} {help}");
        let _ = writeln!(self.text, "# TYPE mlx_diagnose_{name} {kind}");
    }

    fn line(&mut self, sample: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.text, "mlx_diagnose_{sample} {value}");
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, "counter", help);
        self.line(name, value);
    }

    fn gauge(&mut self, name: &str, help: &str, value: usize) {
        self.head(name, "gauge", help);
        self.line(name, value);
    }

    fn histogram(&mut self, name: &str, help: &str, durations: &Durations) {
        self.head(name, "histogram", help);
        let mut up_to = 0;
        for (bound, count) in DURATION_BOUNDS.iter().zip(durations.counts) {
            up_to += count;
            let seconds = Duration::from_millis(*bound).as_secs_f64();
            self.line(&format!("{name}_bucket{{le=\"{seconds}\"}}"), up_to);
        }
        self.line(&format!("{name}_bucket{{le=\"+Inf\"}}"), durations.count);
        self.line(&format!("{name}_sum"), durations.total.as_secs_f64());
        self.line(&format!("{name}_count"), durations.count);
    }

    fn engine(&mut self, engine: &EngineStatistics) {
        self.counter("requests_total", "Requests that the engine took.", engine.requests);
        self.counter(
            "requests_finished_total",
            "Answers that ended by themselves.",
            engine.finished,
        );
        self.counter(
            "requests_cancelled_total",
            "Answers that nobody wanted any more.",
            engine.cancelled,
        );
        self.counter("requests_failed_total", "Answers that broke off.", engine.failed);
        self.counter("steps_total", "Passes of the model.", engine.steps);
        self.counter(
            "decoded_sequences_total",
            "Sequences that decoded, over all steps; by steps_total, the occupancy of a batch.",
            engine.decoded_sequences,
        );
        self.counter(
            "prompt_tokens_total",
            "Prompt tokens that were computed.",
            engine.prompt_tokens,
        );
        self.counter(
            "prompt_tokens_cached_total",
            "Prompt tokens whose keys and values were there already.",
            engine.reused_tokens,
        );
        self.counter(
            "generated_tokens_total",
            "Tokens that were generated.",
            engine.generated_tokens,
        );
        self.gauge("requests_waiting", "Requests that wait.", engine.waiting);
        self.gauge("requests_running", "Sequences that run.", engine.running);
        self.gauge(
            "cache_bytes",
            "Keys and values of running sequences.",
            engine.cache_bytes,
        );
        self.gauge(
            "prefix_cache_bytes",
            "Keys and values kept for later prompts.",
            engine.prefix_bytes,
        );
        self.histogram("queue_seconds", "From a request to its first step.", &engine.queued);
        self.histogram(
            "first_token_seconds",
            "From a request to its first token.",
            &engine.to_first_token,
        );
        self.histogram(
            "between_tokens_seconds",
            "Between two tokens of an answer.",
            &engine.between_tokens,
        );
        self.histogram("step_seconds", "Of the passes of the model.", &engine.step);
    }
}
