//! What was measured: a table for people, JSON for tools.

use std::{fs, path::Path};

use anyhow::Result;

/// Figures in the order in which they were taken.
#[derive(Default)]
pub(crate) struct Report(Vec<Figure>);

struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
}

impl Report {
    /// Adds a figure, and shows it at once.
    pub(crate) fn add(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        let figure = Figure { name: name.into(), value, unit };
        println!("bench: {}", figure.line());
        self.0.push(figure);
    }

    /// The whole table.
    pub(crate) fn print(&self) {
        println!();
        for figure in &self.0 {
            println!("{}", figure.line());
        }
    }

    /// The whole table as JSON.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let figures: Vec<String> = self
            .0
            .iter()
            .map(|Figure { name, value, unit }| {
                format!(r#"  {{"name": "{name}", "value": {value}, "unit": "{unit}"}}"#)
            })
            .collect();
        fs::write(path, format!("[\n{}\n]\n", figures.join(",\n")))?;
        println!("written to {}", path.display());
        Ok(())
    }
}

impl Figure {
    fn line(&self) -> String {
        format!("{:<70} {:>12.2} {}", self.name, self.value, self.unit)
    }
}

/// The middle value, of an even number of them the mean of the middle two; 0 of none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = |place: usize| values.get(place).copied().unwrap_or_default();
    f64::midpoint(middle(values.len().saturating_sub(1) / 2), middle(values.len() / 2))
}

/// The value that so many of a hundred do not exceed; 0 of none.
pub(crate) fn percentile(values: &[f64], per_cent: usize) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let place = (values.len() * per_cent).div_ceil(100).saturating_sub(1);
    values.get(place).copied().unwrap_or_default()
}
