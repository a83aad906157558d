//! Containers of Podman, whose images are in containers/storage.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Container, FILES, id, world};

fn write(path: &str, value: &Value) {
    let path = PathBuf::from(format!("{FILES}/storage/{path}"));
    fs::create_dir_all(path.parent().unwrap()).expect("make the directory");
    fs::write(path, value.to_string()).expect("write it");
}

/// A container has the annotations of its image, unless it has others of the same key.
#[test]
fn whoever_makes_an_image_does_not_say_the_identity() {
    let Some(world) = world() else { return };
    world.workload("red", 1);
    let bundle = PathBuf::from(format!("{FILES}/storage/overlay-containers/c1/userdata"));
    let root = json!({"path": format!("{FILES}/storage/overlay/f00/merged")});
    for (list, is_by_bundle) in
        [("containers.json", true), ("volatile-containers.json", true), ("containers.json", false)]
    {
        let mut container = Container::new("c1", "red").with(id(300));
        match is_by_bundle {
            true => container.bundle = bundle.clone(),
            false => container.config["root"] = root.clone(),
        }
        let list = format!("overlay-containers/{list}");
        write(&list, &json!([{"id": "c0", "image": "f00"}, {"id": "c1", "image": "f01"}]));
        container.is_refused(&world, "", &["annotation", "nobody can tell", "f01"]);
        let manifest = "overlay-images/f01/manifest";
        write(manifest, &json!({"config": {"digest": "sha256:f02"}, "annotations": id(300)}));
        container.is_refused(&world, "", &["annotation: cilmark.id=300", "image"]);
        for annotations in [json!({"cilmark.id": "301"}), Value::Null] {
            write(
                manifest,
                &json!({"config": {"digest": "sha256:f02"}, "annotations": annotations}),
            );
            container.created();
            assert_eq!(world.status("red")["identity"], 300);
            container.stopped();
        }
        // It was made of a directory.
        write(&list, &json!([{"id": "c1"}]));
        container.created();
        container.stopped();
        write(&list, &json!({}));
        container.is_refused(&world, "", &["annotation", &list]);
        fs::remove_dir_all(format!("{FILES}/storage")).unwrap();
    }
}

/// Another manifest of the same image came after the container was made of the first, or a list that names it.
#[test]
fn what_an_image_has_said_before_counts_as_well() {
    let Some(world) = world() else { return };
    world.workload("red", 1);
    let mut container = Container::new("c1", "red").with(id(300));
    container.config["root"] = json!({"path": format!("{FILES}/storage/overlay/f00/merged")});
    write("overlay-containers/containers.json", &json!([{"id": "c1", "image": "f01"}]));
    let config = json!({"digest": "sha256:f02"});
    write("overlay-images/f01/manifest", &json!({"config": config}));
    // manifest-sha256:f03, manifest-sha256:f04
    let [list, before] =
        ["wMw==", "wNA=="].map(|end| format!("overlay-images/f01/=bWFuaWZlc3Qtc2hhMjU2OmY{end}"));
    write(&list, &json!({"manifests": [], "annotations": id(300)}));
    container.created();
    container.stopped();
    write(&before, &json!({"config": config, "annotations": id(300)}));
    container.is_refused(&world, "", &["annotation: cilmark.id=300", "image"]);
    write(&before, &json!({"config": config, "annotations": id(301)}));
    container.created();
}
