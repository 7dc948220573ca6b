use super::live_adapters::adapters;
use super::rule::declare_rule;
use super::wording::{counted, grouped};
use super::{Finding, Fix, Outcome};
use crate::evidence::{AdapterEvidence, Evidence, RunSettings};

declare_rule! {
    /// ## What it finds
    ///
    /// Adapters that are there, but not as the settings ask: another rank, scale or dropout, or other modules.
    ///
    /// ## Why it matters
    ///
    /// An option was accepted and has no effect. The run measures something else than what was meant, and the file that
    /// is saved describes adapters that do not exist.
    ///
    /// ## Evidence
    ///
    /// Identity: rank, scale and dropout of every attached adapter are those of the settings, and the modules that carry
    /// one are those that the settings name. Modules that carry none are another rule's, adapter-not-attached.
    ///
    /// ## How to fix
    ///
    /// Follow the option from the command line or the file to the call that makes the adapters. Usual breaks: a wrapper
    /// that does not pass it on, a name that is spelt differently on the two sides, a number that YAML reads as text.
    ///
    /// ## References
    ///
    /// - <https://github.com/MakazhanAlpamys/Soup/issues/686>
    /// - <https://github.com/MakazhanAlpamys/Soup/issues/1069>
    /// - <https://github.com/ml-explore/mlx-examples/issues/1196>
    /// - <https://github.com/ml-explore/mlx-lm/issues/765>
    /// - <https://github.com/hiyouga/LlamaFactory/issues/4014>
    pub static ADAPTER_SETTINGS_NOT_APPLIED = {
        name: "adapter-settings-not-applied",
        code: "ATTACH005",
        summary: "the attached adapters are not as the settings ask",
        phase: Parameters,
        severity: Error,
        status: Stable,
        since: "0.1.0",
        explains: &[
            "scale-too-high",
            "training-diverged",
            "update-too-large",
            "adapter-configuration-wrong",
            "adapter-file-unusable",
            "adapter-lost-on-reload",
        ],
    }
}

fn check(evidence: &Evidence) -> Outcome {
    let adapter = match adapters(evidence) {
        Ok(adapter) => adapter,
        Err(outcome) => return outcome,
    };
    let settings = &evidence.settings;
    let differences = differences(adapter, settings);
    let Some(first) = differences.first() else {
        return Outcome::Pass;
    };
    let headline = match differences.len() {
        1 => format!(
            "the adapters have {}, the settings ask for {}",
            first.found, first.asked
        ),
        more => format!("{more} settings of the adapters were not applied"),
    };
    let joined = |side: fn(&Difference) -> &str| differences.iter().map(side).collect::<Vec<_>>().join(", ");
    Finding::new(
        headline,
        joined(|difference| &difference.found),
        joined(|difference| &difference.asked),
    )
    .at(&adapter.attached)
    .with("ranks", adapter.ranks.clone())
    .with("scales", adapter.scales.clone())
    .with("dropouts", adapter.dropouts.clone())
    .with("modules_attached", &adapter.attached)
    .with("modules_expected", &adapter.expected)
    .fix(Fix::by_hand(
        "pass rank, scale, dropout, keys and layers on to the call that makes the adapters, and read them back from the \
         model afterwards",
    ))
    .into()
}

/// One setting that was not applied.
struct Difference {
    found: String,
    asked: String,
}

fn differences(adapter: &AdapterEvidence, settings: &RunSettings) -> Vec<Difference> {
    let mut differences = Vec::new();
    let mut compare = |name: &str, found: Vec<String>, asked: String| {
        if found.iter().any(|value| *value != asked) {
            differences.push(Difference {
                found: format!("{name} {}", found.join(" and ")),
                asked: format!("{name} {asked}"),
            });
        }
    };
    // Adapters hold f32, and 0.1 is another number there than in the settings.
    let shown = |value: f64| (value as f32).to_string();
    let all_shown = |values: &[f64]| values.iter().copied().map(shown).collect();
    let ranks = adapter.ranks.iter().map(usize::to_string).collect();
    compare("rank", ranks, settings.rank.to_string());
    compare("scale", all_shown(&adapter.scales), shown(settings.scale));
    compare("dropout", all_shown(&adapter.dropouts), shown(settings.dropout));
    let (attached, expected) = (&adapter.attached, &adapter.expected);
    let elsewhere = attached.total == expected.total && attached.first != expected.first;
    if attached.total > expected.total || elsewhere {
        differences.push(Difference {
            found: if elsewhere {
                format!("{} other than those named", counted(attached.total, "adapter"))
            } else {
                counted(attached.total, "adapter")
            },
            asked: format!("adapters on {} modules", grouped(expected.total as u64)),
        });
    }
    differences
}
