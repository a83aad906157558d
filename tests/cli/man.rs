//! `cilmark man`: pages that man takes without a warning. What stands in them is claimed beside src/cli/guide.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::common::process::{Run, cilmark};

/// A directory that goes with its test.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Directory {
        Directory(std::env::temp_dir().join(format!("cilmark-{name}-{}", std::process::id())))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn run(arguments: &[&str]) -> Run {
    cilmark(arguments).output().expect("run cilmark").into()
}

#[test]
fn man_takes_every_page_without_a_warning() {
    let directory = Directory::new("man");
    let below = directory.0.join("not/there/yet").display().to_string();
    for _ in ["made", "written over"] {
        let run = run(&["man", "--dir", &below]);
        let said = (run.status, run.stdout.as_str(), run.stderr.as_str());
        assert_eq!(said, (Some(0), "", ""));
    }
    let pages: Vec<PathBuf> =
        fs::read_dir(&below).expect("a directory").map(|file| file.unwrap().path()).collect();
    let names = |name: &str| pages.iter().any(|path| path.ends_with(name));
    assert!(names("cilmark.8") && names("cilmark-policy-add.8") && names("cilmark-cluster.8"));
    // As `man --warnings=w` does for one page.
    let mut groff = Command::new("groff");
    groff.args(["-man", "-ww", "-z", "-k", "-Tutf8"]).args(&pages);
    let run: Run = groff.output().expect("run groff").into();
    assert_eq!((run.status, run.stderr.as_str()), (Some(0), ""));
}

#[test]
fn a_page_is_printed_for_man_to_show() {
    let mut page = cilmark(&["man", "policy", "add"]).stdout(Stdio::piped()).spawn().unwrap();
    let shown = Command::new("man")
        .args(["--warnings=w", "-l", "-"])
        .env("MANWIDTH", "100")
        .stdin(page.stdout.take().expect("a pipe"))
        .output()
        .expect("run man");
    assert!(page.wait().unwrap().success());
    let run: Run = shown.into();
    assert_eq!((run.status, run.stderr.as_str()), (Some(0), ""));
    for words in [
        "CILMARK-POLICY-ADD(8)",
        "cilmark-policy-add - Add rules behind those that are there",
        "       cilmark policy add [OPTIONS] <DEV> <RULE>...",
        "           cilmark policy add @web allow ingress from any tcp/80",
    ] {
        assert!(
            run.stdout.replace('\u{2010}', "-").contains(words),
            "no `{words}` in {}",
            run.stdout
        );
    }
}

#[test]
fn what_has_no_page_is_refused() {
    run(&["man", "polcy"]).fails(1, &["cilmark has no command `polcy`", "cilmark help"]);
    run(&["man", "--dir", "/proc/none"]).fails(1, &["make /proc/none"]);
    run(&["man", "--dir", "/tmp", "attach"]).fails(2, &["cannot be used with"]);
}
