//! An HTTP server that answers from scripts: the shapes that servers document, and every way in which they fail.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

/// Longest time that a thread of the server waits for its client.
const PATIENCE: Duration = Duration::from_secs(20);

/// One answer.
#[derive(Debug, Clone)]
pub struct Script {
    status: u16,
    media_type: &'static str,
    steps: Vec<Step>,
}

#[derive(Debug, Clone)]
enum Step {
    /// Bytes, as one chunk.
    Send(Vec<u8>),
    Wait(Duration),
    /// Closes the connection without the last chunk.
    BreakOff,
    /// Says nothing until the client goes.
    Hang,
    /// Sends the same bytes again and again until the client goes.
    Repeat(Vec<u8>, Duration),
}

impl Script {
    /// A stream of events that begins with nothing.
    pub fn events() -> Self {
        Self {
            status: 200,
            media_type: "text/event-stream; charset=utf-8",
            steps: Vec::new(),
        }
    }

    /// A page.
    pub fn page(html: &str) -> Self {
        Self {
            media_type: "text/html",
            ..Self::events().send(html)
        }
    }

    /// JSON values on lines.
    pub fn lines() -> Self {
        Self {
            media_type: "application/x-ndjson",
            ..Self::events()
        }
    }

    /// One JSON value.
    pub fn json(status: u16, value: &Value) -> Self {
        Self {
            status,
            media_type: "application/json",
            steps: vec![Step::Send(value.to_string().into_bytes())],
        }
    }

    /// No answer at all.
    pub fn silence() -> Self {
        Self {
            status: 0,
            ..Self::events().hang()
        }
    }

    /// Adds bytes.
    pub fn send(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.steps.push(Step::Send(bytes.into()));
        self
    }

    /// Adds an event without a name.
    pub fn data(self, value: &Value) -> Self {
        self.send(format!("data: {value}\n\n"))
    }

    /// Adds a named event, whose data repeats its name as LM Studio's do.
    pub fn event(self, name: &str, mut value: Value) -> Self {
        value["type"] = name.into();
        self.send(format!("event: {name}\ndata: {value}\n\n"))
    }

    /// Adds a line.
    pub fn line(self, value: &Value) -> Self {
        self.send(format!("{value}\n"))
    }

    /// Adds the last event of OpenAI's streams.
    pub fn done(self) -> Self {
        self.send("data: [DONE]\n\n")
    }

    pub fn wait(mut self, duration: Duration) -> Self {
        self.steps.push(Step::Wait(duration));
        self
    }

    pub fn break_off(mut self) -> Self {
        self.steps.push(Step::BreakOff);
        self
    }

    pub fn hang(mut self) -> Self {
        self.steps.push(Step::Hang);
        self
    }

    pub fn repeat(mut self, bytes: &str, every: Duration) -> Self {
        self.steps.push(Step::Repeat(bytes.as_bytes().to_vec(), every));
        self
    }
}

/// What a client asked.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Method and path, for example `GET /health`.
    pub route: String,
    /// The header `authorization`.
    pub authorization: Option<String>,
    /// The body; null where it has none.
    pub body: Value,
}

#[derive(Debug, Default)]
struct State {
    scripts: Mutex<BTreeMap<String, VecDeque<Script>>>,
    asked: Mutex<Vec<Asked>>,
    given_up: AtomicUsize,
    is_over: AtomicBool,
}

/// A server on a free port, until it is dropped.
#[derive(Debug)]
pub struct ReplayServer {
    address: SocketAddr,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

impl ReplayServer {
    /// Serves scripts by route. Several of one route are used in turn, and the last of them again and again; other routes
    /// answer with 404.
    pub fn start(scripts: impl IntoIterator<Item = (&'static str, Script)>) -> Self {
        let state = Arc::new(State::default());
        for (route, script) in scripts {
            let mut routes = state.scripts.lock().unwrap();
            routes.entry(route.to_owned()).or_default().push_back(script);
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let of_thread = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if of_thread.is_over.load(Ordering::SeqCst) {
                    return;
                }
                let state = Arc::clone(&of_thread);
                // A client that goes in the middle ends its thread.
                std::thread::spawn(move || drop(answer(&stream, &state)));
            }
        });
        Self {
            address,
            state,
            thread: Some(thread),
        }
    }

    /// Its address.
    pub fn address(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What was asked so far, in order.
    pub fn asked(&self) -> Vec<Asked> {
        self.state.asked.lock().unwrap().clone()
    }

    /// The routes that were asked so far, in order.
    pub fn routes(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.route).collect()
    }

    /// The body of the last request to a route.
    pub fn last_body(&self, route: &str) -> Value {
        let asked = self.asked();
        let last = asked.iter().rev().find(|asked| asked.route == route);
        last.unwrap_or_else(|| panic!("nobody asked {route}: {asked:?}"))
            .body
            .clone()
    }

    /// Waits until clients have given up so many answers.
    pub fn wait_until_given_up(&self, count: usize) -> bool {
        for _ in 0..200 {
            if self.state.given_up.load(Ordering::SeqCst) >= count {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }
}

impl Drop for ReplayServer {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for a client.
        let woken = TcpStream::connect(self.address);
        if let (Ok(_), Some(thread)) = (woken, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

fn answer(stream: &TcpStream, state: &State) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let asked = read_request(stream)?;
    let route = asked.route.clone();
    state.asked.lock().unwrap().push(asked);
    let script = {
        let mut scripts = state.scripts.lock().unwrap();
        match scripts.get_mut(&route) {
            Some(queue) if queue.len() > 1 => queue.pop_front(),
            Some(queue) => queue.front().cloned(),
            None => None,
        }
    };
    let unknown = serde_json::json!({ "error": { "message": format!("no script for {route}") } });
    play(stream, script.unwrap_or_else(|| Script::json(404, &unknown)), state)
}

fn play(mut stream: &TcpStream, script: Script, state: &State) -> std::io::Result<()> {
    if script.status > 0 {
        write!(
            stream,
            "HTTP/1.1 {} Scripted\r\ncontent-type: {}\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n",
            script.status, script.media_type
        )?;
    }
    for step in script.steps {
        match step {
            Step::Send(bytes) => chunk(stream, &bytes)?,
            Step::Wait(duration) => std::thread::sleep(duration),
            Step::BreakOff => return stream.shutdown(std::net::Shutdown::Both),
            Step::Hang => {
                // Nothing more comes from a client but the end of its connection.
                if matches!(stream.read(&mut [0; 16]), Ok(0)) {
                    state.given_up.fetch_add(1, Ordering::SeqCst);
                }
                return Ok(());
            }
            Step::Repeat(bytes, every) => loop {
                if let Err(error) = chunk(stream, &bytes) {
                    state.given_up.fetch_add(1, Ordering::SeqCst);
                    return Err(error);
                }
                std::thread::sleep(every);
            },
        }
    }
    stream.write_all(b"0\r\n\r\n")
}

fn chunk(mut stream: &TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let mut whole = format!("{:x}\r\n", bytes.len()).into_bytes();
    whole.extend(bytes);
    whole.extend(b"\r\n");
    stream.write_all(&whole)
}

fn read_request(stream: &TcpStream) -> std::io::Result<Asked> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let route = line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    let (mut length, mut authorization) = (0, None);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim().split_once(':') else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().unwrap(),
            "authorization" => authorization = Some(value.trim().to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Asked {
        route,
        authorization,
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    })
}
