//! `sweep`, which the service does.

use cilmark::model::cluster::{Answer, Request};

use super::{cluster, on_fresh_machine, service_that_answers};
use crate::common::directory::Directory;

#[test]
fn the_service_is_asked_and_its_answer_told() {
    on_fresh_machine(async || {
        let directory = Directory::new();
        let service = service_that_answers(Answer::Done(500));
        let told = cluster(&directory.path().join("none"), "sweep c1").ok();
        assert_eq!(told, "500 lines of c1 are gone\n");
        assert_eq!(service.join().unwrap(), Request::Sweep("c1".into()));
    });
}

#[test]
fn what_the_service_refuses_is_an_error() {
    on_fresh_machine(async || {
        let directory = Directory::new();
        let service = service_that_answers(Answer::Error("no cluster c9 is read".into()));
        cluster(&directory.path().join("none"), "sweep c9").fails(1, &["no cluster c9 is read"]);
        service.join().unwrap();
    });
}

#[test]
fn without_the_service_there_is_nothing_to_let_go() {
    on_fresh_machine(async || {
        let directory = Directory::new();
        let run = cluster(&directory.path().join("none"), "sweep c1");
        run.fails(1, &["cilmark-sync does not answer at /run/cilmark/sync.sock"]);
    });
}
