//! Endpoints whose labels have another number than they carry: those that were born while nobody knew it.

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
use tokio::time::timeout;

use crate::identities::allocator::Allocator;
use crate::publish::Here;

/// How long it waits for other commands of the root.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long until it is tried again, where it has failed.
const AGAIN: Duration = Duration::from_secs(5);

/// Gives endpoints the number of their labels, whenever either changes. To be run on a [`tokio::task::LocalSet`].
pub async fn run(root: Root, allocator: Rc<Allocator>, mut here: watch::Receiver<Rc<Here>>) {
    let mut numbers = allocator.numbers();
    let mut told = BTreeSet::new();
    loop {
        let endpoints = here.borrow_and_update().clone();
        let held = numbers.borrow_and_update().clone();
        let mut has_failed = false;
        for endpoint in endpoints.local.endpoints.iter().filter(|it| it.is_by_labels) {
            let number = held.get(&endpoint.labels.to_string()).copied();
            let Some(number) = number.filter(|number| *number != endpoint.identity) else {
                continue;
            };
            let (id, device) = (endpoint.id, &endpoint.device);
            match attach(&root, id, endpoint.labels.clone(), number).await {
                Ok(true) => info!("{device} has identity {number} now, by its labels"),
                Ok(false) => {}
                Err(error) => {
                    has_failed = true;
                    // It is tried every few seconds, and told once.
                    if told.insert((id, number)) {
                        warn!("{device} goes on with identity {}: {error:#}", endpoint.identity);
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
        let goes_on = match has_failed {
            true => timeout(AGAIN, changed).await.unwrap_or(true),
            false => changed.await,
        };
        if !goes_on {
            return;
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
