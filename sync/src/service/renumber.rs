//! Endpoints whose labels have got a number that they do not carry yet: those that were born while nobody knew it.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use cilmark::model::endpoint::EndpointId;
use cilmark::model::identity::Identity;
use cilmark::model::labels::Labels;
use cilmark::ops;
use cilmark::ops::cluster::renumber;
use cilmark::state::pin::Root;
use log::{info, warn};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::identities::allocator::Allocator;
use crate::publish::Here;

/// How long somebody waits for other commands of the root.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long it takes until it is tried again, where it has failed.
const AGAIN: Duration = Duration::from_secs(5);

/// Gives endpoints the number of their labels, whenever either changes. To be run on a [`tokio::task::LocalSet`].
pub async fn run(root: Root, allocator: Rc<Allocator>, mut here: watch::Receiver<Rc<Here>>) {
    let mut numbers = allocator.changes();
    let mut told = BTreeSet::new();
    loop {
        let now = here.borrow_and_update().clone();
        numbers.borrow_and_update();
        let mut has_failed = false;
        for endpoint in now.local.endpoints.iter().filter(|it| it.is_by_labels) {
            let Some(number) = allocator.number(&endpoint.labels) else { continue };
            if number == endpoint.identity {
                continue;
            }
            let (id, device) = (endpoint.id, &endpoint.device);
            match attach(&root, id, endpoint.labels.clone(), number).await {
                Ok(true) => info!("{device}: its labels are {number}"),
                Ok(false) => {}
                Err(error) => {
                    has_failed = true;
                    // Once: it is tried every few seconds.
                    if told.insert((id, number)) {
                        warn!("{device} goes on with {}: {error:#}", endpoint.identity);
                    }
                }
            }
        }
        let changed = async {
            tokio::select! {
                changed = here.changed() => changed.is_ok(),
                changed = numbers.changed() => changed.is_ok(),
            }
        };
        let changed = match has_failed {
            true => timeout(AGAIN, changed).await.unwrap_or(true),
            false => changed.await,
        };
        if !changed {
            // Nobody tells any more: the process ends.
            sleep(Duration::MAX).await;
        }
    }
}

async fn attach(root: &Root, id: EndpointId, labels: Labels, number: Identity) -> Result<bool> {
    let root = root.with_patience(PATIENCE);
    let attach = move || match ops::lock(&root)? {
        Some(_lock) => renumber::renumber(&root, id, &labels, number),
        None => Ok(false),
    };
    tokio::task::spawn_blocking(attach).await.context("attach it again")?
}
