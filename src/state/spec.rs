//! `cm_spec`: what an endpoint was asked to be, kept beside its programs as text in pieces.

use std::collections::BTreeSet;
use std::ffi::c_char;

use anyhow::{Context, Result, ensure};
use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType};

use crate::kernel::abi::{self, cm_spec, u32_key};
use crate::model::birth::Birth;
use crate::model::endpoint::EndpointId;
use crate::model::origin::Origin;
use crate::model::owner::Owner;
use crate::model::spec::EndpointSpec;
use crate::state::pin::{self, Root};
use crate::state::registry::Endpoint;

/// The map's name.
pub const NAME: &str = "cm_spec";

/// Of the text's form: one that is not known is not read.
const VERSION: u8 = 1;

/// The most pieces: 16 KiB, in which a NIC may have hundreds of addresses.
const PIECES: usize = 64;

/// The text of a spec, which fits into a map, and who has made the endpoint.
pub struct Text {
    text: String,
    origin: Origin,
}

impl Text {
    /// Fails if it does not fit. The rules have a map of their own, and change without it.
    pub fn of(spec: &EndpointSpec, origin: Origin) -> Result<Text> {
        let spec = EndpointSpec { rules: None, ..spec.clone() };
        let text = serde_json::to_string(&spec).context("write the spec")?;
        let most = PIECES * piece_size();
        ensure!(
            text.len() <= most,
            "what is asked of {} takes {} bytes to keep, and {most} are the most: name fewer addresses with --ip \
             (of a NIC that has them they need not be named); nothing has changed",
            spec.device,
            text.len()
        );
        Ok(Text { text, origin })
    }

    /// Elements of a map that holds it.
    pub fn pieces(&self) -> u32 {
        self.text.len().div_ceil(piece_size()) as u32
    }

    /// Fills a new map, as the word of who was loaded with this configuration; nobody changes it any more.
    pub fn write(&self, map: &MapHandle, config: &MapHandle) -> Result<()> {
        let write = || -> Result<()> {
            let config = config.info()?.info.id;
            for (number, bytes) in self.text.as_bytes().chunks(piece_size()).enumerate() {
                let length = bytes.len() as u16;
                let origin = self.origin.number();
                let mut piece =
                    cm_spec { config, version: VERSION, origin, length, ..cm_spec::default() };
                piece.text.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from as c_char);
                let key = u32_key(number as u32);
                map.update(abi::bytes_of(&key), abi::bytes_of(&piece), MapFlags::ANY)?;
            }
            Ok(map.freeze()?)
        };
        write().with_context(|| format!("write {NAME}"))
    }
}

fn piece_size() -> usize {
    cm_spec::default().text.len()
}

/// What an endpoint was asked to be, but for its rules. An error if nobody can say.
pub fn read(root: &Root, endpoint: &Endpoint) -> Result<EndpointSpec> {
    let Endpoint { id, device, .. } = endpoint;
    let hint = hint(endpoint);
    let kept = kept(root, endpoint)?.with_context(|| {
        format!(
            "endpoint {id} ({device}) has no spec, since an older cilmark has attached it, or somebody has removed \
             {}: {hint}",
            root.endpoint(*id).spec().display()
        )
    })?;
    let config: Vec<u32> = endpoint.config_ids()?.into_iter().collect();
    ensure!(
        kept.configs.iter().all(|it| config == [*it]),
        "the spec of endpoint {id} ({device}) is not that of the programs that run, since an `attach` has ended \
         half way, or another's is pinned there: {hint}"
    );
    Ok(kept.spec)
}

/// What was asked of it last, but for its rules, also where an `attach` has ended half way.
pub fn told(root: &Root, id: EndpointId) -> Result<Option<EndpointSpec>> {
    let kept = kept_at(root, id, || format!("detach id:{id} and attach it again"))?;
    Ok(kept.map(|kept| kept.spec))
}

/// Whose it is, if that was said, also where an `attach` that gave it to somebody else has ended half way.
pub fn owner(root: &Root, endpoint: &Endpoint) -> Result<Option<Owner>> {
    Ok(kept(root, endpoint)?.and_then(|kept| kept.spec.owner))
}

/// Who has made it; what an older cilmark has attached is a command's.
pub fn origin(root: &Root, endpoint: &Endpoint) -> Result<Origin> {
    Ok(kept(root, endpoint)?.map_or_else(Origin::default, |kept| kept.origin))
}

/// Whose it is and how it came about, of an endpoint that the hook of a runtime has attached, or nobody has taken over
/// since.
pub fn born(root: &Root, id: EndpointId) -> Result<Option<(Owner, Birth)>> {
    Ok(told(root, id)?.and_then(|spec| spec.owner.zip(spec.birth)))
}

/// A pinned spec.
struct Kept {
    spec: EndpointSpec,
    origin: Origin,
    /// With which configurations it counts: one.
    configs: BTreeSet<u32>,
}

/// `None` if none is pinned, as with an older cilmark.
fn kept(root: &Root, endpoint: &Endpoint) -> Result<Option<Kept>> {
    kept_at(root, endpoint.id, || hint(endpoint))
}

fn kept_at(root: &Root, id: EndpointId, hint: impl Fn() -> String) -> Result<Option<Kept>> {
    let path = root.endpoint(id).spec();
    let Some(map) = pin::open_map(&path)? else { return Ok(None) };
    let pieces = read_pieces(&map).with_context(|| {
        format!("{} is not as this cilmark writes it: {}", path.display(), hint())
    })?;
    let bytes = |piece: &cm_spec| -> Vec<u8> {
        piece.text.iter().take(piece.length.into()).map(|byte| *byte as u8).collect()
    };
    let text: Vec<u8> = pieces.iter().flat_map(bytes).collect();
    let spec = serde_json::from_slice(&text).with_context(|| {
        format!("{} has a spec that this cilmark does not know: {}", path.display(), hint())
    })?;
    let origin = pieces.first().map_or(0, |piece| piece.origin);
    let origin = Origin::of_number(origin);
    Ok(Some(Kept { spec, origin, configs: pieces.iter().map(|piece| piece.config).collect() }))
}

fn hint(endpoint: &Endpoint) -> String {
    format!("attach {} again with all its flags", endpoint.device)
}

fn read_pieces(map: &MapHandle) -> Result<Vec<cm_spec>> {
    ensure!(
        map.map_type() == MapType::Array && map.value_size() as usize == size_of::<cm_spec>(),
        "it has another layout"
    );
    let piece = |number: u32| -> Result<cm_spec> {
        let value = map.lookup(abi::bytes_of(&u32_key(number)), MapFlags::ANY)?;
        let piece: cm_spec = abi::from_bytes(&value.context("a piece is missing")?)?;
        ensure!(piece.version == VERSION, "it has version {}", piece.version);
        Ok(piece)
    };
    (0..map.max_entries()).map(piece).collect()
}
