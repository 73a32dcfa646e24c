//! `nvvmm pool map`: a picture of a pool, in the terminal and as SVG.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use nvvmm::VmError;
use nvvmm_snapshot::{CHUNK_BLOCKS, CHUNK_SIZE_BYTES, ChunkUse, PoolMap, counted};
use plotters::prelude::*;

use super::args::PoolOption;
use super::json::pool::Map;
use super::output::{self, Column};
use super::partial::{ConfinedPartial, check_free};
use super::{help, pool_path, terminal};

/// Cells in a line of the terminal's picture at most and at least: a power of two, so that offsets
/// are round.
const TEXT_COLUMNS_MAX: usize = 128;
const TEXT_COLUMNS_MIN: usize = 8;
/// Characters before the cells of a line: the offset.
const TEXT_MARGIN: usize = 12;
/// Cells of the terminal's picture at most.
const TEXT_CELLS_MAX: usize = 64 * 24;
/// Width of the picture where nothing is known of a terminal.
const WIDTH_USUAL: usize = 80;
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
const KINDS: [Kind; 5] = [
    Kind {
        name: "memory of several snapshots",
        signs: ['S', 's'],
        colour: RGBColor(0, 114, 178),
        count: |chunk| chunk.shared,
    },
    Kind {
        name: "memory of one snapshot",
        signs: ['O', 'o'],
        colour: RGBColor(230, 159, 0),
        count: |chunk| chunk.own,
    },
    Kind {
        name: "leased to a VM, in no snapshot",
        signs: ['V', 'v'],
        colour: RGBColor(0, 158, 115),
        count: |chunk| chunk.leased,
    },
    Kind {
        name: "the pool's own tables, maps and states",
        signs: ['P', 'p'],
        colour: RGBColor(150, 150, 150),
        count: |chunk| chunk.metadata,
    },
    Kind {
        name: "disks, and disks of snapshots",
        signs: ['D', 'd'],
        colour: RGBColor(204, 121, 167),
        count: |chunk| chunk.disks,
    },
];
const FREE: char = '.';

struct Kind {
    name: &'static str,
    /// Sign of a cell of which at least half is in use, and of one of which less is.
    signs: [char; 2],
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
    // Once it is confined, this process cannot ask the terminal.
    let width = terminal::columns().unwrap_or(WIDTH_USUAL);
    let map = pool_path::open_confined(&path)?.map()?;
    if let Some(picture) = picture {
        picture.write(&svg(&map)?)?;
    }
    if json {
        output::print_json(&Map::of(&path, &map))
    } else {
        output::print(&text(&map, width))
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

/// Cells in a line of a picture that is at most so wide.
fn text_columns(width: usize) -> usize {
    let room = width.saturating_sub(TEXT_MARGIN).max(1);
    (1 << room.ilog2()).clamp(TEXT_COLUMNS_MIN, TEXT_COLUMNS_MAX)
}

/// Lines of cells, each of which begins with the offset in the pool; what the signs mean; and the
/// snapshots.
fn text(map: &PoolMap, width: usize) -> String {
    let columns = text_columns(width);
    let cells = Cells::of(map, TEXT_CELLS_MAX);
    let mut text = String::new();
    for (line, blocks) in cells.blocks.chunks(columns).enumerate() {
        let offset = (line * columns * cells.chunks) as u64 * CHUNK_SIZE_BYTES;
        let signs: String = blocks
            .iter()
            .map(|blocks| sign(blocks, cells.blocks_of_a_cell()))
            .collect();
        text.push_str(&format!("{:>10}  {signs}\n", output::size(offset)));
    }
    let sign_bytes = cells.chunks as u64 * CHUNK_SIZE_BYTES;
    text.push('\n');
    for sentence in [
        format!(
            "a sign is {}: the main use of what is used of it",
            output::size(sign_bytes)
        ),
        "upper case: half of it is used or more; lower case: less".to_owned(),
    ] {
        text.push_str(&help::hanging("", &sentence, 0, width));
    }
    for (kind, blocks) in sums(map) {
        let signs = kind.signs.map(String::from).join(" ");
        text.push_str(&legend(&signs, blocks, kind.name, width));
    }
    let free = map.chunks.iter().map(|chunk| u64::from(chunk.free)).sum();
    text.push_str(&legend(&format!("{FREE}  "), free, "free", width));
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

/// A line about a sign: the space that has this use, in all of the pool.
fn legend(signs: &str, blocks: u64, use_name: &str, width: usize) -> String {
    let begin = format!("  {signs} {:>10}  ", output::frames_size(blocks));
    help::hanging(&begin, use_name, begin.len(), width)
}

fn row(space: &nvvmm_snapshot::SnapshotSpace) -> Vec<String> {
    vec![
        space.name.clone(),
        output::size(space.own_bytes),
        output::size(space.shared_bytes),
    ]
}

/// The most frequent use, and whether that of half the cell; free only where there is nothing else.
fn sign(blocks: &[u32; KINDS.len()], blocks_of_a_cell: u32) -> char {
    let kinds = KINDS.iter().zip(blocks).filter(|(_, blocks)| **blocks > 0);
    // The first of those that are equal.
    let most = kinds.rev().max_by_key(|(_, blocks)| **blocks);
    let used: u32 = blocks.iter().sum();
    let is_sparse = used < blocks_of_a_cell / 2;
    most.map_or(FREE, |(kind, _)| kind.signs[usize::from(is_sparse)])
}

/// The kinds of blocks, with their sums. Most pools have no disks: that kind is left out then.
fn sums(map: &PoolMap) -> impl Iterator<Item = (&'static Kind, u64)> {
    let sums = KINDS.iter().map(|kind| {
        let each = { map.chunks.iter() }.map(|chunk| u64::from((kind.count)(chunk)));
        (kind, each.sum())
    });
    sums.filter(|(kind, blocks)| *blocks > 0 || kind.signs[0] != 'D')
}

/// A square for each cell, filled from below; memory of several snapshots the darker the more they
/// are. Then bars of the snapshots.
fn svg(map: &PoolMap) -> Result<String, VmError> {
    let cells = Cells::of(map, SVG_COLUMNS * SVG_LINES);
    let lines = cells.blocks.len().div_ceil(SVG_COLUMNS) as i32;
    let shown = map.snapshots.len().min(SNAPSHOTS_SHOWN + 1) as i32;
    let legend = MARGIN + LINE + lines * CELL + LINE;
    let bars = legend + (KINDS.len() as i32 + 1) * LINE + LINE;
    let size = (
        (2 * MARGIN + SVG_COLUMNS as i32 * CELL) as u32,
        (bars + (shown + 1) * 2 * LINE + MARGIN) as u32,
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
const SNAPSHOTS_SHOWN: usize = 256;
/// Characters of a name that fit beside its sizes.
const NAME_SHOWN: usize = 80;

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
        "Pool of {}; a square is {}, line by line, filled as far as it is used (if at all, by a \
         line)",
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
            let colour = match kind.signs {
                ['S', _] => darker(kind.colour, cells.snapshots_max[index]),
                _ => kind.colour,
            };
            fill((x, high), (x + CELL - 1, low), colour)?;
            below += count;
        }
    }
    let free = map.chunks.iter().map(|chunk| u64::from(chunk.free)).sum();
    let sums = sums(map).map(|(kind, blocks)| (kind.colour, blocks, kind.name));
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
    let width = i64::from(SVG_COLUMNS as i32 * CELL);
    let to = |bytes: u64| MARGIN + (bytes as i64 * width / most.max(1) as i64) as i32;
    for (line, space) in newest.enumerate() {
        let y = top + (line as i32 * 2 + 1) * LINE;
        let sizes = [space.own_bytes, space.shared_bytes].map(output::size);
        let name = cut_off(&space.name);
        let label = format!("{name}: own {}, shared {}", sizes[0], sizes[1]);
        write(label, MARGIN, y)?;
        let y = y + LINE;
        let (own, end) = (to(space.own_bytes), to(all(space)));
        fill((MARGIN, y), (own, y + CELL), KINDS[1].colour)?;
        fill((own, y), (end, y + CELL), KINDS[0].colour)?;
    }
    let left_out = map.snapshots.iter().rev().skip(SNAPSHOTS_SHOWN);
    match left_out.clone().count() as u64 {
        0 => Ok(()),
        count => {
            let own = left_out.map(|space| space.own_bytes).sum();
            let text = format!(
                "and {}, not drawn: own {}",
                counted(count, "older snapshot"),
                output::size(own)
            );
            write(text, MARGIN, top + (SNAPSHOTS_SHOWN as i32 * 2 + 1) * LINE)
        }
    }
}

/// As much of a name as fits into a line.
fn cut_off(name: &str) -> String {
    match name.char_indices().nth(NAME_SHOWN) {
        None => name.to_owned(),
        Some((end, _)) => format!("{}…", &name[..end]),
    }
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
