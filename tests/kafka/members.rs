//! Partitions move between members, and never run in two places.
//!
//! A member that is to be killed or paused lives in a process of its own: this test binary again,
//! told by its environment which group to join.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use trailproof::log::broker::{Broker, Membership, Owner, Partitions};
use trailproof::log::kafka::{KafkaLog, Options, Step};
use trailproof::log::{Error, Publisher as _};
use trailproof_topology::effect::Topic;

use crate::log::record;
use crate::support::{connect, options, shared, until};
use crate::transactions::{await_heard, once_after, said, say};

/// Names the group to the process of [`a_member_in_a_process_of_its_own`].
const CHILD: &str = "TRAILPROOF_TEST_KAFKA_MEMBER";

const ALL: [(Topic, u32); 3] = [(Topic::Traces, 0), (Topic::Traces, 1), (Topic::Files, 0)];

/// One thing a member was told: who, what, and whether it was given, or lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    member: &'static str,
    partition: (Topic, u32),
    given: bool,
    lost: bool,
}

pub(crate) type Told3 = Arc<Mutex<Vec<Told>>>;

/// Writes down what one member is told.
struct Notes {
    member: &'static str,
    told: Told3,
}

impl Partitions for Notes {
    fn assigned(&self, partitions: &[(Topic, u32)]) {
        let (member, given, lost) = (self.member, true, false);
        let mut told = self.told.lock().unwrap();
        told.extend(partitions.iter().map(|one| Told { member, partition: *one, given, lost }));
    }

    fn revoked(&self, partitions: &[(Topic, u32)], lost: bool) {
        let (member, given) = (self.member, false);
        let mut told = self.told.lock().unwrap();
        told.extend(partitions.iter().map(|one| Told { member, partition: *one, given, lost }));
    }
}

pub(crate) fn join(log: &KafkaLog, member: &'static str, told: &Told3) -> Box<dyn Membership> {
    log.join(Arc::new(Notes { member, told: Arc::clone(told) })).unwrap()
}

/// What a member runs, by what it was told.
pub(crate) fn held(told: &Told3, member: &str) -> BTreeSet<(Topic, u32)> {
    let mut held = BTreeSet::new();
    for each in told.lock().unwrap().iter().filter(|one| one.member == member) {
        if each.given {
            held.insert(each.partition)
        } else {
            held.remove(&each.partition)
        };
    }
    held
}

/// What a member was told to have lost.
pub(crate) fn lost(told: &Told3, member: &str) -> BTreeSet<(Topic, u32)> {
    let told = told.lock().unwrap();
    told.iter().filter(|one| one.member == member && one.lost).map(|one| one.partition).collect()
}

/// No partition is given before whoever had it gave it back.
fn one_owner_at_a_time(told: &Told3) {
    let mut owners: Vec<Told> = Vec::new();
    for each in told.lock().unwrap().iter() {
        if each.given {
            let owner = owners.iter().find(|one| one.partition == each.partition);
            assert!(owner.is_none(), "{each:?} while {owner:?}");
            owners.push(each.clone());
        } else {
            owners.retain(|one| one.partition != each.partition);
        }
    }
}

/// Another instance of the same installation.
fn sibling(options: &Options, name: &str) -> Options {
    Options { instance: format!("{}-{name}", options.instance), ..options.clone() }
}

#[test]
fn partitions_move_when_members_come_and_go() {
    let (server, _guard) = shared();
    let options = options(server);
    let (one, two) = (connect(&options), connect(&sibling(&options, "b")));
    let told = Told3::default();
    let first = join(&one, "a", &told);
    until("all partitions", || (held(&told, "a").len() == 3).then_some(()));
    assert_eq!(first.problem(), None);
    let second = join(&two, "b", &told);
    until("share", || (!held(&told, "b").is_empty()).then_some(()));
    until("three owners", || (held(&told, "a").len() + held(&told, "b").len() == 3).then_some(()));
    let moved = *held(&told, "b").iter().next().unwrap();
    one_owner_at_a_time(&told);
    stale_owner_publishes_nothing(&one, &two, moved);
    drop(second);
    assert_eq!(held(&told, "b"), BTreeSet::new(), "a member that leaves has stopped everything");
    until("all partitions again", || (held(&told, "a").len() == 3).then_some(()));
    one_owner_at_a_time(&told);
    drop(first);
    assert_eq!(held(&told, "a"), BTreeSet::new());
}

/// Who lost a partition can neither say anything nor move the group's offset.
fn stale_owner_publishes_nothing(old: &KafkaLog, new: &KafkaLog, moved: (Topic, u32)) {
    let owner = match moved {
        (Topic::Files, partition) => Owner::Digest(partition),
        (_, partition) => Owner::Record(partition),
    };
    let value = |text| [record(Topic::Notifications, Some(0), "", text)];
    let mut stale = old.publisher(owner).unwrap();
    let mut current = new.publisher(owner).unwrap();
    let fenced = stale.publish(&value("stale"), [0, 1], 1).unwrap_err();
    assert!(matches!(fenced, Error::Fenced(_)), "{fenced}");
    until("publish", || current.publish(&value("current"), [0, 1], 1).ok());
    assert_eq!(current.committed().unwrap(), [0, 1]);
    assert!(stale.committed().is_err());
}

/// All partitions move while their old owner is between the offsets and the commit.
#[test]
fn a_rebalance_in_mid_transaction_says_everything_once() {
    let (server, _guard) = shared();
    let options = options(server);
    let (one, two) = (connect(&options), Arc::new(connect(&sibling(&options, "b"))));
    let told = Told3::default();
    let first = join(&one, "a", &told);
    until("all partitions", || (held(&told, "a").len() == 3).then_some(()));
    let second = Arc::new(Mutex::new(None));
    let rebalance = {
        let (first, second) = (Mutex::new(Some(first)), Arc::clone(&second));
        let (two, told) = (Arc::clone(&two), Arc::clone(&told));
        move || {
            let member = join(&two, "b", &told);
            until("share", || (!held(&told, "b").is_empty()).then_some(()));
            drop(first.lock().unwrap().take());
            until("all partitions", || (held(&told, "b").len() == 3).then_some(()));
            let heir = until("heir", || two.publisher(Owner::Record(0)).ok());
            *second.lock().unwrap() = Some((member, heir));
        }
    };
    let crash = once_after(Step::OffsetsSent, rebalance, false);
    let mut old = one.kafka_publisher(Owner::Record(0)).unwrap().crashing(crash);
    let fenced = old.publish(&said("one"), [0, 1], 1).unwrap_err();
    assert!(matches!(fenced, Error::Fenced(_)), "{fenced}");
    let (_member, mut heir) = second.lock().unwrap().take().unwrap();
    assert_eq!(heir.committed().unwrap(), [0, 0]);
    say(&two, &mut *heir, &["one", "two"]);
    assert_eq!(await_heard(&two, 2), ["one", "two"]);
}

/// Whatever a member has read through its own readers: nothing comes through the membership.
#[test]
fn a_member_reads_nothing_by_itself() {
    let (server, _guard) = shared();
    let log = connect(&options(server));
    let told = Told3::default();
    let member = join(&log, "a", &told);
    until("all partitions", || (held(&told, "a").len() == 3).then_some(()));
    for turn in 0..20 {
        log.append(&[(0, vec![format!("{turn}").as_bytes()])]).unwrap();
    }
    let mut reader = log.reader(Topic::Traces, 0).unwrap();
    let all = crate::support::collect(&mut *reader, 0, 20);
    let expected: Vec<_> = (0..20).map(|turn| (turn, turn.to_string())).collect();
    assert_eq!(all, expected);
    assert!(member.problem().is_none());
    let again = log.join(Arc::new(Notes { member: "a", told }));
    assert!(matches!(again, Err(Error::Refused(_))), "it is a member already");
}

/// A member in another process, and what it says.
struct Other {
    process: Child,
    said: Receiver<String>,
}

impl Other {
    fn start(options: &Options) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "members::a_member_in_a_process_of_its_own", "--nocapture"])
            .env(CHILD, format!("{} {} {}", options.brokers, options.prefix, options.group))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let (say, said) = channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| say.send(line)));
        Self { process, said }
    }

    fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    fn await_line(&self, start: &str) -> String {
        until(start, || self.said.try_iter().find(|line| line.contains(start)))
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Says on standard output what it is told.
struct Aloud;

impl Partitions for Aloud {
    fn assigned(&self, partitions: &[(Topic, u32)]) {
        println!("\nassigned {partitions:?}");
    }

    fn revoked(&self, partitions: &[(Topic, u32)], lost: bool) {
        println!("\nrevoked lost={lost} {partitions:?}");
    }
}

#[test]
fn a_member_in_a_process_of_its_own() {
    // Alone it has nothing to show: the tests below run it.
    let Ok(told) = std::env::var(CHILD) else { return };
    let [brokers, prefix, group] = told.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{told:?}")
    };
    let folder = tempfile::tempdir().unwrap();
    let mut options = Options::new(brokers, folder.path().to_owned());
    (options.prefix, options.group) = (prefix.to_owned(), group.to_owned());
    let log = connect(&options);
    let _member = log.join(Arc::new(Aloud)).unwrap();
    // Until whoever started it ends.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
}

#[test]
fn a_member_that_is_killed_or_paused_loses_its_partitions() {
    let (server, _guard) = shared();
    let options = options(server);
    let log = connect(&options);
    let told = Told3::default();
    let _first = join(&log, "a", &told);
    until("all partitions", || (held(&told, "a").len() == 3).then_some(()));

    let killed = Other::start(&options);
    killed.await_line("assigned [(");
    until("share", || (held(&told, "a").len() < 3).then_some(()));
    let began = Instant::now();
    killed.signal("-9");
    until("all partitions again", || (held(&told, "a").len() == 3).then_some(()));
    let moved = began.elapsed();
    assert!(moved < Duration::from_secs(20), "a killed member's partitions took {moved:?}");

    let paused = Other::start(&options);
    paused.await_line("assigned [(");
    until("share", || (held(&told, "a").len() < 3).then_some(()));
    paused.signal("-STOP");
    until("all partitions again", || (held(&told, "a") == BTreeSet::from(ALL)).then_some(()));
    paused.signal("-CONT");
    // What it had is another's: it is told that nothing more may be committed, and joins again.
    paused.await_line("revoked lost=true");
    paused.await_line("assigned [(");
    until("share", || (held(&told, "a").len() < 3).then_some(()));
}
