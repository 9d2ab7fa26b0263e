//! A [`Double`] that is served, and programs that run against it.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use agent_api::address::Address;
use agent_api::client::{Client, ConnectOptions};
use agent_api::server::{self, ServerError};
use policy_compiler::intent::Intent;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::double::Double;

/// Longer than anything here takes.
pub(crate) const SOON: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy)]
pub(crate) enum Transport {
    Unix,
    Tcp,
}

pub(crate) const TRANSPORTS: [Transport; 2] = [Transport::Unix, Transport::Tcp];

/// A running server. Needs a runtime of several threads where the test waits for programs.
pub(crate) struct Served {
    pub(crate) double: Arc<Double>,
    pub(crate) address: Address,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<Result<(), ServerError>>,
    /// The folder of the socket, where it is ours.
    folder: Option<TempDir>,
}

impl Served {
    /// Serves on a socket in a folder of its own.
    pub(crate) async fn unix() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut served = Self::at(&folder.path().join("penstockd.sock"), Double::new()).await;
        served.folder = Some(folder);
        served
    }

    /// Serves `double` on the socket at `path`.
    pub(crate) async fn at(path: &Path, double: Arc<Double>) -> Self {
        let shared = Arc::clone(&double);
        let socket = path.to_owned();
        let served = Self::spawn(double, Address::Unix(path.to_owned()), |stopped| async move {
            server::serve_unix(socket, shared, stopped).await
        });
        served.ready().await;
        served
    }

    pub(crate) async fn over(transport: Transport) -> Self {
        match transport {
            Transport::Unix => Self::unix().await,
            Transport::Tcp => Self::tcp().await,
        }
    }

    async fn tcp() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let double = Double::new();
        let shared = Arc::clone(&double);
        Self::spawn(double, Address::Tcp(address), |stopped| async move {
            server::serve_listener(listener, shared, stopped).await
        })
    }

    fn spawn<F>(double: Arc<Double>, address: Address, serve: impl FnOnce(Stopped) -> F) -> Self
    where
        F: Future<Output = Result<(), ServerError>> + Send + 'static,
    {
        let (stop, stopped) = oneshot::channel();
        let stopped: Stopped = Box::pin(async move {
            // Dropping the sender stops it as well.
            let _ = stopped.await;
        });
        let serving = tokio::spawn(serve(stopped));
        Served { double, address, stop: Some(stop), serving, folder: None }
    }

    async fn ready(&self) {
        let options = ConnectOptions { patience: SOON, ..ConnectOptions::default() };
        Client::connect_with(&self.address, &options).await.unwrap();
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect_with(&self.address, &ConnectOptions::default()).await.unwrap()
    }

    /// Tells it to stop.
    pub(crate) fn stop(&mut self) {
        self.stop.take();
    }

    /// Waits for its end.
    pub(crate) async fn ended(self) -> Result<(), ServerError> {
        timeout(SOON, self.serving).await.unwrap().unwrap()
    }

    /// penstockctl with these arguments, against this server.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> Ran {
        let mut command = penstockctl();
        command.arg("--socket").arg(self.address.to_string()).args(arguments);
        Ran::of(&mut command)
    }
}

type Stopped = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// penstockctl without what the environment says.
pub(crate) fn penstockctl() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_penstockctl"));
    command.env_remove("PENSTOCK_SOCKET").env_remove("NODE_NAME");
    command
}

/// A program that has run.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    pub(crate) fn of(command: &mut Command) -> Self {
        let Output { status, stdout, stderr } = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran { code: status.code(), out: text(stdout), err: text(stderr) }
    }

    /// What it printed, where it ended with `code`.
    #[track_caller]
    pub(crate) fn text(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        self.out
    }

    /// The JSON it printed, where it ended with `code`.
    #[track_caller]
    pub(crate) fn json(self, code: i32) -> Value {
        let text = self.text(code);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Object, field, problem and kind of the error that it printed as JSON, where it ended with `code`.
    #[track_caller]
    pub(crate) fn error(self, code: i32) -> [String; 4] {
        assert_eq!((self.code, self.out.as_str()), (Some(code), ""), "{self:?}");
        let value: Value =
            serde_json::from_str(&self.err).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        ["object", "field", "problem", "kind"].map(|part| value["error"][part].as_str().unwrap().to_owned())
    }
}

/// The manifests of the demo.
pub(crate) fn two_nodes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/two-nodes")
}

/// The state of node-a by the manifests of the demo.
pub(crate) fn intent() -> Intent {
    let options = policy_compiler::objects::IntentOptions::default();
    agent_api::tools::agent::prepare(&two_nodes(), "node-a", &options).unwrap().0
}

/// A copy of the manifests of the demo, to be edited.
pub(crate) fn editable() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(two_nodes()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    folder
}
