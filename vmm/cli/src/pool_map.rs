//! `nvvmm pool map`: a picture of a pool, in the terminal and as SVG.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use nvvmm::VmError;
use nvvmm_snapshot::{CHUNK_BLOCKS, CHUNK_SIZE_BYTES, ChunkUse, PoolMap};
use plotters::prelude::*;

use super::args::PoolOption;
use super::json::pool::Map;
use super::output::{self, Column};
use super::partial::{ConfinedPartial, check_free};
use super::pool_path;

/// Cells in a line of the terminal's picture, and its lines at most.
const TEXT_COLUMNS: usize = 64;
const TEXT_LINES: usize = 24;
/// Most cells of a row of the SVG.
const SVG_COLUMNS: usize = 64;
const SVG_LINES: usize = 96;
/// Side of a cell of the SVG, and the room around its picture, in its units.
const CELL: i32 = 12;
const MARGIN: i32 = 24;
/// Height of a line of text.
const LINE: i32 = 20;
const FONT: &str = "sans-serif";

/// Uses of blocks, in the order in which a cell of the picture is filled from below.
const KINDS: [Kind; 4] = [
    Kind {
        name: "memory of several snapshots",
        sign: '█',
        colour: RGBColor(0, 114, 178),
        count: |chunk| chunk.shared,
    },
    Kind {
        name: "memory of one snapshot",
        sign: '▓',
        colour: RGBColor(230, 159, 0),
        count: |chunk| chunk.own,
    },
    Kind {
        name: "leased to a VM, in no snapshot",
        sign: '▒',
        colour: RGBColor(0, 158, 115),
        count: |chunk| chunk.leased,
    },
    Kind {
        name: "the pool's own: tables, catalog, maps, saved states",
        sign: '░',
        colour: RGBColor(150, 150, 150),
        count: |chunk| chunk.metadata,
    },
];
const FREE: char = '·';

struct Kind {
    name: &'static str,
    sign: char,
    colour: RGBColor,
    count: fn(&ChunkUse) -> u32,
}

/// Chunks that are drawn as one cell.
struct Cells {
    /// Number of chunks in a cell.
    chunks: usize,
    /// Blocks of each kind, of each cell.
    blocks: Vec<[u32; KINDS.len()]>,
    /// The most snapshots that a block of the cell is in.
    snapshots_max: Vec<u32>,
}

impl Cells {
    fn of(map: &PoolMap, cells_max: usize) -> Self {
        let chunks = map.chunks.len().div_ceil(cells_max).max(1);
        let sum = |cell: &[ChunkUse]| {
            KINDS
                .each_ref()
                .map(|kind| cell.iter().map(kind.count).sum())
        };
        let most = |cell: &[ChunkUse]| cell.iter().map(|chunk| chunk.snapshots_max).max();
        Self {
            chunks,
            blocks: map.chunks.chunks(chunks).map(sum).collect(),
            snapshots_max: map.chunks.chunks(chunks).filter_map(most).collect(),
        }
    }

    fn blocks_of_a_cell(&self) -> u32 {
        self.chunks as u32 * CHUNK_BLOCKS
    }
}

/// `nvvmm pool map`.
pub fn run(
    option: &PoolOption,
    svg_file: Option<&Path>,
    force: bool,
    json: bool,
) -> Result<(), VmError> {
    let path = pool_path::found(option)?;
    let picture = svg_file.map(|svg| Picture::at(svg, force)).transpose()?;
    let map = pool_path::open_confined(&path)?.map()?;
    if let Some(picture) = picture {
        picture.write(&svg(&map)?)?;
    }
    if json {
        output::print_json(&Map::of(&path, &map))
    } else {
        output::print(&text(&map))
    }
}

/// The file of `--svg`, which appears as a whole. A device or pipe is written to.
struct Picture<'p> {
    path: &'p Path,
    file: PictureFile,
}

enum PictureFile {
    Partial(ConfinedPartial),
    Open(File),
}

impl<'p> Picture<'p> {
    fn at(path: &'p Path, force: bool) -> Result<Self, VmError> {
        check_free(path, force)?;
        let file = match path.exists() && !path.is_file() {
            true => File::options()
                .write(true)
                .open(path)
                .map(PictureFile::Open),
            false => ConfinedPartial::beside(path, force).map(PictureFile::Partial),
        };
        match file {
            Ok(file) => Ok(Self { path, file }),
            Err(e) => Err(Self::failed(path, &e)),
        }
    }

    fn write(self, svg: &str) -> Result<(), VmError> {
        let written = match self.file {
            PictureFile::Open(mut file) => file.write_all(svg.as_bytes()),
            PictureFile::Partial(mut partial) => partial
                .file
                .write_all(svg.as_bytes())
                .and_then(|()| partial.become_whole()),
        };
        written.map_err(|e| Self::failed(self.path, &e))
    }

    fn failed(path: &Path, error: &io::Error) -> VmError {
        VmError::io(format_args!("write {}", path.display()), error)
    }
}

/// A line for each 64 cells, which begins with the offset in the pool; what the signs mean; and the
/// snapshots.
fn text(map: &PoolMap) -> String {
    let cells = Cells::of(map, TEXT_COLUMNS * TEXT_LINES);
    let mut text = String::new();
    for (line, blocks) in cells.blocks.chunks(TEXT_COLUMNS).enumerate() {
        let offset = (line * TEXT_COLUMNS * cells.chunks) as u64 * CHUNK_SIZE_BYTES;
        let signs: String = blocks.iter().map(sign).collect();
        text.push_str(&format!("{:>10}  {signs}\n", output::size(offset)));
    }
    text.push_str(&format!(
        "\na sign is {} of the pool, by what most of it is:\n",
        output::size(cells.chunks as u64 * CHUNK_SIZE_BYTES)
    ));
    for kind in &KINDS {
        let blocks = map
            .chunks
            .iter()
            .map(|chunk| u64::from((kind.count)(chunk)))
            .sum();
        text.push_str(&format!(
            "  {} {:>10}  {}\n",
            kind.sign,
            output::frames_size(blocks),
            kind.name
        ));
    }
    let free = map.chunks.iter().map(|chunk| u64::from(chunk.free)).sum();
    text.push_str(&format!(
        "  {FREE} {:>10}  free\n",
        output::frames_size(free)
    ));
    if !map.snapshots.is_empty() {
        let columns = [
            Column::Text("SNAPSHOT"),
            Column::Number("OWN"),
            Column::Number("SHARED"),
        ];
        let rows: Vec<Vec<String>> = map.snapshots.iter().map(row).collect();
        text.push('\n');
        text.push_str(&output::table(&columns, &rows));
    }
    text
}

fn row(space: &nvvmm_snapshot::SnapshotSpace) -> Vec<String> {
    vec![
        space.name.clone(),
        output::size(space.own_bytes),
        output::size(space.shared_bytes),
    ]
}

/// The most frequent use; free only where there is nothing else.
fn sign(blocks: &[u32; KINDS.len()]) -> char {
    let kinds = KINDS.iter().zip(blocks).filter(|(_, blocks)| **blocks > 0);
    // The first of those that are equal.
    let most = kinds.rev().max_by_key(|(_, blocks)| **blocks);
    most.map_or(FREE, |(kind, _)| kind.sign)
}

/// A square for each cell, filled from below; memory of several snapshots the darker the more they
/// are. Then bars of the snapshots.
fn svg(map: &PoolMap) -> Result<String, VmError> {
    let cells = Cells::of(map, SVG_COLUMNS * SVG_LINES);
    let lines = cells.blocks.len().div_ceil(SVG_COLUMNS) as i32;
    let shown = map.snapshots.iter().rev().take(SNAPSHOTS_SHOWN).count() as i32;
    let legend = MARGIN + LINE + lines * CELL + LINE;
    let bars = legend + (KINDS.len() as i32 + 1) * LINE + LINE;
    let size = (
        (2 * MARGIN + SVG_COLUMNS as i32 * CELL) as u32,
        (bars + (shown + 1) * LINE + MARGIN) as u32,
    );
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        draw(&root, map, &cells, (legend, bars))
            .and_then(|()| Ok(root.present()?))
            .map_err(|e| VmError::failed(format!("cannot draw the pool: {e}")))?;
    }
    Ok(text)
}

/// Snapshots that have a bar: the newest.
const SNAPSHOTS_SHOWN: usize = 24;

type Drawn = Result<(), Box<dyn std::error::Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw(root: &Area<'_>, map: &PoolMap, cells: &Cells, (legend, bars): (i32, i32)) -> Drawn {
    let failed = |e: &dyn std::fmt::Display| -> Box<dyn std::error::Error> { e.to_string().into() };
    root.fill(&WHITE).map_err(|e| failed(&e))?;
    let write = |what: String, x: i32, y: i32| {
        let style = (FONT, 13).into_font().color(&BLACK);
        root.draw(&Text::new(what, (x, y), style))
            .map_err(|e| failed(&e))
    };
    let fill = |from: (i32, i32), to: (i32, i32), colour: RGBColor| {
        root.draw(&Rectangle::new([from, to], colour.filled()))
            .map_err(|e| failed(&e))
    };
    let title = format!(
        "Pool of {}; a square is {}, line by line",
        output::size(map.size_bytes),
        output::size(cells.chunks as u64 * CHUNK_SIZE_BYTES)
    );
    write(title, MARGIN, MARGIN - 8)?;
    for (index, blocks) in cells.blocks.iter().enumerate() {
        let x = MARGIN + (index % SVG_COLUMNS) as i32 * CELL;
        let y = MARGIN + LINE + (index / SVG_COLUMNS) as i32 * CELL;
        fill(
            (x, y),
            (x + CELL - 1, y + CELL - 1),
            RGBColor(236, 236, 236),
        )?;
        let mut below = 0;
        for (kind, count) in KINDS.iter().zip(blocks).filter(|(_, count)| **count > 0) {
            let height = |blocks: u32| {
                (blocks * (CELL as u32 - 1)).div_ceil(cells.blocks_of_a_cell()) as i32
            };
            let (low, high) = (
                y + CELL - 1 - height(below),
                y + CELL - 1 - height(below + count),
            );
            let colour = match kind.sign {
                '█' => darker(kind.colour, cells.snapshots_max[index]),
                _ => kind.colour,
            };
            fill((x, high), (x + CELL - 1, low), colour)?;
            below += count;
        }
    }
    let free = map.chunks.iter().map(|chunk| u64::from(chunk.free)).sum();
    let sums = KINDS.iter().map(|kind| {
        let blocks = map
            .chunks
            .iter()
            .map(|chunk| u64::from((kind.count)(chunk)))
            .sum();
        (kind.colour, blocks, kind.name)
    });
    for (line, (colour, blocks, name)) in sums
        .chain([(RGBColor(236, 236, 236), free, "free")])
        .enumerate()
    {
        let y = legend + line as i32 * LINE;
        fill((MARGIN, y), (MARGIN + CELL, y + CELL), colour)?;
        write(
            format!("{}: {name}", output::frames_size(blocks)),
            MARGIN + 2 * CELL,
            y,
        )?;
    }
    draw_snapshots(map, bars, &write, &fill)
}

/// The newest snapshots: what is theirs alone, and what they share.
fn draw_snapshots(
    map: &PoolMap,
    top: i32,
    write: &dyn Fn(String, i32, i32) -> Drawn,
    fill: &dyn Fn((i32, i32), (i32, i32), RGBColor) -> Drawn,
) -> Drawn {
    let newest = map.snapshots.iter().rev().take(SNAPSHOTS_SHOWN);
    let all = |space: &nvvmm_snapshot::SnapshotSpace| space.own_bytes + space.shared_bytes;
    let Some(most) = newest.clone().map(all).max() else {
        return Ok(());
    };
    write("Snapshots, the newest first".into(), MARGIN, top)?;
    let left = MARGIN + 240;
    let width = i64::from(SVG_COLUMNS as i32 * CELL - 240);
    for (line, space) in newest.enumerate() {
        let y = top + (line as i32 + 1) * LINE;
        let to = |bytes: u64| left + (bytes as i64 * width / most.max(1) as i64) as i32;
        write(
            format!("{}, own {}", space.name, output::size(space.own_bytes)),
            MARGIN,
            y,
        )?;
        fill((left, y), (to(space.own_bytes), y + CELL), KINDS[1].colour)?;
        fill(
            (to(space.own_bytes), y),
            (to(all(space)), y + CELL),
            KINDS[0].colour,
        )?;
    }
    Ok(())
}

/// Shade: from the colour itself for two snapshots, to a third of it for very many.
fn darker(colour: RGBColor, snapshots: u32) -> RGBColor {
    let part =
        (1.0 - f64::from(snapshots.max(2)).log2().min(8.0) / 12.0 + 1.0 / 12.0).clamp(0.3, 1.0);
    let scaled = |value: u8| (f64::from(value) * part) as u8;
    RGBColor(scaled(colour.0), scaled(colour.1), scaled(colour.2))
}

#[cfg(test)]
#[path = "pool_map_test.rs"]
mod pool_map_test;
