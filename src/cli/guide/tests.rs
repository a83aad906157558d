use super::man::{self, Page};
use crate::cli::{command, guide};

#[test]
fn every_command_has_examples_and_clap_takes_them() {
    assert_eq!(super::check::faults(command(), &guide(), &["cilmark"]), [""; 0]);
}

#[test]
fn faults_of_examples_are_found() {
    let text = "  lost\n[detach]\n> no such option\ncilmark detach --none\n[nothing]\n> a\nb\n[status]\n> other\ncilmark detach x";
    let faults =
        super::check::faults(command(), &super::Guide::read(text), &["cilmark"]).join("\n");
    for fault in [
        "`  lost` is below nothing",
        "[nothing] is no command",
        "`cilmark detach --none`",
        "[status] has no example that calls it",
        "[policy add] has no example",
    ] {
        assert!(faults.contains(fault), "{fault}: {faults}");
    }
}

#[test]
fn a_command_has_its_own_notes_and_those_of_all() {
    let text = "[*]\nexit 0 done\nexit 1 failed\nfile /a b\n[x y]\n# none\ntext a\n  b c\ntext d\nexit 1 worse\n> does\nx\ny\n";
    let notes = super::Guide::read(text).with_common("x y");
    assert_eq!(notes.text, ["a b c", "d"]);
    assert_eq!(notes.exit, [("0", "done"), ("1", "worse")]);
    assert_eq!(notes.files, [("/a", "b")]);
    assert_eq!((notes.examples[0].does, &notes.examples[0].lines[..]), ("does", &["x", "y"][..]));
}

fn pages() -> Vec<Page> {
    man::pages(command(), &guide()).unwrap()
}

#[test]
fn every_command_has_a_page_with_all_that_it_takes() {
    let mut command = command();
    command.build();
    let pages = pages();
    let of: Vec<&str> = pages.iter().map(|page| page.path.as_str()).collect();
    let paths = super::check::paths(&command);
    assert_eq!(of.len(), paths.len());
    assert!(paths.iter().all(|path| of.contains(&path.as_str())));
    for page in &pages {
        assert_eq!(super::check::lacks(&command, page), [""; 0], "{}", page.name);
    }
}

#[test]
fn what_a_page_lacks_is_found() {
    let mut command = command();
    command.build();
    let mut page = pages().into_iter().find(|page| page.path == "policy").unwrap();
    for (cut, lack) in [
        ("\\-\\-netns", "\\fB--netns\\fR"),
        ("SEE ALSO", "\n.SH \"SEE ALSO\"\n"),
        ("policy\\-add", "\n\\fBcilmark-policy-add\\fR(8)\n"),
    ] {
        page.text = page.text.replace(cut, "");
        assert!(super::check::lacks(&command, &page).contains(&lack.to_owned()), "{lack}");
    }
}

#[test]
fn pages_are_the_same_each_time_and_have_no_date() {
    for (one, other) in pages().iter().zip(pages()) {
        assert_eq!(one.text, other.text);
        assert!(one.text.contains(" 8 \"\" \"cilmark 0."), "{}", one.name);
    }
}
