//! Containers of Docker, whose labels are in its data.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::{Container, FILES, id, world};

/// A container of Docker, whose data is in this directory.
fn container(data: &str, name: &str, labels: Value) -> Container {
    let directory = format!("{data}/containers/{name}");
    fs::create_dir_all(&directory).expect("make it");
    let kept =
        json!({"ID": name, "Name": "/web", "Config": {"Labels": labels}, "Image": "sha256:f00"});
    fs::write(format!("{directory}/config.v2.json"), kept.to_string()).expect("write it");
    write(
        &format!("{data}/image/overlay2/imagedb/content/sha256/f00"),
        &json!({"config": {"Labels": null}}),
    );
    Container::new(name, "red")
}

fn write(path: &str, value: &Value) {
    fs::create_dir_all(Path::new(path).parent().unwrap()).expect("make the directory");
    fs::write(path, value.to_string()).expect("write it");
}

fn mount(data: &str, name: &str) -> Value {
    json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/etc/resolv.conf", "source": format!("{data}/containers/{name}/resolv.conf")},
    ])
}

#[test]
fn its_labels_count_wherever_its_data_is() {
    let Some(world) = world() else { return };
    world.workload("red", 1);
    world.sh("mount -t tmpfs lib /var/lib && mkdir /var/lib/docker");
    let elsewhere = format!("{FILES}/elsewhere/231072.231072");
    // Of the container itself, of another one with whose network it runs, by the root, and by default.
    for (data, key, value) in [
        (elsewhere.as_str(), "mounts", mount(&elsewhere, "c1")),
        (&elsewhere, "mounts", mount(&elsewhere, "c2")),
        (&elsewhere, "root", json!({"path": format!("{elsewhere}/overlay2/f00/merged")})),
        (&elsewhere, "root", json!({"path": format!("{elsewhere}/rootfs/overlayfs/c1")})),
        ("/var/lib/docker", "mounts", json!([])),
    ] {
        let mut container = container(data, "c1", id(300));
        container.config[key] = value;
        container.created();
        let status = world.status("red");
        let birth = &status["birth"];
        assert_eq!((&birth["runtime"], &birth["id_from"]), (&json!("docker"), &json!("label")));
        assert_eq!((&status["identity"], &status["owner"]), (&json!(300), &json!("c1")));
        container.stopped();
        assert_eq!(world.pins(), [""; 0]);
        fs::remove_dir_all(format!("{data}/containers")).unwrap();
    }
}

#[test]
fn annotations_come_before_labels() {
    let Some(world) = world() else { return };
    world.workload("red", 1);
    let data = format!("{FILES}/docker");
    let labels = json!({"cilmark.id": "300", "cilmark.rules": "allow egress to any"});
    let mut container = container(&data, "c1", labels).with(id(301));
    container.config["mounts"] = mount(&data, "c1");
    container.created();
    let status = world.status("red");
    assert_eq!(status["identity"], 301);
    assert_eq!(status["birth"]["id_from"], "annotation");
    assert_eq!(status["birth"]["rules_from"], "label");
}

#[test]
fn what_is_wrong_in_labels_or_in_dockers_file_stops_the_start() {
    let Some(world) = world() else { return };
    world.workload("red", 1);
    let data = format!("{FILES}/docker");
    let mut wrong = container(&data, "c1", json!({"cilmark.ids": "300"}));
    wrong.config["mounts"] = mount(&data, "c1");
    wrong.is_refused(&world, "", &["label: cilmark.ids", "no such key"]);
    fs::write(format!("{data}/containers/c1/config.v2.json"), "{").unwrap();
    wrong.is_refused(&world, "", &["/mnt/docker/containers/c1/config.v2.json", "Docker"]);
    fs::remove_file(format!("{data}/containers/c1/config.v2.json")).unwrap();
    fs::create_dir(format!("{data}/containers/c1/config.v2.json")).unwrap();
    wrong.is_refused(&world, "", &["/mnt/docker/containers/c1/config.v2.json", "directory"]);
}

/// A container has the labels of its image, unless it has others of the same key.
#[test]
fn whoever_makes_an_image_does_not_say_the_identity() {
    let Some(world) = world() else { return };
    world.workload("red", 1);
    world.sh("mount -t tmpfs lib /var/lib");
    let data = format!("{FILES}/docker");
    let mut container = container(&data, "c1", id(300));
    container.config["mounts"] = mount(&data, "c1");
    let config = format!("{data}/image/overlay2/imagedb/content/sha256/f00");
    write(&config, &json!({"config": {"Labels": id(300)}}));
    container.is_refused(&world, "", &["label: cilmark.id=300", "image"]);
    write(&config, &json!({"config": {"Labels": id(301)}}));
    container.created();
    container.stopped();
    // Where containerd keeps the images: a list of manifests, the manifest, and the configuration.
    let kept = json!({"Config": {"Labels": id(300)}, "Image": "sha256:f00",
        "ImageManifest": {"digest": "sha256:f01"}});
    fs::remove_file(config).unwrap();
    write(&format!("{data}/containers/c1/config.v2.json"), &kept);
    for root in [format!("{data}/containerd/daemon"), "/var/lib/containerd".to_owned()] {
        container.is_refused(&world, "", &["label", "nobody can tell", "sha256:f01"]);
        let blobs = format!("{root}/io.containerd.content.v1.content/blobs/sha256");
        write(&format!("{blobs}/f01"), &json!({"config": {"digest": "sha256:f02"}}));
        container.is_refused(&world, "", &["label", "nobody can tell", "sha256:f02"]);
        write(&format!("{blobs}/f02"), &json!({"config": {"Labels": id(300)}}));
        container.is_refused(&world, "", &["label: cilmark.id=300", "image"]);
        write(&format!("{blobs}/f02"), &json!({"config": {}}));
        container.created();
        container.stopped();
        fs::remove_dir_all(root).unwrap();
    }
    for image in ["", "f00", "sha256:../../x", "sha512:f00"] {
        let kept = json!({"Config": {"Labels": id(300)}, "Image": image});
        write(&format!("{data}/containers/c1/config.v2.json"), &kept);
        container.is_refused(&world, "", &["label", "nobody can tell", "no digest"]);
    }
    // Who says nothing needs no image.
    write(&format!("{data}/containers/c1/config.v2.json"), &json!({"Config": {}}));
    container.created();
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn labels_of_a_docker_that_is_not_root_stop_the_start() {
    let Some(_world) = world() else { return };
    let data = format!("{FILES}/docker");
    for (labels, expected) in [(json!({"app": "web"}), Some(0)), (id(300), Some(1))] {
        let mut container = container(&data, "c1", labels);
        container.config["root"] = json!({"path": format!("{data}/overlay2/f00/merged")});
        let Some((status, stderr)) = container.create_rootless() else { return };
        assert_eq!(status, expected, "{stderr}");
        assert_eq!(stderr.contains("is no root of this host"), expected == Some(1), "{stderr}");
    }
}
