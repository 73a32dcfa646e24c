# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # variables are shared with scripts/test.sh
# Builds and runs the test programs. Needs programs.sh and tally.sh.

# Copies of the programs that tests run, or that run in the nested harness: a later `cargo build`
# does not change them under a run. They have no debug symbols, which take long to load there.
test_copies=$NVVMM_CACHE/test-programs

# need_tests: builds nvvmm and every test of the workspace in the dev profile, once, by one call of
# cargo. Exports NVVMM_DEV_BIN, and NVVMM_BIN unless it is set. Leaves the list $test_copies/list:
# a line for each test program with its package's folder, its name and its path.
need_tests() {
  local messages=$test_copies/messages name
  [[ ${tests_are_built:-0} == 0 ]] || return 0
  mkdir -p "$test_copies"
  (cd "$NVVMM_ROOT" && cargo test --workspace --no-run --quiet \
    --message-format=json-render-diagnostics) >"$messages" || return 1
  artifacts true "$messages" >"$test_copies/list"
  for name in kvm linux documents rejuvenation power_cut pool scripts; do
    copy_program "$(path_of "$name" <"$test_copies/list")" "$name" || return 1
  done
  copy_program "$(artifacts false "$messages" | path_of nvvmm)" nvvmm || return 1
  NVVMM_DEV_BIN=$test_copies/nvvmm
  NVVMM_BIN=${NVVMM_BIN:-$NVVMM_DEV_BIN}
  export NVVMM_DEV_BIN NVVMM_BIN
  tests_are_built=1
}

# artifacts TEST MESSAGES: folder, name and path of each program in cargo's messages that is a test
# (TEST is true) or is not.
artifacts() {
  local folder='"manifest_path":"\([^"]*\)\/Cargo.toml"' name='"name":"\([^"]*\)","src_path"'
  local profile='"profile":{[^}]*"test":'$1'}' path='"executable":"\([^"]*\)"'
  sed -n "s/.*$folder.*$name.*$profile.*$path.*/\1\t\2\t\3/p" "$2"
}

# path_of NAME: the path of the last program of that name in lines of artifacts.
path_of() { awk -F '\t' -v name="$1" '$2 == name {path = $3} END {print path}'; }

# copy_program FILE NAME: only if it has changed, so that the page cache stays warm.
copy_program() {
  [[ -x $1 ]] || { say "error: cargo built no $2"; return 1; }
  [[ $test_copies/$2 -nt $1 ]] && return
  strip -o "$test_copies/$2.new" "$1" && mv "$test_copies/$2.new" "$test_copies/$2"
}

# set_test_command NAME: sets test_command to the words that run a test program, which prints the
# seconds of each test. RUSTC_BOOTSTRAP lets a stable libtest do that.
set_test_command() {
  test_command=(/usr/bin/env RUSTC_BOOTSTRAP=1 "$test_copies/$1"
    -Z unstable-options --report-time)
}

# test_packages [ARGUMENT...]: runs the tests of every package but those that need a KVM, each in
# its package's folder as cargo does.
test_packages() {
  local folder name path status=0 limit_s=600
  # A hundred thousand crash states take their time.
  [[ $profile != nightly ]] || limit_s=3600
  while IFS=$'\t' read -r folder name path; do
    # Of the package nvvmm-tests the other programs need a KVM or a medium.
    [[ $folder != "$NVVMM_ROOT/tests" || " ${tests_without_kvm[*]} " == *" $name "* ]] || continue
    printf 'Running %s of %s\n' "$name" "${folder#"$NVVMM_ROOT/"}"
    (cd "$folder" && RUSTC_BOOTSTRAP=1 timeout --kill-after=10 "$limit_s" "$path" \
      -Z unstable-options --report-time "$@") || status=$?
  done <"$test_copies/list"
  return "$status"
}
