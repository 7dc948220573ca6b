//! Prompts that fill the context.

use super::filler::{longest_prompt, prompt};
use super::requests::{PROBE, system_message};
use super::thresholds::{
    CONTEXT_STEP, ESTIMATE_RESERVE, LENGTH_TOLERANCE, PROBE_WORDS, SHORTER_CONTEXTS, TEMPLATE_ROOM, TEMPLATE_TOKENS,
    USUAL_BYTES_PER_TOKEN,
};
use super::{Order, Scenario, Stage, Stop};
use crate::compare::servers::LoadRequest;
use crate::compare::{Failure, Plan};

/// Group and phase of the longest prompt.
const MEASURE: &str = "measure";

/// As long as every number that makes a prompt new.
const NONCE: &str = "123456789012";

pub(super) struct ContextStress;

/// How long prompts are.
enum Length {
    /// By the model's own tokenizer.
    Counted {
        /// Tokens of the system message and the template.
        around: usize,
    },
    /// The server counts so many tokens for a prompt without records and for each byte more.
    Told {
        /// Tokens of a prompt of no length.
        template: f64,
        /// Tokens of a byte.
        per_byte: f64,
    },
}

impl Scenario for ContextStress {
    fn name(&self) -> &'static str {
        "context-stress"
    }

    fn summary(&self) -> &'static str {
        "a prompt that fills the context, and shorter ones: how speed and memory change with length"
    }

    /// Once: reading a long prompt can take minutes, and each of its thousands of tokens is a repeat already.
    fn rounds(&self, _plan: &Plan) -> usize {
        1
    }

    fn needs(&self, plan: &Plan) -> LoadRequest {
        let prompt = plan.context_tokens + plan.context_tokens / ESTIMATE_RESERVE;
        LoadRequest {
            context_length: (prompt + plan.answer_tokens + TEMPLATE_ROOM).next_multiple_of(CONTEXT_STEP),
            parallel: 1,
            prompt_cache: true,
        }
    }

    fn run(&self, stage: &mut Stage<'_>) -> Result<(), Stop> {
        let plan = stage.plan();
        stage.load(&self.needs(plan))?;
        stage.warm_up()?;
        let length = length(stage)?;
        for tokens in SHORTER_CONTEXTS
            .into_iter()
            .filter(|tokens| *tokens < plan.context_tokens)
        {
            let group = format!("context-{tokens}");
            stage.phase(&group, |stage| ask(stage, &group, tokens, &length))?;
        }
        stage.phase(MEASURE, |stage| ask(stage, MEASURE, plan.context_tokens, &length))?;
        Ok(())
    }
}

/// Finds out how long prompts are: two short ones tell what the template costs and what text costs.
fn length(stage: &mut Stage<'_>) -> Result<Length, Failure> {
    if let Some(counter) = stage.counter() {
        match counter.count(&system_message(NONCE)) {
            Ok(system) => {
                return Ok(Length::Counted {
                    around: system + TEMPLATE_TOKENS,
                });
            }
            Err(reason) => stage.note(format!("prompts are sized by what the server counts: {reason}")),
        }
    }
    let mut told = Vec::new();
    for words in PROBE_WORDS {
        let text = prompt(words);
        let bytes = text.len() as f64;
        let order = Order {
            prompt: text,
            answer_tokens: 2,
        };
        let usage = stage.ask(PROBE, &order)?.usage;
        told.extend(usage.map(|usage| (bytes, usage.prompt_tokens as f64)));
    }
    if let [(few_bytes, few), (many_bytes, many)] = told[..]
        && many > few
    {
        let per_byte = (many - few) / (many_bytes - few_bytes);
        return Ok(Length::Told {
            template: few - per_byte * few_bytes,
            per_byte,
        });
    }
    stage.note("nobody counts tokens here, so that prompts are sized by four bytes of text for each token");
    Ok(Length::Told {
        template: 0.0,
        per_byte: 1.0 / USUAL_BYTES_PER_TOKEN,
    })
}

/// Asks a prompt of so many tokens.
fn ask(stage: &mut Stage<'_>, group: &str, tokens: usize, length: &Length) -> Result<(), Failure> {
    let text = match (length, stage.counter()) {
        (Length::Counted { around }, Some(counter)) => {
            longest_prompt(tokens, |text| counter.count(text).map(|count| around + count))
        }
        (Length::Told { template, per_byte }, _) => longest_prompt(tokens, |text| {
            Ok((template + per_byte * text.len() as f64).ceil() as usize)
        }),
        // Lengths are counted only where there is a counter.
        (Length::Counted { .. }, None) => Err("there is no tokenizer".to_owned()),
    };
    let text = match text {
        Ok(text) => text,
        Err(reason) => {
            stage.note(format!(
                "the prompt of {tokens} tokens was not asked, since it cannot be counted: {reason}"
            ));
            return Ok(());
        }
    };
    let order = Order {
        prompt: text,
        answer_tokens: stage.plan().answer_tokens,
    };
    let usage = stage.ask(group, &order)?.usage;
    if let Some(usage) = usage {
        let difference = (usage.prompt_tokens as f64 - tokens as f64).abs();
        if difference > LENGTH_TOLERANCE * tokens as f64 {
            stage.note(format!(
                "the prompt that was to have {tokens} tokens had {} as the server counts",
                usage.prompt_tokens
            ));
        }
    }
    Ok(())
}
