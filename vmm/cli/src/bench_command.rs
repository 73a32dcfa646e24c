//! `nvvmm bench`.

use std::fs;
use std::path::Path;

use nvvmm::{ErrorKind, VmError};

use super::args::BenchArguments;
use super::interruption::ends_on_signal;
use super::json::bench::Bench;
use super::partial::check_free;
use super::terminal::tell;
use super::whole_file::WholeFile;
use super::{json, output};
use crate::bench::{self, ExperimentKind, Plan, Progress, Report, csv, markdown, plot, text};

/// Name of the files that `--out` writes, and of the directory of plots.
const NAME: &str = "performance";
/// Bytes of a report that are read at most.
const MEASUREMENTS_BYTES_MAX: u64 = 64 << 20;

/// `nvvmm bench`.
pub fn run(arguments: BenchArguments) -> Result<(), VmError> {
    let (out, json) = (arguments.out.clone(), arguments.json.json);
    // Before hours of measurements.
    if let Some(dir) = &out {
        check_out(dir, arguments.force)?;
    }
    // Before hours of measurements, too.
    let earlier = arguments.merge.as_deref().map(read).transpose()?;
    let report = match &arguments.from {
        Some(path) => read(path)?,
        // As it is kept: both show the same numbers.
        None => Bench::of(&measure(arguments)?).report(),
    };
    let report = match earlier {
        Some(earlier) => report.merged_into(earlier),
        None => report,
    };
    if let Some(dir) = &out {
        write(&report, dir)?;
    }
    if json {
        output::print_json(&Bench::of(&report))?;
    } else {
        output::print(&text::text(&report))?;
    }
    match report.failed.first() {
        Some(why) => Err(VmError::failed(why.clone())),
        None => Ok(()),
    }
}

fn measure(arguments: BenchArguments) -> Result<Report, VmError> {
    bench::check_directories(&arguments.dir, &arguments.huge_dirs)?;
    let (sizes, left_out) = Plan::fitting_sizes(&arguments.sizes, &arguments.dir)?;
    let plan = Plan {
        experiments: if arguments.experiments.is_empty() {
            ExperimentKind::ALL.to_vec()
        } else {
            arguments.experiments
        },
        sizes,
        repeat: arguments.repeat.into(),
        dir: arguments.dir,
        huge_dirs: arguments.huge_dirs,
        guest: Plan::find_guest(arguments.guest)?,
        vcpus: arguments.cpus,
        clones: arguments.clones.into(),
    };
    bench::run(&plan, left_out, &Progress::begin(ends_on_signal()?, tell))
}

fn read(path: &Path) -> Result<Report, VmError> {
    let text = WholeFile::open("the report", path)?.read(MEASUREMENTS_BYTES_MAX)?;
    json::bench::read(&text).map_err(|e| {
        VmError::new(
            ErrorKind::Usage,
            format!(
                "{} does not hold measurements of this nvvmm (line {}, column {})",
                path.display(),
                e.line(),
                e.column()
            ),
        )
    })
}

/// Refuses a directory with the report of another run, unless that may be replaced.
fn check_out(dir: &Path, force: bool) -> Result<(), VmError> {
    let files = ["md", "json", "csv"].map(|kind| dir.join(format!("{NAME}.{kind}")));
    files.iter().try_for_each(|file| check_free(file, force))
}

/// The document, the measurements as JSON and CSV, and a drawing of each chart.
fn write(report: &Report, dir: &Path) -> Result<(), VmError> {
    let plots = dir.join(NAME);
    let failed = |path: &Path, e| VmError::io(format_args!("write {}", path.display()), &e);
    fs::create_dir_all(&plots).map_err(|e| failed(&plots, e))?;
    let put = |path: &Path, text: &str| fs::write(path, text).map_err(|e| failed(path, e));
    for chart in report
        .experiments
        .iter()
        .flat_map(|experiment| &experiment.charts)
    {
        put(
            &plots.join(format!("{}.svg", chart.file)),
            &plot::svg(chart)?,
        )?;
    }
    let json = serde_json::to_string_pretty(&Bench::of(report))
        .map_err(|e| VmError::failed(format!("cannot write JSON: {e}")))?;
    put(&dir.join(format!("{NAME}.json")), &json)?;
    put(&dir.join(format!("{NAME}.csv")), &csv::csv(report))?;
    put(
        &dir.join(format!("{NAME}.md")),
        &markdown::document(report, NAME),
    )
}
