//! The gRPC service: each call to its question, each answer to its message.

use std::future::Future;
use std::sync::Arc;

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use policy_compiler::intent::update::Update;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::contract::{AddPort, Dataplane, ExplainQuery, Refusal, RefusalKind};
use crate::convert::calls::applied_intent;
use crate::convert::shadow::candidate;
use crate::proto;
use crate::proto::penstock_server::Penstock;
use crate::status::from_refusal;

pub(super) struct Service<D> {
    dataplane: Arc<D>,
    /// Becomes true when the server stops: streams end then.
    stopping: watch::Receiver<bool>,
}

impl<D: Dataplane> Service<D> {
    pub(super) fn new(dataplane: Arc<D>, stopping: watch::Receiver<bool>) -> Self {
        Service { dataplane, stopping }
    }

    /// Runs a change to its end, also when the caller has gone and this call is dropped.
    async fn change<T, F>(&self, change: impl FnOnce(Arc<D>) -> F + Send) -> Result<T, Status>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Refusal>> + Send + 'static,
    {
        match tokio::spawn(change(Arc::clone(&self.dataplane))).await {
            Ok(answer) => answer.map_err(from_refusal),
            Err(error) => Err(from_refusal(Refusal {
                object: "penstockd".into(),
                field: "call".into(),
                problem: format!("failed within: {error}"),
                kind: RefusalKind::System,
            })),
        }
    }

    /// Events as messages, until the server stops.
    fn until_stop<E, M>(&self, events: BoxStream<'static, E>) -> BoxStream<'static, Result<M, Status>>
    where
        E: Into<M> + 'static,
        M: Send + 'static,
    {
        let mut stopping = self.stopping.clone();
        let stop = async move {
            // An error means that the server is gone: the stream ends as well.
            let _ = stopping.wait_for(|stopping| *stopping).await;
        };
        events.map(|event| Ok(event.into())).take_until(stop.boxed()).boxed()
    }
}

#[tonic::async_trait]
impl<D: Dataplane> Penstock for Service<D> {
    type WatchDropsStream = BoxStream<'static, Result<proto::DropEvent, Status>>;
    type WatchShadowStream = BoxStream<'static, Result<proto::ShadowDifference, Status>>;

    async fn apply(
        &self,
        request: Request<proto::ApplyRequest>,
    ) -> Result<Response<proto::ApplyResponse>, Status> {
        let proto::ApplyRequest { intent, expected_generation } = request.into_inner();
        let intent = applied_intent(intent).map_err(|error| from_refusal(error.refusal("Intent")))?;
        let change = |dataplane: Arc<D>| async move { dataplane.apply(intent, expected_generation).await };
        Ok(Response::new(self.change(change).await?.into()))
    }

    async fn update(
        &self,
        request: Request<proto::UpdateRequest>,
    ) -> Result<Response<proto::UpdateResponse>, Status> {
        let request = request.into_inner();
        let base = request.base_generation;
        let update = Update::try_from(request).map_err(|error| from_refusal(error.refusal("Update")))?;
        let change = |dataplane: Arc<D>| async move { dataplane.update(update, base).await };
        Ok(Response::new(self.change(change).await?.into()))
    }

    async fn get_state(
        &self,
        _request: Request<proto::GetStateRequest>,
    ) -> Result<Response<proto::GetStateResponse>, Status> {
        Ok(Response::new(self.dataplane.state().await.into()))
    }

    async fn stats(
        &self,
        _request: Request<proto::StatsRequest>,
    ) -> Result<Response<proto::StatsResponse>, Status> {
        Ok(Response::new(self.dataplane.stats().await.into()))
    }

    async fn watch_drops(
        &self,
        _request: Request<proto::WatchDropsRequest>,
    ) -> Result<Response<Self::WatchDropsStream>, Status> {
        Ok(Response::new(self.until_stop(self.dataplane.watch_drops().await)))
    }

    async fn explain(
        &self,
        request: Request<proto::ExplainRequest>,
    ) -> Result<Response<proto::ExplainResponse>, Status> {
        let query = ExplainQuery::try_from(request.into_inner())
            .map_err(|error| from_refusal(error.refusal("ExplainRequest")))?;
        let explanation = self.dataplane.explain(query).await.map_err(from_refusal)?;
        Ok(Response::new(explanation.into()))
    }

    async fn add_port(
        &self,
        request: Request<proto::AddPortRequest>,
    ) -> Result<Response<proto::AddPortResponse>, Status> {
        let request = AddPort::try_from(request.into_inner())
            .map_err(|error| from_refusal(error.refusal("AddPortRequest")))?;
        let port = self.change(|dataplane| async move { dataplane.add_port(request).await }).await?;
        Ok(Response::new(proto::AddPortResponse { port: Some(port.into()) }))
    }

    async fn remove_port(
        &self,
        request: Request<proto::RemovePortRequest>,
    ) -> Result<Response<proto::RemovePortResponse>, Status> {
        let device = request.into_inner().device;
        self.change(|dataplane| async move { dataplane.remove_port(device).await }).await?;
        Ok(Response::new(proto::RemovePortResponse {}))
    }

    async fn list_ports(
        &self,
        _request: Request<proto::ListPortsRequest>,
    ) -> Result<Response<proto::ListPortsResponse>, Status> {
        let ports = self.dataplane.ports().await;
        Ok(Response::new(proto::ListPortsResponse { ports: ports.into_iter().map(Into::into).collect() }))
    }

    async fn list_flows(
        &self,
        request: Request<proto::ListFlowsRequest>,
    ) -> Result<Response<proto::ListFlowsResponse>, Status> {
        let limit = usize::try_from(request.into_inner().limit).unwrap_or(usize::MAX);
        let flows = self.dataplane.flows(limit).await;
        Ok(Response::new(proto::ListFlowsResponse { flows: flows.into_iter().map(Into::into).collect() }))
    }

    async fn list_rule_hits(
        &self,
        _request: Request<proto::ListRuleHitsRequest>,
    ) -> Result<Response<proto::ListRuleHitsResponse>, Status> {
        Ok(Response::new(self.dataplane.rule_hits().await.into()))
    }

    async fn set_shadow(
        &self,
        request: Request<proto::SetShadowRequest>,
    ) -> Result<Response<proto::SetShadowResponse>, Status> {
        let (intent, sample) =
            candidate(request.into_inner()).map_err(|error| from_refusal(error.refusal("Intent")))?;
        let change = |dataplane: Arc<D>| async move { dataplane.set_shadow(intent, sample).await };
        let shadow = self.change(change).await?;
        Ok(Response::new(proto::SetShadowResponse { shadow: Some(shadow.into()) }))
    }

    async fn get_shadow(
        &self,
        _request: Request<proto::GetShadowRequest>,
    ) -> Result<Response<proto::GetShadowResponse>, Status> {
        let shadow = self.dataplane.shadow().await.map(Into::into);
        Ok(Response::new(proto::GetShadowResponse { shadow }))
    }

    async fn watch_shadow(
        &self,
        _request: Request<proto::WatchShadowRequest>,
    ) -> Result<Response<Self::WatchShadowStream>, Status> {
        Ok(Response::new(self.until_stop(self.dataplane.watch_shadow().await)))
    }

    async fn promote_shadow(
        &self,
        request: Request<proto::PromoteShadowRequest>,
    ) -> Result<Response<proto::PromoteShadowResponse>, Status> {
        let force = request.into_inner().force;
        let change = |dataplane: Arc<D>| async move { dataplane.promote_shadow(force).await };
        Ok(Response::new(self.change(change).await?.into()))
    }

    async fn discard_shadow(
        &self,
        _request: Request<proto::DiscardShadowRequest>,
    ) -> Result<Response<proto::DiscardShadowResponse>, Status> {
        self.change(|dataplane| async move { dataplane.discard_shadow().await }).await?;
        Ok(Response::new(proto::DiscardShadowResponse {}))
    }
}
