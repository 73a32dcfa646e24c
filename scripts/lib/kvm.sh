# shellcheck shell=bash
# Finds out what the KVM of this machine can run.

# kvm_kind: prints the kind of this machine's KVM:
#   direct    ordinary KVM: Linux guests run here
#   software  /dev/kvm without vmx or svm (such as PVM): the bare-metal guest runs here, Linux
#             guests run nested
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

# kvm_reason: prints the kind in words, with the remedy if there is one.
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
