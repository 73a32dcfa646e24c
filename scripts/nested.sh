#!/usr/bin/env bash
# Boots a Linux host with a real KVM inside QEMU's TCG (emulated SVM CPU, stock Debian kernel). Runs
# one script or program in it as root, on this machine's own root file system. That is read-only:
# changes go to memory.
#
#   scripts/nested.sh [options] SCRIPT [ARGUMENT...]
#   scripts/nested.sh [options] --shell
#
#   --shell              a shell on this terminal in place of a script, without a limit of time.
#                        For hosts without KVM: VMs run in it as README shows. `exit` ends it
#   --results DIR        directory that is writable inside, under the same path, and keeps its files
#                        (made when missing; $NVVMM_RESULTS inside). For one nested host at a time
#   --memory SIZE        memory of the nested host (default 6G; /dev/shm may take 60% of it)
#   --cpus N             its CPUs (default $NVVMM_NESTED_CPUS or 1, see where it is set)
#   --pmem SIZE          persistent memory, a multiple of 128M: /dev/pmem0, the next /dev/pmem1, ...
#                        (repeatable)
#   --disk FILE          raw disk image, writable: /dev/vda, the next /dev/vdb, ... (repeatable)
#   --boots N            run SCRIPT in each of N boots, with NVVMM_NESTED_BOOT=1 to N. The host is
#                        off in between: persistent memory and disks stay. Ends early when SCRIPT
#                        fails. To cut the power, SCRIPT makes the file $NVVMM_NESTED_POWER_SWITCH:
#                        QEMU is killed at once, and the next boot begins
#   --append WORDS       more kernel command line (repeatable)
#   --timeout SECONDS    end after this long (default 900; with --shell never); exit status 124
#   --boot-timeout SECS  end when the nested host is not up this long after a boot began
#                        (default 180); exit status 124
#   --silence SECONDS    end when the nested host is up and gives no sign of life for this long
#                        (default 300); exit status 123. Its kernel is dead then, or QEMU
#   --keep               keep the run directory with its console log, and print where it is
#   --prepare            make kernel and initramfs ready, boot nothing
#   -h, --help           this text
#
# Standard output is the script's; progress goes to standard error; the exit status is the script's
# or the shell's.
# The script gets the environment variables NVVMM_*, RUST_*, CARGO_*, PATH and HOME.
# NVVMM_NESTED_KERNEL selects the kernel: bookworm (the distribution's own: 6.1 on Debian 12;
# default), bookworm-backports (6.12), or the name of a linux-image package. NVVMM_CACHE is the
# folder where kernels are kept.
# NVVMM_NESTED_QEMU=10 asks for QEMU 10 or newer: the installed one, or that of Debian's
# bookworm-backports, unpacked into the cache; exit status 77 where there is none. With "installed",
# the default, it is the installed one.
#
# The SVM of QEMU 7.2 does not intercept XSETBV; that of QEMU 10 does. Under 7.2 a Linux guest finds
# its XSAVE state inconsistent ("XSAVE consistency problem" in its log) and goes on with FXSAVE,
# without AVX. NVVMM_NESTED_CPU replaces the CPU model.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib/say.sh"
source "$here/lib/room.sh"
source "$here/lib/tree.sh"
source "$here/lib/packages.sh"
source "$here/lib/kernel.sh"
source "$here/lib/qemu.sh"

host_modules=(virtio_pci virtio_console virtio_rng 9p 9pnet_virtio overlay kvm_amd loop virtio_blk
  ext4 xfs nfit nd_e820 nd_pmem device_dax dax_pmem
  dummy veth bridge tun af_packet nf_tables nft_chain_nat nft_nat nft_masq nft_ct nft_fib_ipv4)

# One CPU: with two, each has a thread of QEMU. One then goes on executing breakpoints that the
# other has patched out of the kernel's text (static keys, which KVM flips with its VMs): hosts hung
# or panicked, and guests in them reset.
memory=6G cpus=${NVVMM_NESTED_CPUS:-1} boots=1 timeout_s='' boot_timeout_s=180 silence_s=300
keep=0 prepare_only=0 shell=0 results=''
append=() pmem=() nvdimms=() disks=()

parse_arguments() {
  while (($#)); do
    case $1 in
      --shell) shell=1 ;;
      --results) results=${2:?--results needs a directory}; shift ;;
      --memory) memory=${2:?--memory needs a size}; shift ;;
      --cpus) cpus=${2:?--cpus needs a number}; shift ;;
      --pmem) pmem+=("${2:?--pmem needs a size}"); shift ;;
      --disk) disks+=("${2:?--disk needs a file}"); shift ;;
      --boots) boots=${2:?--boots needs a number}; shift ;;
      --append) append+=("${2:?--append needs words}"); shift ;;
      --timeout) timeout_s=${2:?--timeout needs seconds}; shift ;;
      --boot-timeout) boot_timeout_s=${2:?--boot-timeout needs seconds}; shift ;;
      --silence) silence_s=${2:?--silence needs seconds}; shift ;;
      --keep) keep=1 ;;
      --prepare) prepare_only=1 ;;
      -h | --help) usage; exit 0 ;;
      --) shift; break ;;
      -*) die "unknown option $1" "see ${0##*/} --help" ;;
      *) break ;;
    esac
    shift
  done
  program=("$@")
  ((!prepare_only)) || return 0
  if ((shell)); then
    ((${#program[@]} == 0)) || die "--shell takes no script: ${program[0]}"
    ((boots == 1)) || die "--shell is for one boot"
    [[ -t 0 && -t 1 ]] || die "--shell needs a terminal" "give a script in place of it"
    program=("$here/lib/nested-shell.sh")
    : "${timeout_s:=$((1 << 30))}"
  fi
  : "${timeout_s:=900}"
  ((${#program[@]})) || die "which script shall run inside?" \
    "give one, or --shell; see ${0##*/} --help"
  [[ -f ${program[0]} ]] || die "no such script: ${program[0]}"
}

# hold_results: two hosts that share a directory would take each other's status for their own. The
# lock is on the directory; QEMU holds it, too.
hold_results() {
  [[ -n $results ]] || return 0
  mkdir -p "$results"
  results=$(realpath "$results")
  [[ $results != *[[:space:],]* ]] ||
    die "--results must be a path without spaces and commas: $results"
  exec {results_lock}<"$results"
  flock --nonblock "$results_lock" ||
    die "another nested.sh, or a QEMU of one, uses --results $results" \
      "give another directory, or wait until it has ended"
}

# Sets kernel_dir, vmlinuz and initramfs; all three are kept in the cache.
prepare_host() {
  local flavour stamp
  need_packages qemu-system-x86 busybox-static kmod cpio xz-utils zstd lz4
  case ${NVVMM_NESTED_KERNEL:-bookworm} in
    bookworm) flavour=full ;;
    bookworm-backports | 6.12) flavour=full-6.12 ;;
    linux-image-*) flavour=$NVVMM_NESTED_KERNEL ;;
    *)
      die "NVVMM_NESTED_KERNEL=$NVVMM_NESTED_KERNEL is not known" \
        "use bookworm, bookworm-backports or a linux-image package name"
      ;;
  esac
  mkdir -p "$NVVMM_CACHE/nested"
  hold_lock nested/prepare
  choose_qemu
  kernel_dir=$NVVMM_CACHE/nested/$flavour
  if [[ ! -e $kernel_dir/version ]]; then
    is_debian_like ||
      die "the nested host needs a Debian or Ubuntu kernel package; this machine has no apt-get"
    fetch_kernel "$flavour" "$kernel_dir"
  fi
  vmlinuz=$kernel_dir/boot/vmlinuz-$(<"$kernel_dir/version")
  initramfs=$kernel_dir/initramfs.cpio
  stamp=$(cat "$here/nested.sh" "$here/lib/kernel.sh" "$here/lib/nested-init.sh" | cksum)
  if [[ ! -e $initramfs || $(cat "$kernel_dir/initramfs.stamp" 2>/dev/null) != "$stamp" ]]; then
    build_initramfs
    echo "$stamp" >"$kernel_dir/initramfs.stamp"
  fi
  drop_lock
}

build_initramfs() {
  local tree=$kernel_dir/initramfs
  rm -rf "$tree"
  mkdir -p "$tree"/{bin,proc,sys,dev,root,host,run,changes}
  cp "$(command -v busybox)" "$tree/bin/busybox"
  install -m 755 "$here/lib/nested-init.sh" "$tree/init"
  add_modules "$kernel_dir" "$tree" "${host_modules[@]}"
  pack_initramfs "$tree" "$initramfs"
  rm -rf "$tree"
  say "made $initramfs"
}

# The emulated CPU. Five-level paging does not work nested. Under QEMU 8.2 (Ubuntu 24.04) guests
# never start with nested paging, under 7.2 and 10.0 they do. With 8.2 KVM has to shadow the guest's
# page tables, which is slower.
cpu_model() {
  local model=max,-la57
  [[ $("$qemu" --version) != *'version 8.2.'* ]] || model+=,-npt
  echo "${NVVMM_NESTED_CPU:-$model}"
}

bytes_of() { numfmt --from=iec "${1%B}" 2>/dev/null || die "not a size: $1"; }

# Each piece of persistent memory is an emulated NVDIMM (NFIT): a file that stays when QEMU ends.
# Its platform promises that memory controllers are written back when the power fails.
lay_out_memory() {
  local size index=0 total
  total=$(bytes_of "$memory")
  memory_mib=$((total >> 20))
  for size in "${pmem[@]}"; do
    size=$(bytes_of "$size")
    ((size % (128 << 20) == 0)) || die "--pmem must be a multiple of 128M"
    total=$((total + size))
    nvdimms+=(-object "memory-backend-file,id=pmem$index,size=$size,mem-path=@/pmem$index,share=on"
      -device "nvdimm,id=nvdimm$index,memdev=pmem$index")
    index=$((index + 1))
  done
  ((index == 0)) || nvdimms+=(-machine "nvdimm=on,nvdimm-persistence=mem-ctrl"
    -m "slots=$index,maxmem=$((total >> 20))M")
  total_mib=$((total >> 20))
}

# What the init inside runs: environment and command, quoted for bash.
write_command() {
  local name command
  command=$(realpath "${program[0]}")
  {
    for name in $(compgen -e); do
      case $name in
        NVVMM_RESULTS | NVVMM_FORCE_NESTED | NVVMM_NESTED_BOOT | NVVMM_NESTED_POWER_SWITCH) ;;
        NVVMM_* | RUST_* | CARGO_* | PATH | HOME) printf 'export %s=%q\n' "$name" "${!name}" ;;
      esac
    done
    printf 'export NVVMM_RESULTS=%q NVVMM_IN_NESTED=1 NVVMM_NESTED_POWER_SWITCH=%q\ncd %q\n' \
      "$results" "$control/power-switch" "$PWD"
    [[ -x $command ]] || printf '/bin/bash '
    printf '%q ' "$command" "${program[@]:1}"
    echo
  } >"$control/command"
}

# What the shell inside shows first, and the size and kind of the terminal.
write_greeting() {
  echo "$(stty size) ${TERM:-vt220}" >"$control/terminal"
  {
    echo "This is an emulated host with KVM; you are its root. It has the files of your machine."
    if [[ $results == "$run"/* ]]; then
      echo "Changes of files are lost at the end. 'exit' ends it."
    else
      echo "Changes of files are lost at the end, except in $results. 'exit' ends it."
    fi
  } >"$control/greeting"
}

# Each boot is a QEMU of its own, on the same memory: after a reset QEMU 7.2 sometimes goes on with
# code that it had translated before, and the host hangs.
start_qemu() {
  local disk options=() ram="memory-backend-file,id=memory,size=${memory_mib}M"
  local command_line=(console=ttyS0 panic=-1 mitigations=off nokaslr quiet "nested.results=$results"
    "nested.boots=$boots" "nested.shell=$shell")
  for disk in "${disks[@]}"; do
    options+=(-drive "if=virtio,format=raw,file=$(realpath "$disk")")
  done
  # /dev/hvc0 of the nested host is this terminal. Its keys are not for QEMU.
  ((!shell)) ||
    options+=(-chardev "stdio,id=terminal,signal=off" -device "virtconsole,chardev=terminal")
  [[ -p $run/output ]] || mkfifo "$run/output" "$run/monitor.in" "$run/monitor.out"
  cat <"$run/output" &
  output_pid=$!
  "$qemu" -M q35,memory-backend=memory -accel tcg,thread=multi -cpu "$(cpu_model)" -smp "$cpus" \
    -object "$ram,mem-path=$memory_dir/memory,share=on" \
    -m "${memory_mib}M" \
    "${nvdimms[@]/@/$memory_dir}" \
    -no-reboot -nodefaults -display none -nic none \
    -chardev "pipe,id=monitor,path=$run/monitor" -mon chardev=monitor,mode=readline \
    -device virtio-serial-pci "${options[@]}" \
    -chardev "file,id=console,path=$run/console.log,append=on" -serial chardev:console \
    -chardev "file,id=output,path=$run/output" \
    -device virtserialport,chardev=output,name=output \
    -kernel "$vmlinuz" -initrd "$initramfs" \
    -virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap \
    -virtfs "local,path=$results,mount_tag=results,security_model=none" \
    -append "${command_line[*]} ${append[*]}" \
    <&"$keyboard" >&"$screen" 2>>"$run/qemu.log" &
  qemu_pid=$!
}

# Sets memory_dir: shared memory, where there is enough of it.
place_memory() {
  local parent=$run free
  free=$(free_mib /dev/shm 2>/dev/null) || true
  ((${free:-0} < total_mib)) || parent=/dev/shm
  memory_dir=$(mktemp -d "$parent/nvvmm-nested.XXXXXX")
}

end_qemu() {
  [[ -z ${qemu_pid:-} ]] || kill -KILL "$qemu_pid" 2>/dev/null || true
}

# shellcheck disable=SC2317 # the trap calls it
clean_up() {
  end_qemu
  # A QEMU that was killed leaves the terminal as it had set it.
  [[ -z ${terminal_before:-} ]] || stty "$terminal_before" <&"$keyboard" || true
  if ((keep)); then
    say "kept $run"
  else
    rm -rf "$run"
  fi
  rm -rf "${memory_dir:-}"
}

show_logs() {
  say "last lines of the console:"
  { tail -n 40 "$run/console.log" 2>/dev/null || true; } | tr -d '\r' | sed 's/^/  | /' >&2
  [[ ! -s $run/qemu.log ]] || sed 's/^/  qemu | /' "$run/qemu.log" >&2
}

# Prints where the processor of the nested host is: three times, to tell a loop from a stop.
show_processor() {
  local reader
  timeout 20 cat "$run/monitor.out" >"$run/monitor.log" &
  reader=$!
  # QEMU has both open for reading and writing: nothing here waits for it.
  for _ in 1 2 3; do
    echo "info registers -a" 1<>"$run/monitor.in"
    sleep 2
  done
  echo "x /64gx \$sp" 1<>"$run/monitor.in"
  sleep 1
  kill "$reader" 2>/dev/null || true
  wait "$reader" 2>/dev/null || true
  say "its processor:"
  { grep -aE '^(RIP|RAX|RSI|R8 |CS|CR0|[0-9a-f]+:)' "$run/monitor.log" || true; } |
    tr -d '\r' | sed 's/^/  | /' >&2
}

# Gives the seconds since the nested host gave a sign of life.
silent_for() {
  local seen
  seen=$(stat -c %Y "$control/alive" 2>/dev/null) || { echo 0; return; }
  echo "$(($(date +%s) - seen))"
}

# Waits for the end of a boot, for one that takes too long, or for the overall limit.
watch_qemu() {
  local up=0 start=$SECONDS
  while kill -0 "$qemu_pid" 2>/dev/null; do
    if ((!up)) && [[ -e $control/up.$boot ]]; then
      up=1
      say "boot $boot of $boots: up after $((SECONDS - start)) s: $(<"$control/up.$boot")"
    fi
    if [[ -e $control/power-switch ]]; then
      say "boot $boot of $boots: the power is cut"
      end_qemu
      rm "$control/power-switch"
      echo 0 >"$control/status.$boot"
      break
    fi
    if ((SECONDS - started > timeout_s)); then
      hang="not finished after $timeout_s s"
    elif ((!up && SECONDS - start > boot_timeout_s)); then
      hang="not up after $boot_timeout_s s"
    elif ((up && $(silent_for) > silence_s)); then
      hang="without a sign of life for $silence_s s"
    fi
    if [[ -n $hang ]]; then
      show_processor
      end_qemu
      break
    fi
    sleep 0.3
  done
  qemu_status=0
  wait "$qemu_pid" 2>/dev/null || qemu_status=$?
  # A QEMU that failed at its start has never opened it, and cat waits for a writer.
  : <>"$run/output"
  wait "$output_pid" || true
}

run_boots() {
  local boot
  for ((boot = 1; boot <= boots; boot++)); do
    start_qemu
    watch_qemu
    [[ -z $hang && $(cat "$control/status.$boot" 2>/dev/null) == 0 ]] || return 0
  done
}

# The status of the last boot that SCRIPT ended in; nothing when a boot ended without one.
last_status() {
  local boot status=''
  for ((boot = 1; boot <= boots; boot++)); do
    status=$(cat "$control/status.$boot" 2>/dev/null) || break
    [[ $status == 0 ]] || break
  done
  printf '%s' "$status"
}

# Each boot is one of its own: the kernel makes its boot_id anew.
was_rebooted() { (($(sort -u "$control"/boot_id.* | wc -l) == boots)); }

parse_arguments "$@"
lay_out_memory
((prepare_only)) || hold_results
prepare_host
if ((prepare_only)); then
  say "ready: $vmlinuz"
  exit 0
fi

run=$(mktemp -d "${TMPDIR:-/tmp}/nvvmm-nested.XXXXXX")
trap clean_up EXIT
trap 'exit 130' INT TERM
place_memory
[[ -n $results ]] || { results=$(realpath "$run")/results && hold_results; }
control=$results/.nested
rm -rf "$control"
mkdir "$control"
write_command
if ((shell)); then
  exec {keyboard}<&0 {screen}>&1
  terminal_before=$(stty -g)
  write_greeting
else
  exec {keyboard}</dev/null {screen}>>"$run/qemu.log"
fi

started=$SECONDS hang=''
say "booting Linux $(<"$kernel_dir/version") under QEMU: emulated, $cpus CPUs, $memory"
((${#pmem[@]} == 0)) || say "persistent memory: ${pmem[*]}"
if ((shell)); then
  say "a shell comes when it is up, in about a minute; $NVVMM_ROOT and all other files are there"
else
  say "it runs ${program[*]}"
fi
run_boots
status=$(last_status) rebooted=1
((${status:-1} != 0)) || was_rebooted || rebooted=0
[[ $results == "$run"/* ]] || rm -rf "$control"
if [[ -n $hang ]]; then
  show_logs
  say "error: the nested host was $hang"
  [[ $hang != without* ]] || exit 123
  say "its CPU is emulated, so try a longer --timeout"
  exit 124
elif [[ -z $status ]]; then
  show_logs
  say "error: the nested host ended without a status (a panic, or memory or disk used up)"
  say "QEMU's status is $qemu_status; $(room)"
  exit 125
elif ((!rebooted)); then
  say "error: the nested host was to boot $boots times, and two boots are the same"
  exit 125
fi
say "ended with status $status after $((SECONDS - started)) s"
exit "$status"
