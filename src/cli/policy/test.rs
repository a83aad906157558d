//! `cilmark policy test`.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::slice;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use clap::builder::{PathBufValueParser, TypedValueParser};
use serde::Serialize;

use crate::cli::attach::ssh_server_port;
use crate::cli::conntrack::End;
use crate::cli::{Context, WOULD_CUT, file, path_of, values};
use crate::model::endpoint::Selector;
use crate::model::identity::{Identity, Names};
use crate::model::policy::live::Kind;
use crate::model::protocol;
use crate::model::rule::{Direction, L4, Rule};
use crate::model::shell::word;
use crate::model::text;
use crate::ops::apply::files::Files;
use crate::ops::policy_test::{self, Line, Sources, Test};
use crate::output::{self, JsonList, Table};

#[derive(clap::Args)]
pub struct Args {
    /// What `apply` reads, a file or a directory of files *.toml; with DEV also rules, one a line, as `attach --rules` reads
    /// them; `-` is stdin
    #[arg(value_name = "FILE|DIR", value_parser = PathBufValueParser::new().map(path_of))]
    path: PathBuf,
    /// The device (or id:N) to test; required for a file of rules
    #[arg(value_name = "DEV")]
    device: Option<Selector>,
    /// Show only flows with these verdicts; status and counts are of all
    #[arg(long, value_name = "VERDICT", value_delimiter = ',', value_parser = values::verdict())]
    only: Vec<Kind>,
}

#[derive(Serialize)]
struct Told<'a> {
    device: &'a str,
    direction: Option<Direction>,
    protocol: String,
    local: IpAddr,
    local_port: Option<u16>,
    remote: IpAddr,
    remote_port: Option<u16>,
    identity: Option<Identity>,
    verdict: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    because: Option<&'a str>,
    #[serde(skip_serializing_if = "slice_is_empty")]
    to_allow: &'a [String],
    adopted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    adopted_within: Option<u64>,
    known_by: Vec<&'static str>,
}

fn slice_is_empty(rules: &&[String]) -> bool {
    rules.is_empty()
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode> {
    let test = read(context, &args)?;
    let names = test.names().clone();
    let outcome = test.run(&context.root)?;
    outcome.notes.iter().for_each(|note| output::note(note));
    let is_shown =
        |line: &Line<'_>| args.only.is_empty() || args.only.contains(&line.verdict.kind());
    let mut lines = outcome.lines().filter(is_shown);
    match context.json {
        true => {
            let mut json = JsonList::default();
            lines.try_for_each(|line| push_json(&mut json, &line))?;
            json.end()?;
        }
        false => {
            let mut table = Table::new([
                "DEVICE",
                "DIRECTION",
                "PROTOCOL",
                "LOCAL",
                "REMOTE",
                "IDENTITY",
                "VERDICT",
                "BECAUSE",
            ]);
            lines.for_each(|line| push(&mut table, &line, &names));
            table.print()?;
        }
    }
    outcome.summary().iter().for_each(|line| output::note(line));
    Ok(if outcome.cuts() { ExitCode::from(WOULD_CUT) } else { ExitCode::SUCCESS })
}

fn read(context: &Context, args: &Args) -> Result<Test> {
    let device = match &args.device {
        Some(Selector::Device(device)) => Some(device.clone()),
        Some(id) => Some(context.named(slice::from_ref(id))?.select(id)?.device.clone()),
        None => None,
    };
    let names = context.names()?;
    let is_document = args.path.is_dir() || args.path.extension().is_some_and(|it| it == "toml");
    if let Some(device) = device.as_deref().filter(|_| !is_document) {
        let mut rules = Vec::new();
        for (number, rule) in text::lines(&file::read(&args.path)?) {
            let rule = Rule::parse(rule, &names)
                .with_context(|| format!("{}, line {number}", args.path.display()))?;
            rules.push(rule);
        }
        return policy_test::of_device(&context.root, device, &rules, ssh_server_port());
    }
    let is_stdin = args.path.as_os_str() == "-";
    let files = match is_stdin {
        true => Files::of_text("stdin", file::read(&args.path)?),
        false => Files::read(&args.path, true),
    };
    let may_be_rules = !is_document && (is_stdin || args.path.is_file());
    let files = files.map_err(|error| match may_be_rules {
        true => anyhow!(
            "{error:#}; if this is a file of rules, name the device: `cilmark policy test {} DEV`",
            word(&text::from_bytes(args.path.as_os_str().as_bytes()))
        ),
        false => error,
    })?;
    let wanted = files.wanted(&names)?;
    policy_test::of_files(&context.root, &wanted, device.as_deref(), ssh_server_port())
}

fn push_json(json: &mut JsonList, line: &Line<'_>) -> Result<()> {
    json.push(&Told {
        device: line.device,
        direction: line.direction,
        protocol: L4::Protocol(line.protocol).to_string(),
        local: line.local.ip(),
        local_port: port(line.protocol, line.local),
        remote: line.remote.ip(),
        remote_port: port(line.protocol, line.remote),
        identity: line.peer,
        verdict: line.verdict.kind(),
        because: line.because.as_deref(),
        to_allow: &line.to_allow,
        adopted: line.is_adopted,
        adopted_within: line.adopted_within.map(seconds),
        known_by: known_by(line.sources),
    })
}

fn seconds(time: Duration) -> u64 {
    time.as_secs_f64().ceil() as u64
}

/// What stands in the place of a port, where a protocol has none, is no port.
fn port(protocol: u8, end: SocketAddr) -> Option<u16> {
    protocol::has_ports(protocol).then_some(end.port())
}

fn known_by(sources: Sources) -> Vec<&'static str> {
    let Sources { cilmark, kernel, socket } = sources;
    let all = [(cilmark, "cilmark"), (kernel, "kernel"), (socket, "socket")];
    all.into_iter().filter(|(knows, _)| *knows).map(|(_, name)| name).collect()
}

fn push(table: &mut Table<8>, line: &Line<'_>, names: &Names) {
    let end = |end: SocketAddr| End(end.ip(), port(line.protocol, end).unwrap_or_default());
    let direction = line.direction.map_or("unknown", Direction::name);
    let peer = line.peer.map(|peer| names.label(peer)).unwrap_or_default();
    let mut because = line.because.clone().unwrap_or_default();
    if let Some(rule) = line.to_allow.first() {
        because = format!("to allow it: {rule}");
    }
    if line.is_adopted {
        because = format!("goes on, adopted; {because}");
    }
    if let Some(time) = line.adopted_within {
        because = format!("adopted if it sends within {}s; {because}", seconds(time));
    }
    table.push([
        &line.device,
        &direction,
        &L4::Protocol(line.protocol),
        &end(line.local),
        &end(line.remote),
        &peer,
        &line.verdict.kind(),
        &because,
    ]);
}
