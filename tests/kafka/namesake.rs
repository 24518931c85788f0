//! Two processes under one name in the group.

use std::sync::Arc;

use trailproof::log::Error;
use trailproof::log::broker::{Broker, Owner};

use crate::members::{Told3, held, join, lost};
use crate::support::{connect, options, shared, until};
use crate::transactions::{await_heard, said, say};

const OWNER: Owner = Owner::Record(0);

/// Whoever joined last has the name. The other one stops, says so, stays away, and comes back once
/// the name is free.
#[test]
fn a_member_whose_name_is_taken_joins_again_once_it_is_free() {
    let (server, _guard) = shared();
    let options = options(server);
    let (one, two) = (connect(&options), connect(&options));
    let told = Told3::default();
    let first = join(&one, "a", &told);
    until("all partitions", || (held(&told, "a").len() == 3).then_some(()));
    let mut old = one.publisher(OWNER).unwrap();
    say(&one, &mut *old, &["one"]);

    let second = join(&two, "b", &told);
    until("the name", || (held(&told, "b").len() == 3).then_some(()));
    let why = until("a reason", || first.problem().filter(|why| why.contains("as instance")));
    assert!(why.contains(&format!("as instance {}", options.instance)), "{why}");
    assert!(why.contains("kafka.instance"), "{why}");
    assert_eq!(lost(&told, "a").len(), 3, "nothing more may be committed: {told:?}");
    assert!(held(&told, "a").is_empty());
    assert_eq!(second.problem(), None);
    let mut new = two.publisher(OWNER).unwrap();
    say(&two, &mut *new, &["one", "two"]);
    let refused = old.publish(&said("stale"), [0, 9], 9).unwrap_err();
    assert!(matches!(refused, Error::Fenced(_)), "{refused}");
    assert!(matches!(old.committed(), Err(Error::Fenced(_))), "it must not take the id back");
    assert!(Arc::strong_count(&told) > 1 && first.problem().is_some(), "it stays away");
    assert_eq!(held(&told, "b").len(), 3, "nobody threw the second one out");

    drop((new, second));
    until("all partitions again", || (held(&told, "a").len() == 3).then_some(()));
    until("good standing", || first.problem().is_none().then_some(()));
    say(&one, &mut *old, &["one", "two", "three"]);
    assert_eq!(await_heard(&one, 3), ["one", "two", "three"]);
}
