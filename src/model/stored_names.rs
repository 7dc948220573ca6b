//! From the names and layouts in which files hold tensors to those of the model.

use std::collections::{BTreeMap, BTreeSet};

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::ops::stack;

use super::architectures::StoredForm;
use super::{ModelConfiguration, StoredTensor};

/// What ends the name of a weight; packed ones have the other two beside it.
const WEIGHT: &str = ".weight";
const PACKING: [&str; 2] = [".scales", ".biases"];

/// Gives the tensors of files the names and layouts of the model where they have others of the family's; returns what
/// is no weight of the model, with the reason.
///
/// What fits no form stays as it is, for the check against the configuration to report. So does one of two tensors that
/// would be the same.
pub(super) fn translate(
    loaded: &mut BTreeMap<String, Array>,
    configuration: &ModelConfiguration,
) -> Result<BTreeMap<String, &'static str>, Exception> {
    let architecture = configuration.architecture;
    let set_aside: BTreeMap<String, &'static str> = loaded
        .keys()
        .filter_map(|name| Some((name.clone(), architecture.set_aside(name)?)))
        .collect();
    loaded.retain(|name, _| !set_aside.contains_key(name));
    let mut translated = BTreeMap::new();
    let mut used = BTreeSet::new();
    for tensor in configuration.tensors() {
        let forms = architecture.stored_forms(configuration, &tensor.name);
        for (name, forms) in with_packing(&tensor.name, &forms) {
            if loaded.contains_key(&name) {
                continue;
            }
            for form in &forms {
                if let Some(array) = in_form(loaded, form)? {
                    used.extend(form.names().into_iter().cloned());
                    translated.insert(name, array);
                    break;
                }
            }
        }
    }
    loaded.retain(|name, _| !used.contains(name));
    loaded.extend(translated);
    Ok(set_aside)
}

/// The forms of a tensor, and those of the scales and biases that it has where it is packed.
fn with_packing(name: &str, forms: &[StoredForm]) -> Vec<(String, Vec<StoredForm>)> {
    let mut all = vec![(name.to_owned(), forms.to_vec())];
    let Some(module) = name.strip_suffix(WEIGHT) else {
        return all;
    };
    for ending in PACKING {
        let of_part = |name: &String| name.strip_suffix(WEIGHT).map(|module| format!("{module}{ending}"));
        let forms = forms.iter().filter_map(|form| match form {
            StoredForm::Renamed(name) => of_part(name).map(StoredForm::Renamed),
            StoredForm::Stacked(names) => names
                .iter()
                .map(of_part)
                .collect::<Option<_>>()
                .map(StoredForm::Stacked),
            // Packed columns cannot be exchanged with rows.
            StoredForm::Transposed(_) | StoredForm::Part { .. } => None,
        });
        all.push((format!("{module}{ending}"), forms.collect()));
    }
    all
}

/// The tensor that `loaded` holds in `form`; `None` when it does not, or when the parts do not fit together.
fn in_form(loaded: &BTreeMap<String, Array>, form: &StoredForm) -> Result<Option<Array>, Exception> {
    match form {
        StoredForm::Renamed(name) => Ok(loaded.get(name).cloned()),
        StoredForm::Transposed(name) => {
            let is_packed = name
                .strip_suffix(WEIGHT)
                .is_some_and(|module| loaded.contains_key(&format!("{module}{}", PACKING[0])));
            let matrix = loaded.get(name).filter(|array| array.ndim() == 2 && !is_packed);
            matrix.map(|array| array.t().contiguous()).transpose()
        }
        StoredForm::Stacked(names) => {
            let parts: Option<Vec<&Array>> = names.iter().map(|name| loaded.get(name)).collect();
            let alike = |parts: &[&Array]| {
                // Other element types are widened to the widest.
                let same = |pair: &[&Array]| pair[0].shape() == pair[1].shape();
                !parts.is_empty() && parts.windows(2).all(same)
            };
            parts
                .filter(|parts| alike(parts))
                .map(|parts| stack(&parts, 0))
                .transpose()
        }
        StoredForm::Part { name, part, parts } => {
            let divisible = |array: &&Array| array.ndim() > 1 && (array.dim(1) as usize).is_multiple_of(*parts);
            let Some(whole) = loaded.get(name).filter(divisible) else {
                return Ok(None);
            };
            Ok(whole.split_equal(*parts as i32, 1)?.into_iter().nth(*part))
        }
    }
}

/// The tensors that the configuration expects, with their shapes: where files hold some parts of one and not all, or
/// not all alike, its parts.
pub(super) fn expected_beside(
    tensors: &BTreeMap<String, StoredTensor>,
    configuration: &ModelConfiguration,
) -> BTreeMap<String, Vec<usize>> {
    let mut expected = BTreeMap::new();
    for (name, shape) in configuration.expected_tensors() {
        let forms = configuration.architecture.stored_forms(configuration, &name);
        let parts = forms.into_iter().find_map(|form| match form {
            StoredForm::Stacked(names) if names.iter().any(|part| tensors.contains_key(part)) => Some(names),
            _ => None,
        });
        match parts.filter(|_| !tensors.contains_key(&name)) {
            Some(parts) => expected.extend(parts.into_iter().map(|part| (part, shape[1..].to_vec()))),
            None => {
                expected.insert(name, shape);
            }
        }
    }
    expected
}

/// The tensors of the model in the form that transformers reads, from those under the model's own names.
///
/// Packed tensors must be unpacked before.
pub(super) fn to_hugging_face(
    tensors: BTreeMap<String, Array>,
    configuration: &ModelConfiguration,
) -> Result<BTreeMap<String, Array>, Exception> {
    let architecture = configuration.architecture;
    let mut written = BTreeMap::new();
    for (name, array) in tensors {
        match architecture.stored_forms(configuration, &name).into_iter().next() {
            None => {
                written.insert(name, array);
            }
            Some(StoredForm::Renamed(stored)) => {
                written.insert(stored, array);
            }
            Some(StoredForm::Transposed(stored)) => {
                written.insert(stored, array.t().contiguous()?);
            }
            Some(StoredForm::Stacked(parts)) => {
                for (index, part) in parts.into_iter().enumerate() {
                    let row = Array::from_int(index as i32);
                    written.insert(part, array.take_axis(row, 0)?);
                }
            }
            Some(StoredForm::Part { .. }) => {
                let problem = format!("`{name}` is a part of another tensor in files");
                return Err(Exception::custom(problem));
            }
        }
    }
    Ok(written)
}
