//! The number that labels have in this host's cluster.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Error, Result, anyhow, bail};
use log::{debug, warn};

use super::memory::{self, Memory};
use super::run_directory;
use crate::model::cluster::{Answer, Request};
use crate::model::identity::Identity;
use crate::model::labels::Labels;
use crate::model::spec::{EndpointSpec, IdentityRef};
use crate::state::pin::Root;

/// How long cilmark-sync may take to tell a number: whoever starts a workload waits for it.
const PATIENCE: Duration = Duration::from_secs(5);
/// An answer that takes so long waits for etcd.
const SLOW: Duration = Duration::from_millis(900);
/// The same for whatever else it is asked, which may take it several answers of etcd.
const MORE_PATIENCE: Duration = Duration::from_secs(20);

/// What becomes of labels without a number.
const UNTIL_THEN: &str = "a workload gets 5 (init), and enforces until cilmark-sync knows";

/// Where cilmark-sync of a root answers.
pub fn socket(root: &Root) -> PathBuf {
    run_directory(root).join("sync.sock")
}

/// The numbers of labels, each asked for once.
pub struct Numbers<'a> {
    root: &'a Root,
    known: BTreeMap<String, Identity>,
    /// cilmark-sync does not answer, or waits for etcd, and is not waited for again.
    is_away: bool,
    /// How long was waited for slow answers.
    waited: Duration,
}

impl Numbers<'_> {
    /// Nobody has been asked yet.
    pub fn of(root: &Root) -> Numbers<'_> {
        Numbers { root, known: BTreeMap::new(), is_away: false, waited: Duration::ZERO }
    }

    /// Gives an endpoint the number of its labels, if these make its identity: the one that cilmark-sync tells, else the last
    /// that they had on this host, else 5 (init), which cilmark-sync replaces once it knows. An error on a host of no
    /// cluster.
    pub fn complete(&mut self, spec: &mut EndpointSpec) -> Result<()> {
        if spec.has_identity_by_labels() {
            spec.id = Some(IdentityRef::Labels(self.number(&spec.labels)?));
        }
        Ok(())
    }

    fn number(&mut self, labels: &Labels) -> Result<Identity> {
        let text = labels.to_string();
        if let Some(identity) = self.known.get(&text) {
            return Ok(*identity);
        }
        let asked = match self.is_away {
            true => Err(anyhow!("it has not answered before, or not in time")),
            false => self.ask(labels),
        };
        let identity = match asked {
            Ok(Answer::Identity(identity)) => {
                if identity == Identity::INIT {
                    warn!("labels {text}: their number is not known yet, so {UNTIL_THEN}");
                }
                identity
            }
            Ok(Answer::Error(why)) => bail!("labels {text}: {why}"),
            Ok(Answer::Done(_)) => bail!("labels {text}: cilmark-sync is of another version"),
            Err(why) => {
                self.is_away = true;
                self.last(&text, why)?
            }
        };
        self.known.insert(text, identity);
        Ok(identity)
    }

    /// Whoever asks may hold the root's lock, for which all others wait: not for as long as each set of labels may take.
    fn ask(&mut self, labels: &Labels) -> Result<Answer> {
        let begin = Instant::now();
        let answer = ask(self.root, &Request::Allocate(labels.clone()));
        let took = begin.elapsed();
        if took >= SLOW {
            self.waited += took;
            self.is_away |= self.waited >= PATIENCE;
        }
        answer
    }

    /// What they had last here, for want of an answer.
    fn last(&self, labels: &str, why: Error) -> Result<Identity> {
        // Its file is there in any case on a host of a cluster, where a workload is to be born.
        let memory = memory::read(self.root).unwrap_or_else(|error| {
            warn!("{error:#}");
            Some(Memory::new())
        });
        let Some(memory) = memory else {
            debug!("{why:#}");
            bail!(
                "labels {labels} make an identity on a host of a cluster, and this one is in none: name the identity (--id), \
                 or join a cluster by `cilmark cluster init` and start cilmark-sync"
            );
        };
        let last = memory.get(labels);
        let now = match last {
            Some(identity) => format!("it gets {identity}, which they had last"),
            None => UNTIL_THEN.to_owned(),
        };
        warn!("labels {labels}: cilmark-sync does not tell their number, so {now}: {why:#}");
        Ok(last.copied().unwrap_or(Identity::INIT))
    }
}

/// Asks cilmark-sync of a root.
pub fn ask(root: &Root, request: &Request) -> Result<Answer> {
    let path = socket(root);
    let patience = match request {
        Request::Allocate(_) => PATIENCE,
        Request::Sweep(_) | Request::Leave => MORE_PATIENCE,
    };
    let asked = || -> io::Result<String> {
        let mut stream = UnixStream::connect(&path)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        stream.write_all(line.as_bytes())?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        Ok(answer)
    };
    let answer = asked().with_context(|| {
        let path = path.display();
        format!("cilmark-sync does not answer at {path} (systemctl status cilmark-sync)")
    })?;
    serde_json::from_str(&answer).with_context(|| format!("read the answer of {}", path.display()))
}
