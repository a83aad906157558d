//! Room in conntrack: who gets it when there is none, and who gives it.

use crate::common::Lab;
use crate::common::flood::Scene;

/// Of a flood's table, for each family. Seven in a hundred flows that it has room for are to stay.
const ENTRIES: u32 = 4096;
const OF_EACH: u16 = 16;

#[test]
fn while_there_is_room_every_flow_goes_on() {
    let Some(lab) = Lab::new() else { return };
    let scene = Scene::new(&lab, Some(ENTRIES), OF_EACH);
    scene.first_packets(1).ends_none().refuses_nobody();
    scene.handshakes(1).ends_none().refuses_nobody();
    assert_eq!(scene.listed(&lab.world.cilmark_json("conntrack list")), scene.flows());
}
