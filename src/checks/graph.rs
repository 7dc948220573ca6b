use std::collections::{BTreeMap, BTreeSet};

use mlx_graph::printed_graph;
use mlx_rs::Array;
use mlx_rs::error::Result as MlxResult;
use mlx_rs::module::ModuleParameters;
use mlx_rs::transforms::eval;

use super::failure::{CheckFailure, assert, named};
use super::pattern::{any_matches, idle};
use crate::param_diff::same_buffer;
use crate::param_snapshot::ParameterSnapshot;

/// The name of the check.
const CHECK: &str = "every_weight_is_seen";

/// Compares what the output of `forward` is computed from with what `model` lists as its parameters.
///
/// MLX is lazy: an output that was not evaluated yet knows every array that it is made from, and what is none of
/// `parameters()`, none of `inputs`, and the same array in two passes is a weight that the model keeps and does not list.
/// So blocks in a field without `#[param]` are found: no snapshot sees them, no gradient reaches them and no file holds
/// them. Names they have none, so their shapes are told.
///
/// The reverse is found too: parameters that are listed and of which no output is made. `others` are patterns of those
/// that `forward` is right to leave out.
///
/// Constant tables that a model keeps (rotary frequencies, masks) belong to `inputs`; scalars are passed over. `forward`
/// must not evaluate anything on its way, as `item()` does: what is evaluated has forgotten what it was made from.
///
/// # Errors
/// A weight is not listed, or a parameter not used; a pattern describes no parameter; MLX fails.
pub fn every_weight_is_seen<M: ModuleParameters>(
    model: &mut M,
    inputs: &[&Array],
    others: &[&str],
    mut forward: impl FnMut(&mut M) -> MlxResult<Array>,
) -> Result<(), CheckFailure> {
    let of_mlx = |error| CheckFailure::of_mlx(CHECK, &error);
    // Weights that are still to be computed, as fresh random ones, would be told by what they are computed from.
    let first = forward(model).map_err(of_mlx)?;
    eval(std::iter::once(&first).chain(inputs.iter().copied())).map_err(of_mlx)?;
    eval(ParameterSnapshot::capture(model).parameters().values()).map_err(of_mlx)?;
    // Two passes: what each makes anew, as a mask, is not the same array in both.
    let outputs = [forward(model).map_err(of_mlx)?, forward(model).map_err(of_mlx)?];
    let parameters = ParameterSnapshot::capture(model).into_parameters();
    let paths: Vec<&String> = parameters.keys().collect();
    let tokens: Vec<String> = (0..parameters.len()).map(|number| format!("p{number}")).collect();
    let inputs = inputs.iter().map(|array| ("input", *array));
    let known: Vec<(&str, &Array)> = tokens
        .iter()
        .map(String::as_str)
        .zip(parameters.values())
        .chain(inputs)
        .collect();
    let graph = printed_graph(&[&outputs[0], &outputs[1]], &known)
        .ok()
        .and_then(|text| Graph::parse(&text))
        .ok_or_else(|| CheckFailure {
            check: CHECK,
            headline: format!("the check `{CHECK}` could not be made"),
            found: vec!["MLX does not print what its arrays are computed from as it did in 0.32".to_owned()],
            expected: "a list of arrays and operations".to_owned(),
            hint: "use `file_is_covered` instead".to_owned(),
        })?;
    let read = graph.leaves_of_all_outputs();
    let names: BTreeMap<&str, &str> = tokens
        .iter()
        .map(String::as_str)
        .zip(paths.iter().map(|path| path.as_str()))
        .collect();
    let unlisted = read
        .iter()
        .filter(|leaf| leaf.shape != "()" && leaf.name != "input" && !names.contains_key(leaf.name.as_str()))
        .map(|leaf| format!("{} in {}", leaf.shape, leaf.dtype));
    let unlisted = named("used and not listed", unlisted);
    let used: BTreeSet<&str> = read
        .iter()
        .filter_map(|leaf| names.get(leaf.name.as_str()).copied())
        .collect();
    let mut unused = Vec::new();
    for (path, array) in parameters
        .iter()
        .filter(|(path, _)| !used.contains(path.as_str()) && !any_matches(others, path))
    {
        // An array under two paths has one name in the graph.
        let mut is_shared = false;
        for other in &used {
            is_shared |= same_buffer(array, &parameters[*other]).map_err(of_mlx)?;
        }
        if !is_shared {
            unused.push(format!("`{path}`"));
        }
    }
    let found: Vec<String> = [
        unlisted.clone(),
        named("listed and not used", unused),
        named(
            "patterns of no parameter",
            idle(others, paths.iter().map(|path| path.as_str())),
        ),
    ]
    .into_iter()
    .flatten()
    .collect();
    if found.is_empty() {
        return Ok(());
    }
    Err(failure(unlisted.is_some(), found, paths.len()))
}

/// [`every_weight_is_seen`], for tests.
///
/// # Panics
/// The check fails.
#[track_caller]
pub fn assert_every_weight_is_seen<M: ModuleParameters>(
    model: &mut M,
    inputs: &[&Array],
    others: &[&str],
    forward: impl FnMut(&mut M) -> MlxResult<Array>,
) {
    assert(every_weight_is_seen(model, inputs, others, forward));
}

fn failure(has_unlisted: bool, found: Vec<String>, parameters: usize) -> CheckFailure {
    let (headline, hint) = if has_unlisted {
        (
            "the model computes with weights that it does not list as its parameters",
            "mark the field that holds them with `#[param]`, blocks in a `Vec` too; give constant tables as inputs of this check",
        )
    } else {
        (
            "the model lists parameters that its output does not depend on",
            "use them in the forward pass, or name them as left out on purpose",
        )
    };
    CheckFailure {
        check: CHECK,
        headline: headline.to_owned(),
        found,
        expected: format!("an output that is computed from the {parameters} parameters of the model and nothing else"),
        hint: hint.to_owned(),
    }
}

/// An array that is computed from nothing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Leaf {
    name: String,
    shape: String,
    dtype: String,
}

/// What arrays are computed from.
#[derive(Debug, PartialEq, Eq)]
struct Graph {
    leaves: BTreeMap<String, Leaf>,
    outputs: Vec<String>,
    /// What each other array is computed from.
    sources: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    /// Reads what MLX prints; `None` when it is in another form.
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let leaves = arrays(lines.next()?.strip_prefix("Inputs:")?)?;
        let outputs = arrays(lines.next()?.strip_prefix("Outputs:")?)?;
        let mut sources: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for line in lines.filter(|line| !line.trim().is_empty()) {
            let (operation, results) = line.split_once(" -> ")?;
            // An operation without inputs is a name alone.
            let inputs = if operation.contains('[') {
                arrays(operation)?
            } else {
                Vec::new()
            };
            let inputs: BTreeSet<String> = inputs.into_iter().map(|leaf| leaf.name).collect();
            for result in arrays(results)? {
                sources.entry(result.name).or_default().extend(inputs.iter().cloned());
            }
        }
        Some(Self {
            leaves: leaves.into_iter().map(|leaf| (leaf.name.clone(), leaf)).collect(),
            outputs: outputs.into_iter().map(|output| output.name).collect(),
            sources,
        })
    }

    /// The leaves that every output is computed from.
    fn leaves_of_all_outputs(&self) -> BTreeSet<Leaf> {
        let mut common: Option<BTreeSet<Leaf>> = None;
        for output in &self.outputs {
            let leaves = self.leaves_of(output);
            common = Some(match common {
                None => leaves,
                Some(common) => common.intersection(&leaves).cloned().collect(),
            });
        }
        common.unwrap_or_default()
    }

    fn leaves_of(&self, output: &str) -> BTreeSet<Leaf> {
        let mut open = vec![output];
        let mut seen = BTreeSet::from([output]);
        let mut leaves = BTreeSet::new();
        while let Some(name) = open.pop() {
            leaves.extend(self.leaves.get(name).cloned());
            for source in self.sources.get(name).into_iter().flatten() {
                if seen.insert(source) {
                    open.push(source);
                }
            }
        }
        leaves
    }
}

/// The arrays in `A [(2,3), float32], B [(), int32]`; what else stands before the first is the operation's name.
fn arrays(text: &str) -> Option<Vec<Leaf>> {
    let mut found = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (name, after) = rest.split_once(" [")?;
        let (description, after) = after.split_once(']')?;
        let (shape, dtype) = description.rsplit_once(", ")?;
        found.push(Leaf {
            name: name.split_whitespace().last()?.to_owned(),
            shape: shape.to_owned(),
            dtype: dtype.to_owned(),
        });
        rest = after.trim_start_matches([',', ' ']);
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::{Graph, arrays};

    #[test]
    fn leaves_are_those_of_all_outputs() {
        let text = "Inputs: p0 [(2,3), float32], A [(3), float32], B [(3), float32], C [(), float32]\n\
                    Outputs: D [(2), float32], E [(2), float32]\n\
                    Matmul p0 [(2,3), float32], A [(3), float32] -> D [(2), float32]\n\
                    Arange -> G [(2), int32]\n\
                    Matmul p0 [(2,3), float32], B [(3), float32] -> F [(2), float32]\n\
                    Add F [(2), float32], C [(), float32] -> E [(2), float32]\n";
        let graph = Graph::parse(text).unwrap();
        let names =
            |output: &str| -> Vec<String> { graph.leaves_of(output).into_iter().map(|leaf| leaf.name).collect() };
        assert_eq!(names("D"), ["A", "p0"]);
        assert_eq!(names("E"), ["B", "C", "p0"]);
        let common: Vec<String> = graph
            .leaves_of_all_outputs()
            .into_iter()
            .map(|leaf| leaf.name)
            .collect();
        assert_eq!(common, ["p0"]);
    }

    #[test]
    fn another_form_is_refused() {
        for text in [
            "",
            "digraph {",
            "Inputs: A\nOutputs: ",
            "Inputs: \nOutputs: \nMatMul A B",
        ] {
            assert_eq!(Graph::parse(text), None, "{text}");
        }
        assert_eq!(arrays("A [float32]"), None);
    }
}
