# shellcheck shell=bash
# What is built: nvvmm, and the programs and images that run inside guests.
lib=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$lib/say.sh"
source "$lib/tree.sh"
source "$lib/packages.sh"

# guest_program_path NAME: where build_guests puts this program.
guest_program_path() { echo "$(cargo_target_dir "$NVVMM_ROOT")/x86_64-unknown-linux-gnu/guest/$1"; }
witness_path() { guest_program_path nvvmm-witness; }
agent_path() { guest_program_path nvvmm-agent; }
subject_path() { guest_program_path subject; }
bare_metal_path() {
  echo "$(cargo_target_dir "$NVVMM_ROOT/guest/bare-metal")/release/nvvmm-bare-metal"
}

need_rust() {
  command -v cargo >/dev/null ||
    die "no cargo: nvvmm is built with a Rust toolchain" "see https://rustup.rs"
  command -v cc >/dev/null || need_packages gcc libc6-dev
}

# build_guests: builds the programs that run in Linux guests, static: nvvmm-witness and nvvmm-heap
# (guest/linux), nvvmm-agent (guest/agent), and subject, which the tests of guest/process capture.
build_guests() {
  say "building the guest programs (nvvmm-agent, nvvmm-witness, subject; static)"
  local -x CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C target-feature=+crt-static"
  (cd "$NVVMM_ROOT" && cargo build --profile guest --quiet --target x86_64-unknown-linux-gnu \
    --bins -p nvvmm-agent -p nvvmm-witness -p nvvmm-process)
}

build_bare_metal() {
  say "building guest/bare-metal"
  (cd "$NVVMM_ROOT/guest/bare-metal" && cargo build --release --quiet)
}

# build_nvvmm: exports NVVMM_BIN, built in the profile release, or in that of release_profile.
build_nvvmm() {
  local profile=${release_profile:-release}
  say "building nvvmm ($profile); the first time takes some minutes"
  (cd "$NVVMM_ROOT" && cargo build --profile "$profile" --quiet -p nvvmm-cli) || return 1
  NVVMM_BIN=$(cargo_target_dir "$NVVMM_ROOT")/$profile/nvvmm
  export NVVMM_BIN
}

# make_guest_image VERSION: exports where the kernel and initramfs of the Linux guest are.
make_guest_image() {
  local assignments
  assignments=$("$NVVMM_ROOT/scripts/guest-image.sh" --print --kernel "$1") || return 1
  eval "$assignments"
  export NVVMM_GUEST_KERNEL NVVMM_GUEST_KERNEL_ELF NVVMM_GUEST_INITRAMFS
}

# add_programs TREE PROGRAM...: copies them, and the libraries that they are linked with.
add_programs() {
  local tree=$1 program file
  shift
  for program in "$@"; do
    for file in "$program" $(ldd "$program" | grep -o '/[^ ]*'); do
      install -D -m 755 "$file" "$tree$file"
    done
  done
}
