# From the measurements of measure.sh: medians for each size, and what the targets say of them.
def median: sort | if length % 2 == 1 then .[length / 2 | floor] else (.[length / 2 - 1] + .[length / 2]) / 2 end;
def of(by; what): map(select(.by == by) | what) | median;
def counted(by):
  . as $all
  | [("capture", "restart") as $phase | ("busy_ticks", "all_faults", "pages_allocated") as $what
    | {key: "\($phase)_\($what)", value: ($all | of(by; .counts[$phase][$what]))}] | from_entries;
def criu:
  counted("criu") +
  {
    frozen_us: of("criu"; .dump_frozen_us), capture_us: of("criu"; .dump_total_s * 1e6),
    pages: of("criu"; .dump_pages), pages_copied: of("criu"; .dump_pages), copied_bytes: of("criu"; .dump_bytes),
    restart_us: of("criu"; .restore_total_s * 1e6), restart_in_guest_us: of("criu"; .restore_restore_us),
    restart_pages_copied: of("criu"; .dump_pages),
    guest_memory_kib: of("criu"; .verify_used_kib - .start_used_kib),
    verify_faults: of("criu"; .verify_faults), verify_us: of("criu"; .verify_verify_us)
  };
def nvvmm:
  counted("nvvmm") +
  {
    frozen_us: of("nvvmm"; .capture.pause_us), capture_us: of("nvvmm"; .capture.total_us),
    pages: of("nvvmm"; .capture.mapped_bytes / 4096),
    pages_copied: of("nvvmm"; .capture.copied_bytes / 4096),
    copied_bytes: of("nvvmm"; .capture.copied_bytes + .capture.state_bytes + .capture.metadata_bytes),
    restart_us: of("nvvmm"; .restart.total_us), restart_in_guest_us: of("nvvmm"; .restart.guest_us),
    restart_populate_us: of("nvvmm"; .restart.populate_us), restart_place_us: of("nvvmm"; .restart.place_us),
    restart_pages_reserved: of("nvvmm"; .restart.reserved_bytes / 4096),
    restart_pages_copied: of("nvvmm"; .restart.copied_bytes / 4096),
    restart_host_copies: of("nvvmm"; .restart_host_copies),
    guest_memory_kib: of("nvvmm"; .verify_used_kib - .start_used_kib),
    verify_faults: of("nvvmm"; .verify_faults), verify_us: of("nvvmm"; .verify_verify_us)
  };
def target(name; mib; figure; limit; met): {name: name, mib: mib, figure: figure, limit: limit, met: met};

. as $measurements
| (group_by(.mib) | map({mib: .[0].mib, repetitions: (length / 2), criu: criu, nvvmm: nvvmm})) as $sizes
| {
    where: $where, reserve: $reserve, criu_version: $criu,
    sizes: $sizes,
    targets: [
      $sizes[] | .mib as $mib
      | (.criu.frozen_us / .nvvmm.frozen_us) as $frozen
      | (.nvvmm.copied_bytes / (.mib * 1048576) * 100) as $copied
      | (.criu.restart_us / .nvvmm.restart_us) as $restart
      | (if $mib == 256 then target("capture: frozen, times below CRIU's"; $mib; $frozen; 20; $frozen >= 20) else empty end),
        target("capture: bytes copied, % of the process's memory"; $mib; $copied; 1; $copied < 1),
        target("restart in all, times below CRIU's restore"; $mib; $restart; 10; $restart >= 10)
    ],
    measurements: $measurements
  }
