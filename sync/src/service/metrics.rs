//! `--listen`: metrics for Prometheus, by HTTP.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use log::debug;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// How long a connection may take: a scrape takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// So many connections are served at a time. Others wait in the kernel, so that whoever opens many takes no descriptors away
/// from what else the process does.
const MOST: usize = 32;

/// Listens there.
pub async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("listen at {address} for Prometheus"))
}

/// Serves `/metrics`. To be run on a [`tokio::task::LocalSet`].
pub async fn serve(listener: TcpListener, text: impl Fn() -> Result<String> + 'static) {
    let text = Rc::new(text);
    let places = Arc::new(Semaphore::new(MOST));
    loop {
        let place = places.clone().acquire_owned().await;
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
            let _place = place;
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

#[cfg(test)]
mod tests {
    use std::fs;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tokio::runtime::Builder;
    use tokio::task::LocalSet;

    use super::*;

    /// Descriptors of this process that are accepted connections of that port.
    fn accepted(port: u16) -> usize {
        let table = fs::read_to_string("/proc/self/net/tcp").expect("the connections");
        let local = format!("0100007F:{port:04X}");
        let inode_of = |line: &str| -> Option<String> {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let is_accepted = *fields.get(1)? == local && *fields.get(3)? == "01";
            (is_accepted && *fields.get(9)? != "0").then(|| fields[9].to_owned())
        };
        table.lines().filter_map(inode_of).count()
    }

    #[test]
    fn whoever_opens_many_connections_takes_few_descriptors_and_the_next_is_served() {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        LocalSet::new().block_on(&runtime, async {
            let listener = listen(([127, 0, 0, 1], 0).into()).await.expect("listen");
            let address = listener.local_addr().expect("an address");
            tokio::task::spawn_local(serve(listener, || Ok("metrics\n".to_owned())));
            let mut idle = Vec::new();
            for _ in 0..2 * MOST {
                idle.push(TcpStream::connect(address).await.expect("connect"));
            }
            let until = tokio::time::Instant::now() + PATIENCE;
            while accepted(address.port()) < MOST {
                assert!(tokio::time::Instant::now() < until, "{}", accepted(address.port()));
                tokio::task::yield_now().await;
            }
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            assert_eq!(accepted(address.port()), MOST);
            idle.truncate(MOST - 1);
            drop(idle);
            let mut stream = TcpStream::connect(address).await.expect("connect");
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("ask");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.expect("an answer");
            assert!(answer.ends_with("metrics\n"), "{answer}");
        });
    }
}
