//! What clients ask `diagnose serve`.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::LazyLock;
use std::time::Duration;

use mlx_diagnose::device::Backend;
use mlx_diagnose::engine::EngineSettings;
use mlx_diagnose::model::{ModelSource, TemplateChoice};
use mlx_diagnose::serving::{Listener, ServedModel, Server, ServerSettings};

use super::Verdict;
use super::scratch::fixture;

/// Longest time until an answer is there.
const LIMIT: Duration = Duration::from_secs(30);

/// The places that take a body.
const PLACES: [&str; 2] = ["/v1/chat/completions", "/v1/completions"];

/// A server that answers until the program ends.
static SERVER: LazyLock<SocketAddr> = LazyLock::new(|| {
    let model = ServedModel::start(
        ModelSource::Folder(fixture("golden/tiny/llama"))
            .open()
            .expect("the tiny model"),
        &BTreeMap::new(),
        TemplateChoice::Own,
        Backend::select(),
        EngineSettings::default(),
    );
    let settings = ServerSettings {
        max_tokens: 16,
        ..ServerSettings::new("tiny")
    };
    let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0).into(), &settings).expect("a free port");
    let address = listener.address();
    let server = Server::new(listener, model.expect("the tiny model"), settings).expect("one name");
    std::thread::spawn(move || server.run());
    address
});

/// The bytes as the body of a request for each kind of answer, and once as all that a client sends.
pub(super) fn ask(bytes: &[u8]) -> Verdict {
    // Not even a status has to come to this.
    send(bytes, Ending::Shut);
    let [chat, completion] = PLACES.map(|place| {
        let head = format!(
            "POST {place} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n",
            bytes.len()
        );
        judged(&send(&[head.as_bytes(), bytes].concat(), Ending::Wait))
    });
    let health = send(
        b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        Ending::Wait,
    );
    assert!(health.starts_with("HTTP/1.1 200 "), "the server is not well: {health}");
    chat.or(completion)
}

/// What a client does when it has sent everything.
#[derive(Clone, Copy, PartialEq)]
enum Ending {
    /// Waits for the answer.
    Wait,
    /// Says that nothing more comes, since the server may be waiting for more.
    Shut,
}

/// Sends bytes and reads until the server closes the connection.
fn send(bytes: &[u8], ending: Ending) -> String {
    let mut stream = TcpStream::connect(*SERVER).expect("the server listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a time");
    // The server may close before it has read everything, and then nothing more can be read either.
    let _ = stream.write_all(bytes);
    if ending == Ending::Shut {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        let kind = error.kind();
        assert!(kind == std::io::ErrorKind::ConnectionReset, "no answer: {error}");
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn judged(answer: &str) -> Verdict {
    let status = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
    match status {
        Some("200") => Verdict::Accepted,
        Some("400" | "404" | "413" | "415") => Verdict::Refused(answer.to_owned()),
        _ => panic!("the server failed: {answer}"),
    }
}
