//! What there is on a host to be published in a cluster.

use std::net::IpAddr;

use cilmark::model::endpoint::{EndpointId, Role};
use cilmark::ops::cluster::endpoints::{
    Changes, LocalEndpoint, OwnAddresses, Reader, of_nics, read,
};

use cilmark::ops::cluster::memory::{self, Memory};

use crate::common::World;
use crate::common::machine::by_each_hook;
use crate::common::world::wait_for;

fn all(world: &World) -> Vec<LocalEndpoint> {
    let root = world.root();
    let ids = root.endpoints().unwrap().into_iter();
    ids.filter_map(|id| read(&root, id).unwrap()).collect()
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// Without duplicate address detection an address is there at once.
fn uplink(world: &World) {
    world.veth("uplink");
    world.sh("ip addr add 192.0.2.7/24 dev uplink; ip addr add fd00:2::7/64 dev uplink nodad");
}

#[test]
fn an_endpoint_tells_its_addresses_and_keeps_its_birth_until_it_is_detached() {
    by_each_hook(|hook| {
        let Some(world) = World::new() else { return };
        world.veth("red");
        let attach = format!("attach red --hook {hook} --endpoint-id 7");
        world.cilmark_ok(&format!("{attach} --id 300 --ip 10.0.0.1,10.8.0.0/24,fd00::1"));
        let [red] = &all(&world)[..] else { panic!("one endpoint") };
        assert_eq!(
            (red.id, red.role, red.identity.0),
            (EndpointId::new(7).unwrap(), Role::Container, 300)
        );
        assert_eq!(red.device, "red");
        assert_eq!(red.hosts, addresses(&["10.0.0.1", "fd00::1"]));
        assert_eq!(red.prefixes, ["10.8.0.0/24".parse().unwrap()]);
        assert!(!red.is_by_labels && red.on_device.is_empty());
        world.cilmark_ok(&format!("{attach} --id 301 --ip 10.0.0.1"));
        let [again] = &all(&world)[..] else { panic!("one endpoint") };
        assert_eq!((again.birth, again.identity.0), (red.birth, 301));
        world.cilmark_ok("detach red");
        assert_eq!(all(&world), []);
        world.cilmark_ok(&format!("{attach} --id 301 --ip 10.0.0.1"));
        let [other] = &all(&world)[..] else { panic!("one endpoint") };
        assert_ne!(other.birth, red.birth);
    });
}

#[test]
fn labels_make_an_identity_where_no_number_is_named() {
    let Some(world) = World::new() else { return };
    world.sh("mount -t tmpfs tmpfs /var/lib");
    memory::write(&world.root(), &Memory::new()).unwrap();
    world.veth("red");
    world.veth("blue");
    world.cilmark_ok("attach red --labels app=web,tier=front --ip 10.0.0.1");
    world.cilmark_ok("attach blue --labels app=web --id 300 --ip 10.0.0.2");
    let told = all(&world);
    let told: Vec<_> = told.iter().map(|it| (it.device.as_str(), it.is_by_labels)).collect();
    assert_eq!(told, [("red", true), ("blue", false)]);
    let [red, blue] = &all(&world)[..] else { panic!("two endpoints") };
    assert_eq!((red.labels.to_string().as_str(), red.identity.0), ("app=web,tier=front", 5));
    assert_eq!((blue.labels.to_string().as_str(), blue.identity.0), ("app=web", 300));
}

#[test]
fn what_has_lost_its_device_or_left_its_namespace_is_not_told_of() {
    by_each_hook(|hook| {
        let Some(world) = World::new() else { return };
        world.sh("ip netns add away");
        for (number, device) in [(1, "red"), (2, "blue"), (3, "green")] {
            world.veth(device);
            world.cilmark_ok(&format!(
                "attach {device} --id 300 --ip 10.0.0.{number} --hook {hook}"
            ));
        }
        world.sh("ip link del red; ip link set blue netns away");
        let left: Vec<String> = all(&world).into_iter().map(|it| it.device).collect();
        assert_eq!(left, ["green"]);
    });
}

#[test]
fn the_addresses_of_nics_are_those_that_the_kernel_has_now() {
    let Some(world) = World::new() else { return };
    uplink(&world);
    assert_eq!(of_nics(&[]).unwrap().len(), 0);
    world.sh("ip route add default via 192.0.2.1 dev uplink");
    let told: Vec<_> = of_nics(&[]).unwrap().into_iter().collect();
    let both = addresses(&["192.0.2.7", "fd00:2::7"]);
    assert_eq!(told, both.iter().map(|it| (*it, None)).collect::<Vec<_>>());
    world.veth("other");
    world.sh("ip addr add 192.0.2.200/32 dev other");
    world.cilmark_ok("attach other --role netdev");
    world.sh("ip addr add 192.0.2.201/32 dev other");
    let endpoints = all(&world);
    let told: Vec<_> = of_nics(&endpoints).unwrap().into_iter().collect();
    let id = Some(endpoints[0].id);
    let both = addresses(&["192.0.2.200", "192.0.2.201"]);
    assert_eq!(told, both.iter().map(|it| (*it, id)).collect::<Vec<_>>());
}

#[test]
fn own_addresses_are_those_of_the_host_and_its_endpoints_and_of_namespaces_with_a_nic() {
    let Some(world) = World::new() else { return };
    uplink(&world);
    world.sh("ip netns add other");
    world.sh("ip -n other link set lo up");
    world.sh("ip -n other link add nic type veth peer name nic-peer
         ip -n other link set nic-peer up
         ip -n other link set nic up
         ip -n other addr add 203.0.113.9/24 dev nic");
    world.veth("red");
    world.cilmark_ok("attach red --id 300 --ip 10.0.0.1,10.8.0.0/24");
    let contain =
        |prefix: &str| OwnAddresses::read(&world.root()).unwrap().contain(&prefix.parse().unwrap());
    for own in ["192.0.2.7/32", "127.0.0.1/32", "fd00:2::7/128", "10.0.0.1/32", "10.8.0.3/32"] {
        assert!(contain(own), "{own}");
    }
    assert!(!contain("203.0.113.9/32") && !contain("10.0.0.2/32"));
    world.cilmark_ok("--netns other attach nic --role netdev");
    wait_for("the address of the other namespace", || contain("203.0.113.9/32"));
}

#[test]
fn only_what_has_changed_is_read_again() {
    by_each_hook(|hook| {
        let Some(world) = World::new() else { return };
        let root = world.root();
        let mut reader = Reader::default();
        let mut told = |everything: bool| -> Vec<(String, u32)> {
            let ids = reader.begin(&root, everything).unwrap().into_iter();
            let found: Vec<LocalEndpoint> = ids.filter_map(|id| reader.read(&root, id)).collect();
            found.into_iter().map(|it| (it.device, it.identity.0)).collect()
        };
        let is = |device: &str, identity| (device.to_owned(), identity);
        for device in ["red", "blue"] {
            world.veth(device);
            world.cilmark_ok(&format!("attach {device} --id 300 --hook {hook}"));
            told(false);
        }
        assert_eq!(told(false), [is("red", 300), is("blue", 300)]);
        // At once, when the clock of directories may not have moved.
        world.cilmark_ok(&format!("attach blue --id 301 --hook {hook}"));
        assert_eq!(told(false), [is("red", 300), is("blue", 301)]);
        world.sh("ip link del red");
        assert_eq!(told(false), [is("blue", 301)]);
        world.cilmark_ok("detach blue");
        assert_eq!(told(false), []);
        // Of another namespace only a look at everything tells.
        world.sh("ip netns add other; ip -n other link add grey type veth peer name peer");
        world.cilmark_ok(&format!("--netns other attach grey --id 300 --hook {hook}"));
        wait_for("its stamp is old", || {
            told(false);
            let grey = *root.endpoints().unwrap().last().unwrap();
            let directory = root.endpoint(grey).path().to_owned();
            directory.metadata().unwrap().modified().unwrap().elapsed().unwrap().as_millis() > 200
        });
        assert_eq!(told(false), [is("grey", 300)]);
        world.sh("ip -n other link del grey");
        assert_eq!(told(false), [is("grey", 300)]);
        assert_eq!(told(true), []);
    });
}

#[test]
fn devices_and_addresses_that_come_and_go_are_told_once() {
    let Some(world) = World::new() else { return };
    let changes = Changes::open().unwrap();
    assert!(!changes.take().unwrap());
    for change in [
        "ip link add red type veth peer name blue",
        "ip addr add 192.0.2.7/24 dev red",
        "ip addr add fd00:2::7/64 dev red nodad",
        "ip link del red",
    ] {
        world.sh(change);
        // A worker of the kernel tells of an address of IPv6.
        wait_for(change, || changes.take().unwrap());
        assert!(!changes.take().unwrap(), "{change}");
    }
}
