//! Running other programs that print something about the system. No shell is asked, and nobody waits for one for ever.

use std::env;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Where tools of administrators are, also if the caller's PATH has only those of users.
const PLACES: &str = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin";

/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a program prints; `None` if it is not installed. It runs in the network namespace of the calling thread.
pub fn output(name: &str, arguments: &[&str]) -> Result<Option<String>> {
    output_within(name, arguments, "", PATIENCE)
}

/// The same of one that is given this to read.
pub fn output_for(name: &str, arguments: &[&str], input: &str) -> Result<Option<String>> {
    output_within(name, arguments, input, PATIENCE)
}

fn output_within(
    name: &str,
    arguments: &[&str],
    input: &str,
    patience: Duration,
) -> Result<Option<String>> {
    let Some(program) = find(name) else { return Ok(None) };
    let shown = || [&[name], arguments].concat().join(" ");
    let path = search_path();
    let mut command = Command::new(&program);
    command.args(arguments).env_clear().env("PATH", path).env("LC_ALL", "C");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("run {}", program.display()))?;
    let stdin = child.stdin.take();
    let input = input.to_owned();
    // Who does not read what it is given complains of it, or has no need of it.
    thread::spawn(move || stdin.map(|mut stdin| stdin.write_all(input.as_bytes())));
    let ended = wait(&mut child, patience);
    if ended.is_none() {
        // It may have ended just now.
        let _ = child.kill();
    }
    let status = child.wait().with_context(|| format!("wait for `{}`", shown()))?;
    match ended {
        None => bail!("`{}` has not ended within {} seconds", shown(), patience.as_secs()),
        Some([stdout, stderr]) => printed(&shown(), status, stdout, &stderr).map(Some),
    }
}

/// What it prints until it ends, or closes both; `None` if that takes too long.
fn wait(child: &mut Child, patience: Duration) -> Option<[Vec<u8>; 2]> {
    let (sender, receiver) = mpsc::channel();
    let stdout = child.stdout.take();
    let stderr = child.stderr.take();
    // It ends when the child does; nobody else has the other ends.
    thread::spawn(move || {
        let errors = thread::spawn(move || read(stderr));
        let printed = read(stdout);
        let _ = sender.send([printed, errors.join().unwrap_or_default()]);
    });
    receiver.recv_timeout(patience).ok()
}

fn read(pipe: Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // What was read before an error is told as it is: the exit status decides.
        let _ = pipe.read_to_end(&mut bytes);
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

fn search_path() -> String {
    let own = env::var("PATH").unwrap_or_default();
    if own.is_empty() { PLACES.to_owned() } else { format!("{own}:{PLACES}") }
}

fn find(name: &str) -> Option<PathBuf> {
    let path = search_path();
    let places = path.split(':').filter(|place| place.starts_with('/'));
    places.map(|place| Path::new(place).join(name)).find(|program| program.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str, patience: Duration) -> Result<Option<String>> {
        output_within("sh", &["-c", script], "given", patience)
    }

    #[test]
    fn what_a_program_prints_is_told_and_what_it_complains_of() {
        assert_eq!(run("echo $LC_ALL", PATIENCE).unwrap().as_deref(), Some("C\n"));
        assert_eq!(run("cat", PATIENCE).unwrap().as_deref(), Some("given"));
        let error = run("echo no way >&2; exit 3", PATIENCE).unwrap_err().to_string();
        assert!(error.contains("no way") && error.contains("exit status: 3"), "{error}");
        assert_eq!(output("cilmark-is-no-tool", &[]).unwrap(), None);
    }

    #[test]
    fn more_than_a_pipe_holds_is_read() {
        let printed =
            run("head -c 300000 /dev/zero | tr '\\0' x; head -c 300000 /dev/zero >&2", PATIENCE);
        assert_eq!(printed.unwrap().unwrap().len(), 300_000);
    }

    #[test]
    fn nobody_waits_for_ever() {
        let error = run("exec sleep 60", Duration::from_millis(50)).unwrap_err().to_string();
        assert!(error.contains("has not ended"), "{error}");
    }
}
