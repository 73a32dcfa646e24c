# shellcheck shell=bash
# What the KVM of this machine can do.

# kvm_kind: prints
#   direct    ordinary KVM: Linux guests run here
#   software  /dev/kvm without vmx or svm (PVM and the like): bare-metal guest only, Linux guests
#             run nested
#   none      no usable /dev/kvm: Linux guests run nested
# NVVMM_FORCE_NESTED=1 makes an ordinary KVM count as a software one.
kvm_kind() {
  if [[ ! -r /dev/kvm || ! -w /dev/kvm ]]; then
    echo none
  elif [[ ${NVVMM_FORCE_NESTED:-0} == 1 ]] || ! grep -qwE 'vmx|svm' /proc/cpuinfo; then
    echo software
  else
    echo direct
  fi
}

# kvm_reason: the same in words, with the remedy when there is one.
kvm_reason() {
  case $(kvm_kind) in
    direct) echo "/dev/kvm with $(grep -owE -m1 'vmx|svm' /proc/cpuinfo | head -n 1)" ;;
    software)
      if [[ ${NVVMM_FORCE_NESTED:-0} == 1 ]]; then
        echo "NVVMM_FORCE_NESTED=1"
      else
        echo "/dev/kvm is a software KVM (no vmx or svm): it cannot boot Linux"
      fi
      ;;
    none)
      if [[ -e /dev/kvm ]]; then
        echo "no permission for /dev/kvm" \
          "(remedy: sudo usermod -aG kvm $(id -un), then log in again)"
      else
        echo "no /dev/kvm"
      fi
      ;;
  esac
}
