# shellcheck shell=bash
# The programs that run inside guests. Needs say.sh and tree.sh.

# witness_path, bare_metal_path: where the built programs are.
witness_path() { echo "$(cargo_target_dir "$NVVMM_ROOT/guest/linux")/x86_64-unknown-linux-gnu/release/nvvmm-witness"; }
bare_metal_path() { echo "$NVVMM_CACHE/guest/bare-metal"; }

build_witness() {
  say "building guest/linux (nvvmm-witness, static)"
  (cd "$NVVMM_ROOT/guest/linux" && cargo build --release --quiet)
}
