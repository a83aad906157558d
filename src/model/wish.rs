//! What is said of a workload that a runtime starts, and what of it counts.
//!
//! Each of identity, rules, modes, labels and addresses counts from the first that says it: the workload itself, its
//! runtime's configuration, the endpoint of the file that its device matches, and what the file says of all births.

use anyhow::{Context as _, Result, bail, ensure};
use ipnet::IpNet;

use super::enforcement::{Mode, Modes};
use super::labels::Labels;
use super::prefix::parse_own;
use super::spec::{EndpointSpec, IdentityRef, OwnAddresses};
use super::text::pieces;

/// How keys of cilmark begin among those of others.
pub const PREFIX: &str = "cilmark.";

/// What somebody says of a workload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// Its identity.
    pub id: Option<IdentityRef>,
    /// Its rules, a line each.
    pub rules: Option<Vec<String>>,
    /// What they do.
    pub policy: Option<Modes>,
    /// Its labels.
    pub labels: Option<Labels>,
    /// Its addresses.
    pub ip: Option<Vec<IpNet>>,
}

impl Wish {
    /// Of annotations or labels: those whose key begins with `cilmark.`. Another key than `cilmark.id`, `cilmark.rules`,
    /// `cilmark.policy`, `cilmark.labels` and `cilmark.ip` is an error: what is misspelt would count for nothing.
    pub fn of_annotations<'a>(
        annotations: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Wish> {
        let mut wish = Wish::default();
        for (key, value) in annotations {
            match key.strip_prefix(PREFIX) {
                Some(short) => wish.set(short, value).with_context(|| key.to_owned())?,
                None => ensure!(
                    !is_misspelt(key),
                    "{key}: keys of cilmark begin with `cilmark.`, such as cilmark.id"
                ),
            }
        }
        Ok(wish)
    }

    /// Sets what a key says, in text: `id`, `rules`, `policy`, `labels` or `ip`.
    pub fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let value = value.trim();
        ensure!(!value.is_empty(), "the value is empty; leave it out");
        match key {
            "id" => self.id = Some(value.parse()?),
            "rules" => self.rules = Some(pieces(value).map(str::to_owned).collect()),
            "policy" => self.policy = Some(modes(value)?),
            "labels" => self.labels = Some(value.parse()?),
            "ip" => {
                let own = value.split([',', ' ', '\n', '\t']).filter(|it| !it.is_empty());
                self.ip = Some(own.map(parse_own).collect::<Result<_>>()?);
            }
            _ => bail!("there is no such key; id, rules, policy, labels and ip are what there is"),
        }
        Ok(())
    }

    /// What the endpoint of a file, or of CNI's configuration, says.
    pub fn of_spec(spec: &EndpointSpec) -> Wish {
        let EndpointSpec { id, rules, policy, labels, .. } = spec;
        Wish {
            id: id.clone(),
            rules: rules.clone(),
            policy: Some(*policy).filter(|policy| !policy.are_off()),
            labels: Some(labels.clone()).filter(|labels| *labels != Labels::default()),
            ip: None,
        }
    }

    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Wish::default()
    }
}

/// Who says what the file says of all births.
pub const BY_DEFAULT: &str = "births";

/// What somebody says, and who: a word that `status` shows, such as `label`.
#[derive(Debug, Clone)]
pub struct Said {
    /// Who.
    pub by: String,
    /// What.
    pub wish: Wish,
}

impl Said {
    /// By somebody.
    pub fn by(who: impl Into<String>, wish: Wish) -> Said {
        Said { by: who.into(), wish }
    }
}

/// What counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// The endpoint, with identity and rules as they were said.
    pub spec: EndpointSpec,
    /// Its identity; `None` if its labels make it.
    pub id: Option<IdentityRef>,
    /// Who has said it, or the labels.
    pub id_from: String,
    /// Who has said the rules, if anybody has.
    pub rules_from: Option<String>,
    /// Whether anybody has said what they do.
    pub says_policy: bool,
}

/// What counts of what was said, for an endpoint that is else as `base` says. If nobody
/// names the identity, but for all births, the labels make it. `None` if nobody says either, and the workload is to be left alone. It is an
/// error if the first to speak, the workload itself, says anything else then.
pub fn decide(said: &[Said], base: EndpointSpec) -> Result<Option<Decided>> {
    fn first<'a, T>(
        said: &'a [Said],
        of: impl Fn(&'a Wish) -> Option<&'a T>,
    ) -> Option<(&'a str, &'a T)> {
        said.iter().find_map(|it| Some((it.by.as_str(), of(&it.wish)?)))
    }
    let named = said.iter().find(|it| it.wish.id.is_some() && it.by != BY_DEFAULT);
    let labelled = || said.iter().find(|it| it.wish.labels.is_some());
    let by_default = || said.iter().find(|it| it.wish.id.is_some());
    let Some(named) = named.or_else(labelled).or_else(by_default) else {
        if let Some(it) = said.first().filter(|it| !it.wish.is_empty()) {
            bail!(
                "the workload's {} says something of cilmark, but nothing names the workload's identity; name it with \
                 cilmark.id, or with cilmark.labels on a host of a cluster",
                it.by
            );
        }
        return Ok(None);
    };
    let rules = first(said, |wish| wish.rules.as_ref());
    let id = named.wish.id.clone();
    let mut spec = EndpointSpec { id: id.clone(), ..base };
    let policy = first(said, |wish| wish.policy.as_ref());
    if let Some((_, policy)) = policy {
        spec.policy = *policy;
    }
    if let Some((_, labels)) = first(said, |wish| wish.labels.as_ref()) {
        spec.labels = labels.clone();
    }
    if let Some((_, ip)) = first(said, |wish| wish.ip.as_ref()) {
        spec.ip = OwnAddresses::from(ip.clone());
    }
    spec.rules = Some(rules.map(|(_, rules)| rules.clone()).unwrap_or_default());
    Ok(Some(Decided {
        spec,
        id,
        id_from: named.by.clone(),
        rules_from: rules.map(|(by, _)| by.to_owned()),
        says_policy: policy.is_some(),
    }))
}

/// Whether somebody has meant one of our keys: in capitals, or with another separator.
fn is_misspelt(key: &str) -> bool {
    const KEYS: [&str; 5] = ["id", "rules", "policy", "labels", "ip"];
    let lower = key.to_ascii_lowercase();
    let short =
        lower.strip_prefix("cilmark").and_then(|rest| rest.strip_prefix(['.', '_', '-', '/']));
    short.is_some_and(|short| KEYS.contains(&short))
}

/// `enforce`, or `ingress=enforce,egress=audit`, of which what is not named is off.
fn modes(text: &str) -> Result<Modes> {
    if !text.contains('=') {
        return Ok(Modes::both(text.parse::<Mode>()?));
    }
    let mut modes = Modes::default();
    for piece in pieces(text) {
        match piece.split_once('=').map(|(key, mode)| (key.trim(), mode.trim())) {
            Some(("ingress", mode)) => modes.ingress = mode.parse()?,
            Some(("egress", mode)) => modes.egress = mode.parse()?,
            _ => bail!(
                "`{piece}` is no mode; `enforce` is one, and `ingress=enforce,egress=audit` are two"
            ),
        }
    }
    Ok(modes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::identity::Identity;

    fn wish(texts: &[(&str, &str)]) -> Result<Wish> {
        Wish::of_annotations(texts.iter().copied())
    }

    #[test]
    fn annotations_of_others_do_not_matter() {
        let texts = [("io.podman.id", "7"), ("cilmarks", "x"), ("cilmark.id", " web ")];
        let wish = wish(&texts).unwrap();
        assert_eq!(wish, Wish { id: Some(IdentityRef::Name("web".into())), ..Wish::default() });
    }

    #[test]
    fn whoever_means_a_key_of_ours_is_told_how_it_is_written() {
        for key in ["Cilmark.id", "cilmark_id", "cilmark-policy", "CILMARK/RULES", "cilmark.ID"] {
            let error = format!("{:#}", wish(&[(key, "web")]).unwrap_err());
            assert!(error.starts_with(key), "{error}");
        }
        assert_eq!(
            wish(&[("cilmark-operator", "x"), ("cilmarks.id", "x")]).unwrap(),
            Wish::default()
        );
    }

    #[test]
    fn rules_are_separated_by_semicolons_commas_or_lines() {
        let wish = wish(&[(
            "cilmark.rules",
            "allow ingress from any tcp/80; deny egress to 7,\nallow egress to any;",
        )]);
        let rules = wish.unwrap().rules.unwrap();
        assert_eq!(
            rules,
            ["allow ingress from any tcp/80", "deny egress to 7", "allow egress to any"]
        );
    }

    #[test]
    fn modes_are_one_or_one_of_each_direction() {
        let modes = |text| wish(&[("cilmark.policy", text)]).map(|wish| wish.policy.unwrap());
        assert_eq!(modes("enforce").unwrap(), Modes::both(Mode::Enforce));
        let each = Modes { ingress: Mode::Enforce, egress: Mode::Audit };
        assert_eq!(modes("ingress=enforce, egress=audit").unwrap(), each);
        assert_eq!(
            modes("egress=audit").unwrap(),
            Modes { egress: Mode::Audit, ..Modes::default() }
        );
        for text in ["on", "ingress", "forward=enforce", "ingress=on", "enforce,egress=off"] {
            assert!(modes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_misspelt_or_empty_is_an_error_that_names_it() {
        for key in ["cilmark.identity", "cilmark.", "cilmark.ID"] {
            let error = format!("{:#}", wish(&[(key, "web")]).unwrap_err());
            assert!(error.starts_with(&format!("{key}: there is no such key")), "{error}");
        }
        for (key, value) in [("cilmark.id", ""), ("cilmark.rules", " \n"), ("cilmark.ip", "eth0")] {
            assert!(wish(&[(key, value)]).is_err(), "{key}={value}");
        }
    }

    fn id(number: u32) -> Wish {
        Wish { id: Some(IdentityRef::Number(Identity(number))), ..Wish::default() }
    }

    fn decided(said: &[Said]) -> Result<Option<Decided>> {
        decide(said, EndpointSpec::new("veth0"))
    }

    #[test]
    fn each_counts_from_the_first_that_says_it() {
        let rules = |rule: &str| Some(vec![rule.to_owned()]);
        let said = [
            Said::by("label", Wish { rules: rules("allow egress to any"), ..Wish::default() }),
            Said::by("cni-config", Wish { policy: Some(Modes::both(Mode::Audit)), ..id(300) }),
            Said::by(
                "file",
                Wish {
                    policy: Some(Modes::both(Mode::Enforce)),
                    rules: rules("deny egress to any"),
                    labels: Some("app=web".parse().unwrap()),
                    ..id(301)
                },
            ),
        ];
        let Decided { spec, id_from, rules_from, .. } = decided(&said).unwrap().unwrap();
        assert_eq!(spec.id, Some(IdentityRef::Number(Identity(300))));
        assert_eq!((id_from.as_str(), rules_from.as_deref()), ("cni-config", Some("label")));
        assert_eq!(spec.rules.unwrap(), ["allow egress to any"]);
        assert_eq!(spec.policy, Modes::both(Mode::Audit));
        assert_eq!(spec.labels.to_string(), "app=web");
    }

    #[test]
    fn labels_make_the_identity_that_nobody_names() {
        let labels = || Wish { labels: Some("app=web".parse().unwrap()), ..Wish::default() };
        let by_default = Said::by(BY_DEFAULT, id(200));
        for (said, expected) in [
            (vec![Said::by("label", labels()), by_default.clone()], (None, "label")),
            (vec![Said::by("label", labels()), Said::by("file", id(300))], (Some(300), "file")),
            (vec![Said::by("label", Wish::default()), by_default], (Some(200), BY_DEFAULT)),
        ] {
            let Decided { spec, id, id_from, .. } = decided(&said).unwrap().unwrap();
            let number = expected.0.map(|number| IdentityRef::Number(Identity(number)));
            assert_eq!((&id, id_from.as_str()), (&number, expected.1));
            assert_eq!(spec.id, id);
        }
    }

    #[test]
    fn whoever_has_no_identity_is_left_alone_unless_he_asks_for_anything() {
        let file =
            Said::by("file", Wish { policy: Some(Modes::both(Mode::Audit)), ..Wish::default() });
        assert!(decided(&[Said::by("label", Wish::default()), file.clone()]).unwrap().is_none());
        let asks = Wish { policy: Some(Modes::both(Mode::Audit)), ..Wish::default() };
        assert!(decided(&[Said::by("label", asks), file]).is_err());
    }
}
