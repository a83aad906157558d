//! What arguments take.

/// What an argument takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any device.
    Devices,
    /// An attached one, or id:N.
    Endpoints,
    /// The same, `host` or @ID.
    Targets,
    /// An identity that a workload may have.
    Workloads,
    /// Any identity.
    Identities,
    /// One that has a name of ours.
    Named,
    /// What `attach --owner` was given.
    Owners,
    /// A network namespace that has a name.
    Namespaces,
    /// One that an endpoint has.
    Addresses,
    /// Words of rules.
    Rules,
    /// Words of commands.
    Commands,
    /// These, among others.
    Words(&'static [&'static str]),
    /// A protocol by its name.
    Protocols,
    /// Flags of TCP.
    Flags,
    /// The path of a file.
    Files,
    /// That of a directory.
    Directories,
    /// What nobody can tell beforehand.
    Free,
}

/// Of an argument, by its command and what help calls its value; `None` if it is a new one.
pub fn kind(path: &str, id: &str, value: &str) -> Option<Kind> {
    let group = path.split(' ').next().unwrap_or_default();
    Some(match (value, group, id) {
        ("DEV", "attach" | "apply", _) => Kind::Devices,
        ("DEV", "policy" | "conntrack", _) | ("DEV|FILE", ..) => Kind::Targets,
        ("DEV", ..) => Kind::Endpoints,
        ("ID", "attach", _) => Kind::Workloads,
        ("ID", "identity", _) if path == "identity del" => Kind::Named,
        ("ID", ..) => Kind::Identities,
        ("TEXT", ..) => Kind::Owners,
        ("NAME|PATH", "oci", _) => Kind::Words(&["runc", "crun", "youki"]),
        ("NAME|PATH", ..) => Kind::Namespaces,
        ("RULE", ..) => Kind::Rules,
        ("COMMAND", "man", _) => Kind::Commands,
        ("TIME", ..) => Kind::Words(&["30s", "60s", "5m"]),
        ("LIST", ..) => Kind::Words(&["none"]),
        ("MAC|any", ..) => Kind::Words(&["any"]),
        ("PROTO", ..) => Kind::Protocols,
        ("FLAGS", ..) => Kind::Flags,
        ("FILE" | "FILE|DIR", ..) => Kind::Files,
        ("DIR", ..) => Kind::Directories,
        ("ADDR", "explain", _) | ("PREFIX", "conntrack", _) => Kind::Addresses,
        ("ADDRESS", ..) => Kind::Addresses,
        ("OPERATION", ..) => Kind::Words(&["start", "reconnect", "stopped", "release"]),
        ("SUBOPERATION", ..) => Kind::Words(&["begin", "end"]),
        ("ADDR" | "ARGS" | "COMMAND" | "EXTRA" | "GUEST" | "HEX" | "KEY=VALUE" | "LINE", ..) => {
            Kind::Free
        }
        ("MAC" | "MARK" | "N" | "NAME" | "PORT" | "PREFIX" | "TOLD", ..) => Kind::Free,
        _ => return None,
    })
}
