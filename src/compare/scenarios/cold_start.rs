//! From nothing to the first token, with the model's files on the disk and in memory.

use super::requests::load_for_prompts;
use super::thresholds::FIRST_ANSWER_TOKENS;
use super::{Order, Scenario, Stage, Stop, page_cache};
use crate::compare::servers::LoadRequest;
use crate::compare::{Failure, Plan, Start, Unit};

pub(super) struct ColdStart;

/// What one load took.
struct Started {
    /// Seconds until the server said that it is ready; `None` where the model was there already.
    ready: Option<f64>,
    /// Seconds until the first token; `None` where the model was there already.
    first_token: Option<f64>,
    /// Bytes after the first answer.
    memory: Option<u64>,
}

impl Scenario for ColdStart {
    fn name(&self) -> &'static str {
        "cold-start"
    }

    fn summary(&self) -> &'static str {
        "from loading to the first token, with the model's files on the disk and in memory; memory after loading"
    }

    fn needs(&self, plan: &Plan) -> LoadRequest {
        load_for_prompts(plan, 1)
    }

    fn run(&self, stage: &mut Stage<'_>) -> Result<(), Stop> {
        let evicted = page_cache::files(stage.side()).and_then(|files| page_cache::evict(&files));
        let cold = match evicted {
            Ok(()) => Some(self.start(stage, "cold")?),
            Err(reason) => {
                stage.note(format!("loading with cold pages is not measured: {reason}"));
                None
            }
        };
        if cold.is_none() {
            // A load that is not measured brings the files into memory.
            stage.phase("preparation", |stage| {
                stage.load(&self.needs(stage.plan()))?;
                stage.unload()
            })?;
        }
        let warm = self.start(stage, "warm")?;
        if warm.ready.is_none() {
            stage.note("the server had the model already, so that how long loading takes is not measured");
        }
        record(stage, "cold", cold.as_ref());
        record(stage, "warm", Some(&warm));
        let memory = cold.iter().chain(Some(&warm)).filter_map(|started| started.memory);
        let memory: Vec<f64> = memory.map(|bytes| bytes as f64).collect();
        if memory.is_empty() {
            stage.note("memory after loading is not known, since no process of the server could be looked at");
        } else {
            let note = "memory of the server's processes after the first short answer, one value for each load";
            stage.figure("memory-after-load", Unit::Bytes, &memory, note);
        }
        Ok(())
    }
}

impl ColdStart {
    /// Loads, asks for a first answer, waits until memory has settled, and unloads, as a phase of this name.
    ///
    /// Memory is read after the answer: weights that are mapped or evaluated lazily are not there before.
    fn start(&self, stage: &mut Stage<'_>, pages: &str) -> Result<Started, Failure> {
        let plan = stage.plan();
        let orders = Order::in_turn(plan, 1).into_iter();
        let order = orders.map(|order| Order {
            answer_tokens: FIRST_ANSWER_TOKENS.min(order.answer_tokens),
            ..order
        });
        stage.phase(pages, |stage| {
            let begin = stage.now();
            let loaded = stage.load(&self.needs(plan))?;
            let mut first_piece = None;
            for order in order {
                let request = stage.ask(&format!("first-token-{pages}"), &order)?;
                if let Some(failure) = &request.failure {
                    return Err(failure.clone());
                }
                first_piece = request.times.pieces.first().copied();
            }
            let settled = stage.settle()?;
            stage.unload()?;
            let is_measured = loaded.server.start != Start::Already;
            Ok(Started {
                ready: loaded.ready_seconds.filter(|_| is_measured),
                first_token: first_piece.filter(|_| is_measured).map(|piece| piece - begin),
                memory: stage.memory_between(settled),
            })
        })
    }
}

fn record(stage: &mut Stage<'_>, pages: &str, started: Option<&Started>) {
    let where_pages_are = match pages {
        "cold" => "after the system was asked to drop the model's files from memory",
        _ => "with the model's files in memory from the load before",
    };
    if let Some(seconds) = started.and_then(|started| started.ready) {
        let note = format!("from the start of loading until the server was ready, {where_pages_are}");
        stage.figure(&format!("ready-{pages}"), Unit::Seconds, &[seconds], &note);
    }
    if let Some(seconds) = started.and_then(|started| started.first_token) {
        let note = format!("from the start of loading until the first token of an answer, {where_pages_are}");
        stage.figure(&format!("first-token-{pages}"), Unit::Seconds, &[seconds], &note);
    }
}
