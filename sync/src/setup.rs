//! Makes a host one of a cluster.

pub mod roles;

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Serialize;

use crate::cilium::cluster_config::{ClusterConfig, LARGEST_MAX, USUAL_MAX};
use crate::cilium::range::Range;
use crate::cilium::{accept, keys, name};
use crate::config::{self, Config};
use crate::etcd::{Client, Compare, Error, KeyValue, Op, Resolve};

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Wish {
    /// The cluster's name.
    pub name: String,
    /// Its number.
    pub id: u16,
    /// The client file of its etcd; an absolute path.
    pub etcd: PathBuf,
    /// This host's name, if it is not the host's own.
    pub node: Option<String>,
    /// The directory of client files of other clusters; an absolute path.
    pub remotes: Option<PathBuf>,
    /// How many clusters may meet.
    pub max_clusters: u16,
}

/// What has come of it.
#[derive(Debug)]
pub struct Report {
    /// Whether the file was written; else it was there and said the same.
    pub is_new: bool,
    /// This host's name.
    pub node: String,
    /// The cluster's configuration in etcd.
    pub cluster_config: Found,
}

/// How a key was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// It was there.
    There,
    /// It was missing, and is written now.
    Written,
    /// It was missing, and this host's user may not write it.
    Denied,
}

/// Checks the store, writes the cluster's configuration where there is none, and then the file. An error has changed nothing,
/// but for a cluster's configuration that was missing.
pub async fn init(wish: &Wish, file: &Path) -> Result<Report> {
    wish.check()?;
    let text = wish.text()?;
    let wanted = Config::parse(file, &text, config::host_name)
        .context("this host needs a name in the cluster: give it one by --node")?;
    let there = read_if_there(file)?;
    if let Some(there) = &there {
        agree(there, &wanted, wish, file)?;
    }
    let resolve = there.as_ref().map_or_else(Resolve::new, |it| it.resolve.clone());
    let client = Client::new(&wanted.etcd, &resolve)?;
    check_store(&client, wish).await?;
    let next = match there {
        Some(_) => None,
        None => Some(Next::write(file, &text)?),
    };
    let cluster_config = write_cluster_config(&client, wish).await?;
    let is_new = next.is_some();
    next.map_or(Ok(()), Next::keep)?;
    let node = there.map_or(wanted.node, |it| it.node);
    Ok(Report { is_new, node, cluster_config })
}

impl Wish {
    /// Fails for what no file may say, in the words of the command line.
    fn check(&self) -> Result<()> {
        name::check(&self.name)?;
        ensure!(
            [USUAL_MAX, LARGEST_MAX].contains(&self.max_clusters),
            "--max-clusters is {USUAL_MAX} or {LARGEST_MAX}, the same in all clusters that meet"
        );
        ensure!(
            (1..=self.max_clusters).contains(&self.id),
            "--id is a number from 1 to {}, which no other cluster has that this one meets",
            self.max_clusters
        );
        self.node.as_deref().map_or(Ok(()), config::check_node)
    }

    /// The file.
    fn text(&self) -> Result<String> {
        let string = |text: &str| toml::Value::from(text).to_string();
        let path = |path: &Path| -> Result<String> {
            let text = path.to_str();
            text.map(string).with_context(|| format!("{} is no UTF-8", path.display()))
        };
        let mut text = format!(
            "name = {}\nid = {}\netcd = {}\n",
            string(&self.name),
            self.id,
            path(&self.etcd)?
        );
        if self.max_clusters != USUAL_MAX {
            text += &format!("max_clusters = {}\n", self.max_clusters);
        }
        if let Some(node) = &self.node {
            text += &format!("node = {}\n", string(node));
        }
        if let Some(remotes) = &self.remotes {
            text += &format!("remotes = {}\n", path(remotes)?);
        }
        Ok(text)
    }
}

fn read_if_there(file: &Path) -> Result<Option<Config>> {
    match file.try_exists().with_context(|| format!("look for {}", file.display()))? {
        true => Config::read(file).map(Some),
        false => Ok(None),
    }
}

/// Fails unless a file that is there says what is asked for.
fn agree(there: &Config, wanted: &Config, wish: &Wish, file: &Path) -> Result<()> {
    let mut differs = Vec::new();
    let mut compare = |what: &str, is: String, shall: String| {
        if is != shall {
            differs.push(format!("{what} is {is}, not {shall}"));
        }
    };
    compare("name", there.name.clone(), wanted.name.clone());
    compare("id", there.id.to_string(), wanted.id.to_string());
    compare("etcd", there.etcd.display().to_string(), wanted.etcd.display().to_string());
    compare("max_clusters", there.max_clusters.to_string(), wanted.max_clusters.to_string());
    if wish.node.is_some() {
        compare("node", there.node.clone(), wanted.node.clone());
    }
    if wish.remotes.is_some() {
        let path = |path: &Option<PathBuf>| path.clone().unwrap_or_default().display().to_string();
        compare("remotes", path(&there.remotes), path(&wanted.remotes));
    }
    ensure!(
        differs.is_empty(),
        "{} is there and says otherwise: {}; nothing is changed: edit it, or remove it if this host leaves that cluster",
        file.display(),
        differs.join(", ")
    );
    Ok(())
}

/// Fails for a store that is another cluster's.
async fn check_store(client: &Client, wish: &Wish) -> Result<()> {
    let denied = |error: Error| match error {
        Error::Denied(why) => anyhow!(
            "this host's user may not read all of {} in etcd, which hosts of a cluster must ({why}): it needs the role \
             {}, not that of readers",
            keys::ALL,
            roles::HOST
        ),
        error => anyhow!(error),
    };
    let mut configs = Vec::new();
    let listed = client.list(keys::CLUSTER_CONFIGS, |page| configs.extend(page)).await;
    listed.map_err(denied)?;
    let own_key = keys::cluster_config(&wish.name);
    if let Some(other) = configs.iter().find(|it| it.key != own_key) {
        bail!(
            "the store is another cluster's: it has {}; each cluster has an etcd of its own, and others read it",
            other.key
        );
    }
    if let Some(own) = configs.first() {
        return check_cluster_config(own, wish);
    }
    // A cluster all of whose hosts were away has nothing left but its identities, which go with no lease.
    let first = |prefix: &str| Op::FirstCreated(prefix.to_owned());
    let all = vec![first(keys::ALL), first(keys::IDENTITIES)];
    let done = client.transact(vec![], all, vec![]).await.map_err(denied)?;
    let mut found = done.found.into_iter().map(|it| it.into_iter().next());
    let (any, identity) = (found.next().flatten(), found.next().flatten());
    match (any, identity) {
        (None, _) => Ok(()),
        (_, Some(identity)) if is_own(&identity, wish) => Ok(()),
        (Some(any), _) => bail!(
            "the store is not empty, and nothing says that it is cluster {}'s: it has {}; take another one, or delete what \
             is left in it: etcdctl del --prefix {}",
            wish.name,
            any.key,
            keys::ALL
        ),
    }
}

fn check_cluster_config(own: &KeyValue, wish: &Wish) -> Result<()> {
    let there = ClusterConfig::read(&own.value).with_context(|| own.key.clone())?;
    ensure!(
        there.id == u32::from(wish.id),
        "cluster {} has number {} in etcd ({}), not {}: all its hosts say the same",
        wish.name,
        there.id,
        own.key,
        wish.id
    );
    let max = match there.capabilities.max_connected_clusters {
        0 => USUAL_MAX,
        max => max,
    };
    ensure!(
        max == wish.max_clusters,
        "cluster {} is made for {max} clusters in etcd ({}), not {}: all its hosts say the same (--max-clusters)",
        wish.name,
        own.key,
        wish.max_clusters
    );
    Ok(())
}

/// Whether an identity is this cluster's.
fn is_own(identity: &KeyValue, wish: &Wish) -> bool {
    let number = identity.key.strip_prefix(keys::IDENTITIES).unwrap_or_default();
    let range = Range::of(wish.id, wish.max_clusters);
    accept::identity(number, &identity.value, &wish.name, &range).is_ok()
}

/// Without a lease: a store stays its cluster's also while all hosts are away, and nobody takes it for another's.
async fn write_cluster_config(client: &Client, wish: &Wish) -> Result<Found> {
    let key = keys::cluster_config(&wish.name);
    let value = ClusterConfig::of(wish.id, wish.max_clusters).write().into_bytes();
    let absent = vec![Compare::IsAbsent(key.clone())];
    let put = vec![Op::Put(key.clone(), value, None)];
    let read = vec![Op::Get(key.clone())];
    match client.transact(absent, put, read).await {
        Ok(done) if done.held => Ok(Found::Written),
        // Somebody may have written it since it was looked for.
        Ok(done) => match done.found.into_iter().flatten().next() {
            Some(found) => check_cluster_config(&found, wish).map(|()| Found::There),
            None => bail!("{key} was there, and is not any more: try again"),
        },
        // etcd asks first whether all may be done, also what is not to be done.
        Err(Error::Denied(_)) => match client.get(&key).await? {
            (_, Some(_)) => Ok(Found::There),
            (_, None) => Ok(Found::Denied),
        },
        Err(error) => Err(error).context(format!("write {key}")),
    }
}

/// A file that is written but has not got its name yet.
struct Next {
    next: PathBuf,
    file: PathBuf,
}

impl Next {
    fn write(file: &Path, text: &str) -> Result<Next> {
        let mut name = file.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let next = file.with_file_name(name);
        let write = || -> std::io::Result<()> {
            if let Some(directory) = file.parent() {
                fs::create_dir_all(directory)?;
            }
            let mut to = fs::File::create(&next)?;
            to.write_all(text.as_bytes())?;
            to.sync_all()
        };
        write().with_context(|| format!("write {}", next.display()))?;
        Ok(Next { next, file: file.to_owned() })
    }

    /// Gives it its name, unless somebody else has meanwhile.
    fn keep(self) -> Result<()> {
        match fs::hard_link(&self.next, &self.file) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                bail!("{} has come meanwhile, and is left as it is", self.file.display())
            }
            linked => linked.with_context(|| format!("write {}", self.file.display())),
        }
    }
}

impl Drop for Next {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.next);
    }
}
