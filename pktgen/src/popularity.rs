//! Which flow the next packet belongs to: in turn, or drawn by popularity from a table made beforehand.

use std::fmt;
use std::str::FromStr;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rand_distr::Distribution;
use rand_distr::weighted::WeightedAliasIndex;

/// How often flows are sent.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Popularity {
    /// One after the other: all equally often, no chance.
    #[default]
    InTurn,
    /// Drawn, all equally likely.
    Uniform,
    /// Drawn: flow k (from 1) with a probability in proportion to k^-exponent.
    Zipf(f64),
}

/// A popularity that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a popularity: write in-turn, uniform, zipf (exponent 1) or zipf=1.2 (above 0, at most 10)"
)]
pub struct PopularityError(String);

impl FromStr for Popularity {
    type Err = PopularityError;

    fn from_str(text: &str) -> Result<Self, PopularityError> {
        let bad = || PopularityError(text.to_owned());
        match text.split_once('=') {
            None if text == "in-turn" => Ok(Popularity::InTurn),
            None if text == "uniform" => Ok(Popularity::Uniform),
            None if text == "zipf" => Ok(Popularity::Zipf(1.0)),
            Some(("zipf", exponent)) => match exponent.parse() {
                Ok(exponent) if exponent > 0.0 && exponent <= 10.0 => Ok(Popularity::Zipf(exponent)),
                _ => Err(bad()),
            },
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Popularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Popularity::InTurn => f.write_str("in-turn"),
            Popularity::Uniform => f.write_str("uniform"),
            Popularity::Zipf(exponent) => write!(f, "zipf={exponent}"),
        }
    }
}

/// Draws flow numbers. The same seed draws the same numbers.
#[derive(Debug, Clone)]
pub struct Draw {
    /// Walker's alias table, by Vose: one look-up a draw. `None` where all are equally likely.
    table: Option<WeightedAliasIndex<f64>>,
    flows: usize,
    random: SmallRng,
}

impl Draw {
    /// A draw among `flows` flows; `None` for [`Popularity::InTurn`], and where there is nothing to choose from.
    pub fn new(popularity: Popularity, flows: usize, seed: u64) -> Option<Self> {
        let table = match popularity {
            _ if flows < 2 => return None,
            Popularity::InTurn => return None,
            Popularity::Uniform => None,
            Popularity::Zipf(exponent) => {
                let weights = (1..=flows).map(|rank| (rank as f64).powf(-exponent)).collect();
                // Weights are finite, not negative and not all zero: the first is 1.
                Some(WeightedAliasIndex::new(weights).ok()?)
            }
        };
        Some(Draw { table, flows, random: SmallRng::seed_from_u64(seed) })
    }

    /// The next flow's number.
    #[inline]
    pub fn next_flow(&mut self) -> usize {
        match &self.table {
            Some(table) => table.sample(&mut self.random),
            None => self.random.random_range(0..self.flows),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: usize = 200_000;

    fn counts(popularity: Popularity, flows: usize) -> Vec<usize> {
        let mut draw = Draw::new(popularity, flows, 7).unwrap();
        let mut counts = vec![0; flows];
        (0..DRAWS).for_each(|_| counts[draw.next_flow()] += 1);
        counts
    }

    /// Pearson's sum of squares against the probabilities.
    fn chi_square(counts: &[usize], probabilities: &[f64]) -> f64 {
        let of = |(count, probability): (&usize, &f64)| {
            let expected = probability * DRAWS as f64;
            (*count as f64 - expected).powi(2) / expected
        };
        counts.iter().zip(probabilities).map(of).sum()
    }

    fn zipf(flows: usize, exponent: f64) -> Vec<f64> {
        let weights: Vec<f64> = (1..=flows).map(|rank| 1.0 / (rank as f64).powf(exponent)).collect();
        let total: f64 = weights.iter().sum();
        weights.iter().map(|weight| weight / total).collect()
    }

    /// Of 99 degrees of freedom, 148.2 is exceeded once in a thousand (any table of the distribution); the seed is
    /// fixed, so that it is exceeded never or always.
    const ONE_IN_A_THOUSAND: f64 = 148.2;

    #[test]
    fn draws_are_distributed_as_asked_for() {
        for exponent in [0.5, 1.0, 1.3] {
            let counts = counts(Popularity::Zipf(exponent), 100);
            let chi = chi_square(&counts, &zipf(100, exponent));
            assert!(chi < ONE_IN_A_THOUSAND, "zipf={exponent}: {chi}");
            let other = chi_square(&counts, &zipf(100, exponent + 0.05));
            assert!(other > ONE_IN_A_THOUSAND, "the test tells a neighbouring exponent apart: {other}");
        }
        let uniform = counts(Popularity::Uniform, 100);
        assert!(chi_square(&uniform, &[0.01; 100]) < ONE_IN_A_THOUSAND);
        assert!(chi_square(&uniform, &zipf(100, 0.05)) > ONE_IN_A_THOUSAND);
    }

    #[test]
    fn the_same_seed_draws_the_same_and_there_must_be_a_choice() {
        let draw = |seed| {
            let mut draw = Draw::new(Popularity::Zipf(1.0), 1000, seed).unwrap();
            (0..50).map(|_| draw.next_flow()).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert!(Draw::new(Popularity::InTurn, 10, 1).is_none());
        assert!(Draw::new(Popularity::Zipf(1.0), 1, 1).is_none());
    }

    #[test]
    fn popularities_are_read_and_written() {
        for text in ["in-turn", "uniform", "zipf=1.25"] {
            assert_eq!(text.parse::<Popularity>().unwrap().to_string(), text);
        }
        assert_eq!("zipf".parse(), Ok(Popularity::Zipf(1.0)));
        for text in ["", "zipf=", "zipf=0", "zipf=-1", "zipf=NaN", "zipf=11", "pareto", "uniform=1"] {
            assert!(text.parse::<Popularity>().is_err(), "{text}");
        }
    }
}
