//! The rpcs, each with its route.

use http::Method;
use omnirelay_contract::grpc::json::Value;
use omnirelay_contract::grpc::v1;
use omnirelay_contract::grpc::v1::control_server::Control as Service;
use tonic::{Request, Response, Status};

use super::gateway::{Gateway, segment};
use super::watch::{Watched, watch};

type Answer<T> = Result<Response<T>, Status>;

/// `omnirelay.control.v1.Control`.
#[derive(Debug, Clone)]
pub struct Control(pub Gateway);

/// The path of one resource. The id is taken out of the message: what is left is query or body.
fn path(collection: &str, id: &mut String, suffix: &str) -> String {
    format!("/control/{collection}/{}{suffix}", segment(&std::mem::take(id)))
}

#[tonic::async_trait]
impl Service for Control {
    type WatchEventsStream = Watched;

    async fn list_peers(&self, request: Request<v1::ListPeersRequest>) -> Answer<v1::ListPeersResponse> {
        self.0.read(request, "/control/peers").await
    }

    async fn list_clusters(&self, request: Request<v1::ListClustersRequest>) -> Answer<v1::ListClustersResponse> {
        self.0.read(request, "/control/clusters").await
    }

    async fn list_operations(&self, request: Request<v1::ListOperationsRequest>) -> Answer<v1::ListOperationsResponse> {
        self.0.read(request, "/control/operations").await
    }

    async fn list_audit_records(
        &self,
        request: Request<v1::ListAuditRecordsRequest>,
    ) -> Answer<v1::ListAuditRecordsResponse> {
        self.0.read(request, "/control/audit").await
    }

    async fn list_approvals(&self, request: Request<v1::ListApprovalsRequest>) -> Answer<v1::ListApprovalsResponse> {
        self.0.read(request, "/control/approvals").await
    }

    async fn get_config(&self, request: Request<v1::GetConfigRequest>) -> Answer<v1::Config> {
        self.0.read(request, "/control/config").await
    }

    async fn list_config_history(
        &self,
        request: Request<v1::ListConfigHistoryRequest>,
    ) -> Answer<v1::ListConfigHistoryResponse> {
        self.0.read(request, "/control/config/history").await
    }

    async fn list_versions(&self, request: Request<v1::ListVersionsRequest>) -> Answer<v1::ListVersionsResponse> {
        self.0.read(request, "/control/versions").await
    }

    async fn get_peer(&self, mut request: Request<v1::GetPeerRequest>) -> Answer<v1::Peer> {
        let path = path("peers", &mut request.get_mut().id, "");
        self.0.read(request, &path).await
    }

    async fn list_workloads(
        &self,
        mut request: Request<v1::ListWorkloadsRequest>,
    ) -> Answer<v1::ListWorkloadsResponse> {
        let path = path("peers", &mut request.get_mut().peer, "/workloads");
        self.0.read(request, &path).await
    }

    async fn get_cluster(&self, mut request: Request<v1::GetClusterRequest>) -> Answer<v1::Cluster> {
        let path = path("clusters", &mut request.get_mut().id, "");
        self.0.read(request, &path).await
    }

    async fn get_operation(&self, mut request: Request<v1::GetOperationRequest>) -> Answer<v1::Operation> {
        let path = path("operations", &mut request.get_mut().id, "");
        self.0.read(request, &path).await
    }

    async fn get_audit_record(&self, mut request: Request<v1::GetAuditRecordRequest>) -> Answer<v1::AuditRecord> {
        let path = format!("/control/audit/{}", std::mem::take(&mut request.get_mut().seq));
        self.0.read(request, &path).await
    }

    async fn get_config_schema(
        &self,
        request: Request<v1::GetConfigSchemaRequest>,
    ) -> Answer<v1::GetConfigSchemaResponse> {
        let read = self.0.read::<_, Value>(request, "/control/config/schema").await?;
        Ok(read.map(|schema| v1::GetConfigSchemaResponse { schema: Some(schema) }))
    }

    async fn get_status(&self, request: Request<v1::GetStatusRequest>) -> Answer<v1::GetStatusResponse> {
        let read = self.0.read::<_, Value>(request, "/control/status").await?;
        Ok(read.map(|status| v1::GetStatusResponse { status: Some(status) }))
    }

    async fn cordon_peer(&self, mut request: Request<v1::CordonPeerRequest>) -> Answer<v1::Mutation> {
        let path = path("peers", &mut request.get_mut().id, ":cordon");
        self.0.change(request, Method::POST, &path).await
    }

    async fn uncordon_peer(&self, mut request: Request<v1::UncordonPeerRequest>) -> Answer<v1::Mutation> {
        let path = path("peers", &mut request.get_mut().id, ":uncordon");
        self.0.change(request, Method::POST, &path).await
    }

    async fn drain_peer(&self, mut request: Request<v1::DrainPeerRequest>) -> Answer<v1::Mutation> {
        let path = path("peers", &mut request.get_mut().id, ":drain");
        self.0.change(request, Method::POST, &path).await
    }

    async fn patch_peer(&self, mut request: Request<v1::PatchPeerRequest>) -> Answer<v1::Mutation> {
        let path = path("peers", &mut request.get_mut().id, "");
        self.0.change(request, Method::PATCH, &path).await
    }

    async fn put_peer(&self, mut request: Request<v1::PutPeerRequest>) -> Answer<v1::Mutation> {
        let path = path("peers", &mut request.get_mut().id, "");
        self.0.change(request, Method::PUT, &path).await
    }

    async fn put_cluster(&self, mut request: Request<v1::PutClusterRequest>) -> Answer<v1::Mutation> {
        let path = path("clusters", &mut request.get_mut().id, "");
        self.0.change(request, Method::PUT, &path).await
    }

    async fn promote_cluster(&self, mut request: Request<v1::PromoteClusterRequest>) -> Answer<v1::Mutation> {
        let path = path("clusters", &mut request.get_mut().id, ":promote");
        self.0.change(request, Method::POST, &path).await
    }

    async fn demote_cluster(&self, mut request: Request<v1::DemoteClusterRequest>) -> Answer<v1::Mutation> {
        let path = path("clusters", &mut request.get_mut().id, ":demote");
        self.0.change(request, Method::POST, &path).await
    }

    async fn cancel_operation(&self, mut request: Request<v1::CancelOperationRequest>) -> Answer<v1::Mutation> {
        let path = path("operations", &mut request.get_mut().id, ":cancel");
        self.0.change(request, Method::POST, &path).await
    }

    async fn pause_operation(&self, mut request: Request<v1::PauseOperationRequest>) -> Answer<v1::Mutation> {
        let path = path("operations", &mut request.get_mut().id, ":pause");
        self.0.change(request, Method::POST, &path).await
    }

    async fn resume_operation(&self, mut request: Request<v1::ResumeOperationRequest>) -> Answer<v1::Mutation> {
        let path = path("operations", &mut request.get_mut().id, ":resume");
        self.0.change(request, Method::POST, &path).await
    }

    async fn approve_operation(&self, mut request: Request<v1::ApproveOperationRequest>) -> Answer<v1::Mutation> {
        let path = path("operations", &mut request.get_mut().id, ":approve");
        self.0.change(request, Method::POST, &path).await
    }

    async fn reject_operation(&self, mut request: Request<v1::RejectOperationRequest>) -> Answer<v1::Mutation> {
        let path = path("operations", &mut request.get_mut().id, ":reject");
        self.0.change(request, Method::POST, &path).await
    }

    async fn resolve_operation(&self, mut request: Request<v1::ResolveOperationRequest>) -> Answer<v1::Mutation> {
        let path = path("operations", &mut request.get_mut().id, ":resolve");
        self.0.change(request, Method::POST, &path).await
    }

    async fn drain_peers(&self, request: Request<v1::DrainPeersRequest>) -> Answer<v1::Mutation> {
        self.0.change(request, Method::POST, "/control/peers:drain").await
    }

    async fn patch_config(&self, request: Request<v1::PatchConfigRequest>) -> Answer<v1::Mutation> {
        self.0.change(request, Method::PATCH, "/control/config").await
    }

    async fn rollback_config(&self, request: Request<v1::RollbackConfigRequest>) -> Answer<v1::Mutation> {
        self.0.change(request, Method::POST, "/control/config:rollback").await
    }

    async fn watch_events(&self, request: Request<v1::WatchEventsRequest>) -> Answer<Watched> {
        watch(&self.0, request).await
    }
}
