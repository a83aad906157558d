//! Whether what a file has attached comes back at boot.

use std::fs;
use std::path::Path;

use super::super::Host;
use crate::model::finding::Findings;
use crate::model::origin::Origin;
use crate::state::spec;

/// What `cilmark.service` reads.
const FILE: &str = "/etc/cilmark/cilmark.toml";
const UNIT: &str = "cilmark.service";

/// Where units and links to them are (systemd.unit(5)), but for those that end with a boot.
const OF_UNITS: [&str; 4] = [
    "/etc/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// Adds what is found out. Nobody can say it where systemd does not run, or the file is another one.
pub fn examine(host: &Host<'_>, findings: &mut Findings) {
    let runs_systemd = Path::new("/run/systemd/system").is_dir(); // sd_booted(3)
    if !runs_systemd || !Path::new(FILE).exists() {
        return;
    }
    let unit = Unit::find();
    if unit == Unit::Installed && is_enabled() {
        findings.ok("boot", format!("{UNIT} puts {FILE} in force at boot"));
        return;
    }
    let of_file = host.endpoints.iter().filter(|endpoint| {
        let origin = spec::origin(host.root, endpoint);
        origin.is_ok_and(|origin| origin == Origin::File)
    });
    let Some(first) = of_file.map(|endpoint| &endpoint.device).next() else { return };
    let (is, cure) = match unit {
        Unit::Installed => ("not enabled", format!("`systemctl enable {UNIT}`")),
        Unit::Masked => ("masked", format!("`systemctl unmask {UNIT} && systemctl enable {UNIT}`")),
        Unit::Missing => (
            "not installed",
            format!("install the units, as docs/boot.md says, and `systemctl enable {UNIT}`"),
        ),
    };
    let says = format!(
        "{UNIT} is {is}: what {FILE} has attached, as {first}, is not there after the next boot"
    );
    findings.warning("boot", says, &cure);
}

/// What systemd finds under the name of the unit.
#[derive(PartialEq, Eq)]
enum Unit {
    Installed,
    /// An empty file, or a link to /dev/null: it is never started, also where it is enabled.
    Masked,
    Missing,
}

impl Unit {
    /// The first one counts.
    fn find() -> Unit {
        let paths = OF_UNITS.iter().map(|directory| Path::new(directory).join(UNIT));
        match paths.filter_map(|path| fs::metadata(path).ok()).next() {
            Some(unit) if unit.is_file() && unit.len() > 0 => Unit::Installed,
            Some(_) => Unit::Masked,
            None => Unit::Missing,
        }
    }
}

/// A link in the directory of whatever target, as `systemctl enable` makes it.
fn is_enabled() -> bool {
    OF_UNITS.iter().any(|directory| {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let mut targets = entries
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|it| it == "wants" || it == "requires"));
        targets.any(|target| target.join(UNIT).symlink_metadata().is_ok())
    })
}
