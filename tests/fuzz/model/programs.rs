//! The four programs: what each makes of a frame before and behind its policy.

use super::flows::{self, Key, Ports};
use super::host::{NOT_OURS, is_ours, names_sender, stamp};
use super::wire::{self, Fragment, Frame, Ip};
use super::{Arrival, Direction, Endpoint, Judgement, Machine, Must, Program};

/// What stands there of addresses may be used or not.
/// Nobody shall have it.
pub const FORGED: &str = "from this host's own address";
pub const UNREADABLE: &str = "a header that can't be read";

impl Machine {
    /// What must become of a frame that arrives at a program of an endpoint.
    pub fn judge(&self, endpoint: &Endpoint, program: Program, arrival: &Arrival<'_>) -> Judgement {
        let frame = wire::read(arrival.frame, endpoint.has_ethernet, arrival.is_gso);
        match program {
            Program::FromContainer => self.judge_sent(endpoint, &frame, arrival),
            Program::ToContainer => self.judge_received(endpoint, &frame, arrival),
            Program::FromNetdev => self.judge_arriving(endpoint, &frame, arrival),
            Program::ToNetdev => self.judge_leaving(endpoint, &frame, arrival),
        }
    }

    /// What a workload sends.
    fn judge_sent(&self, endpoint: &Endpoint, frame: &Frame, arrival: &Arrival<'_>) -> Judgement {
        let refuse = |why| Judgement::new(Must::Drop, why);
        let mark = stamp(endpoint.identity) | arrival.mark & NOT_OURS;
        let has_foreign_mac = endpoint.has_ethernet
            && endpoint.workload_mac.is_some_and(|mac| arrival.frame[6..12] != mac);
        let objection = match frame {
            _ if has_foreign_mac => Some(refuse("from a foreign MAC")),
            Frame::Malformed => Some(refuse(UNREADABLE)),
            Frame::TooDeep => Some(refuse("more tags than anybody unwraps")),
            Frame::Other => Some(refuse("neither IP nor ARP")),
            Frame::Ip(ip) if ip.transport == wire::Transport::Unreadable => {
                Some(refuse("headers that end early"))
            }
            Frame::Arp(arp) => self.object_to_arp(endpoint, arp, arrival),
            Frame::Ip(ip) => self.object_to_workload(endpoint, ip, arrival),
        };
        let policed = |ip| self.police(endpoint, program(endpoint, Direction::Egress), ip, arrival);
        let mut judgement = match (objection, frame) {
            (Some(objection), _) if objection.must == Must::Drop => objection,
            (Some(objection), Frame::Ip(ip)) => {
                let policed = policed(ip);
                if policed.must == Must::Drop { policed } else { with_changes(objection, policed) }
            }
            (Some(objection), _) => objection,
            (None, Frame::Ip(ip)) => policed(ip),
            (None, Frame::Arp(arp)) if self.answers_arp(endpoint, arp) => {
                Judgement::new(Must::Redirect, "an ARP request")
            }
            (None, _) => Judgement::pass("ARP"),
        };
        judgement.mark = if judgement.must == Must::Redirect { arrival.mark } else { mark };
        judgement
    }

    /// What a workload receives.
    fn judge_received(
        &self,
        endpoint: &Endpoint,
        frame: &Frame,
        arrival: &Arrival<'_>,
    ) -> Judgement {
        let is_enforced = endpoint.enforces(Direction::Ingress);
        let mut judgement = match frame {
            Frame::Malformed => Judgement::either(UNREADABLE),
            Frame::TooDeep => Judgement::drop_if(is_enforced, "more tags than anybody unwraps"),
            Frame::Ip(ip) => self.police(endpoint, Program::ToContainer, ip, arrival),
            Frame::Arp(_) | Frame::Other => Judgement::pass("not IP"),
        };
        let mark = arrival.mark;
        judgement.mark = if is_ours(mark) { mark & NOT_OURS } else { mark };
        judgement
    }

    /// What a NIC receives.
    fn judge_arriving(
        &self,
        endpoint: &Endpoint,
        frame: &Frame,
        arrival: &Arrival<'_>,
    ) -> Judgement {
        let is_enforced = endpoint.enforces(Direction::Ingress);
        let mut judgement = match frame {
            Frame::Malformed => Judgement::either(UNREADABLE),
            Frame::TooDeep => match endpoint.bridge {
                Some(mac) if arrival.frame[..6] != mac => {
                    Judgement::either("more tags than anybody unwraps, for another")
                }
                _ => Judgement::drop_if(is_enforced, "more tags than anybody unwraps"),
            },
            Frame::Ip(ip) => self.received(endpoint, ip, arrival),
            Frame::Arp(_) | Frame::Other => Judgement::pass("not IP"),
        };
        // A bridge hands on what is for all of its ports, and the host's own stack discards it.
        let is_unreadable =
            matches!(frame, Frame::Ip(ip) if ip.transport == wire::Transport::Unreadable);
        if is_for_guests(endpoint, arrival)
            && judgement.must == Must::Drop
            && (judgement.why != FORGED || is_unreadable)
        {
            judgement.must = Must::Either;
        }
        let mark = arrival.mark;
        judgement.mark = if names_sender(mark) { mark & NOT_OURS } else { mark };
        judgement
    }

    fn received(&self, endpoint: &Endpoint, ip: &Ip, arrival: &Arrival<'_>) -> Judgement {
        let program = Program::FromNetdev;
        let policed = self.police(endpoint, program, ip, arrival);
        if endpoint.mode(Direction::Ingress) == super::Mode::Off {
            return policed;
        }
        let is_policed = self.is_policed(endpoint, program, ip, arrival);
        // What belongs to a flow may be settled before anything else is asked.
        let is_known = ip.fragment == Fragment::Later
            || (flows::has_flow(ip)
                && self.flows.contains_key(&Key::of(endpoint, false, ip, Ports::of(ip))));
        match self.object_to_received(endpoint, ip, arrival.frame, is_policed, is_known) {
            Some(objection) if objection.must == Must::Drop || policed.must != Must::Drop => {
                let mut judgement = with_changes(objection, policed);
                judgement.may_leave_ports(endpoint, ip);
                judgement
            }
            _ => policed,
        }
    }

    /// What a NIC sends.
    fn judge_leaving(
        &self,
        endpoint: &Endpoint,
        frame: &Frame,
        arrival: &Arrival<'_>,
    ) -> Judgement {
        let is_enforced = endpoint.enforces(Direction::Egress);
        let is_generated_here = arrival.ingress_ifindex == 0;
        let mut judgement = match frame {
            Frame::Malformed => Judgement::either(UNREADABLE),
            Frame::TooDeep if is_generated_here => {
                Judgement::drop_if(is_enforced, "more tags than anybody unwraps")
            }
            Frame::TooDeep => Judgement::either("more tags than anybody unwraps, forwarded"),
            Frame::Ip(ip) => self.police(endpoint, Program::ToNetdev, ip, arrival),
            Frame::Arp(_) | Frame::Other => Judgement::pass("not IP"),
        };
        let source = match frame {
            Frame::Ip(ip) => Some(ip.source),
            Frame::Arp(arp) => Some(arp.sender.into()),
            _ => None,
        };
        let mark = arrival.mark;
        let is_stamped = endpoint.identity != 1
            && self.is_host_traffic(endpoint, source, arrival)
            && (is_generated_here || !is_ours(mark));
        // What looks like ours, and nobody of ours has set, is all another software's.
        let kept = if is_ours(mark) { 0 } else { mark & NOT_OURS };
        judgement.mark = if is_stamped { stamp(endpoint.identity) | kept } else { mark };
        judgement
    }

    /// The marks that a NIC may leave on what it lets pass.
    pub fn stamps(&self, endpoint: &Endpoint, arrival: &Arrival<'_>, mark: u32) -> Vec<u32> {
        let Frame::Ip(ip) = wire::read(arrival.frame, endpoint.has_ethernet, arrival.is_gso) else {
            return vec![mark];
        };
        if !endpoint.switches.stamp_remote || mark & !NOT_OURS != 0 {
            return vec![mark];
        }
        let marks = self.remote_to_stamp(endpoint, &ip).into_iter();
        // What the host itself does not get has none.
        let unstamped = is_for_guests(endpoint, arrival).then_some(mark);
        marks
            .map(|identity| if identity < 1 << 24 { stamp(identity) | mark } else { mark })
            .chain(unstamped)
            .collect()
    }
}

fn is_for_guests(endpoint: &Endpoint, arrival: &Arrival<'_>) -> bool {
    endpoint.bridge.is_some() && arrival.frame[0] & 1 == 1
}

fn program(endpoint: &Endpoint, direction: Direction) -> Program {
    match (endpoint.is_container, direction) {
        (true, Direction::Egress) => Program::FromContainer,
        (true, Direction::Ingress) => Program::ToContainer,
        (false, Direction::Egress) => Program::ToNetdev,
        (false, Direction::Ingress) => Program::FromNetdev,
    }
}

impl Machine {
    fn answers_arp(&self, endpoint: &Endpoint, arp: &wire::Arp) -> bool {
        endpoint.switches.arp_responder
            && arp.is_request
            && !arp.sender.is_unspecified()
            && arp.sender != arp.target
            && !self.is_given(endpoint, arp.target.into())
    }
}

/// What is open leaves behind what it would if it passed.
fn with_changes(mut objection: Judgement, policed: Judgement) -> Judgement {
    objection.change = policed.change;
    objection
}
