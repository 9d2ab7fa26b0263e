//! Label selectors, checked as the API server checks them; the selections policies make with them; and an index that
//! finds the selectors that match a label set without trying each.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::address::{label_key, label_value};

/// One condition on one label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Requirement {
    /// The label is there, with one of the values (sorted).
    In(String, Vec<String>),
    /// The label is not there, or with none of the values (sorted).
    NotIn(String, Vec<String>),
    /// The label is there.
    Exists(String),
    /// The label is not there.
    DoesNotExist(String),
}

/// A checked selector: all requirements must hold; none selects everything. Sorted, so that equal selectors are equal.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Selector(Vec<Requirement>);

/// Which namespaces a selection is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Scope {
    /// One, by its name: the policy's own.
    Namespace(String),
    /// Those that a selector selects; index into [`Selections::namespace_selectors`].
    Selected(u32),
}

/// The distinct selections of all policies: which pods of which namespaces.
#[derive(Debug, Default)]
pub(super) struct Selections {
    /// Distinct pod selectors.
    pub(super) pod_selectors: Interner<Selector>,
    /// Distinct namespace selectors.
    pub(super) namespace_selectors: Interner<Selector>,
    /// Distinct pairs of namespaces and pod selector.
    pub(super) pairs: Interner<(Scope, u32)>,
}

/// Numbers distinct values in the order of their first appearance.
#[derive(Debug)]
pub(super) struct Interner<T> {
    values: Vec<T>,
    numbers: HashMap<T, u32>,
}

/// Finds the selectors that match a label set: each is filed under one of its requirements, the one that fewest
/// others share, and is only tried on label sets that fulfil that one.
#[derive(Debug)]
pub(super) struct SelectorIndex<'a> {
    selectors: &'a [Selector],
    by_value: HashMap<(&'a str, &'a str), Vec<u32>>,
    by_key: HashMap<&'a str, Vec<u32>>,
    always: Vec<u32>,
}

impl Selector {
    /// Reads and checks a selector at `field`; where none is given it selects everything.
    ///
    /// # Errors
    /// The field's path and the problem.
    pub(super) fn read(selector: Option<&LabelSelector>, field: &str) -> Result<Self, (String, String)> {
        let Some(selector) = selector else { return Ok(Selector::default()) };
        let mut requirements = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            let at = |problem| (format!("{field}.matchLabels[{key:?}]"), problem);
            label_key(key).map_err(at)?;
            label_value(value).map_err(at)?;
            requirements.push(Requirement::In(key.clone(), vec![value.clone()]));
        }
        for (index, expression) in selector.match_expressions.iter().flatten().enumerate() {
            let at = |part: &str, problem| (format!("{field}.matchExpressions[{index}]{part}"), problem);
            let key = expression.key.clone();
            label_key(&key).map_err(|problem| at(".key", problem))?;
            let mut values = expression.values.clone().unwrap_or_default();
            for (position, value) in values.iter().enumerate() {
                label_value(value).map_err(|problem| at(&format!(".values[{position}]"), problem))?;
            }
            values.sort();
            values.dedup();
            let operator = expression.operator.as_str();
            match (operator, values.is_empty()) {
                ("In", false) => requirements.push(Requirement::In(key, values)),
                ("NotIn", false) => requirements.push(Requirement::NotIn(key, values)),
                ("Exists", true) => requirements.push(Requirement::Exists(key)),
                ("DoesNotExist", true) => requirements.push(Requirement::DoesNotExist(key)),
                ("In" | "NotIn", true) => {
                    return Err(at(".values", format!("{operator} needs at least one value")));
                }
                ("Exists" | "DoesNotExist", false) => {
                    return Err(at(".values", format!("{operator} takes no values")));
                }
                _ => {
                    let problem =
                        format!("{operator:?} is not an operator (In, NotIn, Exists, DoesNotExist)");
                    return Err(at(".operator", problem));
                }
            }
        }
        requirements.sort();
        requirements.dedup();
        Ok(Selector(requirements))
    }

    /// Whether all requirements hold for labels that `value_of` looks up.
    pub(super) fn matches(&self, labels: &BTreeMap<&str, &str>) -> bool {
        let has = |values: &[String], value: &str| values.binary_search_by(|v| v.as_str().cmp(value)).is_ok();
        self.0.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => labels.get(key.as_str()).is_some_and(|value| has(values, value)),
            Requirement::NotIn(key, values) => {
                labels.get(key.as_str()).is_none_or(|value| !has(values, value))
            }
            Requirement::Exists(key) => labels.contains_key(key.as_str()),
            Requirement::DoesNotExist(key) => !labels.contains_key(key.as_str()),
        })
    }

    /// The label keys it looks at.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|requirement| match requirement {
            Requirement::In(key, _)
            | Requirement::NotIn(key, _)
            | Requirement::Exists(key)
            | Requirement::DoesNotExist(key) => key.as_str(),
        })
    }
}

impl Selections {
    /// The number of a selection.
    pub(super) fn number(&mut self, namespaces: Namespaces<'_>, pods: Selector) -> u32 {
        let scope = match namespaces {
            Namespaces::Own(name) => Scope::Namespace(name.to_owned()),
            Namespaces::Selected(selector) => Scope::Selected(self.namespace_selectors.number(selector)),
        };
        let pods = self.pod_selectors.number(pods);
        self.pairs.number((scope, pods))
    }
}

/// What a selection says of namespaces.
pub(super) enum Namespaces<'a> {
    /// No namespace selector: the policy's own namespace.
    Own(&'a str),
    /// A namespace selector.
    Selected(Selector),
}

impl<T: Clone + Eq + std::hash::Hash> Interner<T> {
    /// The number of `value`.
    pub(super) fn number(&mut self, value: T) -> u32 {
        if let Some(number) = self.numbers.get(&value) {
            return *number;
        }
        let number = self.values.len() as u32;
        self.values.push(value.clone());
        self.numbers.insert(value, number);
        number
    }

    /// The values by their numbers.
    pub(super) fn values(&self) -> &[T] {
        &self.values
    }
}

impl<T> Default for Interner<T> {
    fn default() -> Self {
        Interner { values: Vec::new(), numbers: HashMap::new() }
    }
}

impl<'a> SelectorIndex<'a> {
    /// Files `selectors`.
    pub(super) fn new(selectors: &'a [Selector]) -> Self {
        let mut shared = HashMap::<(&str, &str), usize>::new();
        for (key, values) in selectors.iter().flat_map(|selector| selector.0.iter()).filter_map(equality) {
            values.iter().for_each(|value| *shared.entry((key, value)).or_default() += 1);
        }
        let crowd = |(key, values): &(&'a str, &'a [String])| -> usize {
            values.iter().filter_map(|value| shared.get(&(*key, value.as_str()))).sum()
        };
        let mut index =
            SelectorIndex { selectors, by_value: HashMap::new(), by_key: HashMap::new(), always: Vec::new() };
        for (number, selector) in selectors.iter().enumerate() {
            let number = number as u32;
            let exists = selector.0.iter().find_map(|requirement| match requirement {
                Requirement::Exists(key) => Some(key.as_str()),
                _ => None,
            });
            if let Some((key, values)) = selector.0.iter().filter_map(equality).min_by_key(crowd) {
                values.iter().for_each(|value| index.by_value.entry((key, value)).or_default().push(number));
            } else if let Some(key) = exists {
                index.by_key.entry(key).or_default().push(number);
            } else {
                index.always.push(number);
            }
        }
        index
    }

    /// The numbers of the selectors that match, in no order, each once.
    pub(super) fn matching(&self, labels: &BTreeMap<&str, &str>) -> Vec<u32> {
        let filed = labels.iter().flat_map(|(key, value)| {
            let by_value = self.by_value.get(&(*key, *value));
            let by_key = self.by_key.get(key);
            by_value.into_iter().chain(by_key).flatten()
        });
        let holds = |number: &u32| self.selectors.get(*number as usize).is_some_and(|s| s.matches(labels));
        self.always.iter().chain(filed).copied().filter(holds).collect()
    }
}

/// The key and values of a requirement that names the values it wants.
fn equality(requirement: &Requirement) -> Option<(&str, &[String])> {
    match requirement {
        Requirement::In(key, values) => Some((key, values)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;
    use proptest::prelude::*;

    use super::*;

    fn expression(key: &str, operator: &str, values: &[&str]) -> LabelSelectorRequirement {
        let values = (!values.is_empty()).then(|| values.iter().map(|v| (*v).to_owned()).collect());
        LabelSelectorRequirement { key: key.into(), operator: operator.into(), values }
    }

    fn selector(expressions: Vec<LabelSelectorRequirement>) -> LabelSelector {
        LabelSelector { match_labels: None, match_expressions: Some(expressions) }
    }

    #[test]
    fn what_the_api_server_refuses_is_refused_with_its_path() {
        let rows = [
            (expression("a", "In", &[]), "s.matchExpressions[0].values"),
            (expression("a", "NotIn", &[]), "s.matchExpressions[0].values"),
            (expression("a", "Exists", &["x"]), "s.matchExpressions[0].values"),
            (expression("a", "DoesNotExist", &["x"]), "s.matchExpressions[0].values"),
            (expression("a", "in", &["x"]), "s.matchExpressions[0].operator"),
            (expression("a/b/c", "In", &["x"]), "s.matchExpressions[0].key"),
            (expression("a", "In", &["x", "not a value"]), "s.matchExpressions[0].values[1]"),
        ];
        for (requirement, field) in rows {
            let error = Selector::read(Some(&selector(vec![requirement.clone()])), "s").unwrap_err();
            assert_eq!(error.0, field, "{requirement:?}: {}", error.1);
        }
    }

    #[test]
    fn equal_meaning_is_one_selector() {
        let one = selector(vec![expression("a", "In", &["y", "x"]), expression("b", "Exists", &[])]);
        let other = selector(vec![expression("b", "Exists", &[]), expression("a", "In", &["x", "y", "x"])]);
        assert_eq!(Selector::read(Some(&one), ""), Selector::read(Some(&other), ""));
    }

    fn requirements() -> impl Strategy<Value = LabelSelectorRequirement> {
        let key = prop::sample::select(vec!["a", "b", "c"]);
        let values = prop::sample::subsequence(vec!["x", "y", "z"], 1..=3);
        (key, values, 0..4).prop_map(|(key, values, operator)| match operator {
            0 => expression(key, "In", &values),
            1 => expression(key, "NotIn", &values),
            2 => expression(key, "Exists", &[]),
            _ => expression(key, "DoesNotExist", &[]),
        })
    }

    proptest! {
        /// The index against trying every selector.
        #[test]
        fn the_index_finds_exactly_what_matches(
            selectors in prop::collection::vec(prop::collection::vec(requirements(), 0..4), 0..12),
            labels in prop::collection::btree_map(
                prop::sample::select(vec!["a", "b", "c", "d"]), prop::sample::select(vec!["x", "y", "z", "w"]), 0..4),
        ) {
            let selectors: Vec<_> =
                selectors.into_iter().map(|s| Selector::read(Some(&selector(s)), "").unwrap()).collect();
            let mut found = SelectorIndex::new(&selectors).matching(&labels);
            found.sort_unstable();
            let expected: Vec<u32> =
                (0..selectors.len() as u32).filter(|n| selectors[*n as usize].matches(&labels)).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
