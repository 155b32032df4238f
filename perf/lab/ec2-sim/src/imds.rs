//! The instance metadata service, version 2, of one instance.
//!
//! Guarantees: nothing is answered without a live token; the tree is a view of the cloud at the moment of the request;
//! an interface is in it from `attached` until it is detached. A directory lists its entries, one per line, those that
//! are directories with a trailing slash.
//!
//! Must not: hand out credentials that work anywhere. Reference: "Instance metadata categories" in the EC2 user guide.

mod token;
mod tree;

use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

use crate::Cloud;
use crate::cloud::{FaultKind, IMDS};
use token::Tokens;

const TTL_HEADER: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds");
const TOKEN_HEADER: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token");
const FORWARDED_HEADER: HeaderName = HeaderName::from_static("x-forwarded-for");
const TOKEN_PATH: &str = "/latest/api/token";

#[derive(Clone)]
struct Service {
    cloud: Arc<Cloud>,
    instance_id: Arc<str>,
    tokens: Arc<Mutex<Tokens>>,
}

/// The metadata service as `instance_id` sees it at 169.254.169.254.
pub fn router(cloud: Arc<Cloud>, instance_id: &str) -> Router {
    let tokens = Arc::new(Mutex::new(Tokens::default()));
    let service = Service {
        cloud,
        instance_id: instance_id.into(),
        tokens,
    };
    Router::new().fallback(answer).with_state(service)
}

async fn answer(
    State(service): State<Service>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    match (method, uri.path()) {
        (Method::PUT, TOKEN_PATH) => service.new_token(&headers),
        (Method::GET, path) => service.read(path, &headers),
        _ => plain(StatusCode::METHOD_NOT_ALLOWED, String::new()),
    }
}

impl Service {
    fn new_token(&self, headers: &HeaderMap) -> Response {
        // The real service does not serve tokens to proxies.
        if headers.contains_key(FORWARDED_HEADER) {
            return plain(StatusCode::FORBIDDEN, String::new());
        }
        let ttl = headers
            .get(TTL_HEADER)
            .and_then(|value| value.to_str().ok());
        let Some(ttl) = ttl.and_then(token::parse_ttl) else {
            return plain(StatusCode::BAD_REQUEST, String::new());
        };
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let token = tokens.issue(self.cloud.now(), ttl);
        let response = plain(StatusCode::OK, token);
        ([(TTL_HEADER, ttl.as_secs().to_string())], response).into_response()
    }

    fn read(&self, path: &str, headers: &HeaderMap) -> Response {
        let fault = self.cloud.admit(IMDS);
        let token = headers
            .get(TOKEN_HEADER)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let now = self.cloud.now();
        let live = self
            .tokens
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_live(token, now);
        if !live {
            return plain(StatusCode::UNAUTHORIZED, String::new());
        }
        match fault {
            None => {}
            Some(FaultKind::Body { status, body }) => return plain(status_or_500(status), body),
            Some(FaultKind::Error(code)) => {
                return plain(status_or_500(code.parse().unwrap_or(500)), String::new());
            }
            Some(FaultKind::LostReply) => {
                return plain(StatusCode::INTERNAL_SERVER_ERROR, String::new());
            }
        }
        match tree::read(&self.cloud, &self.instance_id, path) {
            Some(text) => plain(StatusCode::OK, text),
            None => plain(StatusCode::NOT_FOUND, String::new()),
        }
    }
}

fn status_or_500(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn plain(status: StatusCode, text: String) -> Response {
    (
        status,
        [
            (header::CONTENT_TYPE, "text/plain"),
            (header::SERVER, "EC2ws"),
        ],
        text,
    )
        .into_response()
}
