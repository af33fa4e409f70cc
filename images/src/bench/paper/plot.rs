//! The measurements as pictures: SVG, drawn by ourselves but for the axes.

use plotters::prelude::*;
use plotters::series::LineSeries;

use super::plan::System;
use super::stats::Spread;
use super::table::{Counter, Model, Row};
use super::workload::Workload;
use crate::error::{Error, Result};
use crate::supervise::spec::ProtocolName;

/// Pixels.
const SIZE: (u32, u32) = (860, 520);
const FONT: &str = "sans-serif";
/// Points of a model's line.
const LINE_POINTS: u32 = 120;
/// Room around what is drawn, as a factor.
const MARGIN: f64 = 1.3;
/// Room for the legend above what is drawn, by the height of that.
const LEGEND_SHARE: f64 = 0.45;
/// The systems that are drawn.
const SYSTEMS: [System; 3] = [System::Pair(ProtocolName::Original), System::Pair(ProtocolName::Revised), System::Solo];

/// What a picture shows of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Normalised performance, with the model.
    Np,
    /// The cost of an epoch's boundary.
    Boundary,
}

impl Measure {
    fn of(self, row: &Row) -> Option<Spread> {
        match self {
            Self::Np => row.np,
            Self::Boundary => row.boundary_us,
        }
    }

    fn axis(self) -> &'static str {
        match self {
            Self::Np => "time with epochs / time without",
            Self::Boundary => "time beyond the baseline for each epoch, us",
        }
    }
}

fn colour(system: System) -> RGBColor {
    match system {
        System::Bare | System::Neighbours | System::Cut => BLACK,
        System::Solo => RGBColor(110, 110, 110),
        System::Pair(ProtocolName::Original) => RGBColor(196, 78, 0),
        System::Pair(ProtocolName::Revised) => RGBColor(0, 90, 181),
    }
}

/// Measured values of one system by length of epochs. What is not positive has no place on a logarithmic axis: a least
/// value that is not reaches down to the axis.
fn series(rows: &[Row], subject: Subject, system: System) -> Vec<(f64, Spread)> {
    let own = |row: &&Row| {
        let what = row.configuration;
        (what.workload, what.epoch.source(), what.system) == (subject.workload, subject.counter.source(), system)
    };
    let at = |row: &Row| Some((row.configuration.epoch.length() as f64, subject.measure.of(row)?));
    rows.iter().filter(own).filter_map(at).filter(|(_, value)| value.median > 0.0).collect()
}

/// What a picture is of.
#[derive(Debug, Clone, Copy)]
pub struct Subject {
    /// What the guest does.
    pub workload: Workload,
    /// Who counts: exact epochs, or counted ones.
    pub counter: Counter,
    /// What is shown.
    pub measure: Measure,
}

impl Subject {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let of = |workload, counter| [Measure::Np, Measure::Boundary].map(|m| Self { workload, counter, measure: m });
        Workload::ALL.into_iter().flat_map(move |w| Counter::ALL.into_iter().flat_map(move |counter| of(w, counter)))
    }

    /// The name of its file.
    pub fn file_name(self) -> String {
        let measure = match self.measure {
            Measure::Np => "np",
            Measure::Boundary => "boundary",
        };
        let counted = if self.counter == Counter::Guest { "-counted" } else { "" };
        format!("{measure}-{}{counted}.svg", self.workload.slug())
    }
}

/// A picture; `None` when there is nothing to be drawn.
///
/// # Errors
/// The drawing library's.
pub fn draw(rows: &[Row], models: &[Model], subject: Subject) -> Result<Option<String>> {
    let Subject { workload, counter, measure } = subject;
    let all: Vec<_> = SYSTEMS.map(|system| (system, series(rows, subject, system))).into();
    let values = || all.iter().flat_map(|(_, points)| points);
    let (Some(lengths), Some(low), Some(high)) = (
        Spread::of(&values().map(|(length, _)| *length).collect::<Vec<_>>()),
        Spread::of(
            &values().map(|(_, value)| if value.min > 0.0 { value.min } else { value.median }).collect::<Vec<_>>(),
        ),
        Spread::of(&values().map(|(_, value)| value.max).collect::<Vec<_>>()),
    ) else {
        return Ok(None);
    };
    let frame = Frame {
        title: format!("{workload}, {} epochs", counter.source()),
        unit: counter.unit(),
        axis: measure.axis(),
        x: (lengths.min / MARGIN, lengths.max * MARGIN),
        y: (low.min / MARGIN, high.max * MARGIN * (high.max / low.min).powf(LEGEND_SHARE)),
    };
    let models = if measure == Measure::Np { models } else { &[] };
    let lines: Vec<&Model> =
        models.iter().filter(|model| (model.workload, model.counter) == (workload, counter)).collect();
    let mut svg = String::new();
    paint(&mut svg, &frame, &all, &lines).map_err(|error| Error::CheckFailed(format!("cannot draw: {error}")))?;
    Ok(Some(svg))
}

/// What is around the curves.
struct Frame {
    title: String,
    unit: &'static str,
    axis: &'static str,
    x: (f64, f64),
    y: (f64, f64),
}

fn paint(
    svg: &mut String,
    frame: &Frame,
    all: &[(System, Vec<(f64, Spread)>)],
    models: &[&Model],
) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(&frame.title, (FONT, 20))
        .margin(12)
        .x_label_area_size(46)
        .y_label_area_size(62)
        .build_cartesian_2d((frame.x.0..frame.x.1).log_scale(), (frame.y.0..frame.y.1).log_scale())?;
    chart
        .configure_mesh()
        .x_desc(format!("length of an epoch, {}", frame.unit))
        .y_desc(frame.axis)
        .x_label_formatter(&|value| short(*value))
        .y_label_formatter(&|value| short(*value))
        .label_style((FONT, 14))
        .light_line_style(BLACK.mix(0.06))
        .draw()?;
    for (system, points) in all.iter().filter(|(_, points)| !points.is_empty()) {
        let colour = colour(*system);
        chart
            .draw_series(points.iter().map(|(length, value)| Circle::new((*length, value.median), 4, colour.filled())))?
            .label(system.to_string())
            .legend(move |(x, y)| Circle::new((x + 10, y), 4, colour.filled()));
        chart.draw_series(points.iter().map(|(length, value)| {
            PathElement::new(vec![(*length, value.min.max(frame.y.0)), (*length, value.max)], colour.stroke_width(2))
        }))?;
    }
    for model in models {
        let colour = colour(model.system);
        let label = format!("model, h = {} us ({})", short(model.fit.cost_us), model.system);
        let inside = line(model, frame.x).into_iter().filter(|(_, np)| (frame.y.0..frame.y.1).contains(np));
        chart
            .draw_series(LineSeries::new(inside, colour.stroke_width(1)))?
            .label(label)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 20, y)], colour));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .label_font((FONT, 14))
        .draw()?;
    area.present()?;
    Ok(())
}

/// A model's curve from one length to another, evenly spread over their logarithms. A guest that waits has fewer epochs
/// than its instructions would fill: between its points nothing is known.
fn line(model: &Model, (from, to): (f64, f64)) -> Vec<(f64, f64)> {
    if model.workload != Workload::COMPUTES {
        return model.fit.points.iter().map(|point| (point.length, point.modelled)).collect();
    }
    let length = |step: u32| from * (to / from).powf(f64::from(step) / f64::from(LINE_POINTS));
    (0..=LINE_POINTS).map(|step| (length(step), model.fit.np(length(step)))).collect()
}

/// A number in a few characters: 1K, 385K, 1M, 1.05.
pub fn short(value: f64) -> String {
    let (scaled, unit) = match value.abs() {
        size if size >= 999_500.0 => (value / 1e6, "M"),
        size if size >= 1_000.0 => (value / 1e3, "K"),
        _ => (value, ""),
    };
    let digits = match scaled.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{scaled:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::paper::table;

    #[test]
    fn numbers_are_short() {
        let all = [1_000.0, 385_000.0, 1_000_000.0, 1.05, 0.5, 100.0, 12.34, 2_500.0, 0.0];
        let texts: Vec<_> = all.iter().map(|value| short(*value)).collect();
        assert_eq!(texts, ["1K", "385K", "1M", "1.05", "0.5", "100", "12.3", "2.5K", "0"]);
    }

    #[test]
    fn a_picture_shows_every_system_and_its_model() {
        let samples = table::tests::samples();
        let rows = table::rows(&samples);
        let models = table::models(&samples, &rows);
        let draw =
            |workload, counter, measure| draw(&rows, &models, Subject { workload, counter, measure }).expect("drawn");
        let svg = draw(Workload::COMPUTES, Counter::Machine, Measure::Np).expect("something");
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for text in ["pair, original", "pair, revised", "solo", "model, h = 40 us (pair, revised)", "Dhrystone"] {
            assert!(svg.contains(text), "{text} is missing");
        }
        assert!(svg.contains("length of an epoch, instructions"));
        assert!(!draw(Workload::COMPUTES, Counter::Machine, Measure::Boundary).expect("something").contains("model"));
        assert_eq!(draw(Workload::Store, Counter::Machine, Measure::Np), None);
        assert_eq!(draw(Workload::COMPUTES, Counter::Guest, Measure::Np), None);
    }

    #[test]
    fn no_two_pictures_have_one_name() {
        let names: Vec<_> = Subject::all().map(Subject::file_name).collect();
        let different: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!((names.len(), different.len()), (Workload::ALL.len() * 4, names.len()));
        assert!(
            names.contains(&"np-dhrystone.svg".to_owned()) && names.contains(&"boundary-kv-counted.svg".to_owned())
        );
    }
}
