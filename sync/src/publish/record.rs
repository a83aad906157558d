//! What outlives the process: what this host has written, until it goes down, and who it is.

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::path::Path;

use anyhow::Result;
use cilmark::ops::cluster::files;
use log::warn;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::plan::Claims;
use crate::etcd::LeaseId;

/// What this host has written in etcd.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The number of the store that has the leases.
    pub store: u64,
    /// Its leases.
    pub leases: Vec<LeaseId>,
    /// Which addresses it has claimed.
    pub claims: Claims,
}

/// Reads a record. One that is not there or can't be read is empty: what is lost with it goes when its lease ends.
pub fn read<T: DeserializeOwned + Default>(file: &Path) -> T {
    let text = match fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return T::default(),
        Err(error) => {
            warn!("read {}: {error}", file.display());
            return T::default();
        }
    };
    serde_json::from_slice(&text).unwrap_or_else(|error| {
        warn!("{} is not as cilmark-sync writes it, and is left out: {error}", file.display());
        T::default()
    })
}

/// Writes it in one step.
pub fn write(record: &impl Serialize, file: &Path) -> Result<()> {
    files::write(file, &serde_json::to_vec(record)?)
}

/// What tells this host from another one that calls itself by the same name: a random number that stays when it goes down.
pub fn host(file: &Path) -> Result<String> {
    let known: String = read(file);
    if !known.is_empty() {
        return Ok(known);
    }
    let host = format!("{:016x}{:016x}", random(), random());
    write(&host, file)?;
    Ok(host)
}

/// A number that nobody foresees, as far as hash tables need it.
pub fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_outlives_its_writer_and_one_that_is_torn_is_empty() {
        let directory = std::env::temp_dir().join(format!("cilmark-record-{:x}", random()));
        let file = directory.join("published.json");
        assert_eq!(read::<Record>(&file), Record::default());
        let claims = Claims::from([("10.0.0.1".parse().unwrap(), 7)]);
        let record = Record { store: u64::MAX, leases: vec![LeaseId(i64::MAX)], claims };
        write(&record, &file).unwrap();
        assert_eq!(read::<Record>(&file), record);
        fs::write(&file, "{\"store\":").unwrap();
        assert_eq!(read::<Record>(&file), Record::default());
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_host_stays_the_same_and_is_no_other() {
        let [one, other] =
            [0; 2].map(|_| std::env::temp_dir().join(format!("cilmark-host-{:x}", random())));
        let first = host(&one).unwrap();
        assert_eq!(host(&one).unwrap(), first);
        assert_ne!(host(&other).unwrap(), first);
        [one, other].iter().for_each(|file| fs::remove_file(file).unwrap());
    }
}
