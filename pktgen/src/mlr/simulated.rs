//! The search against simulated devices, and against a slow twin that measures every load there is.

use std::time::Duration;

use proptest::prelude::*;

use super::classify::{Class, Target, Trials};
use super::*;

const LONG: Duration = Duration::from_secs(1_000_000);

/// Runs a search to its end; `loss` answers with a loss ratio for each trial. Gives the trials, too.
fn run(search: &mut Search, mut loss: impl FnMut(Trial) -> f64) -> Vec<(Trial, Outcome)> {
    let mut trials = Vec::new();
    while let Some(trial) = search.next() {
        assert_eq!(search.next(), Some(trial), "asking changes nothing");
        assert!(trials.len() < 4000, "no end: {trial:?}, {:?}", search.results());
        let asked = (trial.load as f64 * trial.duration.as_secs_f64()).round().max(1.0) as u64;
        let lost = (asked as f64 * loss(trial)).round() as u64;
        let outcome = Outcome { asked, received: asked - lost.min(asked) };
        search.record(trial, outcome);
        trials.push((trial, outcome));
    }
    trials
}

fn goal(loss: f64, exceed: f64, width: f64) -> Goal {
    Goal {
        name: format!("{loss}"),
        loss,
        exceed,
        width,
        initial: Duration::from_millis(100),
        last: Duration::from_secs(1),
        sum: Duration::from_secs(3),
    }
}

fn limits(min: u64, max: u64) -> Limits {
    Limits { min, max, time: LONG }
}

/// A device that forwards `capacity` and drops the rest.
fn sharp(capacity: f64) -> impl Fn(Trial) -> f64 {
    move |trial| (1.0 - capacity / trial.load as f64).max(0.0)
}

#[test]
fn a_sharp_device_is_found_to_the_width_of_each_goal() {
    let capacity = 1_234_567.0;
    let goals = [Goal::ndr(), Goal::pdr()];
    let mut search = Search::new(&goals, limits(1_000, 20_000_000)).unwrap();
    let trials = run(&mut search, sharp(capacity));
    for (result, edge) in search.results().iter().zip([capacity, capacity / 0.995]) {
        let (lower, upper) = (result.lower.unwrap() as f64, result.upper.unwrap() as f64);
        assert!(lower <= edge && edge < upper && upper - lower <= upper * 0.005, "{result:?}");
        assert_eq!(result.ended, Ended::Width);
        let throughput = result.conditional_throughput.unwrap();
        assert!(throughput <= capacity * 1.0001 && throughput >= lower * 0.995, "{result:?}");
    }
    // Eleven trials decide a load of 21 seconds; a handful of loads for both goals.
    assert!(trials.len() < 150, "{} trials", trials.len());
}

#[test]
fn what_carries_everything_or_nothing_ends_at_the_limit_and_says_so() {
    let mut search = Search::new(&[Goal::ndr()], limits(100, 1_000)).unwrap();
    run(&mut search, |_| 0.0);
    let result = search.results().remove(0);
    assert_eq!((result.lower, result.upper, result.ended), (Some(1_000), None, Ended::MaxLoad));
    assert_eq!(result.conditional_throughput, Some(1_000.0));
    let mut search = Search::new(&[Goal::ndr()], limits(100, 1_000)).unwrap();
    run(&mut search, |_| 1.0);
    let result = search.results().remove(0);
    assert_eq!((result.lower, result.upper, result.ended), (None, Some(100), Ended::MinLoad));
    assert_eq!(result.conditional_throughput, None);
}

#[test]
fn one_bad_trial_in_a_few_does_not_hide_the_rate_where_the_goal_forgives_it() {
    // Every fourth trial below the capacity loses something, as a machine that is interrupted does.
    let mut count = 0;
    let mut search = Search::new(&[Goal::ndr()], limits(1_000, 10_000_000)).unwrap();
    run(&mut search, |trial| {
        count += 1;
        sharp(5e6)(trial).max(if count % 4 == 0 { 0.001 } else { 0.0 })
    });
    let result = search.results().remove(0);
    let lower = result.lower.unwrap() as f64;
    assert!(lower > 4.9e6 && lower <= 5e6, "{result:?}");
}

#[test]
fn time_that_is_up_is_said_and_the_bounds_so_far_are_given() {
    let mut search = Search::new(
        &[goal(0.0, 0.5, 0.001)],
        Limits { min: 1, max: 1_000_000, time: Duration::from_secs(4) },
    )
    .unwrap();
    let trials = run(&mut search, sharp(300_000.0));
    let last = trials.last().unwrap().0.duration;
    assert!(search.spent() >= Duration::from_secs(4) && search.spent() - last < Duration::from_secs(4));
    assert_eq!(search.results()[0].ended, Ended::Time);
}

#[test]
fn rfc_2544_is_one_goal_that_forgives_nothing() {
    let goal = Goal::rfc2544(Duration::from_secs(60), 0.01);
    let mut search = Search::new(&[goal], limits(1, 1_000_000)).unwrap();
    let trials = run(&mut search, sharp(123_456.0));
    let result = search.results().remove(0);
    let lower = result.lower.unwrap();
    let at: Vec<_> = trials.iter().filter(|(trial, _)| trial.load == lower).collect();
    assert!(at.iter().all(|(_, outcome)| outcome.loss() == 0.0));
    assert!(at.iter().any(|(trial, _)| trial.duration == Duration::from_secs(60)));
    assert_eq!(result.conditional_throughput, Some(lower as f64));
}

#[test]
fn impossible_searches_are_refused() {
    let of = |goals: &[Goal], limits: Limits| Search::new(goals, limits).map(|_| ()).unwrap_err();
    assert_eq!(of(&[], limits(1, 2)), SearchError::NoGoal);
    assert_eq!(of(&[Goal::ndr()], limits(0, 2)), SearchError::Limits { min: 0, max: 2 });
    assert_eq!(of(&[Goal::ndr()], limits(2, 2)), SearchError::Limits { min: 2, max: 2 });
    assert_eq!(of(&[Goal::ndr(), Goal::ndr()], limits(1, 2)), SearchError::SameName("NDR".into()));
    let bad = Goal { width: 0.0, ..Goal::ndr() };
    assert!(matches!(of(&[bad], limits(1, 2)), SearchError::Goal { .. }));
}

/// What the definitions say of a list of trials, counted from the start: the lowest load that is an upper bound, and
/// the highest lower bound below it.
fn bounds_of(trials: &[(Trial, Outcome)], goal: &Goal) -> (Option<u64>, Option<u64>) {
    let target = Target {
        loss: goal.loss,
        exceed: goal.exceed,
        length: goal.last.as_nanos() as u64,
        sum: goal.sum.as_nanos() as u64,
        width: goal.width,
    };
    let class = |load: u64| {
        let mut at = Trials::default();
        for (trial, outcome) in trials.iter().filter(|(trial, _)| trial.load == load) {
            at.push(trial.duration, outcome.loss());
        }
        at.class(&target)
    };
    let mut loads: Vec<u64> = trials.iter().map(|(trial, _)| trial.load).collect();
    loads.sort_unstable();
    loads.dedup();
    let upper = loads.iter().copied().find(|load| class(*load) == Class::Upper);
    let mut below = loads.iter().copied().filter(|load| upper.is_none_or(|upper| *load < upper));
    (below.rfind(|load| class(*load) == Class::Lower), upper)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// The slow twin of a device whose loss grows with the load: every load of the grid, from below, until one loses
    /// too much.
    #[test]
    fn finds_what_a_scan_over_every_load_finds(
        edge in 1u64..3000, slope in 0.0001f64..2.0, loss in prop_oneof![Just(0.0), Just(0.05)],
        exceed in prop_oneof![Just(0.0), Just(0.5)], width in 0.001f64..0.3,
    ) {
        let device = |load: u64| if load <= edge { 0.0 } else { ((load - edge) as f64 * slope).min(1.0) };
        let goal = goal(loss, exceed, width);
        let mut search = Search::new(std::slice::from_ref(&goal), limits(1, 3000)).unwrap();
        let trials = run(&mut search, |trial| device(trial.load));
        let result = search.results().remove(0);
        // As a trial of one second counts whole packets.
        let kept = |load: u64| (load as f64 * device(load)).round() / load as f64 <= goal.loss;
        let best = (1..=3000).take_while(|load| kept(*load)).last();
        match result.ended {
            Ended::Width => {
                let (lower, upper, best) = (result.lower.unwrap(), result.upper.unwrap(), best.unwrap());
                prop_assert!(lower <= best && best < upper, "{lower} {best} {upper}");
                prop_assert!(upper - lower <= ((upper as f64 * width) as u64).max(1));
            }
            Ended::MaxLoad => prop_assert_eq!(best, Some(3000)),
            Ended::MinLoad => prop_assert_eq!(best, None),
            Ended::Time => prop_assert!(false, "there is time"),
        }
        prop_assert!(trials.len() < 120, "{} trials", trials.len());
    }

    /// A device without any sense: whatever it answers, the search ends, and what it says follows from the trials.
    #[test]
    fn whatever_a_device_answers_the_bounds_follow_from_the_trials(
        answers in proptest::collection::vec(prop_oneof![3 => Just(0.0), 1 => 0.0f64..0.02, 1 => 0.0f64..1.0], 1..200),
        edge in 1.0f64..60_000.0, exceed in prop_oneof![Just(0.0), Just(0.5)], min in 1u64..100,
    ) {
        // The third has one phase only.
        let short = Duration::from_millis(100);
        let single = Goal { initial: short, last: short, sum: short, ..goal(0.02, 0.0, 0.05) };
        let goals = [goal(0.0, exceed, 0.02), goal(0.01, exceed, 0.02), single];
        let mut search = Search::new(&goals, limits(min, 50_000)).unwrap();
        let mut answers = answers.iter().cycle();
        let trials = run(&mut search, |trial| sharp(edge)(trial).max(*answers.next().unwrap()));
        for (trial, _) in &trials {
            prop_assert!((min..=50_000).contains(&trial.load));
            prop_assert!(trial.duration >= goals[0].initial && trial.duration <= goals[0].last);
        }
        for (result, goal) in search.results().iter().zip(&goals) {
            prop_assert_eq!((result.lower, result.upper), bounds_of(&trials, goal));
            let ordered = result.lower.zip(result.upper).is_none_or(|(lower, upper)| lower < upper);
            prop_assert!(ordered, "{:?}", result);
            prop_assert_ne!(result.ended, Ended::Time, "there is time");
            prop_assert!(result.conditional_throughput.is_none_or(|rate| rate <= result.lower.unwrap() as f64));
        }
    }
}
