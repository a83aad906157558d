//! Running other programs that print something about the system. No shell is asked, and nobody waits for one for ever.

use std::cell::Cell;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// Where tools of administrators are, the last of these with NixOS (nixpkgs, nixos/modules/config/system-path.nix). Root
/// runs none of them from anywhere else, whatever PATH says.
const PLACES: &str =
    "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin:/run/current-system/sw/bin";

/// How long all of them together may take,
const PATIENCE: Duration = Duration::from_secs(10);

/// not counted so much of each: many that are quick are no trouble.
const QUICK: Duration = Duration::from_millis(200);

/// How much one may print.
const MOST: u64 = 64 << 20;

/// How often is looked whether one that has said all has ended.
const PAUSE: Duration = Duration::from_millis(2);

/// Tools that are run one after the other, for one purpose.
#[derive(Debug)]
pub struct Tools {
    left: Cell<Duration>,
}

impl Default for Tools {
    fn default() -> Tools {
        Tools { left: Cell::new(PATIENCE) }
    }
}

impl Tools {
    /// What a program prints; `None` if it is in none of the places of tools. It runs in the network namespace of the calling thread.
    pub fn output(&self, name: &str, arguments: &[&str]) -> Result<Option<String>> {
        self.output_for(name, arguments, "")
    }

    /// The same of one that is given this to read.
    pub fn output_for(
        &self,
        name: &str,
        arguments: &[&str],
        input: &str,
    ) -> Result<Option<String>> {
        let Some(program) = find(PLACES, name) else { return Ok(None) };
        let shown = [&[name], arguments].concat().join(" ");
        let start = Instant::now();
        let left = self.left.get();
        ensure!(!left.is_zero(), "`{shown}` is not run: those before have taken too long");
        let printed = run(&program, arguments, input, start + left, &shown);
        self.left.set(left.saturating_sub(start.elapsed().saturating_sub(QUICK)));
        printed.map(Some)
    }
}

fn run(
    program: &Path,
    arguments: &[&str],
    input: &str,
    end: Instant,
    shown: &str,
) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", PLACES).env("LC_ALL", "C").process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("run {}", program.display()))?;
    let group = Pid::from_raw(child.id() as i32);
    let stdin = child.stdin.take();
    let input = input.to_owned();
    // Who does not read what it is given complains of it, or has no need of it.
    thread::spawn(move || stdin.map(|mut stdin| stdin.write_all(input.as_bytes())));
    let ended = wait(&mut child, end);
    if ended.is_none() {
        // With what it has started. It is not waited for before, so the number is still its own.
        let _ = killpg(group, Signal::SIGKILL);
    }
    let status = child.wait().with_context(|| format!("wait for `{shown}`"))?;
    match ended {
        None => bail!("`{shown}` has taken too long, and was killed"),
        Some([stdout, _]) if stdout.len() as u64 > MOST => {
            bail!("`{shown}` prints more than {} MiB", MOST >> 20)
        }
        Some([stdout, stderr]) => printed(shown, status, stdout, &stderr),
    }
}

/// What it prints until it ends; `None` if that takes too long.
fn wait(child: &mut Child, end: Instant) -> Option<[Vec<u8>; 2]> {
    let (sender, receiver) = mpsc::channel();
    let stdout = child.stdout.take();
    let stderr = child.stderr.take();
    // It ends when the child does, unless that has left others behind.
    thread::spawn(move || {
        let errors = thread::spawn(move || read(stderr));
        let printed = read(stdout);
        let _ = sender.send([printed, errors.join().unwrap_or_default()]);
    });
    let printed = receiver.recv_timeout(end.saturating_duration_since(Instant::now())).ok()?;
    // It may have closed both, and go on.
    while !has_ended(child) {
        if Instant::now() >= end {
            return None;
        }
        thread::sleep(PAUSE);
    }
    Some(printed)
}

fn has_ended(child: &mut Child) -> bool {
    child.try_wait().is_ok_and(|status| status.is_some())
}

/// All of it, or a byte more than may be: then nobody reads on, and who prints has to stop.
fn read(pipe: Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // What was read before an error is told as it is: the exit status decides.
        let _ = pipe.take(MOST + 1).read_to_end(&mut bytes);
    }
    bytes
}

fn printed(shown: &str, status: ExitStatus, stdout: Vec<u8>, stderr: &[u8]) -> Result<String> {
    if !status.success() {
        let stderr = String::from_utf8_lossy(stderr);
        let said = stderr.lines().map(str::trim).find(|line| !line.is_empty());
        bail!("`{shown}` has failed ({status}): {}", said.unwrap_or("it says nothing"));
    }
    String::from_utf8(stdout).with_context(|| format!("`{shown}` has printed other than UTF-8"))
}

/// Why a tool is not run: it may be somewhere else.
pub fn is_missing(name: &str) -> String {
    format!("{name} is in none of {PLACES}, from where alone tools are run")
}

/// The first of that name that may be run.
fn find(places: &str, name: &str) -> Option<PathBuf> {
    let is_program = |path: &PathBuf| {
        path.metadata().is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
    };
    places.split(':').map(|place| Path::new(place).join(name)).find(is_program)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn output(script: &str, patience: Duration) -> Result<Option<String>> {
        let tools = Tools { left: Cell::new(patience) };
        tools.output_for("sh", &["-c", script], "given")
    }

    #[test]
    fn what_a_program_prints_is_told_and_what_it_complains_of() {
        assert_eq!(output("echo $LC_ALL", PATIENCE).unwrap().as_deref(), Some("C\n"));
        assert_eq!(output("cat", PATIENCE).unwrap().as_deref(), Some("given"));
        let error = output("echo no way >&2; exit 3", PATIENCE).unwrap_err().to_string();
        assert!(error.contains("no way") && error.contains("exit status: 3"), "{error}");
        assert_eq!(Tools::default().output("cilmark-is-no-tool", &[]).unwrap(), None);
    }

    #[test]
    fn more_than_a_pipe_holds_is_read_and_no_more_than_may_be() {
        let printed =
            output("head -c 300000 /dev/zero | tr '\\0' x; head -c 300000 /dev/zero >&2", PATIENCE);
        assert_eq!(printed.unwrap().unwrap().len(), 300_000);
        let error = output("exec cat /dev/zero", Duration::from_secs(60)).unwrap_err().to_string();
        assert!(error.contains("more than 64 MiB"), "{error}");
    }

    #[test]
    fn nobody_waits_for_ever_and_what_a_tool_has_started_goes_with_it() {
        let place = std::env::temp_dir().join(format!("cilmark-tool-{}", std::process::id()));
        let kept = place.display();
        for script in [
            format!("sleep 60 & echo $! >{kept}; wait"),
            format!("exec >/dev/null 2>&1; echo $$ >{kept}; sleep 60"),
        ] {
            let error = output(&script, Duration::from_millis(500)).unwrap_err().to_string();
            assert!(error.contains("has taken too long"), "{error}");
            let left = fs::read_to_string(&place).unwrap();
            let state = || fs::read_to_string(format!("/proc/{}/stat", left.trim()));
            while state().is_ok_and(|it| !it.contains(") Z ")) {
                thread::sleep(PAUSE);
            }
        }
        fs::remove_file(place).unwrap();
    }

    #[test]
    fn all_have_one_time_together() {
        let tools = Tools { left: Cell::new(Duration::from_millis(300)) };
        let run = |script: &str| tools.output("sh", &["-c", script]);
        assert_eq!(run("echo quick").unwrap().as_deref(), Some("quick\n"));
        assert!(run("exec sleep 60").is_err());
        tools.left.set(Duration::ZERO);
        let error = run("echo late").unwrap_err().to_string();
        assert!(error.contains("is not run"), "{error}");
    }

    #[test]
    fn what_can_t_be_run_is_passed_over() {
        let place = std::env::temp_dir().join(format!("cilmark-find-{}", std::process::id()));
        fs::create_dir(&place).unwrap();
        fs::write(place.join("sh"), "").unwrap();
        let found = find(&format!("{}:/bin", place.display()), "sh");
        fs::remove_dir_all(&place).unwrap();
        assert_eq!(found, Some(PathBuf::from("/bin/sh")));
    }
}
