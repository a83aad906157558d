//! Several members.

use std::time::Duration;

use cilmark_sync::etcd::{Client, Error};
use nix::sys::signal::Signal;
use tokio::time::timeout;

use crate::common::Etcd;
use crate::common::machine::{PATIENCE, alone, until};

fn client_of(members: &[Etcd]) -> Client {
    let urls: Vec<String> = members.iter().map(Etcd::url).collect();
    members[0].client_by(&format!("endpoints: [{}]", urls.join(", ")), &[])
}

#[test]
fn calls_go_on_when_any_one_of_three_members_is_killed() {
    alone(async || {
        let mut members = Etcd::start_many(3).await;
        let client = client_of(&members);
        client.put("k", "0", None).await.unwrap();
        for (number, member) in members.iter_mut().enumerate() {
            member.kill();
            // Only a call that the member may have done fails; and while the others elect a leader.
            until("it writes", async || client.put("k", number.to_string(), None).await.is_ok())
                .await;
            let (_, found) = client.get("k").await.unwrap();
            assert_eq!(found.unwrap().value, number.to_string().as_bytes());
            member.start_again();
            member.wait().await;
        }
    });
}

#[test]
fn calls_go_on_by_another_member_when_one_does_not_answer() {
    alone(async || {
        let members = Etcd::start_many(3).await;
        let client = client_of(&members);
        client.put("k", "v", None).await.unwrap();
        for member in &members {
            member.signal(Signal::SIGSTOP);
            let found = timeout(PATIENCE, async {
                loop {
                    match client.get("k").await {
                        Ok((_, found)) => return found,
                        Err(Error::Unavailable(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
            assert_eq!(found.await.expect("in time").unwrap().value, b"v");
            member.signal(Signal::SIGCONT);
            member.wait().await;
        }
    });
}

#[test]
fn a_member_without_a_leader_ends_watches_and_answers_no_calls() {
    alone(async || {
        let members = Etcd::start_many(3).await;
        let client = members[0].client();
        let from = client.header().await.unwrap().revision + 1;
        let mut watch = client.watch("k", from).await.unwrap();
        members[1].signal(Signal::SIGSTOP);
        members[2].signal(Signal::SIGSTOP);
        let error = timeout(PATIENCE, watch.next()).await.expect("in time").unwrap_err();
        assert!(matches!(&error, Error::Unavailable(why) if why.contains("no leader")), "{error}");
        let error = client.watch("k", from).await.err();
        assert!(matches!(error, Some(Error::Unavailable(_))), "{error:?}");
        members[1].signal(Signal::SIGCONT);
        members[2].signal(Signal::SIGCONT);
        until("it writes", async || client.put("k", "v", None).await.is_ok()).await;
        client.watch("k", from).await.unwrap().next().await.unwrap();
    });
}

#[test]
fn nobody_at_the_address_is_told_with_the_address() {
    alone(async || {
        let etcd = Etcd::start().await;
        let client =
            etcd.client_by("endpoints: ['http://127.0.0.9:1', 'http://nobody.invalid']", &[]);
        let error = timeout(Duration::from_secs(60), client.header()).await.expect("in time");
        let text = error.unwrap_err().to_string();
        assert!(text.contains("127.0.0.9:1: Connection refused"), "{text}");
        assert!(text.contains("nobody.invalid:2379: "), "{text}");
    });
}

#[test]
fn a_call_after_a_restart_is_done_at_once_though_the_connection_is_lost() {
    alone(async || {
        let mut etcd = Etcd::start().await;
        let client = etcd.client();
        for number in 0..3 {
            client.put("k", number.to_string(), None).await.unwrap();
            etcd.start_again();
            etcd.wait().await;
        }
        assert_eq!(client.get("k").await.unwrap().1.unwrap().value, b"2");
    });
}
