//! The table of `nvvmm ps`.

use super::output::{self, Column};

/// Text of a cell about which nothing is known.
const UNKNOWN: &str = "-";

/// A VM in the table.
#[derive(Clone, Debug)]
pub struct Row {
    pub name: String,
    pub state: String,
    pub memory: String,
    pub own: String,
    pub shared: String,
    pub used: String,
    pub empty: String,
    pub balloon: String,
    pub up: String,
    pub from: String,
    pub ended: String,
    pub why: String,
    pub pid: String,
    pub vcpus: String,
    pub reboots: String,
    pub network: String,
    pub pool: String,
    pub console: String,
}

impl Row {
    /// A VM of which only name and state are known.
    pub fn new(name: &str, state: &str) -> Self {
        let unknown = || UNKNOWN.to_owned();
        Self {
            name: name.to_owned(),
            state: state.to_owned(),
            memory: unknown(),
            own: unknown(),
            shared: unknown(),
            used: unknown(),
            empty: unknown(),
            balloon: unknown(),
            up: unknown(),
            from: unknown(),
            ended: unknown(),
            why: unknown(),
            pid: unknown(),
            vcpus: unknown(),
            reboots: unknown(),
            network: unknown(),
            pool: unknown(),
            console: unknown(),
        }
    }
}

/// A column, and its cell in a row.
type Part = (Column<'static>, fn(&Row) -> &String);

/// Choice of columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    /// Those about VMs that have ended.
    pub all: bool,
    /// Those that make it wider than a terminal.
    pub wide: bool,
}

/// The table.
pub fn table(rows: &[Row], columns: Columns) -> String {
    let Columns { all, wide } = columns;
    let mut parts: Vec<Part> = vec![
        (Column::Text("NAME"), |row| &row.name),
        (Column::Text("STATE"), |row| &row.state),
    ];
    if wide || !all {
        parts.push((Column::Number("MEMORY"), |row| &row.memory));
        parts.push((Column::Number("OWN"), |row| &row.own));
        parts.push((Column::Number("SHARED"), |row| &row.shared));
    }
    if wide {
        parts.push((Column::Number("USED"), |row| &row.used));
        parts.push((Column::Number("EMPTY"), |row| &row.empty));
        parts.push((Column::Number("BALLOON"), |row| &row.balloon));
    }
    parts.push((Column::Text("UP"), |row| &row.up));
    parts.push((Column::Text("FROM"), |row| &row.from));
    if wide {
        parts.push((Column::Number("PID"), |row| &row.pid));
        parts.push((Column::Number("CPUS"), |row| &row.vcpus));
        parts.push((Column::Number("REBOOTS"), |row| &row.reboots));
        parts.push((Column::Text("NETWORK"), |row| &row.network));
        parts.push((Column::Text("POOL"), |row| &row.pool));
        parts.push((Column::Text("CONSOLE"), |row| &row.console));
    }
    if all {
        parts.push((Column::Text("ENDED"), |row| &row.ended));
        parts.push((Column::Text("WHY"), |row| &row.why));
    }
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| parts.iter().map(|(_, cell)| cell(row).clone()).collect())
        .collect();
    let heads: Vec<Column<'_>> = parts.into_iter().map(|(head, _)| head).collect();
    output::table(&heads, &cells)
}
