//! Mutant schemata: all sampled mutants of a source tree in one compiled program, each behind a switch.
//!
//! Reads mutants as `cargo mutants --list --json` prints them, each with a `number` of its own, and rewrites the files of
//! a copy of the tree in place: where a mutant changes the program, the copy asks `crate::mutant_switch::is_on(number)`
//! and does what the mutant would do, or else what was written. The tree is compiled once instead of once per mutant.
//! After R. H. Untch, A. J. Offutt and M. J. Harrold, "Mutation analysis using mutant schemata", ISSTA 1993.
//!
//! Prints a JSON array of the mutants that cannot be asked about at run time, each with the reason.

mod edits;
mod mutant;
mod sites;

use anyhow::{Context, Result, bail};
use mutant::{Inexpressible, Mutant};
use std::collections::BTreeMap;
use std::path::Path;
use std::{env, fs};

/// The module that the instrumented copy asks.
const SWITCH: &str = include_str!("mutant_switch.rs");

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [list, tree] = arguments.as_slice() else {
        bail!("usage: mutants MUTANTS.json FOLDER");
    };
    let listed = fs::read_to_string(list).with_context(|| format!("cannot read {list}"))?;
    let mutants: Vec<Mutant> = serde_json::from_str(&listed).with_context(|| format!("cannot understand {list}"))?;

    let mut by_file: BTreeMap<&str, Vec<&Mutant>> = BTreeMap::new();
    for mutant in &mutants {
        by_file.entry(&mutant.file).or_default().push(mutant);
    }
    let mut inexpressible = Vec::new();
    for (file, mutants) in by_file {
        instrument(&Path::new(tree).join(file), &mutants, &mut inexpressible).with_context(|| file.to_owned())?;
    }
    add_switch(Path::new(tree))?;
    println!("{}", serde_json::to_string_pretty(&inexpressible)?);
    Ok(())
}

fn instrument(path: &Path, mutants: &[&Mutant], inexpressible: &mut Vec<Inexpressible>) -> Result<()> {
    let source = fs::read_to_string(path)?;
    let syntax = syn::parse_file(&source)?;
    let mut edits = edits::Edits::default();
    for mutant in mutants {
        match sites::switch(&source, &syntax, mutant, &mut edits) {
            Ok(()) => {}
            Err(reason) => inexpressible.push(Inexpressible {
                number: mutant.number,
                reason,
            }),
        }
    }
    fs::write(path, edits.apply(&source))?;
    Ok(())
}

fn add_switch(tree: &Path) -> Result<()> {
    fs::write(tree.join("src/mutant_switch.rs"), SWITCH)?;
    let library = tree.join("src/lib.rs");
    let source = fs::read_to_string(&library)?;
    fs::write(
        library,
        source + "\n#[doc(hidden)]\n#[allow(missing_docs)]\npub mod mutant_switch;\n",
    )?;
    Ok(())
}
