//! From the settings of a side to a client of its server.

use super::{LoadRequest, Surroundings};
use crate::compare::client::{Address, ApiKey, HttpClient};
use crate::compare::{Failure, FailureKind, Side};

/// A client of the server at `address`, with the key that the side names.
///
/// # Errors
/// The variable that is to hold the key is not set.
pub(super) fn connect(address: Address, side: &Side, surroundings: &Surroundings) -> Result<HttpClient, Failure> {
    let key = match &side.api_key_variable {
        None => None,
        Some(name) => Some(std::env::var(name).map(ApiKey::new).map_err(|_| {
            Failure::of(
                FailureKind::NotStarted,
                format!("the variable `{name}`, which is to hold the server's key, is not set"),
            )
        })?),
    };
    Ok(HttpClient::new(
        address,
        key,
        surroundings.limits,
        surroundings.interrupt.clone(),
    ))
}

/// The address that the side names, or the usual one.
///
/// # Errors
/// What it names is none.
pub(super) fn named_or_usual(side: &Side, usual: &str) -> Result<Address, Failure> {
    Address::read(side.address.as_deref().unwrap_or(usual))
}

/// Refuses a command for a server that is never started here.
pub(super) fn refuse_command(side: &Side) -> Result<(), Failure> {
    if side.command.is_none() {
        return Ok(());
    }
    let name = side.server.name();
    Err(Failure::of(
        FailureKind::NotStarted,
        format!("`{name}` is not started by this program, and has no use for `command`"),
    )
    .with_hint("leave `command` out, and start the server yourself"))
}

/// Refuses to serve without caches of prompts where nothing was, or can be, turned off: memory that grows would pass for a leak.
///
/// A server's own field for each request is not enough: llama-server, for one, keeps states of earlier prompts apart from it.
pub(super) fn refuse_without_prompt_cache(request: &LoadRequest, whose: &str) -> Result<(), Failure> {
    if request.prompt_cache {
        return Ok(());
    }
    Err(Failure::of(
        FailureKind::Unsupported,
        format!("{whose} keeps its caches of prompts as they are"),
    ))
}
