//! How long a certificate is valid: X.509 (RFC 5280, section 4.1), as far as that takes.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::Findings;
use crate::etcd::ClientFile;

const CHECK: &str = "certificate";
/// Who renews certificates does it before.
const SOON: SignedDuration = SignedDuration::from_hours(14 * 24);

/// Tells it of a file, of the one that ends first.
pub fn examine(findings: &mut Findings, client_file: &ClientFile, path: &Path) {
    let shown = path.display();
    let bytes = match client_file.contents(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            return findings.problem(CHECK, format!("{error:#}"), "name a file that is there");
        }
    };
    let text = String::from_utf8_lossy(&bytes);
    let all: Option<Vec<Certificate>> = blocks(&text).map(|it| read(&it?)).collect();
    let Some(first) = all.and_then(|all| all.into_iter().min_by_key(|it| it.end)) else {
        return findings.problem(CHECK, format!("{shown} is none"), "a certificate is in PEM");
    };
    let user = first.user.map(|user| format!(" ({user})")).unwrap_or_default();
    let until = first.end.strftime("%F");
    let rest = first.end.duration_since(Timestamp::now());
    let cure = "renew it; it is read again for the next connection";
    if rest < SignedDuration::ZERO {
        findings.problem(CHECK, format!("{shown}{user} was valid until {until}"), cure);
    } else if rest < SOON {
        findings.warning(CHECK, format!("{shown}{user} is valid until {until}"), cure);
    } else {
        findings.ok(CHECK, format!("{shown}{user} is valid until {until}"));
    }
}

/// The certificates of a text, as DER.
fn blocks(text: &str) -> impl Iterator<Item = Option<Vec<u8>>> {
    text.split("-----BEGIN CERTIFICATE-----").skip(1).map(|block| {
        let (base64, _) = block.split_once("-----END CERTIFICATE-----")?;
        STANDARD.decode(base64.split_whitespace().collect::<String>()).ok()
    })
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT: u8 = 0x06;
/// 2.5.4.3
const COMMON_NAME: [u8; 3] = [0x55, 4, 3];
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// What a certificate says.
#[derive(Debug, PartialEq, Eq)]
struct Certificate {
    /// The common name, which is the user in etcd.
    user: Option<String>,
    /// Until when it is valid.
    end: Timestamp,
}

/// `Certificate { TBSCertificate { version?, serial, signature, issuer, validity { not before, not after }, subject, … } }`.
fn read(der: &[u8]) -> Option<Certificate> {
    let certificate = Der(der).expect(SEQUENCE)?;
    let mut fields = Der(Der(certificate).expect(SEQUENCE)?);
    if fields.0.first() == Some(&VERSION) {
        fields.next()?;
    }
    for _ in ["serial", "signature", "issuer"] {
        fields.next()?;
    }
    let mut validity = Der(fields.expect(SEQUENCE)?);
    validity.next()?;
    let (tag, time) = validity.next()?;
    let time = std::str::from_utf8(time).ok()?.strip_suffix('Z')?;
    let time = match tag {
        // Two digits of a year are of 1950 to 2049.
        UTC_TIME if time.get(..2)? < "50" => format!("20{time}"),
        UTC_TIME => format!("19{time}"),
        GENERALIZED_TIME => time.to_owned(),
        _ => return None,
    };
    let time = DateTime::strptime("%Y%m%d%H%M%S", time).ok()?;
    let end = TimeZone::UTC.to_timestamp(time).ok()?;
    Some(Certificate { user: common_name(fields.expect(SEQUENCE)?), end })
}

/// `Name { RDN { Attribute { type, value } … } … }`: the last common name.
fn common_name(name: &[u8]) -> Option<String> {
    let mut names = Der(name);
    let mut found = None;
    while let Some(mut name) = names.expect(SET).map(Der) {
        while let Some(mut attribute) = name.expect(SEQUENCE).map(Der) {
            if attribute.next()? == (OBJECT, &COMMON_NAME) {
                found = Some(String::from_utf8_lossy(attribute.next()?.1).into_owned());
            }
        }
    }
    found
}

/// Values one behind the other, each with its tag and length (X.690).
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, length], rest) = self.0.split_first_chunk()?;
        let (length, rest) = match length {
            0..=0x7f => (usize::from(length), rest),
            // 0x80 is a length that the end tells, which DER has not.
            0x81..=0x84 => {
                let (digits, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
                let length = digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit));
                (length, rest)
            }
            _ => return None,
        };
        let (value, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, value))
    }

    fn expect(&mut self, wanted: u8) -> Option<&'a [u8]> {
        self.next().filter(|(tag, _)| *tag == wanted).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    fn certificate(year: i32) -> rcgen::Certificate {
        let mut params = CertificateParams::new(vec!["c1.mesh.cilium.io".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "O");
        params.distinguished_name.push(rcgen::DnType::CommonName, "host-h1");
        params.not_after = date_time_ymd(year, 2, 3);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap()
    }

    #[test]
    fn the_end_of_a_certificate_and_its_user_are_read() {
        for year in [1960, 2030, 2049, 2050, 2130] {
            let read = read(certificate(year).der()).unwrap();
            assert_eq!(read.end.to_string(), format!("{year}-02-03T00:00:00Z"));
            assert_eq!(read.user.as_deref(), Some("host-h1"));
        }
    }

    #[test]
    fn a_file_may_have_several() {
        let text = format!("# ours\n{}\n{}", certificate(2030).pem(), certificate(2040).pem());
        let all: Option<Vec<Certificate>> = blocks(&text).map(|it| read(&it?)).collect();
        assert_eq!(all.unwrap().len(), 2);
    }

    #[test]
    fn what_is_none_says_nothing_wherever_it_is_cut() {
        let whole = certificate(2030);
        for length in 0..whole.der().len() {
            assert_eq!(read(&whole.der()[..length]), None, "{length}");
        }
        for (at, value) in [(0, 0x31), (1, 0xff), (1, 0x80)] {
            let mut spoilt = whole.der().to_vec();
            spoilt[at] = value;
            assert_eq!(read(&spoilt), None);
        }
    }
}
