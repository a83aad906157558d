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
    if is_enabled() {
        findings.ok("boot", format!("{UNIT} puts {FILE} in force at boot"));
        return;
    }
    let of_file = host.endpoints.iter().filter(|endpoint| {
        let origin = spec::origin(host.root, endpoint);
        origin.is_ok_and(|origin| origin == Origin::File)
    });
    let Some(first) = of_file.map(|endpoint| &endpoint.device).next() else { return };
    let is_installed = OF_UNITS.iter().any(|directory| Path::new(directory).join(UNIT).exists());
    let cure = match is_installed {
        true => format!("`systemctl enable {UNIT}`"),
        false => format!("install the units, as docs/boot.md says, and `systemctl enable {UNIT}`"),
    };
    let says = format!(
        "{UNIT} is not enabled: what {FILE} has attached, as {first}, is not there after the next boot"
    );
    findings.warning("boot", says, &cure);
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
