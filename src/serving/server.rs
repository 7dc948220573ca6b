//! The listening socket, its connections, and their end.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use thiserror::Error;
use tokio::runtime;
use tokio::sync::{Semaphore, watch};

use super::router::router;
use super::service::{Phase, Service};
use super::{ServedModel, ServerSettings};

/// Threads that read requests: templates and tokenizers leave the other cores to the model.
const READERS: usize = 2;
/// How long a reader waits for more. The memory that a long prompt took goes back to the system when the reader ends.
const READERS_STAY: Duration = Duration::from_secs(1);
/// How long answers that were cancelled have to say so.
const CLOSING: Duration = Duration::from_secs(2);
/// How long nothing is accepted when the system has no more sockets.
const NO_SOCKETS: Duration = Duration::from_millis(100);

/// Why a model cannot be served.
#[derive(Debug, Error)]
pub enum ServerError {
    /// Anybody could ask.
    #[error(
        "other machines could use the server without a key\n  found: the address {address}\n  expected: 127.0.0.1, or a key\n  hint: set MLX_DIAGNOSE_API_KEY to a secret of yours"
    )]
    Unprotected {
        /// Where it would listen.
        address: SocketAddr,
    },
    /// A name would stand for two models.
    #[error(
        "an adapter has the model's name\n  found: `{name}` for both\n  expected: a name of its own for each\n  hint: rename the adapter, or the model with `--model-id`"
    )]
    Ambiguous {
        /// The name.
        name: String,
    },
    /// The address cannot be listened at.
    #[error(
        "cannot listen at {address}\n  found: {source}\n  hint: another program may listen there; `--port 0` takes a free port"
    )]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The system refuses what a server needs.
    #[error("the server cannot run: {0}")]
    System(#[from] std::io::Error),
}

/// A socket that listens, for a server to come. Whoever connects meanwhile waits.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Listens at `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// [`ServerError`], for an address that other machines reach among others, unless there is a key.
    pub fn bind(address: SocketAddr, settings: &ServerSettings) -> Result<Self, ServerError> {
        if settings.api_key.is_none() && !address.ip().is_loopback() {
            return Err(ServerError::Unprotected { address });
        }
        let failed = |source| ServerError::Bind { address, source };
        let socket = TcpListener::bind(address).map_err(failed)?;
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// A model behind a socket, which does not answer yet.
#[derive(Debug)]
pub struct Server {
    socket: TcpListener,
    service: Arc<Service>,
    phase: watch::Sender<Phase>,
}

/// Ends a server from another thread.
#[derive(Debug, Clone)]
pub struct Stopper(watch::Sender<Phase>);

impl Stopper {
    /// Asks the server to end: at first when the running answers have ended or the time of grace is over, the second time
    /// at once.
    pub fn stop(&self) {
        self.0.send_modify(|phase| {
            *phase = match phase {
                Phase::Open => Phase::Draining,
                Phase::Draining | Phase::Closed => Phase::Closed,
            };
        });
    }
}

impl Server {
    /// Puts `model` behind `listener`.
    ///
    /// # Errors
    /// [`ServerError::Ambiguous`].
    pub fn new(listener: Listener, model: ServedModel, settings: ServerSettings) -> Result<Self, ServerError> {
        if let Some(name) = model.engine.adapters().find(|name| *name == settings.model_id) {
            return Err(ServerError::Ambiguous { name: name.to_owned() });
        }
        let (phase, seen) = watch::channel(Phase::Open);
        Ok(Self {
            socket: listener.socket,
            service: Arc::new(Service::new(model, settings, seen)),
            phase,
        })
    }

    /// The ids of the models that it serves, the base first.
    pub fn model_ids(&self) -> Vec<String> {
        self.service.model_ids().map(str::to_owned).collect()
    }

    /// What ends it.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.phase.clone())
    }

    /// Answers until it is stopped, and then until every answer has ended or the time of grace is over.
    ///
    /// # Errors
    /// [`ServerError::System`].
    pub fn run(self) -> Result<(), ServerError> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(READERS)
            .thread_keep_alive(READERS_STAY)
            .thread_name("serving")
            .build()?;
        let result = runtime.block_on(self.serve());
        runtime.shutdown_background();
        result
    }

    async fn serve(self) -> Result<(), ServerError> {
        let listener = tokio::net::TcpListener::from_std(self.socket)?;
        let settings = &self.service.settings;
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(settings.read_time);
        let service = TowerToHyperService::new(router(Arc::clone(&self.service)));
        let places = Arc::new(Semaphore::new(settings.connections));
        let connections = GracefulShutdown::new();
        let mut phase = self.phase.subscribe();
        loop {
            let accepted = async {
                let place = Arc::clone(&places).acquire_owned().await;
                (place, listener.accept().await)
            };
            let (place, accepted) = tokio::select! {
                _ = phase.wait_for(|phase| *phase != Phase::Open) => break,
                accepted = accepted => accepted,
            };
            let Ok((stream, _)) = accepted else {
                tokio::time::sleep(NO_SOCKETS).await;
                continue;
            };
            // Tokens are small and come one by one; without this they would be held back to be sent together.
            let _ = stream.set_nodelay(true);
            let connection = connections.watch(http.serve_connection(TokioIo::new(stream), service.clone()));
            tokio::spawn(async move {
                // A client that breaks off is no error of the server's.
                let _ = connection.await;
                drop(place);
            });
        }
        drop(listener);
        let mut ended = Box::pin(connections.shutdown());
        tokio::select! {
            () = &mut ended => return Ok(()),
            () = tokio::time::sleep(settings.grace) => (),
            _ = phase.wait_for(|phase| *phase == Phase::Closed) => (),
        }
        self.phase.send_replace(Phase::Closed);
        // Whoever does not take the answer by then does not get it.
        let _ = tokio::time::timeout(CLOSING, ended).await;
        Ok(())
    }
}
