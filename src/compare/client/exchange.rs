//! One request over a connection of its own, whose answer is read by a thread of its own: a call that waits for a server
//! cannot be ended, but its connection can.

use std::io::Read;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use ureq::config::AutoHeaderValue;
use ureq::http::header::{AUTHORIZATION, CONTENT_TYPE};
use ureq::{Agent, Error, Timeout};

use super::address::Address;
use super::api_key::ApiKey;
use super::bounds::{CONNECT, WAITING_PIECES};
use crate::compare::{Failure, FailureKind};

/// Bytes that are read at one time; an event of a stream is far shorter.
const PIECE: usize = 16 << 10;

/// Media type of what is sent, and of an answer that is no stream.
pub(super) const JSON: &str = "application/json";

/// What is sent.
#[derive(Debug, Clone)]
pub(super) struct Request {
    /// Whole address.
    pub(super) address: String,
    /// JSON to be posted; `None` gets.
    pub(super) body: Option<String>,
}

/// What comes back, in this order: one head, any bytes, and an end unless a failure comes before.
#[derive(Debug)]
pub(super) enum Arrival {
    /// Status and headers.
    Head {
        /// The HTTP status.
        status: u16,
        /// The media type without its parameters, in small letters.
        media_type: Option<String>,
    },
    /// A part of the body.
    Bytes(Vec<u8>),
    /// The body is complete.
    End,
}

type Stamped = Result<(Instant, Arrival), Failure>;

/// A request under way. Dropping it closes the connection, by which a server knows that nobody waits any more.
#[derive(Debug)]
pub(super) struct Exchange {
    agent: Agent,
    arrivals: Receiver<Stamped>,
}

impl Exchange {
    /// Sends a request.
    pub(super) fn start(server: &Address, key: Option<&ApiKey>, request: Request) -> Result<Self, Failure> {
        let agent = agent(server);
        let (sender, arrivals) = sync_channel(WAITING_PIECES);
        let of_thread = agent.clone();
        let key = key.cloned();
        let begun = std::thread::Builder::new()
            .name("compare-request".to_owned())
            .spawn(move || {
                let outcome = send(&of_thread, key.as_ref(), &request, &sender);
                // Nobody listens any more where the request was given up.
                let _ = sender.send(outcome.map(|()| (Instant::now(), Arrival::End)));
            });
        match begun {
            Ok(_) => Ok(Self { agent, arrivals }),
            Err(error) => Err(Failure::of(
                FailureKind::NotStarted,
                format!("no thread could be started for a request: {error}"),
            )),
        }
    }

    /// What comes next; `None` where nothing comes for so long.
    pub(super) fn wait(&self, patience: Duration) -> Option<Stamped> {
        match self.arrivals.recv_timeout(patience) {
            Ok(arrival) => Some(arrival),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Err(Failure::of(
                FailureKind::BrokenOff,
                "the call ended without a word",
            ))),
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.agent.clone().shutdown();
    }
}

/// A client for one request, so that no answer waits for the connection of another.
fn agent(server: &Address) -> Agent {
    let mut configuration = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_resolve(Some(CONNECT))
        .timeout_connect(Some(CONNECT))
        // A compressed stream comes in other pieces than those that the server wrote.
        .accept_encoding(AutoHeaderValue::None);
    if server.is_local() {
        // A proxy of the environment would look for the server on another machine.
        configuration = configuration.proxy(None);
    }
    configuration.build().into()
}

/// Sends the request and tells what comes.
fn send(agent: &Agent, key: Option<&ApiKey>, request: &Request, sender: &SyncSender<Stamped>) -> Result<(), Failure> {
    let response = match (&request.body, key) {
        (None, None) => agent.get(&request.address).call(),
        (None, Some(key)) => agent
            .get(&request.address)
            .header(AUTHORIZATION, key.authorization())
            .call(),
        (Some(body), None) => agent.post(&request.address).header(CONTENT_TYPE, JSON).send(body),
        (Some(body), Some(key)) => {
            let call = agent.post(&request.address).header(CONTENT_TYPE, JSON);
            call.header(AUTHORIZATION, key.authorization()).send(body)
        }
    };
    let response = response.map_err(|error| before_headers(&request.address, &error))?;
    let at = Instant::now();
    let media_type = response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let head = Arrival::Head {
        status: response.status().as_u16(),
        media_type: media_type.map(without_parameters),
    };
    if sender.send(Ok((at, head))).is_err() {
        return Ok(());
    }
    let mut body = response.into_body().into_reader();
    let mut piece = vec![0; PIECE];
    loop {
        let read = body.read(&mut piece).map_err(|error| {
            Failure::of(
                FailureKind::BrokenOff,
                format!("the connection ended in the middle of an answer: {error}"),
            )
        })?;
        let at = Instant::now();
        let Some(bytes) = piece.get(..read).filter(|bytes| !bytes.is_empty()) else {
            return Ok(());
        };
        if sender.send(Ok((at, Arrival::Bytes(bytes.to_vec())))).is_err() {
            return Ok(());
        }
    }
}

fn without_parameters(media_type: &str) -> String {
    let bare = media_type.split_once(';').map_or(media_type, |(bare, _)| bare);
    bare.trim().to_ascii_lowercase()
}

/// Why no status came.
fn before_headers(address: &str, error: &Error) -> Failure {
    let unreachable = |detail: &str| {
        Failure::of(
            FailureKind::Unreachable,
            format!("nobody answers at `{address}`: {detail}"),
        )
        .with_hint("start the server, and check its address")
    };
    match error {
        Error::Io(error) => match error.kind() {
            std::io::ErrorKind::ConnectionReset
            | std::io::ErrorKind::ConnectionAborted
            | std::io::ErrorKind::BrokenPipe
            | std::io::ErrorKind::UnexpectedEof => Failure::of(
                FailureKind::BrokenOff,
                format!("the connection ended before an answer began: {error}"),
            ),
            _ => unreachable(&error.to_string()),
        },
        Error::Timeout(Timeout::Connect | Timeout::Resolve) => {
            unreachable(&format!("no connection within {} s", CONNECT.as_secs()))
        }
        Error::Protocol(detail) => Failure::of(
            FailureKind::Malformed,
            format!("what came from `{address}` is no HTTP: {detail}"),
        ),
        Error::LargeResponseHeader(..) => Failure::of(
            FailureKind::Malformed,
            format!("the headers from `{address}` have no end"),
        ),
        other => unreachable(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::time::Duration;

    use super::super::address::Address;
    use super::{Exchange, Request};

    /// What the client and the buffers of both sockets may hold: those of Linux grow to some 10 MiB.
    const MOST_HELD: usize = 64 << 20;

    /// Without a bound the server gets rid of all that it has, however late it is read.
    #[test]
    fn a_server_that_sends_faster_than_is_read_has_to_wait() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
            let _ = stream.read(&mut [0; 1024]).unwrap();
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
                .unwrap();
            let piece = vec![b'a'; 64 << 10];
            let mut sent = 0;
            while sent < 4 * MOST_HELD {
                match stream.write(&piece) {
                    Ok(written) => sent += written,
                    Err(_) => break,
                }
            }
            sent
        });
        let address = Address::local(port);
        let request = Request {
            address: address.of("/"),
            body: None,
        };
        let exchange = Exchange::start(&address, None, request).unwrap();
        let sent = server.join().unwrap();
        assert!(sent < MOST_HELD, "{sent} bytes wait to be read");
        drop(exchange);
    }
}
