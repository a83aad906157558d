//! `--listen`: metrics for Prometheus, by HTTP.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use log::debug;
use tokio::net::TcpListener;
use tokio::time::timeout;

/// How long a connection may take: a scrape takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Listens there.
pub async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("listen at {address} for Prometheus"))
}

/// Serves `/metrics`. To be run on a [`tokio::task::LocalSet`].
pub async fn serve(listener: TcpListener, text: impl Fn() -> Result<String> + 'static) {
    let text = Rc::new(text);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                debug!("accept a connection for metrics: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let text = text.clone();
        let respond = service_fn(move |request: Request<hyper::body::Incoming>| {
            let response = respond(&request, &*text);
            async move { Ok::<_, Infallible>(response) }
        });
        tokio::task::spawn_local(async move {
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), respond);
            if let Ok(Err(error)) = timeout(PATIENCE, connection).await {
                debug!("a connection for metrics: {error}");
            }
        });
    }
}

fn respond<B>(request: &Request<B>, text: &dyn Fn() -> Result<String>) -> Response<String> {
    let plain = |status: StatusCode, body: String| {
        let mut response = Response::new(body);
        *response.status_mut() = status;
        response.headers_mut().insert(
            CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8".parse().expect("ASCII"),
        );
        response
    };
    match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => match text() {
            Ok(text) => plain(StatusCode::OK, text),
            Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")),
        },
        (&Method::GET | &Method::HEAD, _) => {
            plain(StatusCode::NOT_FOUND, "metrics are at /metrics\n".to_owned())
        }
        _ => plain(StatusCode::METHOD_NOT_ALLOWED, "metrics are to be read\n".to_owned()),
    }
}
