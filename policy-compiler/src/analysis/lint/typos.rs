//! Labels that no object has, but for a letter or two.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::read::Selection;
use crate::objects::selectors::Selector;

/// Labels of an object.
pub(super) type Labels<'a> = BTreeMap<&'a str, &'a str>;

/// Objects that a selector could select: their labels, and the words in them.
#[derive(Default)]
pub(super) struct Area<'a> {
    labels: Vec<Labels<'a>>,
    words: HashMap<&'a str, HashSet<&'a str>>,
}

impl<'a> Area<'a> {
    /// Takes in an object's labels.
    pub(super) fn add(&mut self, labels: Labels<'a>) {
        for (key, value) in &labels {
            self.words.entry(key).or_default().insert(value);
        }
        self.labels.push(labels);
    }
}

/// What looks like a typing mistake.
pub(super) struct Guess {
    pub(super) field: String,
    pub(super) reason: String,
    /// What may be meant, as `key` or `key=value`.
    meant: String,
}

impl Guess {
    pub(super) fn suggestion(&self) -> String {
        format!("is {} meant?", self.meant)
    }
}

/// A key or a value of a selector that no object of `areas` has, where one of them has nearly that, and would have to do with
/// the selector: it fulfils the other requirements.
pub(super) fn find(selection: &Selection<'_>, field: &str, areas: &[&Area<'_>]) -> Vec<Guess> {
    let Some(written) = selection.written else { return Vec::new() };
    let mut guesses = Vec::new();
    for (key, value) in written.match_labels.iter().flatten() {
        let mut rest = written.clone();
        rest.match_labels.iter_mut().for_each(|labels| drop(labels.remove(key)));
        let search = Search { key, rest: &rest, areas };
        let at = format!("{field}.matchLabels[{key:?}]");
        guesses.extend(search.key(at.clone(), Some(std::slice::from_ref(value))));
        guesses.extend(search.value(at, value, std::slice::from_ref(value)));
    }
    for (index, expression) in written.match_expressions.iter().flatten().enumerate() {
        let mut rest = written.clone();
        rest.match_expressions.iter_mut().for_each(|list| drop(list.remove(index)));
        let search = Search { key: &expression.key, rest: &rest, areas };
        let at = format!("{field}.matchExpressions[{index}]");
        let values = expression.values.as_deref();
        guesses.extend(search.key(format!("{at}.key"), values));
        for (position, value) in values.unwrap_or_default().iter().enumerate() {
            guesses.extend(search.value(
                format!("{at}.values[{position}]"),
                value,
                values.unwrap_or_default(),
            ));
        }
    }
    guesses
}

struct Search<'a> {
    key: &'a str,
    /// The other requirements.
    rest: &'a LabelSelector,
    areas: &'a [&'a Area<'a>],
}

impl Search<'_> {
    /// A key that nobody has, and a near one that somebody has; with one of `values` where there are any.
    fn key(&self, field: String, values: Option<&[String]>) -> Option<Guess> {
        if self.areas.iter().any(|area| area.words.contains_key(self.key)) {
            return None;
        }
        let known: BTreeSet<&str> = self.areas.iter().flat_map(|area| area.words.keys().copied()).collect();
        let candidates = known.into_iter().filter(|known| near(self.key, known));
        let fits =
            |value: &str| values.is_none_or(|values| values.is_empty() || values.iter().any(|v| v == value));
        let meant = closest(
            self.key,
            candidates.filter(|key| self.somebody(|labels| labels.get(key).is_some_and(|v| fits(v)))),
        )?;
        let reason = format!("nobody has a label {:?}, but {meant:?} is there", self.key);
        Some(Guess { field, reason, meant: meant.to_owned() })
    }

    /// A value that nobody has, though some have the key, and a near one that somebody has.
    fn value(&self, field: String, value: &str, values: &[String]) -> Option<Guess> {
        let values_here = || self.areas.iter().filter_map(|area| area.words.get(self.key));
        if values_here().any(|known| known.contains(value)) {
            return None;
        }
        let known: BTreeSet<&str> = values_here().flatten().copied().collect();
        let other = |known: &&str| near(value, known) && !values.iter().any(|value| value == known);
        let candidates = known.iter().copied().filter(other);
        let meant = closest(
            value,
            candidates.filter(|value| self.somebody(|labels| labels.get(self.key) == Some(value))),
        )?;
        let reason = format!("nobody has {}={value}, but {}={meant} is there", self.key, self.key);
        Some(Guess { field, reason, meant: format!("{}={meant}", self.key) })
    }

    /// Whether an object fulfils the other requirements and this.
    fn somebody(&self, condition: impl Fn(&Labels<'_>) -> bool) -> bool {
        let Ok(rest) = Selector::read(Some(self.rest), "") else { return false };
        let mut objects = self.areas.iter().flat_map(|area| &area.labels);
        objects.any(|labels| condition(labels) && rest.matches(labels))
    }
}

fn closest<'a>(text: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates.min_by_key(|candidate| strsim::osa_distance(text, candidate))
}

/// Whether one is the other but for upper case, or for one letter (two of long words) that is missing, too many, another or
/// in its neighbour's place. Words that differ in digits alone are a series, not a mistake.
pub(super) fn near(one: &str, other: &str) -> bool {
    let letters = |text: &str| text.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
    if one == other || letters(one) == letters(other) {
        return false;
    }
    let shorter = one.chars().count().min(other.chars().count());
    let most = match shorter {
        0..=2 => return false,
        3..=5 => 1,
        _ => 2,
    };
    one.eq_ignore_ascii_case(other) || strsim::osa_distance(one, other) <= most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_are_nearly_others() {
        let rows = [
            ("frontend", "fronted", true),
            ("frontend", "forntend", true),
            ("frontend", "Frontend", true),
            ("frontend", "fruntand", true),
            ("frontend", "fruntant", false),
            ("WEB", "web", true),
            ("web", "wbe", true),
            ("web", "api", false),
            ("web", "we", false),
            ("db", "dv", false),
            ("web-1", "web-2", false),
            ("v1", "v2", false),
            ("release10", "release2", false),
            ("prod", "prd", true),
            ("prod", "product", false),
            ("same", "same", false),
        ];
        for (one, other, expected) in rows {
            assert_eq!(near(one, other), expected, "{one} {other}");
            assert_eq!(near(other, one), expected, "{other} {one}");
        }
    }
}
