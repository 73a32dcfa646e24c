# shellcheck shell=bash
# Counting what was run. Needs say.sh. A tier's steps add to tier_passed, tier_failed and tier_skipped.

# begin_tier NAME: a log of its own, all counts zero.
begin_tier() {
  tier=$1 tier_passed=0 tier_failed=0 tier_skipped=0 tier_how=direct tier_note='' tier_started=$SECONDS
  printf '\n== tier %s\n' "$tier" >&2
}

# end_tier: keeps the line for the summary.
end_tier() {
  summary+=("$(printf '%s\t%s\t%d\t%d\t%d\t%d\t%s' "$tier" "$tier_how" "$tier_passed" "$tier_failed" "$tier_skipped" \
    "$((SECONDS - tier_started))" "$tier_note")")
  total_passed=$((total_passed + tier_passed))
  total_failed=$((total_failed + tier_failed))
  total_skipped=$((total_skipped + tier_skipped))
}

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
# machine could not run all of it.
run_tests() {
  local name=$1 started=$SECONDS log status=0 passed failed ignored
  shift
  log=$(mktemp "${TMPDIR:-/tmp}/nvvmm-test.XXXXXX")
  say "$tier: $name"
  "$@" 2>&1 | tee "$log" >&2 || status=$?
  read -r passed failed ignored < <(count_results "$log")
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

# count_results LOG: sums up libtest's "test result:" lines.
count_results() {
  awk '/^test result: / {
    for (i = 2; i <= NF; i++) {
      if ($i ~ /^passed/) passed += $(i - 1)
      if ($i ~ /^failed/) failed += $(i - 1)
      if ($i ~ /^ignored/) ignored += $(i - 1)
    }
  } END { print passed + 0, failed + 0, ignored + 0 }' "$1"
}

print_summary() {
  local line
  printf '\n%-10s %-8s %7s %7s %8s %8s  %s\n' tier how passed failed skipped seconds note
  for line in "${summary[@]}"; do
    IFS=$'\t' read -r name how passed failed skipped seconds note <<<"$line"
    printf '%-10s %-8s %7d %7d %8d %8d  %s\n' "$name" "$how" "$passed" "$failed" "$skipped" "$seconds" "$note"
  done
  printf '%d passed, %d failed, %d skipped\n' "$total_passed" "$total_failed" "$total_skipped"
}
