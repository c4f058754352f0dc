//! Two reports, case by case: what became faster, what slower, and whether that is more than noise.

use crate::cases::{Better, Case, cases_of, read_json};
use crate::failure::{Regression, Usage};
use anyhow::Result;
use std::path::PathBuf;

/// Compares two JSON reports case by case: of a run, of `sweep` or of scripts/bench-peers.
///
/// Exit status: 0 nothing lost more than --max_loss; 1 something did; 2 the files cannot be compared.
#[derive(Debug, Clone, clap::Args)]
#[command(rename_all = "snake_case")]
pub(crate) struct CompareArgs {
    /// The report to compare with
    old: PathBuf,
    /// The report to judge
    new: PathBuf,
    /// How much a case may lose, in percent of the old median
    #[arg(long, alias = "max-loss", value_parser = percent, default_value = "10%", value_name = "PERCENT")]
    max_loss: f64,
}

/// A share from a number of percent.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text);
    match number.parse::<f64>() {
        Ok(percent) if (0.0..=1000.0).contains(&percent) => Ok(percent / 100.0),
        _ => Err(format!("{text:?} is not a number of percent, such as 10%")),
    }
}

/// One case that both reports have.
#[derive(Debug, Clone, PartialEq)]
struct Line {
    name: String,
    unit: String,
    old: f64,
    new: f64,
    /// New to old.
    ratio: f64,
    /// Whether no round of one lies within the rounds of the other.
    is_outside_spreads: bool,
    /// The share of the old that was lost; below zero where the new is better.
    loss: f64,
}

impl Line {
    fn new(old: &Case, new: &Case) -> Self {
        let (was, is) = (old.median(), new.median());
        let ratio = if was == is { 1.0 } else { is / was };
        let ((old_low, old_high), (new_low, new_high)) = (old.spread(), new.spread());
        let loss = match old.better {
            Better::Higher => 1.0 - ratio,
            Better::Lower => ratio - 1.0,
        };
        Self {
            name: old.name.clone(),
            unit: old.unit.clone(),
            old: was,
            new: is,
            ratio,
            is_outside_spreads: new_low > old_high || new_high < old_low,
            loss,
        }
    }
}

/// What two reports have in common, and what only one has.
#[derive(Debug, Default, PartialEq)]
struct Comparison {
    lines: Vec<Line>,
    only_old: Vec<String>,
    only_new: Vec<String>,
}

impl Comparison {
    fn of(old: &[Case], new: &[Case]) -> Self {
        let find = |list: &[Case], name: &str| list.iter().position(|case| case.name == name);
        let mut comparison = Self::default();
        for case in old {
            match find(new, &case.name) {
                Some(index) => comparison.lines.push(Line::new(case, &new[index])),
                None => comparison.only_old.push(case.name.clone()),
            }
        }
        let added = new.iter().filter(|case| find(old, &case.name).is_none());
        comparison.only_new.extend(added.map(|case| case.name.clone()));
        comparison
    }

    fn lost(&self, max_loss: f64) -> usize {
        self.lines.iter().filter(|line| line.loss > max_loss).count()
    }

    fn text(&self, max_loss: f64) -> String {
        let width = self.lines.iter().map(|line| line.name.chars().count()).max().unwrap_or(0).max(4);
        let mut text = format!("{:width$}  {:>12}  {:>12}  {:8}  {:>6}\n", "case", "old", "new", "unit", "ratio");
        for line in &self.lines {
            let said = match (line.loss > max_loss, line.is_outside_spreads, line.loss < 0.0) {
                (true, true, _) => "LOST, outside of both spreads",
                (true, false, _) => "LOST, but within the spreads",
                (false, true, true) => "better, outside of both spreads",
                (false, true, false) => "worse, outside of both spreads",
                (false, false, _) => "within the spreads",
            };
            text += &format!(
                "{:width$}  {:>12}  {:>12}  {:8}  {:>6.3}  {said}\n",
                line.name,
                figure(line.old),
                figure(line.new),
                line.unit,
                line.ratio
            );
        }
        for (which, names) in [("old", &self.only_old), ("new", &self.only_new)] {
            for name in names {
                text += &format!("{name:width$}  only in the {which} report\n");
            }
        }
        text
    }
}

/// A figure with as many digits as say something.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        v if v >= 1e9 => format!("{:.3} G", value / 1e9),
        v if v >= 1e6 => format!("{:.2} M", value / 1e6),
        v if v >= 1e4 => format!("{value:.0}"),
        _ => format!("{value:.3}"),
    }
}

/// Compares the two files.
///
/// # Errors
/// [`Usage`] when they cannot be compared, [`Regression`] when something lost too much.
pub(crate) fn main(args: &CompareArgs) -> Result<()> {
    let old = cases_of(&read_json(&args.old)?, &args.old)?;
    let new = cases_of(&read_json(&args.new)?, &args.new)?;
    let comparison = Comparison::of(&old, &new);
    if comparison.lines.is_empty() {
        let (old, new) = (args.old.display(), args.new.display());
        return Err(Usage(format!("{old} and {new} have no case in common")).into());
    }
    print!("{}", comparison.text(args.max_loss));
    match comparison.lost(args.max_loss) {
        0 => Ok(()),
        lost => {
            let (of, percent) = (comparison.lines.len(), args.max_loss * 100.0);
            Err(Regression(format!("{lost} of {of} cases lost more than {percent} %")).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(name: &str, better: Better, rounds: &[f64]) -> Case {
        Case { name: name.into(), unit: "x".into(), better, rounds: rounds.into() }
    }

    #[test]
    fn a_loss_is_one_in_either_sense() {
        let old = [case("rate", Better::Higher, &[100.0]), case("latency", Better::Lower, &[100.0])];
        let new = [case("rate", Better::Higher, &[88.0]), case("latency", Better::Lower, &[112.0])];
        let comparison = Comparison::of(&old, &new);
        assert_eq!(comparison.lost(0.10), 2);
        assert_eq!(comparison.lost(0.13), 0);
        assert_eq!(Comparison::of(&new, &old).lost(0.10), 0, "the other way round both are better");
    }

    #[test]
    fn spreads_that_touch_are_no_difference() {
        let line = |old: &[f64], new: &[f64]| {
            Line::new(&case("a", Better::Higher, old), &case("a", Better::Higher, new)).is_outside_spreads
        };
        assert!(!line(&[1.0, 3.0], &[3.0, 5.0]));
        assert!(line(&[1.0, 3.0], &[3.1, 5.0]));
        assert!(line(&[3.1, 5.0], &[1.0, 3.0]));
        assert!(!line(&[1.0, 9.0], &[4.0, 5.0]));
    }

    #[test]
    fn cases_of_one_report_alone_are_named() {
        let old = [case("both", Better::Higher, &[1.0]), case("gone", Better::Higher, &[1.0])];
        let new = [case("added", Better::Higher, &[1.0]), case("both", Better::Higher, &[1.0])];
        let comparison = Comparison::of(&old, &new);
        assert_eq!((comparison.only_old, comparison.only_new), (vec!["gone".into()], vec!["added".into()]));
        assert_eq!(comparison.lines.len(), 1);
    }

    #[test]
    fn nothing_then_and_now_is_no_loss_and_something_from_nothing_is() {
        let zero = case("cpu", Better::Lower, &[0.0]);
        assert_eq!(Line::new(&zero, &zero).loss, 0.0);
        assert!(Line::new(&zero, &case("cpu", Better::Lower, &[0.5])).loss > 10.0);
    }

    #[test]
    fn percents() {
        assert_eq!(percent("10%"), Ok(0.1));
        assert_eq!(percent("2.5"), Ok(0.025));
        for wrong in ["", "%", "-1", "ten", "NaN", "inf", "2000%"] {
            assert!(percent(wrong).is_err(), "{wrong}");
        }
    }
}
