#!/usr/bin/env bash
# Prints the result of scripts/bench-process.sh, which is JSON on standard input, as tables.
set -euo pipefail
result=$(cat)
count=$(jq -r '.sizes[0].repetitions' <<<"$result")
if [[ $(jq -r .where <<<"$result") == emulated ]]; then
  echo "On an emulated CPU: times are not those of a real CPU."
  echo "Counts of pages, bytes and faults are the same as on a real one."
fi
case $(jq -r .reserve <<<"$result") in
  process) echo "The agent keeps memory for the process ready for its restart (NVVMM_RESERVE)." ;;
  0) echo "The agent keeps no memory ready for a restart." ;;
  *)
    mib=$(jq -r .reserve <<<"$result")
    echo "The agent keeps $mib MiB ready for a restart (NVVMM_RESERVE)."
    ;;
esac
version=$(jq -r .criu_version <<<"$result")
printf 'CRIU %s and nvvmm in one guest, medians of %s\n\n' "$version" "$count"
format='%-34s %6s %14s %14s %10s\n'
# shellcheck disable=SC2059 # one format for all rows
printf "$format" '' MiB CRIU nvvmm ratio
jq -r '
  def number: if . == null then "-" elif . >= 100 then round else (. * 100 | round) / 100 end;
  def row(name; criu; nvvmm): [name, .mib, (criu | number), (nvvmm | number),
    (if nvvmm == null or criu == null or nvvmm == 0 then "-" else criu / nvvmm | number end)];
  .sizes as $sizes
  | ($sizes[] | row("capture: frozen, ms"; .criu.frozen_us / 1000; .nvvmm.frozen_us / 1000)),
    ($sizes[] | row("capture: in all, ms"; .criu.capture_us / 1000; .nvvmm.capture_us / 1000)),
    ($sizes[] | row("capture: pages copied"; .criu.pages_copied; .nvvmm.pages_copied)),
    ($sizes[] | row("capture: bytes written, KiB";
      .criu.copied_bytes / 1024; .nvvmm.copied_bytes / 1024)),
    ($sizes[] | row("capture: guest busy, ms";
      .criu.capture_busy_ticks * 10; .nvvmm.capture_busy_ticks * 10)),
    ($sizes[] | row("capture: faults in the guest";
      .criu.capture_all_faults; .nvvmm.capture_all_faults)),
    ($sizes[] | row("capture: pages allocated by guest";
      .criu.capture_pages_allocated; .nvvmm.capture_pages_allocated)),
    ($sizes[] | row("restart: in all, ms"; .criu.restart_us / 1000; .nvvmm.restart_us / 1000)),
    ($sizes[] | row("restart: in the guest, ms";
      .criu.restart_in_guest_us / 1000; .nvvmm.restart_in_guest_us / 1000)),
    ($sizes[] | row("restart: pages get frames, ms"; null; .nvvmm.restart_populate_us / 1000)),
    ($sizes[] | row("restart: pages in ready memory"; null; .nvvmm.restart_pages_reserved)),
    ($sizes[] | row("restart: host places pages, ms"; null; .nvvmm.restart_place_us / 1000)),
    ($sizes[] | row("restart: pages copied";
      .criu.restart_pages_copied; .nvvmm.restart_pages_copied)),
    ($sizes[] | row("restart: guest busy, ms";
      .criu.restart_busy_ticks * 10; .nvvmm.restart_busy_ticks * 10)),
    ($sizes[] | row("restart: faults in the guest";
      .criu.restart_all_faults; .nvvmm.restart_all_faults)),
    ($sizes[] | row("restart: pages allocated by guest";
      .criu.restart_pages_allocated; .nvvmm.restart_pages_allocated)),
    ($sizes[] | row("restart: copied on write by host"; null; .nvvmm.restart_host_copies)),
    ($sizes[] | row("guest memory after restart, MiB";
      .criu.guest_memory_kib / 1024; .nvvmm.guest_memory_kib / 1024)),
    ($sizes[] | row("verify after restart: faults"; .criu.verify_faults; .nvvmm.verify_faults)),
    ($sizes[] | row("verify after restart, ms"; .criu.verify_us / 1000; .nvvmm.verify_us / 1000))
  | @tsv' <<<"$result" | while IFS=$'\t' read -r name mib criu nvvmm ratio; do
  # shellcheck disable=SC2059
  printf "$format" "$name" "$mib" "$criu" "$nvvmm" "$ratio"
done
echo
jq -r '.targets[] | "\(if .met then "met    " else "NOT MET" end)  "
  + "\(.name) (target \(.limit)) at \(.mib) MiB: \(.figure * 100 | round / 100)"' <<<"$result"
