# shellcheck shell=bash
# The programs that run inside guests. Needs say.sh and tree.sh.

# Where the built programs are.
witness_path() { echo "$(cargo_target_dir "$NVVMM_ROOT/guest/linux")/x86_64-unknown-linux-gnu/release/nvvmm-witness"; }
bare_metal_path() { echo "$(cargo_target_dir "$NVVMM_ROOT/guest/bare-metal")/release/nvvmm-bare-metal"; }

need_rust() {
  command -v cargo >/dev/null || die "no cargo: nvvmm is built with a Rust toolchain" "see https://rustup.rs"
  command -v cc >/dev/null || need_packages gcc libc6-dev
}

build_witness() {
  say "building guest/linux (nvvmm-witness, static)"
  (cd "$NVVMM_ROOT/guest/linux" && cargo build --release --quiet)
}

build_bare_metal() {
  say "building guest/bare-metal"
  (cd "$NVVMM_ROOT/guest/bare-metal" && cargo build --release --quiet)
}
