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

# install_packages "LIST" yes|ask: asks first on a terminal; elsewhere --yes is needed.
install_packages() {
  local list=$1 consent=$2 sudo=sudo
  [ -n "$list" ] || return 0
  local install="apt-get install -y --no-install-recommends $list"
  if [ "$(id -u)" = 0 ]; then
    sudo=""
  elif ! command -v sudo >/dev/null 2>&1; then
    fail "packages are missing and there is no sudo here. As root, run this line, then try again:
  apt-get update && $install" 69
  fi
  if [ "$consent" != yes ]; then
    [ -t 0 ] || fail "packages are missing ($list): pass --yes to install them, or run
  ${sudo:+$sudo }apt-get update && ${sudo:+$sudo }$install" 69
    printf 'Install these packages%s? [y/N] ' "${sudo:+ with sudo}"
    read -r reply
    case $reply in y|Y|yes) ;; *) fail "nothing was changed" 69 ;; esac
  fi
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

# Prints: none (no card), usable (card and toolkit), old-toolkit or no-toolkit.
cuda_state() {
  local card=no
  if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1; then card=yes; fi
  [ -e /proc/driver/nvidia/version ] && card=yes
  if [ $card = no ]; then echo none; return; fi
  local nvcc
  nvcc=$(find_nvcc) || { echo no-toolkit; return; }
  # Debian's own package is 11.8, which compiles no C++20.
  "$nvcc" --version | awk -F'release ' '/release/ {split($2, v, "[.,]"); exit !(v[1] > 12 || (v[1] == 12 && v[2] >= 4))}' &&
    echo usable || echo old-toolkit
}

find_nvcc() {
  local candidate
  for candidate in "${CUDACXX:-}" /usr/local/cuda/bin/nvcc "$(command -v nvcc 2>/dev/null)"; do
    [ -n "$candidate" ] && [ -x "$candidate" ] && { echo "$candidate"; return 0; }
  done
  return 1
}

cuda_fix() {  # state of cuda_state
  local what="no CUDA toolkit (nvcc) was found"
  [ "$1" = old-toolkit ] && what="the CUDA toolkit at $(find_nvcc) is older than 12.4"
  say "An NVIDIA card is here, but $what, so a build now would run on the CPU only."
  say "On Debian 12 these two lines install one (about 4 GB); then run this again:"
  sed 's/^/  /' "$root/scripts/cuda-fix.txt"
  say "To go on without the GPU on purpose, add --cpu."
}

# The host of the model hub, as models/catalog.toml or APUD_HUB_HOST says.
hub_host() { echo "${APUD_HUB_HOST:-$(sed -n 's/^hub_host = "\([^"]*\)".*/\1/p' "$root/models/catalog.toml")}"; }

hub_answers() {
  local host
  host=$(hub_host)
  timeout 3 bash -c "exec 3<>/dev/tcp/${host%%:*}/$(case $host in *:*) echo "${host##*:}" ;; *) echo 443 ;; esac)" 2>/dev/null
}

# The most that `model pull default` may download, in bytes: the largest general model of the
# catalogue that fits the free memory, where the hub answers.
largest_chat_model() {  # bytes of free memory
  awk -v free="$1" '
    function flush() {
      if (kind == "chat" && !base && bytes > 0 && bytes + 1073741824 <= free && !(licence in gated) && bytes > best) best = bytes
    }
    /^\[licences/ { name = $0; gsub(/^\[licences\.|"|\]$/, "", name) }
    /^needs_acceptance = true/ { gated[name] = 1 }
    /^\[\[model\]\]/ { flush(); kind = ""; base = 0; bytes = 0; licence = "" }
    /^kind = / { kind = $3; gsub(/"/, "", kind) }
    /^base = true/ { base = 1 }
    /^licence = / { licence = $3; gsub(/"/, "", licence) }
    /^(approx_)?bytes = / { bytes = $3 }
    END { flush(); printf "%.0f\n", best }' "$root/models/catalog.toml"
}
