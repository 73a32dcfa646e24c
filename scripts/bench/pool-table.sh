#!/usr/bin/env bash
# Prints criterion's results for the pool's operations, as a section of docs/performance.md.
#
#   scripts/bench/pool-table.sh DIR     DIR: directory of criterion's results (CRITERION_HOME)
set -euo pipefail
dir=${1:?name the directory of criterion results}
cat <<'TEXT'

## Operations of the pool

Measured by `cargo bench -p nvvmm-snapshot` (criterion), on tmpfs: the median, its confidence
interval (95%), and the median deviation from it.

- The large pool is a sparse one of 64 GiB with 1,000 snapshots of a guest with 2 GiB. Each snapshot
  shares most of its memory with the one before; 16 clusters of 64 KiB are its own.
- Where VMs were killed, there were four, each with 64 MiB of its own. Opening the pool derives all
  reference counts anew and frees the VMs' memory.
- A commit is of 16 clusters, with a state of 22 KiB.

After each benchmark every invariant of the pool is checked.

| operation | median | 95% of medians | deviation | each |
| --- | ---: | ---: | ---: | ---: |
TEXT
find "$dir" -path '*/new/benchmark.json' | sort | while IFS= read -r benchmark; do
  jq -r -s '
    def digits: if . >= 100 then round
      elif . >= 10 then (. * 10 | round) / 10
      else (. * 100 | round) / 100 end;
    def time: if . >= 1e9 then "\(. / 1e9 | digits) s" elif . >= 1e6 then "\(. / 1e6 | digits) ms"
      elif . >= 1e3 then "\(. / 1e3 | digits) µs" else "\(digits) ns" end;
    .[0] as $what | .[1] as $found | $found.median as $median
    | [$what.title, ($median.point_estimate | time),
       ($median.confidence_interval | "\(.lower_bound | time) to \(.upper_bound | time)"),
       ($found.median_abs_dev.point_estimate | time),
       (if $what.throughput.Elements
        then $median.point_estimate / $what.throughput.Elements | time else "" end)]
    | "| \(join(" | ")) |"' "$benchmark" "${benchmark%benchmark.json}estimates.json"
done
