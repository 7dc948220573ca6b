//! What the servers of others answer.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use mlx_diagnose::compare::client::{ChatMessage, ChatRequest, Clock};
use mlx_diagnose::compare::servers::{LoadRequest, Surroundings, open};
use mlx_diagnose::compare::{Failure, Limits, ServerKind, Side};
use mlx_diagnose::external::ChatServer;
use mlx_diagnose::interrupt::Interrupt;

use super::Verdict;

/// Seconds within which an answer of this machine must be there.
const LIMIT: f64 = 20.0;

/// A body and its media type.
type Answer = (Vec<u8>, &'static str);

/// Where everything is answered with the bytes that are put there, as the media type that is put beside them.
static SERVER: LazyLock<(SocketAddr, &'static Mutex<Answer>)> = LazyLock::new(|| {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("an address");
    let answer: &'static Mutex<Answer> = Box::leak(Box::default());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (body, media_type) = answer.lock().unwrap_or_else(PoisonError::into_inner).clone();
            // Whoever goes away gets no answer.
            let _ = respond(stream, &body, media_type);
        }
    });
    (address, answer)
});

fn respond(mut stream: TcpStream, body: &[u8], media_type: &str) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut line, mut length) = (String::new(), 0);
    while reader.read_line(&mut line)? > 2 {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        line.clear();
    }
    std::io::copy(&mut reader.take(length), &mut std::io::sink())?;
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {media_type}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)
}

fn put(bytes: &[u8], media_type: &'static str) {
    *SERVER.1.lock().unwrap_or_else(PoisonError::into_inner) = (bytes.to_vec(), media_type);
}

/// The bytes as the answer to everything that this program asks other servers.
pub(super) fn ask(bytes: &[u8]) -> Verdict {
    let address = format!("http://{}", SERVER.0);
    put(bytes, "text/event-stream");
    let streamed = answer(ServerKind::OpenAi, &address);
    put(bytes, "application/x-ndjson");
    let lines = answer(ServerKind::Ollama, &address);
    put(bytes, "application/json");
    let told = [ServerKind::OpenAi, ServerKind::Ollama, ServerKind::LmStudio].map(|kind| load(kind, &address));
    let whole = ChatServer {
        address: &address,
        model: None,
        timeout: Duration::from_secs_f64(LIMIT),
    };
    let whole = Verdict::of(whole.answer("Where is Paris?", 8, &Interrupt::default()));
    told.into_iter()
        .fold(streamed.or(lines).or(whole), |last, next| next.or(last))
}

fn side(kind: ServerKind, address: &str) -> (Side, Surroundings) {
    let side = Side {
        server: kind,
        model: "m".to_owned(),
        address: Some(address.to_owned()),
        command: None,
        environment: std::collections::BTreeMap::new(),
        api_key_variable: None,
    };
    let surroundings = Surroundings {
        limits: Limits {
            load: LIMIT,
            request: LIMIT,
            stall: LIMIT,
            test: LIMIT,
        },
        interrupt: Interrupt::default(),
        program: "diagnose".into(),
        logs: std::env::temp_dir(),
        scripts: std::env::temp_dir(),
    };
    (side, surroundings)
}

fn answer(kind: ServerKind, address: &str) -> Verdict {
    let (side, surroundings) = side(kind, address);
    let server = open(&side, &surroundings).expect("a server with an address");
    let question = ChatRequest {
        messages: vec![ChatMessage {
            role: "user",
            content: "Where is Paris?".to_owned(),
        }],
        max_tokens: 8,
        more: Vec::new(),
    };
    verdict(server.ask(&question, Clock::start()).failure.map_or(Ok(()), Err))
}

/// Lists of models, and the likeliest next tokens.
fn load(kind: ServerKind, address: &str) -> Verdict {
    let (side, surroundings) = side(kind, address);
    let mut server = open(&side, &surroundings).expect("a server with an address");
    let request = LoadRequest {
        context_length: 64,
        parallel: 1,
        prompt_cache: false,
    };
    let next = server.next_tokens("Paris is", 5).map(drop);
    verdict(server.load(&request).map(drop)).or(verdict(next))
}

fn verdict(result: Result<(), Failure>) -> Verdict {
    Verdict::of(result.map_err(|failure| failure.reason))
}
