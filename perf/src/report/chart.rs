//! What is drawn: data only, so that a saved run can be drawn again.

use serde::{Deserialize, Serialize};

/// One picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Chart {
    /// What it shows.
    pub title: String,
    /// Along the bottom.
    pub x: Axis,
    /// Label of the other axis, with its unit.
    pub y: String,
    /// The lines, or the bars of each category.
    pub series: Vec<Series>,
}

/// The bottom of a picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Axis {
    /// Names; point `(i, y)` of a series is the bar of name `i`.
    Names {
        /// What the names are.
        label: String,
        /// The names, left to right.
        names: Vec<String>,
    },
    /// Numbers.
    Linear {
        /// What they are, with their unit.
        label: String,
    },
    /// Numbers of many magnitudes, all above zero.
    Log {
        /// What they are, with their unit.
        label: String,
    },
    /// Shares below 1, stretched towards 1: 0.9, 0.99 and 0.999 are equally far apart.
    Quantile {
        /// What they are quantiles of.
        label: String,
    },
}

/// One line, or one colour of bars.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Where it goes.
    pub points: Vec<(f64, f64)>,
}

impl Chart {
    /// Bars: one value of each series for each name.
    #[must_use]
    pub fn bars(title: &str, label: &str, names: Vec<String>, y: &str) -> Self {
        Self {
            title: title.to_owned(),
            x: Axis::Names {
                label: label.to_owned(),
                names,
            },
            y: y.to_owned(),
            series: Vec::new(),
        }
    }

    /// Lines over numbers.
    #[must_use]
    pub fn lines(title: &str, x: Axis, y: &str) -> Self {
        Self {
            title: title.to_owned(),
            x,
            y: y.to_owned(),
            series: Vec::new(),
        }
    }

    /// Adds a line or a colour of bars.
    pub fn add(&mut self, name: &str, points: Vec<(f64, f64)>) {
        self.series.push(Series {
            name: name.to_owned(),
            points,
        });
    }
}
