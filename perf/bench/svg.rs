//! Line plots as SVG, by hand: axes, grid, legend, nothing else.

use std::fmt::Write as _;

/// A line.
pub struct Series {
    /// What the legend calls it.
    pub name: String,
    /// Points, from left to right.
    pub points: Vec<(f64, f64)>,
}

/// A plot over a logarithmic x axis.
pub struct Plot {
    /// The heading.
    pub title: String,
    /// What x is.
    pub x: String,
    /// What y is.
    pub y: String,
    /// Where the x axis is marked, and how.
    pub ticks: Vec<(f64, String)>,
    /// The lines.
    pub series: Vec<Series>,
}

const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 460.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 200.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 56.0;
/// Told apart also by those who do not see red and green alike (Okabe and Ito).
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#555555"];

/// Where the data lies on the paper.
struct Frame {
    x: (f64, f64),
    y_max: f64,
}

impl Frame {
    fn x(&self, value: f64) -> f64 {
        let (low, high) = (self.x.0.log10(), self.x.1.log10());
        LEFT + (value.log10() - low) / (high - low).max(f64::EPSILON) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - value / self.y_max * (HEIGHT - TOP - BOTTOM)
    }
}

impl Plot {
    /// The picture; points whose x is not above zero are left out, for they have no logarithm.
    pub fn render(&self) -> String {
        let points = || self.series.iter().flat_map(|series| &series.points).filter(|point| point.0 > 0.0);
        let low = points().map(|point| point.0).fold(f64::INFINITY, f64::min);
        let high = points().map(|point| point.0).fold(0.0, f64::max);
        let step = step(points().map(|point| point.1).fold(0.0, f64::max));
        let top = points().map(|point| point.1).fold(step, f64::max);
        let frame = Frame { x: (low, high), y_max: (top / step).ceil() * step };
        let mut svg = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(
            svg,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"13\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>"
        );
        text(&mut svg, (LEFT, 26.0), "start", "16", &self.title);
        if low.is_finite() {
            self.axes(&mut svg, &frame, step);
        }
        for (number, series) in self.series.iter().enumerate() {
            line(&mut svg, &frame, series, COLOURS[number % COLOURS.len()], number);
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn axes(&self, svg: &mut String, frame: &Frame, step: f64) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        let lines = (frame.y_max / step).round() as u32;
        for value in (0..=lines).map(|n| f64::from(n) * step) {
            let y = frame.y(value);
            let _ = writeln!(svg, "<path d=\"M{LEFT:.1} {y:.1}H{right:.1}\" stroke=\"#dddddd\"/>");
            text(svg, (LEFT - 8.0, y + 4.0), "end", "12", &format!("{value}"));
        }
        let ticks = self.ticks.iter().filter(|tick| (frame.x.0..=frame.x.1).contains(&tick.0));
        for (value, label) in ticks {
            let x = frame.x(*value);
            let _ = writeln!(svg, "<path d=\"M{x:.1} {bottom:.1}v5\" stroke=\"black\"/>");
            text(svg, (x, bottom + 20.0), "middle", "12", label);
        }
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT:.1} {TOP:.1}V{bottom:.1}H{right:.1}\" fill=\"none\" stroke=\"black\"/>"
        );
        text(svg, ((LEFT + right) / 2.0, HEIGHT - 14.0), "middle", "13", &self.x);
        text(svg, (8.0, TOP - 4.0), "start", "12", &self.y);
    }
}

/// A distance between grid lines, of 1, 2 or 5 and zeros, that makes four to ten of them.
fn step(top: f64) -> f64 {
    if !(top.is_finite() && top > 0.0) {
        return 1.0;
    }
    let power = 10f64.powf((top / 5.0).log10().floor());
    let fits = [1.0, 2.0, 5.0].into_iter().find(|factor| top / (factor * power) <= 8.0);
    fits.unwrap_or(10.0) * power
}

fn line(svg: &mut String, frame: &Frame, series: &Series, colour: &str, number: usize) {
    let places: Vec<(f64, f64)> = series
        .points
        .iter()
        .filter(|point| point.0 > 0.0)
        .map(|point| (frame.x(point.0), frame.y(point.1)))
        .collect();
    let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
        path.join(" ")
    );
    for (x, y) in places.iter().filter(|_| places.len() <= 20) {
        let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>");
    }
    let (x, y) = (WIDTH - RIGHT + 14.0, TOP + 10.0 + 20.0 * number as f64);
    let _ = writeln!(svg, "<path d=\"M{x:.1} {y:.1}h18\" stroke=\"{colour}\" stroke-width=\"2\"/>");
    text(svg, (x + 24.0, y + 4.0), "start", "12", &series.name);
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, size: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\">{words}</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: Vec<(f64, f64)>) -> String {
        let series = vec![Series { name: "a < b".to_owned(), points }];
        let ticks = vec![(1e3, "1 k".to_owned()), (1e9, "never seen".to_owned())];
        Plot { title: "cost".to_owned(), x: "flows".to_owned(), y: "ns".to_owned(), ticks, series }.render()
    }

    #[test]
    fn decades_are_equally_far_apart_and_words_are_escaped() {
        let svg = plot(vec![(1e3, 0.0), (1e4, 5.0), (1e5, 10.0)]);
        assert!(svg.contains("points=\"70.0,404.0 335.0,224.0 600.0,44.0\""), "{svg}");
        assert!(svg.contains(">a &lt; b</text>") && svg.contains(">1 k</text>"));
        assert!(!svg.contains("never seen"), "a tick outside the data");
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    }

    #[test]
    fn nothing_to_show_is_an_empty_plot() {
        let svg = plot(vec![(0.0, 3.0)]);
        assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn grid_lines_are_round_and_few() {
        for (top, wanted) in [(10.0, 2.0), (7.0, 1.0), (0.9, 0.2), (130.0, 20.0), (0.0, 1.0)] {
            assert!((step(top) - wanted).abs() < 1e-9, "{top}: {}", step(top));
        }
    }
}
