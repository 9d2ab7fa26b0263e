//! A few cases of many that show every kind there is.

use std::collections::BTreeSet;

use super::case::{Case, Wanted};

/// Picks cases, in their order, until every tag has been seen: each time the one with the most tags not seen yet, the
/// cheapest of those. Cases without tags all stay.
pub fn pick(cases: Vec<Case>) -> Vec<Case> {
    let mut wanted: BTreeSet<String> = cases.iter().flat_map(|case| case.tags.iter().cloned()).collect();
    let mut picked: BTreeSet<usize> =
        (0..cases.len()).filter(|&index| cases[index].tags.is_empty()).collect();
    while !wanted.is_empty() {
        let gain = |case: &Case| case.tags.iter().filter(|tag| wanted.contains(*tag)).count();
        let key = |index: &usize| (gain(&cases[*index]), std::cmp::Reverse(cost(&cases[*index])));
        let Some(best) = (0..cases.len()).max_by_key(key) else { break };
        picked.insert(best);
        wanted.retain(|tag| !cases[best].tags.contains(tag));
    }
    cases.into_iter().enumerate().filter(|(index, _)| picked.contains(index)).map(|(_, case)| case).collect()
}

fn cost(case: &Case) -> usize {
    let flows = |wanted: &Wanted| match wanted {
        Wanted::Flows(flows) => flows.len(),
        Wanted::Refused(_) => 1,
    };
    case.steps.iter().map(|step| flows(&step.wanted)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(name: &str, tags: &[&str]) -> Case {
        Case {
            name: name.into(),
            about: String::new(),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            outside: Vec::new(),
            steps: Vec::new(),
            pending: None,
            notes: Vec::new(),
        }
    }

    #[test]
    fn every_tag_is_seen_and_nothing_twice_without_need() {
        let cases = [("a", &["x"][..]), ("b", &["x", "y"]), ("c", &["y"]), ("d", &["z", "y"]), ("e", &[])];
        let picked = pick(cases.iter().map(|(name, tags)| case(name, tags)).collect());
        let names: Vec<&str> = picked.iter().map(|case| case.name.as_str()).collect();
        assert_eq!(names, ["b", "d", "e"]);
    }
}
