# shellcheck shell=bash
# Counts what was run, and how long it took. Needs say.sh and room.sh. A tier's steps add to
# tier_passed, tier_failed and tier_skipped. The lines of the summary are in files, as a tier may
# run beside another, in a process of its own.

# begin_summary: sets summary, a directory for the lines of each tier.
begin_summary() { summary=$(mktemp -d "${TMPDIR:-/tmp}/nvvmm-summary.XXXXXX"); }

# begin_tier NAME: all counts are zero.
begin_tier() {
  tier=$1 tier_passed=0 tier_failed=0 tier_skipped=0 tier_how=direct tier_note=''
  tier_started=$SECONDS media_lines=''
  printf '\n== tier %s\n' "$tier" >&2
  say "$tier: $(room)"
}

# end_tier: keeps the line for the summary.
end_tier() {
  summary_line "$tier" "$tier_how" "$tier_passed" "$tier_failed" "$tier_skipped" \
    "$((SECONDS - tier_started))" "$tier_note" >"$summary/tier.$tier"
  printf '%s' "$media_lines" >>"$summary/tier.$tier"
}

summary_line() { printf '%s|%s|%d|%d|%d|%d|%s\n' "$@"; }

# keep_step NAME SECONDS: for the table of steps.
keep_step() { printf '%d\t%s\t%s\n' "$2" "${tier:--}" "$1" >>"$summary/steps"; }

# skip_tier REASON: a tier that cannot run is one skip, and a failure where it is required.
skip_tier() {
  tier_how=- tier_note=$1
  if is_required "$tier"; then
    say "error: tier $tier is required and cannot run: $1"
    tier_failed=1
  else
    say "SKIPPED tier $tier: $1"
    tier_skipped=1
  fi
}

# run_check NAME COMMAND...: one step that passes or fails as a whole.
run_check() {
  local name=$1 started=$SECONDS
  shift
  say "$tier: $name"
  if "$@" >&2; then
    tier_passed=$((tier_passed + 1))
  else
    tier_failed=$((tier_failed + 1))
    tier_note+="${tier_note:+, }$name failed"
    say "FAILED $tier: $name ($((SECONDS - started)) s)"
  fi
  keep_step "$name" "$((SECONDS - started))"
}

# prepare NAME COMMAND...: a step that tests need; only its failure counts.
prepare() {
  local passed=$tier_passed failed=$tier_failed
  run_check "$@"
  tier_passed=$passed
  ((tier_failed == failed))
}

# run_tests NAME COMMAND...: a step that runs Rust tests. Tests that pass within a second are
# counted and not shown.
run_tests() {
  local name=$1 started=$SECONDS log status=0
  shift
  log=$(mktemp "$summary/log.XXXXXX")
  say "$tier: $name"
  "$@" 2>&1 | tee "$log" | without_quick_tests >&2 || status=$?
  count_log "$name" "$log" "$status" "$((SECONDS - started))"
  rm -f "$log"
}

without_quick_tests() { awk '!/^test .* \.\.\. ok <0\.[0-9]*s>$/ {print; fflush()}'; }

# count_log NAME LOG STATUS SECONDS: adds what test programs printed to the tier's counts. Status 77
# means that this machine could not run all of it. Sets left_out: why tests left themselves out
# (their lines "SKIPPED: ..."); and not_run: the number of tests that were not asked for.
count_log() {
  local name=$1 log=$2 status=$3 seconds=$4 passed failed ignored absent
  read -r passed failed ignored not_run < <(count_results "$log")
  absent=$(grep -c '^SKIPPED: ' "$log" || true)
  passed=$((passed - absent)) ignored=$((ignored + absent))
  left_out=$(sed -n 's/^SKIPPED: //p' "$log" | sort | uniq -c |
    awk '{$1 = $1; printf "%s%s", sep, $0; sep = "; "}')
  ((status == 0)) || failure_report "$name" "$log" >>"$summary/failures"
  keep_test_times "$log" >>"$summary/times"
  keep_step "$name" "$seconds"
  if ((status == 77)); then
    status=0 ignored=$((ignored + 1))
    tier_note+="${tier_note:+, }$name: not possible here"
    say "SKIPPED $tier: $name"
    ! is_required "$tier" || failed=$((failed + 1))
  fi
  # A crash or a build error fails without a failed test.
  ((status == 0 || failed > 0)) || failed=1
  if ((passed + failed + ignored == 0)); then
    say "FAILED $tier: $name ran no test"
    failed=1
  fi
  tier_passed=$((tier_passed + passed)) tier_failed=$((tier_failed + failed))
  tier_skipped=$((tier_skipped + ignored))
  say "$tier: $name: $passed passed, $failed failed, $ignored skipped in $seconds s"
  ((failed == 0)) || tier_note+="${tier_note:+, }$name failed"
}

# keep_test_times LOG: a line for each test that passed: seconds, tier, name. A test whose output is
# shown has its end in a line of its own.
keep_test_times() {
  awk -v tier="$tier" '
    /^test .* \.\.\. / {name = $2}
    /(^| )ok <[0-9.]+s>$/ && name != "" {
      seconds = $NF
      gsub(/[<>s]/, "", seconds)
      printf "%s\t%s\t%s\n", seconds, tier, name
      name = ""
    }' "$1"
}

# run_tests_on MEDIUM NOTE COMMAND...: the same for tests with pools on that medium, which has a
# line of its own in the summary, with the note and with what was left out.
run_tests_on() {
  local medium=$1 note=$2 started=$SECONDS
  local passed=$tier_passed failed=$tier_failed skipped=$tier_skipped
  run_tests "tests on $medium" "${@:3}"
  keep_medium "$medium" "$note" "$((tier_passed - passed))" "$((tier_failed - failed))" \
    "$((tier_skipped - skipped))" "$((SECONDS - started))"
}

# keep_medium MEDIUM NOTE PASSED FAILED SKIPPED SECONDS
keep_medium() {
  local note=$2
  ((not_run == 0)) || note+="${note:+; }$not_run tests not run"
  [[ -z $left_out ]] || note+="${note:+; }skipped: $left_out"
  media_lines+=$(summary_line "  $1" "" "$3" "$4" "$5" "$6" "$note")$'\n'
}

# count_results LOG: sums up libtest's "test result:" lines.
count_results() {
  awk '/^test result: / {
    for (i = 2; i <= NF; i++) {
      if ($i ~ /^passed/) passed += $(i - 1)
      if ($i ~ /^failed/) failed += $(i - 1)
      if ($i ~ /^ignored/) ignored += $(i - 1)
      if ($i ~ /^filtered/) filtered += $(i - 1)
    }
  } END { print passed + 0, failed + 0, ignored + 0, filtered + 0 }' "$1"
}

# failure_report NAME LOG: the output of failed tests, or the end of the log where there is none.
failure_report() {
  local shown
  shown=$(awk '/^failures:$/ {inside = !inside; next} /^test result: / {inside = 0} inside' "$2" |
    { grep -vE '^ +([0-9]+: |at )' || true; } | cut -c 1-400 | tail -n 120)
  [[ -n $shown ]] || shown=$(tail -n 20 "$2" | cut -c 1-400)
  printf '\n== failed in tier %s: %s\n%s\n' "$tier" "$1" "$shown"
}

# print_summary TIER...: failures once more, the steps, the slowest tests, a table of tiers, the
# totals. Fails when a test failed.
print_summary() {
  local name how passed failed skipped seconds note total_passed=0 total_failed=0 total_skipped=0
  [[ ! -e $summary/failures ]] || cat "$summary/failures"
  print_times "seconds of each step" "$summary/steps" 1000
  print_times "the 20 slowest tests (seconds)" "$summary/times" 20
  printf '\n%-16s %-8s %7s %7s %8s %8s  %s\n' tier how passed failed skipped seconds note
  while IFS='|' read -r name how passed failed skipped seconds note; do
    printf '%-16s %-8s %7d %7d %8d %8d  %s\n' "$name" "$how" "$passed" "$failed" "$skipped" \
      "$seconds" "$note"
    # The lines of media are part of their tier's.
    [[ $name != ' '* ]] || continue
    total_passed=$((total_passed + passed)) total_failed=$((total_failed + failed))
    total_skipped=$((total_skipped + skipped))
  done < <(cd "$summary" && cat "${@/#/tier.}")
  printf 'all of it took %d min %d s\n' $((SECONDS / 60)) $((SECONDS % 60))
  printf '%d passed, %d failed, %d skipped\n' "$total_passed" "$total_failed" "$total_skipped"
  ((total_failed == 0))
}

# print_times TITLE FILE COUNT: lines of seconds, tier and name, the longest first.
print_times() {
  [[ -s $2 ]] || return 0
  printf '\n%s\n' "$1"
  sort -rn "$2" | awk -F '\t' -v count="$3" '
    NR <= count {printf "%8.1f  %-9s %s\n", $1, $2, $3}'
}
