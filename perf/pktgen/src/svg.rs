//! A plot of latency percentiles: the share of answers on an axis of nines, the latency on a logarithmic one.

use std::f64::consts::LOG10_2;
use std::fmt::Write as _;

use hdrhistogram::Histogram;

/// Size of the picture and its margins, pixels.
const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 60.0;

/// Points of a curve.
const POINTS: u32 = 200;
/// Most nines shown: 99.999 %.
const NINES_MAX: f64 = 5.0;

/// One curve.
#[derive(Debug, Clone, Copy)]
pub struct Curve<'a> {
    /// Its name in the legend.
    pub name: &'a str,
    /// Its colour, as SVG has it.
    pub colour: &'a str,
    /// Nanoseconds.
    pub histogram: &'a Histogram<u64>,
}

/// The axes: nines of the share to the right, decades of microseconds upwards.
#[derive(Debug, Clone, Copy)]
struct Axes {
    nines: f64,
    low: i32,
    high: i32,
}

impl Axes {
    fn of(curves: &[Curve<'_>]) -> Self {
        let us = |ns: u64| (ns.max(1) as f64 / 1e3).log10();
        let filled = || curves.iter().map(|curve| curve.histogram).filter(|histogram| !histogram.is_empty());
        let low = filled().map(|h| us(h.min()).floor() as i32).min().unwrap_or(0);
        let high = filled().map(|h| us(h.max()).ceil() as i32).max().unwrap_or(1).max(low + 1);
        let most = filled().map(Histogram::len).max().unwrap_or(10);
        // Beyond one in so many there is nothing to tell.
        Self { nines: (most.max(10) as f64).log10().min(NINES_MAX), low, high }
    }

    fn x(&self, nines: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * nines / self.nines
    }

    fn y(&self, us: f64) -> f64 {
        let share = (us.max(1e-3).log10() - f64::from(self.low)) / f64::from(self.high - self.low);
        HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share.clamp(0.0, 1.0)
    }
}

/// The plot.
#[must_use]
pub fn percentiles(title: &str, curves: &[Curve<'_>]) -> String {
    let axes = Axes::of(curves);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    text(&mut out, WIDTH / 2.0, 24.0, "middle", title);
    text(
        &mut out,
        WIDTH / 2.0,
        HEIGHT - 15.0,
        "middle",
        "share of answers that were at least as fast, percent",
    );
    text(&mut out, 8.0, TOP - 14.0, "start", "latency, microseconds");
    grid(&mut out, axes);
    for (place, curve) in curves.iter().enumerate() {
        plot(&mut out, axes, curve);
        let y = TOP + 16.0 + 18.0 * place as f64;
        let _ = writeln!(
            out,
            "<rect x=\"{}\" y=\"{}\" width=\"14\" height=\"3\" fill=\"{}\"/>",
            LEFT + 12.0,
            y - 5.0,
            escape(curve.colour)
        );
        text(&mut out, LEFT + 32.0, y, "start", curve.name);
    }
    out.push_str("</svg>\n");
    out
}

fn grid(out: &mut String, axes: Axes) {
    let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    let mut line = |x1: f64, y1: f64, x2: f64, y2: f64| {
        let _ = writeln!(
            out,
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#ccc\" stroke-width=\"1\"/>"
        );
    };
    let marks = [
        (0.0, "0"),
        (LOG10_2, "50"),
        (1.0, "90"),
        (2.0, "99"),
        (3.0, "99.9"),
        (4.0, "99.99"),
        (5.0, "99.999"),
    ];
    let shown = || marks.iter().filter(|(nines, _)| *nines <= axes.nines);
    for (nines, _) in shown() {
        line(axes.x(*nines), TOP, axes.x(*nines), bottom);
    }
    for decade in axes.low..=axes.high {
        let y = axes.y(10_f64.powi(decade));
        line(LEFT, y, right, y);
    }
    for (nines, name) in shown() {
        text(out, axes.x(*nines), bottom + 18.0, "middle", name);
    }
    for decade in axes.low..=axes.high {
        let us = 10_f64.powi(decade);
        text(out, LEFT - 8.0, axes.y(us) + 4.0, "end", &format!("{us}"));
    }
}

fn plot(out: &mut String, axes: Axes, curve: &Curve<'_>) {
    if curve.histogram.is_empty() {
        return;
    }
    let mut points = String::new();
    for point in 0..=POINTS {
        let nines = axes.nines * f64::from(point) / f64::from(POINTS);
        let quantile = 1.0 - 10_f64.powf(-nines);
        let us = curve.histogram.value_at_quantile(quantile) as f64 / 1e3;
        let _ = write!(points, "{:.1},{:.1} ", axes.x(nines), axes.y(us));
    }
    let _ = writeln!(
        out,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>",
        points.trim_end(),
        escape(curve.colour)
    );
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>", escape(text));
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(values: impl Iterator<Item = u64>) -> Histogram<u64> {
        let mut histogram = Histogram::new(3).expect("three digits");
        values.for_each(|value| histogram.record(value).expect("a value"));
        histogram
    }

    /// Points of the curves of a plot.
    fn curves(svg: &str) -> Vec<Vec<(f64, f64)>> {
        let document = roxmltree::Document::parse(svg).expect("well-formed XML");
        let polylines = document.descendants().filter(|node| node.has_tag_name("polyline"));
        let point = |text: &str| {
            let (x, y) = text.split_once(',').expect("a point");
            (x.parse().expect("a number"), y.parse().expect("a number"))
        };
        polylines
            .map(|node| node.attribute("points").expect("points").split(' ').map(point).collect())
            .collect()
    }

    #[test]
    fn curves_rise_within_the_axes_and_a_slower_one_lies_higher() {
        let (fast, slow) = (histogram(1_000..100_000), histogram((1_000..100_000).map(|ns| ns * 10)));
        let svg = percentiles(
            "a <title> & \"more\"",
            &[
                Curve { name: "fast", colour: "green", histogram: &fast },
                Curve { name: "slow", colour: "red", histogram: &slow },
            ],
        );
        let curves = curves(&svg);
        assert_eq!(curves.len(), 2);
        for curve in &curves {
            assert_eq!(curve.len(), POINTS as usize + 1);
            assert!(curve.windows(2).all(|pair| pair[1].0 > pair[0].0 && pair[1].1 <= pair[0].1));
            assert!(curve.iter().all(|(x, y)| (LEFT..=WIDTH).contains(x) && (TOP..=HEIGHT).contains(y)));
        }
        assert!(curves[0].iter().zip(&curves[1]).all(|(fast, slow)| slow.1 < fast.1), "a decade higher");
        assert!(svg.contains("a &lt;title&gt; &amp; &quot;more&quot;"));
    }

    #[test]
    fn a_plot_without_values_has_axes_only() {
        let empty = histogram(std::iter::empty());
        let svg = percentiles("none", &[Curve { name: "empty", colour: "red", histogram: &empty }]);
        assert!(curves(&svg).is_empty());
        assert!(svg.contains("<line"));
    }
}
