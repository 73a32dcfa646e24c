# shellcheck shell=bash
# Counting what was run. Needs say.sh and room.sh. A tier's steps add to tier_passed, tier_failed and tier_skipped. The summary's lines
# are in files: a tier may run beside another, in a process of its own.

# begin_summary: sets summary, a directory for the lines of each tier.
begin_summary() { summary=$(mktemp -d "${TMPDIR:-/tmp}/nvvmm-summary.XXXXXX"); }

# begin_tier NAME: a log of its own, all counts zero.
begin_tier() {
  tier=$1 tier_passed=0 tier_failed=0 tier_skipped=0 tier_how=direct tier_note='' tier_started=$SECONDS media_lines=''
  printf '\n== tier %s\n' "$tier" >&2
  say "$tier: $(room)"
}

# end_tier: keeps the line for the summary.
end_tier() {
  summary_line "$tier" "$tier_how" "$tier_passed" "$tier_failed" "$tier_skipped" "$((SECONDS - tier_started))" "$tier_note" \
    >"$summary/$tier"
  printf '%s' "$media_lines" >>"$summary/$tier"
}

summary_line() { printf '%s|%s|%d|%d|%d|%d|%s\n' "$@"; }

# skip_tier REASON: a tier that could not run counts as one skip, and as a failure where it is required.
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
}

# prepare NAME COMMAND...: a step that tests need; only its failure counts.
prepare() {
  local passed=$tier_passed failed=$tier_failed
  run_check "$@"
  tier_passed=$passed
  ((tier_failed == failed))
}

# run_tests NAME COMMAND...: a step that runs Rust tests, counted from what they print. Exit status 77 means that this
# machine could not run all of it. Sets left_out: why tests left themselves out, as libtest's --show-output shows; and
# not_run: how many it was not asked to run.
run_tests() {
  local name=$1 started=$SECONDS log status=0 passed failed ignored absent
  shift
  log=$(mktemp "${TMPDIR:-/tmp}/nvvmm-test.XXXXXX")
  say "$tier: $name"
  "$@" 2>&1 | tee "$log" >&2 || status=$?
  read -r passed failed ignored not_run < <(count_results "$log")
  absent=$(grep -c '^SKIPPED: ' "$log" || true)
  passed=$((passed - absent)) ignored=$((ignored + absent))
  left_out=$(sed -n 's/^SKIPPED: //p' "$log" | sort | uniq -c | awk '{$1 = $1; printf "%s%s", sep, $0; sep = "; "}')
  ((status == 0)) || failure_report "$name" "$log" >>"$summary/failures"
  rm -f "$log"
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
  tier_passed=$((tier_passed + passed)) tier_failed=$((tier_failed + failed)) tier_skipped=$((tier_skipped + ignored))
  say "$tier: $name: $passed passed, $failed failed, $ignored skipped in $((SECONDS - started)) s"
  ((failed == 0)) || tier_note+="${tier_note:+, }$name failed"
}

# run_tests_on MEDIUM NOTE COMMAND...: the same for tests with pools on that medium, which has a line of its own in the
# summary, with the note and with what was left out, by us or by tests themselves.
run_tests_on() {
  local medium=$1 note=$2 started=$SECONDS passed=$tier_passed failed=$tier_failed skipped=$tier_skipped
  run_tests "tests on $medium" "${@:3}"
  ((not_run == 0)) || note+="${note:+; }$not_run tests not run"
  [[ -z $left_out ]] || note+="${note:+; }skipped: $left_out"
  media_lines+=$(summary_line "  $medium" "" "$((tier_passed - passed))" "$((tier_failed - failed))" \
    "$((tier_skipped - skipped))" "$((SECONDS - started))" "$note")$'\n'
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

# failure_report NAME LOG: what failed tests printed, or the end of the log where libtest says nothing of a failed test.
failure_report() {
  local shown
  shown=$(awk '/^failures:$/ {inside = !inside; next} /^test result: / {inside = 0} inside' "$2" | cut -c 1-400 | tail -n 80)
  [[ -n $shown ]] || shown=$(tail -n 20 "$2" | cut -c 1-400)
  printf '\n== failed in tier %s: %s\n%s\n' "$tier" "$1" "$shown"
}

# print_summary TIER...: what failed, again, where it is seen; then a table. Ends with the totals, and fails when a test failed.
print_summary() {
  local name how passed failed skipped seconds note total_passed=0 total_failed=0 total_skipped=0
  [[ ! -e $summary/failures ]] || cat "$summary/failures"
  printf '\n%-16s %-8s %7s %7s %8s %8s  %s\n' tier how passed failed skipped seconds note
  while IFS='|' read -r name how passed failed skipped seconds note; do
    printf '%-16s %-8s %7d %7d %8d %8d  %s\n' "$name" "$how" "$passed" "$failed" "$skipped" "$seconds" "$note"
    # The lines of media are part of their tier's.
    [[ $name != ' '* ]] || continue
    total_passed=$((total_passed + passed)) total_failed=$((total_failed + failed)) total_skipped=$((total_skipped + skipped))
  done < <(cd "$summary" && cat "$@")
  printf '%d passed, %d failed, %d skipped\n' "$total_passed" "$total_failed" "$total_skipped"
  ((total_failed == 0))
}
