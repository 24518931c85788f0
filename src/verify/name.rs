//! What the key of an object says it is.

use trailproof_topology::input::Millis;

use super::folder::Place;

/// Kinds of object, by their keys alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A trace file.
    Traces {
        /// Name of the tracker.
        tracker: String,
        /// End of its cycle.
        cycle_end_ms: Millis,
    },
    /// A digest.
    Digest(DigestName),
    /// The note beside a digest.
    Note(DigestName),
    /// A CloudTrail-compatible digest.
    Compatible {
        /// Name of the tracker.
        tracker: String,
        /// End of its interval.
        end_ms: Millis,
    },
    /// Nothing that Trailproof writes.
    Other,
}

/// What the key of a digest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DigestName {
    /// Name of the tracker.
    pub(super) tracker: String,
    /// The hash of the tracker's id.
    pub(super) unique: String,
    /// End of its interval.
    pub(super) end_ms: Millis,
}

/// Reads a key.
pub(super) fn kind(place: &Place) -> Kind {
    let parts: Vec<&str> = place.object.split('/').collect();
    match parts.as_slice() {
        ["CloudTraces", _, _, _, _, tracker, "Digest", name] if digest(tracker, name).is_some() => {
            digest(tracker, name).unwrap_or(Kind::Other)
        }
        ["CloudTraces", _, _, _, _, tracker, name]
        | ["CloudTraces", _, _, _, _, tracker, _, name] => traces(tracker, name),
        ["AWSLogs", _, "CloudTrail-Digest", region, _, _, _, name] => compatible(region, name),
        _ => Kind::Other,
    }
}

fn digest(tracker: &str, name: &str) -> Option<Kind> {
    let note = name.strip_suffix(".note");
    let stem = note.or_else(|| name.strip_suffix(".json.gz"))?;
    let (rest, unique) = stem.rsplit_once('_')?;
    let (rest, time) = rest.rsplit_once('_')?;
    if !rest.contains("CloudTrace-Digest_") || unique.len() != 8 {
        return None;
    }
    let end_ms = stamp(time)?;
    let name = DigestName { tracker: tracker.to_owned(), unique: unique.to_owned(), end_ms };
    Some(if note.is_some() { Kind::Note(name) } else { Kind::Digest(name) })
}

fn traces(tracker: &str, name: &str) -> Kind {
    let read = || {
        let stem = [".json.zst", ".json.gz", ".json"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix))?;
        let (rest, unique) = stem.rsplit_once('_')?;
        let (rest, time) = rest.rsplit_once('_')?;
        let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let fits = rest.contains("CloudTrace_") && unique.len() == 16 && unique.bytes().all(hex);
        stamp(time).filter(|_| fits)
    };
    match read() {
        Some(cycle_end_ms) => Kind::Traces { tracker: tracker.to_owned(), cycle_end_ms },
        None => Kind::Other,
    }
}

fn compatible(region: &str, name: &str) -> Kind {
    let read = || {
        let stem = name.strip_suffix(".json.gz")?;
        let (rest, time) = stem.rsplit_once('_')?;
        let rest = rest.strip_suffix(region)?.strip_suffix('_')?;
        let (_, rest) = rest.split_once(&format!("_CloudTrail-Digest_{region}_"))?;
        // 20251121T000100Z
        let spread = [(0, 4), (4, 6), (6, 11), (11, 13), (13, 16)]
            .map(|(from, to)| time.get(from..to).unwrap_or_default())
            .join("-");
        Some(Kind::Compatible { tracker: rest.to_owned(), end_ms: stamp(&spread)? })
    };
    read().unwrap_or(Kind::Other)
}

/// Reads `2017-03-28T01-09-17Z`.
fn stamp(text: &str) -> Option<Millis> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let text = format!("{date}T{}Z", time.replace('-', ":"));
    text.parse::<jiff::Timestamp>().ok().map(|time| time.as_millisecond())
}

#[cfg(test)]
mod tests {
    use trailproof_topology::digest::file_name;

    use super::*;

    #[test]
    fn keys_say_what_objects_are() {
        let of = |object: &str| kind(&Place::new("b", object));
        let name = file_name("my_pre.fix", "eu-1", 1_763_683_260_000, "id");
        let folder = "CloudTraces/eu-1/2025/11/21/system";
        let Kind::Digest(digest) = of(&format!("{folder}/Digest/{name}")) else {
            panic!("a digest");
        };
        assert_eq!((digest.tracker.as_str(), digest.end_ms), ("system", 1_763_683_260_000));
        let note = name.replace(".json.gz", ".note");
        assert_eq!(of(&format!("{folder}/Digest/{note}")), Kind::Note(digest));
        let traces = |tail: &str| {
            of(&format!("{folder}/{tail}_2025-11-21T00-01-00Z_{}.json.zst", "0a".repeat(8)))
        };
        let expected =
            Kind::Traces { tracker: "system".to_owned(), cycle_end_ms: 1_763_683_260_000 };
        assert_eq!(traces("ECS/CloudTrace_eu-1"), expected);
        assert_eq!(traces("p_CloudTrace_eu-1"), expected);
        assert_eq!(traces("Digest/CloudTrace_eu-1"), expected);
        assert_eq!(traces("ECS/Cloud_eu-1"), Kind::Other);
        let compatible = "AWSLogs/0a/CloudTrail-Digest/eu-1/2025/11/21/\
                          0a_CloudTrail-Digest_eu-1_my_t_eu-1_20251121T000100Z.json.gz";
        let expected = Kind::Compatible { tracker: "my_t".to_owned(), end_ms: 1_763_683_260_000 };
        assert_eq!(of(compatible), expected);
        assert_eq!(of("x"), Kind::Other);
    }
}
