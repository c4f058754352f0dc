//! A report as a picture: a sweep as lines of throughput, the cases of scripts/bench-peers as bars of their ratios.

use crate::cases::{Better, Case, cases_of, list_of, read_json};
use crate::failure::Usage;
use crate::size::show_size;
use anyhow::{Context, Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Draws a JSON report as SVG.
///
/// A sweep becomes lines of throughput over queue depth, or over what else was varied most; the cases of
/// scripts/bench-peers become bars of their ratios to the reference, with the goals.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ChartArgs {
    /// The JSON report
    report: PathBuf,
    /// The file to draw into, which ends with .svg
    chart: PathBuf,
}

/// Draws the file.
///
/// # Errors
/// [`Usage`] when there is nothing in it to draw; else when the picture cannot be written.
pub(crate) fn main(args: &ChartArgs) -> Result<()> {
    check_name(&args.chart)?;
    let report = read_json(&args.report)?;
    // For its message where it is no report at all.
    cases_of(&report, &args.report)?;
    draw(&report, &args.chart)
}

/// A picture that is called otherwise would not be opened as what it is.
///
/// # Errors
/// [`Usage`] where the name does not end with `.svg`.
pub(crate) fn check_name(path: &Path) -> Result<(), Usage> {
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("svg")) {
        return Ok(());
    }
    Err(Usage(format!("{}: the chart is an SVG; name a file that ends with .svg", path.display())))
}

/// Draws a report.
///
/// # Errors
/// [`Usage`] when a single run is all there is; else when the picture cannot be written.
pub(crate) fn draw(report: &Value, path: &Path) -> Result<()> {
    let mut svg = String::new();
    if report.is_array() {
        draw_bars(&bars(report), &mut svg)?;
    } else if report["cases"].is_array() {
        draw_lines(&lines(report), &mut svg)?;
    } else {
        return Err(
            Usage("a single run has nothing to draw: give a sweep, or what scripts/bench-peers wrote".into()).into()
        );
    }
    std::fs::write(path, svg).with_context(|| format!("cannot write the chart to {}", path.display()))
}

fn cannot_draw(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot draw the chart: {error}")
}

/// One line of a sweep's chart: (x, lowest, median, highest) in GB/s.
type Line = Vec<(f64, f64, f64, f64)>;

/// A sweep as lines.
struct Lines {
    x_name: &'static str,
    by_name: BTreeMap<String, Line>,
}

/// What a sweep can vary that has an order: its key in the report, and its name for people.
const AXES: [(&str, &str); 3] =
    [("queue_depth", "queue depth"), ("block_size", "block size in bytes"), ("threads", "threads")];

fn lines(report: &Value) -> Lines {
    let cases = list_of(&report["cases"]);
    let values_of = |key: &str| {
        let mut values: Vec<u64> = cases.iter().filter_map(|case| case[key].as_u64()).collect();
        values.sort_unstable();
        values.dedup();
        values.len()
    };
    // Of several that vary as much, the first.
    let (x_key, x_name) = AXES.into_iter().rev().max_by_key(|(key, _)| values_of(key)).unwrap_or(AXES[0]);
    let mut by_name: BTreeMap<String, Line> = BTreeMap::new();
    for case in cases {
        let rates: Vec<f64> = list_of(&case["rounds"])
            .iter()
            .filter_map(|round| Some(round["bytes_per_second"].as_f64()? / 1e9))
            .collect();
        let (Some(x), false) = (case[x_key].as_f64(), rates.is_empty()) else { continue };
        let word = |key: &str| case[key].as_str().unwrap_or_default();
        let mut name = word("operation").to_owned();
        for (key, unit) in [("block_size", ""), ("queue_depth", " depth "), ("threads", " threads ")] {
            match case[key].as_u64() {
                Some(value) if key != x_key && key == "block_size" => name += &format!(" {}", show_size(value)),
                Some(value) if key != x_key && values_of(key) > 1 => name += &format!("{unit}{value}"),
                _ => {}
            }
        }
        name += &format!(", {} to {}", word("host_driver"), word("target_driver"));
        let measured = Case { name: String::new(), unit: String::new(), better: Better::Higher, rounds: rates };
        let (low, high) = measured.spread();
        by_name.entry(name).or_default().push((x, low, measured.median(), high));
    }
    by_name.values_mut().for_each(|line| line.sort_by(|a, b| a.0.total_cmp(&b.0)));
    Lines { x_name, by_name }
}

fn draw_lines(lines: &Lines, svg: &mut String) -> Result<()> {
    let points = || lines.by_name.values().flatten();
    let bounds = |of: fn(&(f64, f64, f64, f64)) -> f64| {
        points().map(of).fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)))
    };
    let ((x_low, x_high), (_, y_high)) = (bounds(|point| point.0), bounds(|point| point.3));
    let area = SVGBackend::with_string(svg, (960, 560)).into_drawing_area();
    area.fill(&WHITE).map_err(cannot_draw)?;
    let x_range = (x_low * 0.9..x_high.max(x_low + 1.0) * 1.1).log_scale().base(2.0);
    let mut chart = ChartBuilder::on(&area)
        .caption("transfer-bench sweep: medians, lowest and highest round", ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(x_range, 0.0..(y_high * 1.1).max(1e-6))
        .map_err(cannot_draw)?;
    chart
        .configure_mesh()
        .x_desc(lines.x_name)
        .y_desc("GB/s")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .draw()
        .map_err(cannot_draw)?;
    for (number, (name, line)) in lines.by_name.iter().enumerate() {
        let color = Palette99::pick(number).to_rgba();
        chart
            .draw_series(LineSeries::new(line.iter().map(|(x, _, median, _)| (*x, *median)), color.stroke_width(2)))
            .map_err(cannot_draw)?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
        let spread = line.iter().map(|&(x, low, median, high)| ErrorBar::new_vertical(x, low, median, high, color, 6));
        chart.draw_series(spread).map_err(cannot_draw)?;
    }
    let mut legend = chart.configure_series_labels();
    legend.position(SeriesLabelPosition::UpperLeft);
    legend.background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.3)).draw().map_err(cannot_draw)?;
    drop(chart);
    area.present().map_err(cannot_draw)
}

/// One bar of the chart of peers.
struct Bar {
    name: String,
    ratio: f64,
    lowest: f64,
    highest: f64,
    /// The goal as a number, where there is one.
    goal: Option<f64>,
    met: Option<bool>,
}

/// Ratios beyond this are cut off, so that the others stay readable.
const LARGEST_RATIO: f64 = 4.0;
const BAR_HEIGHT: i32 = 26;
const NAMES_WIDTH: i32 = 520;
const BARS_WIDTH: i32 = 480;

fn bars(report: &Value) -> Vec<Bar> {
    let bar = |case: &Value| {
        let number = |key: &str| case[key].as_f64();
        let ratio = number("ratio")?;
        let goal = case["goal"].as_str().and_then(|goal| goal.split(' ').find_map(|word| word.parse().ok()));
        Some(Bar {
            name: format!("{} / {}", case["name"].as_str()?, case["reference"].as_str().unwrap_or("reference")),
            ratio,
            lowest: number("ratio_lowest").unwrap_or(ratio),
            highest: number("ratio_highest").unwrap_or(ratio),
            goal,
            met: case["met"].as_bool(),
        })
    };
    list_of(report).iter().filter_map(bar).collect()
}

fn draw_bars(bars: &[Bar], svg: &mut String) -> Result<()> {
    // A chart's height in pixels: far below what an i32 holds.
    let height = 70 + BAR_HEIGHT * i32::try_from(bars.len()).unwrap_or(i32::MAX / BAR_HEIGHT - 70);
    let width = NAMES_WIDTH + BARS_WIDTH + 60;
    let area = SVGBackend::with_string(svg, (width.unsigned_abs(), height.unsigned_abs())).into_drawing_area();
    area.fill(&WHITE).map_err(cannot_draw)?;
    let title = "nvferry / reference, median of all rounds; thin: lowest to highest; blue: the goal";
    area.draw(&Text::new(title, (12, 10), ("sans-serif", 16))).map_err(cannot_draw)?;
    let x_of =
        |ratio: f64| NAMES_WIDTH + (ratio.clamp(0.0, LARGEST_RATIO) / LARGEST_RATIO * f64::from(BARS_WIDTH)) as i32;
    let (top, bottom) = (40, height - 24);
    for ratio in 0..=4 {
        let x = x_of(f64::from(ratio));
        let style = BLACK.mix(if ratio == 1 { 0.6 } else { 0.15 });
        area.draw(&PathElement::new([(x, top), (x, bottom)], style)).map_err(cannot_draw)?;
        area.draw(&Text::new(format!("{ratio} x"), (x - 8, bottom + 4), ("sans-serif", 13))).map_err(cannot_draw)?;
    }
    for (bar, top) in bars.iter().zip((top..).step_by(BAR_HEIGHT as usize)) {
        draw_bar(&area, bar, top, x_of).map_err(cannot_draw)?;
    }
    area.present().map_err(cannot_draw)
}

fn draw_bar<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    bar: &Bar,
    top: i32,
    x_of: impl Fn(f64) -> i32,
) -> Result<(), DrawingAreaErrorKind<DB::ErrorType>> {
    let color = match bar.met {
        Some(true) => RGBColor(56, 142, 60),
        Some(false) => RGBColor(198, 40, 40),
        None => RGBColor(130, 130, 130),
    };
    let middle = top + BAR_HEIGHT / 2;
    area.draw(&Text::new(bar.name.clone(), (8, middle - 7), ("sans-serif", 12)))?;
    area.draw(&Rectangle::new(
        [(NAMES_WIDTH, top + 5), (x_of(bar.ratio), top + BAR_HEIGHT - 5)],
        color.mix(0.7).filled(),
    ))?;
    area.draw(&PathElement::new([(x_of(bar.lowest), middle), (x_of(bar.highest), middle)], BLACK))?;
    if let Some(goal) = bar.goal {
        area.draw(&PathElement::new(
            [(x_of(goal), top + 1), (x_of(goal), top + BAR_HEIGHT - 1)],
            BLUE.stroke_width(2),
        ))?;
    }
    let x = x_of(bar.ratio.max(bar.highest)) + 6;
    area.draw(&Text::new(format!("{:.2}", bar.ratio), (x, middle - 7), ("sans-serif", 12)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn case(block: u64, depth: u64, rates: &[f64]) -> Value {
        let rounds: Vec<_> = rates.iter().map(|rate| json!({ "bytes_per_second": rate })).collect();
        json!({ "name": "x", "operation": "read", "block_size": block, "queue_depth": depth, "threads": 1,
                "host_driver": "userspace", "target_driver": "userspace", "rounds": rounds })
    }

    #[test]
    fn what_varies_most_is_the_axis() {
        let by_depth = json!({ "cases": [case(4096, 32, &[3e9]), case(4096, 1, &[1e9, 2e9]), case(4096, 8, &[1e9])] });
        let shown = lines(&by_depth);
        assert_eq!((shown.x_name, shown.by_name.len()), ("queue depth", 1));
        let line = shown.by_name.values().next().unwrap();
        assert_eq!(line[0], (1.0, 1.0, 1.5, 2.0), "in order, with the spread");
        let by_block = json!({ "cases": [case(4096, 1, &[1e9]), case(65536, 1, &[1e9])] });
        assert_eq!(lines(&by_block).x_name, "block size in bytes");
    }

    #[test]
    fn pictures_are_drawn_also_of_one_point() {
        for report in [
            json!({ "cases": [case(4096, 1, &[1e9])] }),
            json!({ "cases": [case(4096, 1, &[0.0]), case(4096, 64, &[2e9, 3e9]), case(4096, 2, &[])] }),
        ] {
            let mut svg = String::new();
            draw_lines(&lines(&report), &mut svg).unwrap();
            assert!(svg.contains("</svg>") && svg.contains("4 KiB"), "{svg}");
        }
        let peers = json!([
            { "name": "fast <4k>", "reference": "wire limit", "ratio": 40.0, "goal": "at least 0.95 x", "met": true },
            { "name": "none", "reference": "nbdkit", "ratio": null, "goal": "none", "met": null },
        ]);
        let shown = bars(&peers);
        assert_eq!((shown.len(), shown[0].goal), (1, Some(0.95)));
        let mut svg = String::new();
        draw_bars(&shown, &mut svg).unwrap();
        assert!(svg.contains("fast &lt;4k&gt; / wire limit") && svg.contains("40.00"), "{svg}");
    }
}
