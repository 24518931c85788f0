//! The notes beside the digests of a chain, and the tree they speak of.

use std::io;

use data_encoding::HEXLOWER;
use trailproof_topology::digest::note_object;
use trailproof_topology::merkle::{Frontier, Hash};
use trailproof_topology::note::{Checkpoint, Note};

use super::chain::Chain;
use super::folder::{Folder, Place};
use super::read::Body;
use super::report::Verdict;
use crate::keys::public::{PublicKeys, ed25519_info};

/// The root that a trusted key signed in the note beside a digest.
pub(super) fn root_beside(folder: &Folder<'_>, keys: &PublicKeys, place: &Place) -> Option<Hash> {
    let note = Place::new(&place.bucket, &note_object(&place.object));
    let text = String::from_utf8(folder.small(&note).ok()??.0).ok()?;
    let note = Note::parse(&text).ok()?;
    let signed = is_signed(&note, keys) == Some(true);
    Checkpoint::parse(&note.text).ok().filter(|_| signed).map(|checkpoint| checkpoint.root)
}

/// Checks the note of every digest; the roots of the chain by size, as far as it is unbroken. The
/// newest digest may be there before its note.
pub(super) fn check(
    folder: &Folder<'_>,
    keys: &PublicKeys,
    chain: &mut Chain,
) -> io::Result<Vec<Hash>> {
    let mut tree = Frontier::default();
    let mut roots = Vec::new();
    for (at, (_, body)) in chain.digests.iter().enumerate().take(chain.unbroken) {
        if body.digest.sequence != at as u64 {
            break;
        }
        tree.push(body.leaf);
        roots.push(tree.root());
    }
    let (mut wrong, mut unnoted) = (Vec::new(), None);
    for (at, (place, body)) in chain.digests.iter().enumerate() {
        let note = Place::new(&place.bucket, &note_object(&place.object));
        let Some((text, _)) = folder.small(&note)? else {
            if at + 1 == chain.digests.len() {
                unnoted = Some(note.to_string());
                continue;
            }
            wrong.push((Verdict::Missing, note.to_string(), "the digest has no note".to_owned()));
            continue;
        };
        if let Some((verdict, text)) = check_one(&text, keys, body, roots.get(at), &roots) {
            wrong.push((verdict, note.to_string(), text.to_owned()));
        }
    }
    chain.wrong.append(&mut wrong);
    chain.unnoted = unnoted;
    Ok(roots)
}

fn check_one(
    text: &[u8],
    keys: &PublicKeys,
    body: &Body,
    root: Option<&Hash>,
    roots: &[Hash],
) -> Option<(Verdict, &'static str)> {
    let note = std::str::from_utf8(text).ok().and_then(|text| Note::parse(text).ok());
    let Some(note) = note else { return Some((Verdict::Changed, "is no signed note any more")) };
    let checkpoint = Checkpoint::parse(&note.text).ok();
    let own = checkpoint.filter(|own| own.origin == body.digest.chain.origin());
    let expected = own.as_ref().is_some_and(|checkpoint| {
        checkpoint.size == body.digest.sequence + 1
            && root.is_none_or(|root| *root == checkpoint.root)
    });
    // A head of this very chain, moved here, is no second history.
    let moved = own.as_ref().is_none_or(|checkpoint| {
        let at = usize::try_from(checkpoint.size).ok().and_then(|size| size.checked_sub(1));
        at.and_then(|at| roots.get(at)) == Some(&checkpoint.root)
    });
    match (is_signed(&note, keys), expected) {
        (Some(true), true) => None,
        (Some(true), false) if moved => Some((Verdict::Changed, "is the head of another digest")),
        (Some(true), false) => Some((Verdict::Fork, "a trusted key signed another head here")),
        (Some(false), true) => Some((Verdict::BadSignature, "its signature does not hold")),
        (Some(false) | None, false) => Some((Verdict::Changed, "is not the head of this digest")),
        (None, true) if keys.ed25519().next().is_none() => None,
        (None, true) => Some((Verdict::UnknownKey, "is not signed by a trusted key")),
    }
}

/// Whether a trusted key signed a note; `None` where none claims to.
pub(super) fn is_signed(note: &Note, keys: &PublicKeys) -> Option<bool> {
    let mut any = None;
    for public in keys.ed25519() {
        let id = trailproof_topology::sign::key_id(&ed25519_info(&public));
        for line in note.by_key(&public) {
            let holds = keys.verify(&id, note.text.as_bytes(), &line.signature) == Some(true);
            any = Some(any.unwrap_or(true) && holds);
        }
    }
    any
}

/// Lower-case hex of the newest root.
pub(super) fn newest(roots: &[Hash], chain: &Chain) -> String {
    let whole = roots.len() == chain.digests.len();
    roots.last().filter(|_| whole).map(|root| HEXLOWER.encode(root)).unwrap_or_default()
}
