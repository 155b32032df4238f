//! The EC2 query API over HTTP: `Action=...&Version=2016-11-15` in a form, XML back.
//!
//! Guarantees: whatever is sent, the answer is an EC2 reply or an EC2 error; requests are bounded in size; a request
//! with a parameter the simulator does not know is refused (`UnknownParameter`) rather than half understood.
//!
//! Requests need an `Authorization` header in the form of Signature Version 4 for service `ec2`. The signature itself
//! is not checked: there are no keys here.

mod action;
mod params;
mod reply;
mod xml;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::rejection::FormRejection;
use axum::extract::{DefaultBodyLimit, Form, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Router, routing};
use tokio::task::JoinHandle;

use crate::cloud::FaultKind;
use crate::{ApiError, Cloud};
use action::Action;
use params::Params;
pub(crate) use reply::{IMAGE_ID, timestamp};

/// Largest request body. The longest sensible call (a thousand ids) is a tenth of this.
pub const REQUEST_BYTES_MAX: usize = 256 * 1024;
/// The only API version.
pub const API_VERSION: &str = "2016-11-15";

const XML: &str = "text/xml;charset=UTF-8";

#[derive(Clone)]
struct Front {
    cloud: Arc<Cloud>,
    requests: Arc<AtomicU64>,
}

/// The EC2 API of `cloud`, at `/`.
pub fn router(cloud: Arc<Cloud>) -> Router {
    let front = Front {
        cloud,
        requests: Arc::new(AtomicU64::new(0)),
    };
    Router::new()
        .route("/", routing::post(answer).get(answer))
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .with_state(front)
}

/// Serves `router` on a listener made elsewhere (for example inside a network namespace) until the task is aborted.
///
/// # Errors
/// The listener cannot be handed to the runtime.
pub fn serve(
    runtime: &tokio::runtime::Handle,
    listener: std::net::TcpListener,
    router: Router,
) -> io::Result<JoinHandle<()>> {
    listener.set_nonblocking(true)?;
    let _context = runtime.enter();
    let listener = tokio::net::TcpListener::from_std(listener)?;
    Ok(runtime.spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "server ended");
        }
    }))
}

async fn answer(
    State(front): State<Front>,
    headers: HeaderMap,
    form: Result<Form<Vec<(String, String)>>, FormRejection>,
) -> Response {
    let request_id = front.request_id();
    tokio::time::sleep(front.cloud.latency()).await;
    let cloud = Arc::clone(&front.cloud);
    let id = request_id.clone();
    // Wire calls block: they make real interfaces.
    let done = tokio::task::spawn_blocking(move || handle(&cloud, &headers, form, &id)).await;
    settle_when_due(&front.cloud);
    let outcome =
        done.unwrap_or_else(|error| Err(ApiError::new("InternalError", error.to_string())));
    match outcome {
        Ok(body) => respond(body.status, body.text, &request_id),
        Err(error) => {
            let body = reply::error(&error, &request_id);
            respond(error.http_status(), body, &request_id)
        }
    }
}

impl Front {
    fn request_id(&self) -> String {
        let serial = self.requests.fetch_add(1, Ordering::Relaxed);
        format!(
            "{:08x}-0000-4000-8000-{serial:012x}",
            self.cloud.config().seed
        )
    }
}

fn respond(status: u16, body: String, request_id: &str) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let request_id = (
        HeaderName::from_static("x-amzn-requestid"),
        request_id.to_owned(),
    );
    (
        status,
        [(header::CONTENT_TYPE, XML.to_owned()), request_id],
        body,
    )
        .into_response()
}

/// Carries out delayed attachments when their time comes, whether or not anybody calls then.
fn settle_when_due(cloud: &Arc<Cloud>) {
    for due in cloud.take_timers() {
        let cloud = Arc::clone(cloud);
        tokio::spawn(async move {
            tokio::time::sleep(due).await;
            tokio::task::spawn_blocking(move || cloud.settle()).await
        });
    }
}

struct Body {
    status: u16,
    text: String,
}

fn handle(
    cloud: &Cloud,
    headers: &HeaderMap,
    form: Result<Form<Vec<(String, String)>>, FormRejection>,
    request_id: &str,
) -> Result<Body, ApiError> {
    let Form(pairs) = form.map_err(|rejection| unreadable(&rejection))?;
    let mut params = Params::new(pairs)?;
    let name = params.text("Action")?.ok_or_else(|| {
        ApiError::new(
            "MissingAction",
            "The request is missing an action or a required parameter.",
        )
    })?;
    let action = Action::named(&name).ok_or_else(|| {
        ApiError::new(
            "InvalidAction",
            format!("The action {name} is not valid for this web service."),
        )
    })?;
    let fault = cloud.admit(action.name);
    check_authorization(headers)?;
    check_version(&mut params)?;
    match fault {
        None => action
            .run(cloud, params, request_id)
            .map(|text| Body { status: 200, text }),
        Some(FaultKind::Body { status, body }) => Ok(Body { status, text: body }),
        Some(FaultKind::Error(code)) => Err(ApiError::new(code, "Injected by the test.")),
        Some(FaultKind::LostReply) => {
            action.run(cloud, params, request_id)?;
            Err(ApiError::new(
                "InternalError",
                "An internal error has occurred.",
            ))
        }
    }
}

fn unreadable(rejection: &FormRejection) -> ApiError {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return ApiError::new("RequestEntityTooLarge", rejection.body_text());
    }
    ApiError::new("MalformedQueryString", rejection.body_text())
}

fn check_version(params: &mut Params) -> Result<(), ApiError> {
    match params.text("Version")?.as_deref() {
        Some(API_VERSION) => Ok(()),
        Some(other) => {
            let message =
                format!("The requested version ({other}) of service AmazonEC2 does not exist");
            Err(ApiError::new("NoSuchVersion", message))
        }
        None => Err(ApiError::missing("Version")),
    }
}

/// `AWS4-HMAC-SHA256 Credential=<key>/<date>/<region>/ec2/aws4_request, SignedHeaders=..., Signature=...`
fn check_authorization(headers: &HeaderMap) -> Result<(), ApiError> {
    let incomplete = || {
        ApiError::new(
            "IncompleteSignature",
            "The request signature does not conform to AWS standards.",
        )
    };
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        let message = "Request must contain valid credentials.";
        return Err(ApiError::new("MissingAuthenticationToken", message));
    };
    let text = value.to_str().map_err(|_| incomplete())?;
    let fields = text
        .strip_prefix("AWS4-HMAC-SHA256 ")
        .ok_or_else(incomplete)?;
    let field = |name: &str| {
        fields
            .split(',')
            .find_map(|field| field.trim().strip_prefix(name)?.strip_prefix('='))
    };
    let scope: Vec<&str> = field("Credential").unwrap_or_default().split('/').collect();
    let scoped = matches!(scope.as_slice(), [key, _, _, "ec2", "aws4_request"] if !key.is_empty());
    let signed = ["SignedHeaders", "Signature"]
        .iter()
        .all(|name| field(name).is_some_and(|value| !value.is_empty()));
    if scoped && signed {
        Ok(())
    } else {
        Err(incomplete())
    }
}
