# Shared by scripts/quickstart and scripts/test. Source it; needs $root.
set -u

say() { printf '%s\n' "$*"; }
fail() { printf 'error: %s\n' "$1" >&2; exit "${2:-1}"; }

# Packages of scripts/packages that are not installed. $1 = "run" leaves the test section out.
missing_packages() {
  local wanted
  if [ "${1:-all}" = run ]; then
    wanted=$(sed '/^# test/,$d' "$root/scripts/packages" | grep -v '^#')
  else
    wanted=$(grep -v '^#' "$root/scripts/packages")
  fi
  local name
  for name in $wanted; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || printf '%s ' "$name"
  done
}

# install_packages "LIST" yes|ask: asks before sudo on a terminal; elsewhere --yes is needed.
install_packages() {
  local list=$1 consent=$2
  [ -n "$list" ] || return 0
  local install="apt-get install -y --no-install-recommends $list"
  if [ "$(id -u)" = 0 ]; then
    run_install "" "$install"
    return
  fi
  if ! command -v sudo >/dev/null 2>&1; then
    fail "packages are missing and there is no sudo here. As root, run this line, then try again:
  apt-get update && $install" 69
  fi
  if [ "$consent" != yes ]; then
    [ -t 0 ] || fail "packages are missing ($list): pass --yes to install them with sudo, or run
  sudo apt-get update && sudo $install" 69
    printf 'Install these packages with sudo? [y/N] '
    read -r reply
    case $reply in y|Y|yes) ;; *) fail "nothing was changed" 69 ;; esac
  fi
  run_install "sudo" "$install"
}

run_install() {
  local sudo=$1 install=$2
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get update -qq || fail "apt-get update failed: check the network" 74
  # shellcheck disable=SC2086
  $sudo env DEBIAN_FRONTEND=noninteractive $install -qq >"$root/build/apt.log" 2>&1 ||
    fail "apt-get install failed; its output is in build/apt.log" 74
}

# Debian 12 is what is tested; anything else is said, not refused.
check_system() {
  if [ -r /etc/os-release ]; then
    . /etc/os-release
    [ "${ID:-}" = debian ] && [ "${VERSION_ID:-}" = 12 ] || say "note: tested on Debian 12; this is ${PRETTY_NAME:-unknown}: untested"
  fi
  command -v apt-get >/dev/null 2>&1 || fail "this script installs Debian packages and there is no apt-get; the list is in scripts/packages" 69
}

# Prints: none (no card), usable (card and toolkit), or no-toolkit.
cuda_state() {
  local card=no
  if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1; then card=yes; fi
  [ -e /proc/driver/nvidia/version ] && card=yes
  if [ $card = no ]; then echo none; return; fi
  if find_nvcc >/dev/null; then echo usable; else echo no-toolkit; fi
}

find_nvcc() {
  local candidate
  for candidate in "${CUDACXX:-}" "$(command -v nvcc 2>/dev/null)" /usr/local/cuda/bin/nvcc; do
    [ -n "$candidate" ] && [ -x "$candidate" ] && { echo "$candidate"; return 0; }
  done
  return 1
}

cuda_fix() {
  cat <<'F'
An NVIDIA card is here, but no CUDA toolkit (nvcc) was found, so a build now would run on the CPU only.
Install the toolkit (version 12.4 or newer), then run this again:
  Debian: enable the non-free component, then  sudo apt-get install nvidia-cuda-toolkit
  or NVIDIA's own package of the toolkit; nvcc must be on PATH or in /usr/local/cuda/bin.
To go on without the GPU on purpose, add --cpu.
F
}
