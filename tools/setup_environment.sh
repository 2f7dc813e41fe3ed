#!/usr/bin/env bash
# Make .venv ready: Python packages, ROS 2 (from PyPI wheels where none is sourced) and the messages.
# Does nothing when nothing that it depends on has changed. Called by the Makefile.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv="${VENV:-.venv}"
extras="${EXTRAS:-sim,model,record,remote,tensorrt,training,dev}"
torch="torch==2.13.0"  # as in setup.cfg; installed first, so that no other package picks a build
stamp="$venv/.cosmos3_ros_setup"

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
fail() { printf '\033[31m%s\033[0m\n' "$*" >&2; exit 1; }

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.12 python3.11 python3.13 python3; do
    [ -n "$candidate" ] || continue
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  fail "No Python 3.11 to 3.13 found. Install one (apt install python3 python3-venv) or set PYTHON=/path/to/python."
}

has_library() { ldconfig -p 2>/dev/null | grep -q "$1"; }

install_system_packages() {
  local missing=()
  command -v g++ >/dev/null || missing+=(g++)
  command -v git >/dev/null || missing+=(git)
  "$1" -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
  [ -e "$("$1" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] || missing+=(python3-dev)
  # MuJoCo renders the simulated cameras off screen through EGL (Mesa's software renderer will do).
  { has_library 'libEGL\.so\.1' && has_library 'libGL\.so\.1'; } || missing+=(libegl1 libgl1)
  { has_library 'libEGL_mesa\.so\.0' || has_library 'libEGL_nvidia\.so\.0'; } || missing+=(libegl-mesa0 libgl1-mesa-dri)
  [ ${#missing[@]} -gt 0 ] || return 0
  local sudo=()
  if [ "$(id -u)" -ne 0 ]; then
    if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
      sudo=(sudo)
    else
      fail "These system packages are missing and may not be installed from here. Please run:
  sudo apt-get install -y ${missing[*]}"
    fi
  fi
  command -v apt-get >/dev/null || fail "These system packages are missing: ${missing[*]} (names as on Debian and Ubuntu)."
  say "Installing system packages: ${missing[*]}"
  "${sudo[@]}" apt-get update -q
  DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -q -y --no-install-recommends "${missing[@]}"
}

fingerprint() {
  {
    echo "$extras" "${AMENT_PREFIX_PATH:-}" "${COSMOS3_ROS_WHEELS:-kilted}"
    cat setup.cfg setup.py CMakeLists.txt package.xml cmake/*.cmake tools/setup_environment.sh
    cat msg/*.msg srv/*.srv action/*.action
  } | sha256sum | cut -d' ' -f1
}

wanted="$(fingerprint)"
if [ "$(cat "$stamp" 2>/dev/null || true)" = "$wanted" ]; then
  exit 0
fi

python="$(find_python)"
install_system_packages "$python"
if [ ! -x "$venv/bin/python" ]; then
  say "Creating $venv with $("$python" --version)"
  options=()
  # A sourced ROS installation brings rclpy and numpy for the system's Python.
  [ -n "${AMENT_PREFIX_PATH:-}" ] && options+=(--system-site-packages)
  "$python" -m venv "${options[@]}" "$venv"
  "$venv/bin/python" -m pip install --quiet --upgrade pip wheel
fi
# Python compiles what is imported when it is imported first; compiling all of torch and its company up
# front takes a minute.
export PIP_NO_COMPILE=1
say "Installing torch (a large download the first time)"
"$venv/bin/python" -m pip install --quiet "$torch"
say "Installing cosmos3_ros with its dependencies and building its messages"
"$venv/bin/python" -m pip install --quiet --editable ".[$extras]"
echo "$wanted" > "$stamp"
say "Ready: source $venv/bin/activate"
