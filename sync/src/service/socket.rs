//! The socket by which commands of this host ask: a line of JSON each way.

use std::future::Future;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;
use std::{fs, io};

use anyhow::{Context as _, Result};
use cilmark::model::cluster::{Answer, Request};
use log::debug;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

/// How long somebody may take to ask.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest question, in bytes.
const LONGEST: u64 = 64 << 10;

/// Listens there, in place of whoever did before. Only root may ask.
pub fn listen(path: &Path) -> Result<UnixListener> {
    let bind = || -> io::Result<UnixListener> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    bind().with_context(|| format!("listen at {}", path.display()))
}

/// Answers whoever asks, each by himself. To be run on a [`tokio::task::LocalSet`].
pub async fn serve<F>(listener: UnixListener, answer: impl Fn(Request) -> F + 'static)
where
    F: Future<Output = Answer> + 'static,
{
    let answer = Rc::new(answer);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let answer = answer.clone();
                tokio::task::spawn_local(async move {
                    if let Err(error) = converse(stream, &*answer).await {
                        debug!("somebody who asked by the socket: {error:#}");
                    }
                });
            }
            Err(error) => {
                debug!("accept at the socket: {error}");
                // Too many descriptors are open: some will be closed.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse<F>(mut stream: UnixStream, answer: &impl Fn(Request) -> F) -> Result<()>
where
    F: Future<Output = Answer>,
{
    let (reader, mut writer) = stream.split();
    let mut line = String::new();
    let mut reader = BufReader::new(reader.take(LONGEST));
    timeout(PATIENCE, reader.read_line(&mut line)).await.context("it has not asked in time")??;
    let answer = match serde_json::from_str(&line) {
        Ok(request) => answer(request).await,
        Err(error) => {
            Answer::Error(format!("cilmark is of another version than cilmark-sync: {error}"))
        }
    };
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    timeout(PATIENCE, writer.write_all(&line)).await.context("it has not read in time")??;
    Ok(())
}
