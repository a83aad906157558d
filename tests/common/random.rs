//! Random frames that look enough like packets to get deep into a parser, without an allocation for
//! each.

/// A generator of numbers (SplitMix64): its seed is all its state, so that a failure names it.
pub struct Random(pub u64);

impl Random {
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.number() % end as u64) as usize
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn byte(&mut self) -> u8 {
        self.number() as u8
    }
}

/// What frames are made of.
pub struct Ingredients {
    pub ethernet: bool,
    pub ipv4: &'static [[u8; 4]],
    pub ipv6: &'static [[u8; 16]],
}

const ETHERTYPES: [u16; 10] =
    [0x0800, 0x0800, 0x0800, 0x86dd, 0x86dd, 0x86dd, 0x86dd, 0x0806, 0x0806, 0x88cc];
const TAGS: [u16; 2] = [0x8100, 0x88a8];
const PROTOCOLS: [u8; 10] = [1, 6, 6, 17, 17, 17, 58, 58, 132, 47];
const EXTENSIONS: [u8; 5] = [0, 43, 44, 51, 60];
const PORTS: [u16; 6] = [67, 68, 546, 547, 80, 443];

impl Ingredients {
    /// Writes a frame over what was in `frame`.
    pub fn mix(&self, random: &mut Random, frame: &mut Vec<u8>) {
        let length = if random.once_in(50) { random.below(1400) } else { random.below(160) } + 14;
        frame.clear();
        while frame.len() < length {
            frame.extend(random.number().to_ne_bytes());
        }
        frame.truncate(length);
        let ethertype =
            if random.once_in(20) { random.number() as u16 } else { random.pick(&ETHERTYPES) };
        let at = if self.ethernet { link(random, frame, ethertype) } else { 0 };
        match ethertype {
            0x0800 => self.ipv4(random, frame, at),
            0x86dd => self.ipv6(random, frame, at),
            0x0806 => self.arp(random, frame, at),
            _ => {}
        }
        if random.once_in(4) {
            let at = random.below(length);
            frame[at] = random.byte();
        }
        make_acceptable(frame);
    }

    fn ipv4(&self, random: &mut Random, frame: &mut [u8], at: usize) {
        let words = if random.once_in(4) { random.byte() & 0xf } else { 5 };
        put(frame, at, &[0x40 | words]);
        let fragment = random.pick(&[0, 0, 0, 0, 0x2000, 0x2001, 0x0001, 0x4000]);
        put(frame, at + 6, &u16::to_be_bytes(fragment));
        let protocol = random.pick(&PROTOCOLS);
        put(frame, at + 9, &[protocol]);
        self.put_ipv4(random, frame, at + 12);
        self.put_ipv4(random, frame, at + 16);
        transport(random, frame, at + usize::from(words) * 4, protocol);
    }

    fn ipv6(&self, random: &mut Random, frame: &mut [u8], at: usize) {
        put(frame, at, &[0x60 | random.byte() & 0xf]);
        self.put_ipv6(random, frame, at + 8);
        self.put_ipv6(random, frame, at + 24);
        let (mut next, mut header) = (at + 6, at + 40);
        let most = if random.once_in(8) { 12 } else { 3 };
        for _ in 0..random.below(most) {
            let kind = random.pick(&EXTENSIONS);
            put(frame, next, &[kind]);
            let units = if random.once_in(10) { random.byte() } else { random.byte() & 1 };
            put(frame, header + 1, &[units]);
            if kind == 44 {
                put(frame, header + 2, &random.pick(&[[0, 0], [0, 1], [0, 8], [1, 1]]));
            }
            next = header;
            header += match kind {
                44 => 8,
                51 => (usize::from(units) + 2) * 4,
                _ => (usize::from(units) + 1) * 8,
            };
        }
        let protocol = random.pick(&PROTOCOLS);
        put(frame, next, &[protocol]);
        transport(random, frame, header, protocol);
        if protocol == 58 {
            self.put_ipv6(random, frame, header + 8);
        }
    }

    fn arp(&self, random: &mut Random, frame: &mut [u8], at: usize) {
        if !random.once_in(10) {
            put(frame, at, &[0, 1, 8, 0, 6, 4, 0, random.pick(&[1, 1, 2])]);
        }
        self.put_ipv4(random, frame, at + 14);
        self.put_ipv4(random, frame, at + 24);
    }

    fn put_ipv4(&self, random: &mut Random, frame: &mut [u8], at: usize) {
        if !random.once_in(10) {
            put(frame, at, &random.pick(self.ipv4));
        }
    }

    fn put_ipv6(&self, random: &mut Random, frame: &mut [u8], at: usize) {
        if !random.once_in(10) {
            put(frame, at, &random.pick(self.ipv6));
        }
    }
}

/// Tags and ethertype; where the network header begins.
fn link(random: &mut Random, frame: &mut [u8], ethertype: u16) -> usize {
    let mut at = 12;
    for _ in 0..random.pick(&[0, 0, 0, 0, 1, 1, 2, 3]) {
        put(frame, at, &random.pick(&TAGS).to_be_bytes());
        at += 4;
    }
    put(frame, at, &ethertype.to_be_bytes());
    at + 2
}

fn transport(random: &mut Random, frame: &mut [u8], at: usize, protocol: u8) {
    match protocol {
        58 => put(frame, at, &[128 + random.byte() % 16]),
        1 => put(frame, at, &[random.byte() % 16]),
        _ => {
            put(frame, at, &random.pick(&PORTS).to_be_bytes());
            put(frame, at + 2, &random.pick(&PORTS).to_be_bytes());
        }
    }
}

/// Writes what fits.
fn put(frame: &mut [u8], at: usize, bytes: &[u8]) {
    for (to, from) in frame.iter_mut().skip(at).zip(bytes) {
        *to = *from;
    }
}

/// The kernel refuses a test run with an IP header cut short right behind the Ethernet header.
fn make_acceptable(frame: &mut Vec<u8>) {
    let least = match frame[12..14] {
        [0x08, 0x00] => 14 + 20,
        [0x86, 0xdd] => 14 + 40,
        _ => 14,
    };
    if frame.len() < least {
        frame.resize(least, 0);
    }
}
