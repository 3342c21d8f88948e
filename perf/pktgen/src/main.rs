//! `ipos-pktgen`, the program.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use ipos_pktgen::cli::Cli;
use ipos_pktgen::error::Error;
use ipos_pktgen::report::{self, Ending, Measured};
use ipos_pktgen::run::run;
use ipos_pktgen::stop::Stop;
use ipos_pktgen::svg::{self, Curve};

/// Exit status when a run could not start.
const NOT_STARTED: u8 = 1;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match measure(&cli) {
        Ok(ending) => ExitCode::from(ending.status()),
        Err(error) => {
            eprintln!("ipos-pktgen: {error}");
            ExitCode::from(NOT_STARTED)
        }
    }
}

fn measure(cli: &Cli) -> anyhow::Result<Ending> {
    // Before the EAL's threads, which inherit what they are deaf to.
    let stop = Stop::on_signals()?;
    let (report, measured) = run(cli, &stop)?;
    if !cli.quiet {
        print!("{}", report.summary());
    }
    if let Some(path) = &cli.json {
        report.write_json(path)?;
    }
    if let Some(path) = &cli.svg {
        write_plot(cli, path, measured.as_ref())?;
    }
    Ok(report.ending)
}

fn write_plot(cli: &Cli, path: &std::path::Path, measured: Option<&Measured>) -> Result<(), Error> {
    let rate = measured.map_or(0.0, |measured| measured.trial.reached_rate);
    let title = format!("{}, {rate:.0} per second", cli.profile.name());
    let curves = measured.map(|measured| {
        let (intended, sent) = (measured.latency.from_intended(), measured.latency.from_sent());
        [
            Curve { name: "from the intended start", colour: "#c0392b", histogram: intended },
            Curve { name: "from the actual start", colour: "#2980b9", histogram: sent },
        ]
    });
    let curves: &[Curve<'_>] = curves.as_ref().map_or(&[], |curves| curves);
    report::write(path, Ok(svg::percentiles(&title, curves)))
}
