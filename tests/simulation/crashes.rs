//! Every crash point: the process dies at the n-th call of a port, for every n, before what the
//! call does and after it; and at random pairs of calls.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::random::Random;
use super::script::{Crash, Ended, Script};
use super::seeds::{SEEDS, from_env, words};

/// Calls of ports that the script makes at least; fewer would show less than it says.
const CALLS_MIN: u64 = 300;

/// Seeds that are asked for, for each pair of crashes that is run.
const SEEDS_PER_PAIR: u64 = 10;

/// Runs the script; a panic of the product is a failure like any other.
fn run(crashes: &[Crash]) -> Result<(Ended, u64, usize), String> {
    let mut script = Script::new(crashes);
    let caught = catch_unwind(AssertUnwindSafe(|| script.whole()));
    let ended = caught.unwrap_or_else(|panic| Err(words(panic.as_ref())))?;
    Ok((ended, script.calls(), script.crashed))
}

/// Crashes as the environment says them: `17:after:loses,60:before:keeps`.
fn spelled(crashes: &[Crash]) -> String {
    let spell = |crash: &Crash| {
        let side = if crash.after { "after" } else { "before" };
        format!("{}:{side}:{}", crash.call, if crash.loses { "loses" } else { "keeps" })
    };
    crashes.iter().map(spell).collect::<Vec<_>>().join(",")
}

fn read(text: &str) -> Vec<Crash> {
    let crash = |word: &str| {
        let parts: Vec<&str> = word.split(':').collect();
        let call = parts[0].parse().unwrap();
        Crash { call, after: parts.contains(&"after"), loses: parts.contains(&"loses") }
    };
    text.split(',').map(crash).collect()
}

/// Runs each list of crashes on two threads; all must end as the undisturbed run does.
fn all_end_as(undisturbed: &Ended, lists: &[Vec<Crash>]) {
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    let work = || {
        while let Some(crashes) = lists.get(next.fetch_add(1, Ordering::Relaxed)) {
            let outcome = run(crashes).and_then(|(ended, _, crashed)| {
                if crashed == 0 {
                    return Err("the process did not crash".to_owned());
                }
                if ended == *undisturbed { Ok(()) } else { Err("it ends differently".to_owned()) }
            });
            if let Err(reason) = outcome {
                *failure.lock().unwrap() = Some((spelled(crashes), reason));
                next.store(lists.len(), Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    if let Some((crashes, reason)) = failure.into_inner().unwrap() {
        let commit = super::seeds::commit();
        panic!(
            "{reason}\nat commit {commit}; repeat: TRAILPROOF_CRASHES={crashes} \
             cargo test --release --test simulation one_list_of_crashes -- --nocapture"
        );
    }
}

#[test]
fn every_single_crash_point_ends_in_the_same_bytes() {
    let (undisturbed, calls, _) = run(&[]).unwrap();
    assert!(calls >= CALLS_MIN, "the script makes {calls} calls alone");
    let mut lists = Vec::new();
    for call in 1..=calls {
        for (after, loses) in [(false, false), (false, true), (true, false), (true, true)] {
            lists.push(vec![Crash { call, after, loses }]);
        }
    }
    println!("{calls} calls, {} single crashes", lists.len());
    all_end_as(&undisturbed, &lists);
}

#[test]
fn pairs_of_crash_points_end_in_the_same_bytes() {
    let (undisturbed, calls, _) = run(&[]).unwrap();
    let mut random = Random(from_env("TRAILPROOF_SEED").unwrap_or(1));
    let pairs = from_env("TRAILPROOF_SEEDS").unwrap_or(SEEDS) / SEEDS_PER_PAIR;
    let mut lists = Vec::new();
    for _ in 0..pairs {
        let mut any = |from: u64| Crash {
            call: from + 1 + random.below(calls - from),
            after: random.one_in(2),
            loses: random.one_in(2),
        };
        let first = any(0);
        // One in three meets the restart itself.
        let mut second = any(first.call.min(calls - 1));
        if lists.len() % 3 == 0 {
            second.call = (first.call + 1 + second.call % 12).min(calls);
        }
        lists.push(vec![first, second]);
    }
    println!("{} pairs of crashes", lists.len());
    all_end_as(&undisturbed, &lists);
}

#[test]
fn one_list_of_crashes_with_a_trace_of_its_steps() {
    let text = std::env::var("TRAILPROOF_CRASHES").unwrap_or_else(|_| "40:after:loses".to_owned());
    let (undisturbed, ..) = run(&[]).unwrap();
    let mut script = Script::new(&read(&text));
    script.run.hub.lock().trace = Some(Vec::new());
    let outcome = catch_unwind(AssertUnwindSafe(|| script.whole()));
    let outcome = outcome.unwrap_or_else(|panic| Err(words(panic.as_ref())));
    for step in script.run.hub.lock().trace.iter().flatten() {
        println!("{step}");
    }
    assert_eq!(outcome.as_ref(), Ok(&undisturbed), "TRAILPROOF_CRASHES={text}");
}
