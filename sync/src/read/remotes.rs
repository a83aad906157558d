//! Who is read: the own cluster, and each that has a client file in the directory of the others.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use log::{info, warn};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{MissedTickBehavior, interval};

use super::Reading;
use super::reader::Reader;
use super::status::Status;

/// How often files are looked at.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// A reader that runs.
struct Running {
    file: PathBuf,
    /// What its client file says.
    text: Vec<u8>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Runs a reader for each, and another one where a client file has changed.
pub(super) async fn run(reading: Rc<Reading>) {
    let mut running: BTreeMap<String, Running> = BTreeMap::new();
    let mut trouble = String::new();
    let mut ignored = Vec::new();
    let mut looks = interval(BETWEEN_LOOKS);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let mut wanted =
            BTreeMap::from([(reading.config.name.clone(), reading.config.etcd.clone())]);
        match reading.config.remotes() {
            Ok(remotes) => {
                wanted.extend(remotes.files);
                if remotes.ignored != ignored {
                    for (file, why) in &remotes.ignored {
                        warn!("{} is left out: {why}", file.display());
                    }
                    ignored = remotes.ignored;
                }
                reading.inner.borrow_mut().knows_remotes = true;
                trouble.clear();
            }
            Err(error) => {
                // Who is there is not known, so that nobody goes.
                let error = format!("{error:#}");
                if error != trouble {
                    warn!("{error}");
                    trouble = error;
                }
                wanted.extend(running.iter().map(|(name, it)| (name.clone(), it.file.clone())));
            }
        }
        let gone: Vec<String> =
            running.keys().filter(|name| !wanted.contains_key(*name)).cloned().collect();
        for name in gone {
            info!("cluster {name} has no client file any more, and is forgotten");
            running.remove(&name);
            let mut inner = reading.inner.borrow_mut();
            inner.forget(&name);
            inner.end_adopted(reading.now());
            reading.changed.notify_one();
        }
        for (name, file) in wanted {
            // One that is being replaced is read the next time.
            let text = fs::read(&file).unwrap_or_default();
            if running.get(&name).is_none_or(|it| it.text != text || it.file != file) {
                running.remove(&name);
                let task = start(&reading, &name, &file);
                running.insert(name, Running { file, text, task });
            }
        }
    }
}

fn start(reading: &Rc<Reading>, name: &str, file: &Path) -> JoinHandle<()> {
    let is_own = name == reading.config.name;
    {
        let mut inner = reading.inner.borrow_mut();
        let number = is_own.then_some(reading.config.id);
        let new = || Status::new(name, file.to_owned(), number);
        inner.clusters.entry(name.to_owned()).or_insert_with(new);
    }
    let reader = Reader::new(reading.clone(), name, file.to_owned(), is_own);
    spawn_local(reader.run())
}
