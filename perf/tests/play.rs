//! Rounds of real processes, some of which fail.

use std::{error::Error, fs, path::Path, process::Command, time::Duration};

use perf::{
    play::{Turn, insist, play},
    process::Running,
    rounds::{FAILURES, Failed, Place, Run, Unfit},
};

/// More than a shell takes on any machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A generator that is no more than a shell's line; its answer as a run at that rate.
fn generator(folder: &Path, script: &str, patience: Duration) -> Result<(Run, ()), Box<dyn Error>> {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    let mut running = Running::start(command, &folder.join("generator.log"))?;
    let rate: f64 = running.line(patience, "answer", |line| line.parse::<f64>().is_ok())?.parse()?;
    running.stop()?;
    Ok((Run { slices: vec![rate; 20], trips: vec![70.0; 10], waited: 0.0 }, ()))
}

#[test]
fn a_peer_without_a_link_is_played_again_and_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let scripts = [
        "echo net_memif0: no link; exit 1",
        "echo 10; exec sleep 1000",
        "kill -KILL $$",
        "echo 5; exec sleep 1000",
        "echo 6; exec sleep 1000",
        "echo 12; exec sleep 1000",
    ];
    let (mut scripts, mut turns) = (scripts.iter(), Vec::new());
    let run = |_| generator(folder.path(), scripts.next().expect("no more runs than that"), PATIENCE);
    let tell = |attempt, device, outcome: Turn<'_>| {
        turns.push((attempt, device, matches!(outcome, Turn::Failed(_))));
    };
    let rounds = play(2, 2, run, tell).unwrap();
    let expected = [(1, 0, true), (2, 0, false), (3, 1, true), (4, 1, false), (5, 1, false), (6, 0, false)];
    assert_eq!(turns, expected);
    assert_eq!((rounds.count(), rounds.discarded(), rounds.is_hopeless()), (2, 0, false));
    let (ratio, count) = rounds.ratio(Place::Near, |fit, ()| Some(fit.rate)).unwrap();
    assert_eq!((ratio.median, count), (2.0, 2));
    let [first, second] = rounds.failures() else { panic!("{:?}", rounds.failures()) };
    assert_eq!(first.0, "the generator gives no answer (exit status: 1): net_memif0: no link");
    assert!(second.0.contains("signal: 9"), "{second}");
}

#[test]
fn a_peer_that_always_fails_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let mut unfit = Some(Run { waited: 1.0, ..Run::default() });
    // A run that says nothing is none that failed.
    let run = |_| match unfit.take() {
        Some(run) => Ok((run, ())),
        None => generator(folder.path(), "echo waiting; exec sleep 1000", Duration::from_millis(10)),
    };
    let mut told = Vec::new();
    let rounds =
        play(2, 11, run, |_, _, outcome| told.push(outcome == Turn::Unfit(Unfit::Waited(1.0)))).unwrap();
    assert!(rounds.is_hopeless() && rounds.count() == 0);
    assert_eq!(told, [&[true][..], &[false; FAILURES]].concat());
    assert_eq!(rounds.failures().len(), FAILURES);
    assert!(rounds.failures()[0].0.contains("no answer within 0 s"), "{}", rounds.failures()[0]);
}

#[test]
fn a_wrong_answer_ends_all() {
    let folder = tempfile::tempdir().unwrap();
    let run = |_| generator(folder.path(), "echo 3 frames came back wrong; exit 3", PATIENCE);
    let error = play::<()>(1, 5, run, |_, _, _| panic!("that is no outcome of a run")).unwrap_err();
    assert_eq!(error.to_string(), "3 frames came back wrong");
    assert!(!error.is::<Failed>());
}

#[test]
fn what_is_done_before_the_rounds_is_tried_again_but_not_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let seen = folder.path().join("seen");
    let script = format!("test -e {0} || {{ touch {0}; exit 1; }}; echo 7; exec sleep 1000", seen.display());
    let mut failures = 0;
    insist(|| generator(folder.path(), &script, PATIENCE), |_| failures += 1).unwrap();
    assert_eq!((failures, fs::exists(seen).unwrap()), (1, true));
    let mut tries = 0;
    let error = insist::<()>(
        || {
            tries += 1;
            Err(Failed("never".to_owned()).into())
        },
        |_| {},
    );
    assert_eq!((tries, error.unwrap_err().to_string()), (FAILURES, "never".to_owned()));
}
