//! What was asked for, who served, and on what.

use super::{Block, Prose, Table, list, number, or_nothing, words};
use crate::compare::report::quantity::{counted, duration, shown};
use crate::compare::report::wording::start;
use crate::compare::{Format, Machine, Plan, Record, ServerDescription, TestRecord, Unit};

/// The plan, with the models and what was asked.
pub(super) fn plan(record: &Record) -> Vec<Block> {
    let plan = &record.plan;
    let mut blocks = vec![Block::Table(models(plan)), Block::Table(settings(plan))];
    if !plan.prompts.is_empty() {
        blocks.push(Block::Heading(Prose::plain("Prompts")));
        blocks.push(Block::List(plan.prompts.iter().map(Prose::plain).collect()));
    }
    blocks
}

fn models(plan: &Plan) -> Table {
    let columns = ["pair", "format", "server", "model", "address", "command", "environment"].map(words);
    let mut table = Table::new("Models", columns.to_vec());
    for pair in &plan.pairs {
        for format in Format::ALL {
            let side = pair.side(format);
            // Values may be secret.
            let names: Vec<Prose> = side.environment.keys().map(Prose::code).collect();
            table.rows.push(vec![
                Prose::plain(&pair.name),
                Prose::plain(format.title()),
                Prose::plain(side.server.name()),
                Prose::code(&side.model),
                side.address
                    .as_ref()
                    .map_or_else(|| Prose::plain("the usual one"), Prose::code),
                match &side.command {
                    Some(command) => Prose::code(command.join(" ")),
                    None => Prose::plain("the usual one"),
                },
                list(names, ", "),
            ]);
        }
    }
    table
}

fn settings(plan: &Plan) -> Table {
    let limits = &plan.limits;
    let levels: Vec<String> = plan.concurrency.iter().map(ToString::to_string).collect();
    let rate = plan.request_rate.map_or_else(
        || "each when one before it has ended".to_owned(),
        |rate| {
            format!(
                "{}, whether answers have come or not",
                shown(Unit::RequestsPerSecond, rate)
            )
        },
    );
    Table::facts(
        "Settings",
        vec![
            ("scenarios", Prose::plain(plan.scenarios.join(", "))),
            (
                "rounds, in which the formats take turns",
                Prose::plain(plan.rounds.to_string()),
            ),
            ("measured requests of a test", Prose::plain(plan.repeats.to_string())),
            ("warm-ups before them", Prose::plain(plan.warm_ups.to_string())),
            ("longest answer", Prose::plain(counted(plan.answer_tokens, "token"))),
            ("long prompt", Prose::plain(counted(plan.context_tokens, "token"))),
            ("requests of a leak test", Prose::plain(plan.leak_requests.to_string())),
            ("requests at one time", Prose::plain(levels.join(", "))),
            ("requests are sent", Prose::plain(rate)),
            (
                "limits",
                Prose::plain(format!(
                    "loading {}, request {}, between two pieces of a stream {}, test {}",
                    duration(limits.load),
                    duration(limits.request),
                    duration(limits.stall),
                    duration(limits.test)
                )),
            ),
            (
                "memory is sampled every",
                Prose::plain(format!("{} ms", plan.memory_interval_ms)),
            ),
            ("seed", Prose::plain(plan.seed.to_string())),
        ],
    )
}

/// Everybody who served, each once, with the scenarios.
pub(super) fn servers(record: &Record) -> Vec<Block> {
    let mut known: Vec<(&TestRecord, &ServerDescription, Vec<&str>)> = Vec::new();
    for test in &record.tests {
        let Some(server) = &test.server else { continue };
        let scenario = test.key.scenario.as_str();
        let same = known.iter_mut().find(|(other, description, _)| {
            (&other.key.pair, other.key.format) == (&test.key.pair, test.key.format) && is_alike(description, server)
        });
        match same {
            Some((_, _, scenarios)) if scenarios.contains(&scenario) => {}
            Some((_, _, scenarios)) => scenarios.push(scenario),
            None => known.push((test, server, vec![scenario])),
        }
    }
    if known.is_empty() {
        return vec![Block::Paragraph(Prose::plain("No server came up."))];
    }
    let columns = vec![
        words("pair"),
        words("format"),
        words("server"),
        words("version"),
        words("model"),
        words("quantisation"),
        number("context"),
        words("how"),
        words("command"),
        words("details"),
        words("scenarios"),
    ];
    let mut table = Table::new("Servers", columns);
    table.rows.extend(known.into_iter().map(|(test, server, scenarios)| {
        let details = server
            .details
            .iter()
            .map(|(name, value)| Prose::plain(format!("{name}: ")).then(Prose::code(value)));
        let details: Vec<Prose> = details.collect();
        vec![
            Prose::plain(&test.key.pair),
            Prose::plain(test.key.format.title()),
            Prose::plain(server.kind.name()),
            or_nothing(server.version.as_ref()),
            Prose::code(&server.model),
            or_nothing(server.quantisation.as_ref()),
            or_nothing(server.context_length.map(|tokens| tokens.to_string())),
            Prose::plain(start(server.start)),
            match server.command_line() {
                Some(command) => Prose::code(command),
                None => Prose::plain("at ").then(Prose::code(&server.address)),
            },
            list(details, "; "),
            Prose::plain(scenarios.join(", ")),
        ]
    }));
    vec![Block::Table(table)]
}

/// Whether two servers differ in nothing but the port that was free.
fn is_alike(one: &ServerDescription, other: &ServerDescription) -> bool {
    let rest = |server: &ServerDescription| ServerDescription {
        address: match server.command {
            Some(_) => String::new(),
            None => server.address.clone(),
        },
        command: server.command_line().map(|command| vec![command]),
        ..server.clone()
    };
    rest(one) == rest(other)
}

/// The machine and the program.
pub(super) fn machine(record: &Record) -> Vec<Block> {
    let Machine {
        tool_version,
        platform,
        system,
        processor,
        usable_cores,
        memory,
        load_average,
    } = &record.machine;
    let load = load_average.map(|load| load.map(|load| format!("{load:.2}")).join(", "));
    vec![Block::Table(Table::facts(
        "Machine",
        vec![
            ("processor", or_nothing(processor.as_ref())),
            ("cores this program may use", Prose::plain(usable_cores.to_string())),
            (
                "memory",
                or_nothing(memory.map(|bytes| shown(Unit::Bytes, bytes as f64))),
            ),
            ("platform", Prose::plain(platform)),
            ("system", or_nothing(system.as_ref())),
            ("load average when it began, over 1, 5 and 15 minutes", or_nothing(load)),
            ("mlx-diagnose", Prose::plain(tool_version)),
        ],
    ))]
}
