//! [`Client`]: a penstockd elsewhere, with the questions of [`Dataplane`](crate::contract::Dataplane).
//!
//! Only connecting is ever tried again, and only when asked for: a call that fails has failed. A connection that broke
//! is made anew by the next call.

use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::BoxStream;
use policy_compiler::intent::Intent;
use policy_compiler::intent::update::Update;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use crate::address::{Address, AddressError};
use crate::contract::{
    AddPort, Applied, DropEvent, ExplainQuery, Explanation, FlowInfo, PolicyHits, PortInfo, Refusal,
    ShadowDifference, ShadowStatus, State, Stats,
};
use crate::convert::FieldError;
use crate::convert::calls::{added_port, flow_list, port_list};
use crate::convert::{shadow, update};
use crate::proto;
use crate::proto::penstock_client::PenstockClient;
use crate::server::MAX_MESSAGE_BYTES;
use crate::status::to_refusal;

/// First and longest pause between two attempts to connect.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// One attempt to connect may take this long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A refusal is in the trailers: three parts of 2 KiB, in Base64, with the message.
const MAX_HEADER_BYTES: u32 = 64 << 10;

/// How to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectOptions {
    /// How long to try again while nobody answers; zero: one attempt.
    pub patience: Duration,
    /// How long a call may take until its answer begins; `None`: as long as it takes.
    pub call_timeout: Option<Duration>,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        ConnectOptions { patience: Duration::ZERO, call_timeout: Some(Duration::from_secs(60)) }
    }
}

/// Why there is no answer, or not the wanted one.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address cannot be.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// Nobody answers, or the connection broke. What a broken call has done is unknown.
    #[error("{address}: {problem}")]
    Unreachable {
        /// Where.
        address: Address,
        /// What the system or the transport said.
        problem: String,
    },
    /// penstockd refused; nothing has changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The answer has a field that cannot be: the other side is of another version.
    #[error("the answer to {operation} cannot be read: {source}")]
    Answer {
        /// The call.
        operation: &'static str,
        /// Where in the answer.
        source: FieldError,
    },
    /// The call failed for a reason of the transport's: too large a message, an unknown call, …
    #[error("{operation}: {message} ({code:?})")]
    Failed {
        /// The call.
        operation: &'static str,
        /// gRPC's status code.
        code: Code,
        /// What the other side said.
        message: String,
    },
}

impl ClientError {
    /// Whether it is worth trying again later: nobody answered.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, ClientError::Unreachable { .. })
    }
}

/// A connection to a penstockd. Clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    grpc: PenstockClient<Channel>,
    address: Address,
}

impl Client {
    /// Connects once, with the default options. For forms of `address` see [`Address`].
    ///
    /// # Errors
    /// [`ClientError::Address`] or [`ClientError::Unreachable`].
    pub async fn connect(address: &str) -> Result<Self, ClientError> {
        Self::connect_with(&address.parse()?, &ConnectOptions::default()).await
    }

    /// Connects; tries again with growing pauses (20 ms to 1 s) while `options.patience` lasts.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] with the last attempt's problem.
    pub async fn connect_with(address: &Address, options: &ConnectOptions) -> Result<Self, ClientError> {
        let deadline = Instant::now() + options.patience;
        let mut pause = BACK_OFF.0;
        loop {
            let error = match Self::connect_once(address, options).await {
                Ok(client) => return Ok(client),
                Err(error) => error,
            };
            if Instant::now() + pause > deadline {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(BACK_OFF.1);
        }
    }

    async fn connect_once(address: &Address, options: &ConnectOptions) -> Result<Self, ClientError> {
        let unreachable = |error: tonic::transport::Error| ClientError::Unreachable {
            address: address.clone(),
            problem: innermost(&error),
        };
        let mut endpoint = Endpoint::from_shared(address.to_string())
            .map_err(unreachable)?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_max_header_list_size(MAX_HEADER_BYTES);
        if let Some(timeout) = options.call_timeout {
            endpoint = endpoint.timeout(timeout);
        }
        let channel = endpoint.connect().await.map_err(unreachable)?;
        let grpc = PenstockClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        Ok(Client { grpc, address: address.clone() })
    }

    /// Where it is connected to.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Replaces the whole state; see [`Dataplane::apply`](crate::contract::Dataplane::apply).
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn apply(&self, intent: Intent, expected: Option<u64>) -> Result<Applied, ClientError> {
        let request = proto::ApplyRequest { intent: Some(intent.into()), expected_generation: expected };
        let answer = self.grpc.clone().apply(request).await.map_err(|status| self.error("Apply", status))?;
        Ok(answer.into_inner().into())
    }

    /// Changes a part of the state; see [`Dataplane::update`](crate::contract::Dataplane::update).
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn update(&self, update: Update, base: u64) -> Result<Applied, ClientError> {
        let request = update::request(update, base);
        let answer =
            self.grpc.clone().update(request).await.map_err(|status| self.error("Update", status))?;
        Ok(answer.into_inner().into())
    }

    /// The running state.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn state(&self) -> Result<State, ClientError> {
        let answer = self.grpc.clone().get_state(proto::GetStateRequest {}).await;
        let answer = answer.map_err(|status| self.error("GetState", status))?;
        State::try_from(answer.into_inner()).map_err(unreadable("GetState"))
    }

    /// Counters.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn stats(&self) -> Result<Stats, ClientError> {
        let answer = self.grpc.clone().stats(proto::StatsRequest {}).await;
        Ok(answer.map_err(|status| self.error("Stats", status))?.into_inner().into())
    }

    /// Dropped packets as they happen. The stream ends when penstockd stops, with an error where it breaks off.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn watch_drops(
        &self,
    ) -> Result<BoxStream<'static, Result<DropEvent, ClientError>>, ClientError> {
        const OPERATION: &str = "WatchDrops";
        let answer = self.grpc.clone().watch_drops(proto::WatchDropsRequest {}).await;
        let events = answer.map_err(|status| self.error(OPERATION, status))?.into_inner();
        Ok(self.events(OPERATION, events))
    }

    /// What would happen to a packet, and why.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn explain(&self, query: ExplainQuery) -> Result<Explanation, ClientError> {
        let answer = self.grpc.clone().explain(proto::ExplainRequest::from(query)).await;
        let answer = answer.map_err(|status| self.error("Explain", status))?;
        Explanation::try_from(answer.into_inner()).map_err(unreadable("Explain"))
    }

    /// Attaches a device as a port.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn add_port(&self, request: AddPort) -> Result<PortInfo, ClientError> {
        let answer = self.grpc.clone().add_port(proto::AddPortRequest::from(request)).await;
        let answer = answer.map_err(|status| self.error("AddPort", status))?;
        added_port(answer.into_inner()).map_err(unreadable("AddPort"))
    }

    /// Detaches a port by its device.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn remove_port(&self, device: String) -> Result<(), ClientError> {
        let answer = self.grpc.clone().remove_port(proto::RemovePortRequest { device }).await;
        answer.map_err(|status| self.error("RemovePort", status)).map(drop)
    }

    /// The attached ports.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn ports(&self) -> Result<Vec<PortInfo>, ClientError> {
        let answer = self.grpc.clone().list_ports(proto::ListPortsRequest {}).await;
        let answer = answer.map_err(|status| self.error("ListPorts", status))?;
        port_list(answer.into_inner()).map_err(unreadable("ListPorts"))
    }

    /// Live flow entries, at most `limit`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn flows(&self, limit: usize) -> Result<Vec<FlowInfo>, ClientError> {
        let request = proto::ListFlowsRequest { limit: limit as u64 };
        let answer = self.grpc.clone().list_flows(request).await;
        let answer = answer.map_err(|status| self.error("ListFlows", status))?;
        flow_list(answer.into_inner()).map_err(unreadable("ListFlows"))
    }

    /// How often each rule of the running policies has decided.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn rule_hits(&self) -> Result<PolicyHits, ClientError> {
        let answer = self.grpc.clone().list_rule_hits(proto::ListRuleHitsRequest {}).await;
        let answer = answer.map_err(|status| self.error("ListRuleHits", status))?;
        PolicyHits::try_from(answer.into_inner()).map_err(unreadable("ListRuleHits"))
    }

    /// Sets a candidate beside the running state; see [`Dataplane::set_shadow`](crate::contract::Dataplane::set_shadow).
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn set_shadow(&self, intent: Intent, sample: u32) -> Result<ShadowStatus, ClientError> {
        let request = proto::SetShadowRequest { intent: Some(intent.into()), sample };
        let answer = self.grpc.clone().set_shadow(request).await;
        let answer = answer.map_err(|status| self.error("SetShadow", status))?;
        shadow::set_shadow(answer.into_inner()).map_err(unreadable("SetShadow"))
    }

    /// The candidate, with what has been counted of it; `None` where none is set.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn shadow(&self) -> Result<Option<ShadowStatus>, ClientError> {
        let answer = self.grpc.clone().get_shadow(proto::GetShadowRequest {}).await;
        let answer = answer.map_err(|status| self.error("GetShadow", status))?;
        Ok(answer.into_inner().shadow.map(Into::into))
    }

    /// Flows that differ: the last that the candidate is known by, then each as it is found. The stream ends as that of
    /// [`Client::watch_drops`] does.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn watch_shadow(
        &self,
    ) -> Result<BoxStream<'static, Result<ShadowDifference, ClientError>>, ClientError> {
        const OPERATION: &str = "WatchShadow";
        let answer = self.grpc.clone().watch_shadow(proto::WatchShadowRequest {}).await;
        let events = answer.map_err(|status| self.error(OPERATION, status))?.into_inner();
        Ok(self.events(OPERATION, events))
    }

    /// Makes the candidate the running state; see [`Dataplane::promote_shadow`](crate::contract::Dataplane::promote_shadow).
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn promote_shadow(&self, force: bool) -> Result<Applied, ClientError> {
        let answer = self.grpc.clone().promote_shadow(proto::PromoteShadowRequest { force }).await;
        Ok(answer.map_err(|status| self.error("PromoteShadow", status))?.into_inner().into())
    }

    /// Ends the comparison with the candidate.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn discard_shadow(&self) -> Result<(), ClientError> {
        let answer = self.grpc.clone().discard_shadow(proto::DiscardShadowRequest {}).await;
        answer.map_err(|status| self.error("DiscardShadow", status)).map(drop)
    }

    /// The events of a stream of messages.
    fn events<M, E>(
        &self,
        operation: &'static str,
        messages: Streaming<M>,
    ) -> BoxStream<'static, Result<E, ClientError>>
    where
        M: Send + 'static,
        E: TryFrom<M, Error = FieldError> + 'static,
    {
        let address = self.address.clone();
        messages
            .map(move |message| match message {
                Ok(message) => E::try_from(message).map_err(unreadable(operation)),
                Err(status) => Err(error(&address, operation, status)),
            })
            .boxed()
    }

    fn error(&self, operation: &'static str, status: Status) -> ClientError {
        error(&self.address, operation, status)
    }
}

fn unreadable(operation: &'static str) -> impl FnOnce(FieldError) -> ClientError {
    move |source| ClientError::Answer { operation, source }
}

fn error(address: &Address, operation: &'static str, status: Status) -> ClientError {
    if let Some(refusal) = to_refusal(&status) {
        return ClientError::Refused(refusal);
    }
    // A status that the other side sent has no source; one that our transport made has.
    let source = std::error::Error::source(&status);
    let lost = matches!(status.code(), Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded);
    match source {
        Some(source) => ClientError::Unreachable {
            address: address.clone(),
            problem: format!("{operation}: {}", innermost(source)),
        },
        None if lost => {
            let problem = format!("{operation}: {}", status.message());
            ClientError::Unreachable { address: address.clone(), problem }
        }
        None => ClientError::Failed { operation, code: status.code(), message: status.message().to_owned() },
    }
}

/// The first cause: what the system said.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
