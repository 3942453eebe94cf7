//! A result: what was measured afield next to its floors, and how it is printed.

use std::io::{self, Write};

use serde::Serialize;

use super::Name;

/// In what a value is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Nanoseconds of one operation: less is better.
    Nanoseconds,
    /// Operations in a second: more is better.
    PerSecond,
    /// Bytes in a second: more is better.
    BytesPerSecond,
}

impl Unit {
    fn show(self, value: f64) -> String {
        let steps: [(f64, &str); 4] = match self {
            Self::Nanoseconds => [(1e0, "ns"), (1e3, "µs"), (1e6, "ms"), (1e9, "s")],
            Self::PerSecond => [(1e0, "/s"), (1e3, "k/s"), (1e6, "M/s"), (1e9, "G/s")],
            Self::BytesPerSecond => [(1e0, "B/s"), (1e3, "kB/s"), (1e6, "MB/s"), (1e9, "GB/s")],
        };
        let reached = steps.iter().rfind(|(step, _)| value >= *step);
        let (step, unit) = reached.unwrap_or(&steps[0]);
        // The smallest step has no meaningful fraction.
        let digits = if *step > 1.0 { 2 } else { 0 };
        format!("{:.digits$} {unit}", value / step)
    }
}

/// What afield is compared with.
#[derive(Debug, Serialize)]
struct Floor {
    what: &'static str,
    /// Median.
    value: f64,
    /// Median of the ratios of each pair: afield divided by this.
    ratio: f64,
    /// Smallest and largest ratio.
    ratio_range: (f64, f64),
}

/// A result.
#[derive(Debug, Serialize)]
pub struct Figure {
    name: Name,
    unit: Unit,
    /// Median.
    afield: f64,
    floors: Vec<Floor>,
}

impl Figure {
    /// From the values of each run: those of the floors in their order, then afield's.
    pub fn new(name: Name, floors: &[&'static str], runs: &[Vec<f64>]) -> Self {
        let column = |index: usize| runs.iter().map(move |run| run[index]);
        let afield = || column(floors.len());
        Self {
            name,
            unit: name.unit(),
            afield: median(afield().collect()),
            floors: floors
                .iter()
                .enumerate()
                .map(|(index, what)| {
                    let ratios: Vec<f64> = afield()
                        .zip(column(index))
                        .map(|(away, floor)| away / floor)
                        .collect();
                    Floor {
                        what,
                        value: median(column(index).collect()),
                        ratio_range: (
                            ratios.iter().copied().fold(f64::INFINITY, f64::min),
                            ratios.iter().copied().fold(0.0, f64::max),
                        ),
                        ratio: median(ratios),
                    }
                })
                .collect(),
        }
    }

    /// The line above all figures.
    pub fn write_head(to: &mut impl Write) -> io::Result<()> {
        writeln!(
            to,
            "{:<11} {:>14} {:>14} {:>8}  {:<17} floor",
            "", "floor", "afield", "ratio", "range"
        )
    }

    /// One line for each floor.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        for floor in &self.floors {
            writeln!(
                to,
                "{:<11} {:>14} {:>14} {:>8.2}  {:>7.2} – {:<7.2} {}",
                self.name.text(),
                self.unit.show(floor.value),
                self.unit.show(self.afield),
                floor.ratio,
                floor.ratio_range.0,
                floor.ratio_range.1,
                floor.what,
            )?;
        }
        Ok(())
    }
}

/// The median of some values.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn values_choose_their_unit() {
        assert_eq!(Unit::Nanoseconds.show(250.0), "250 ns");
        assert_eq!(Unit::Nanoseconds.show(2500.0), "2.50 µs");
        assert_eq!(Unit::Nanoseconds.show(2_500_000.0), "2.50 ms");
        assert_eq!(Unit::PerSecond.show(0.4), "0 /s");
        assert_eq!(Unit::PerSecond.show(12_345.0), "12.35 k/s");
        assert_eq!(Unit::BytesPerSecond.show(1.5e9), "1.50 GB/s");
    }

    #[test]
    fn ratios_are_of_pairs() {
        let runs = [vec![10.0, 20.0, 5.0], vec![40.0, 80.0, 20.0], vec![2.0, 8.0, 2.0]];
        let figure = Figure::new(Name::Requests, Name::Requests.floors(), &runs);
        assert_eq!(figure.afield, 5.0);
        let ratios: Vec<_> = figure
            .floors
            .iter()
            .map(|floor| (floor.value, floor.ratio))
            .collect();
        assert_eq!(ratios, [(10.0, 0.5), (20.0, 0.25)]);
        assert_eq!(figure.floors[0].ratio_range, (0.5, 1.0));
    }
}
