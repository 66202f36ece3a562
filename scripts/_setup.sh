# Sourced by the other scripts: makes .venv with histoxai in it, once; `setup ""` or `setup "[dev]"`.
# A checksum of pyproject.toml and constraints.txt tells whether the installation is still current.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python="$root/.venv/bin/python"
# pip would compile all of torch, most of which is never imported. Python compiles what it imports, once.
unset PYTHONDONTWRITEBYTECODE

setup() {
  local extras=$1 stamp
  stamp="$(cat "$root/pyproject.toml" "$root/constraints.txt" | sha256sum | cut -d' ' -f1)"
  _is_set_up && return 0
  mkdir -p "$root/.venv"
  { # when two scripts start together, the second waits and finds everything installed
    ! command -v flock > /dev/null || flock 9
    _is_set_up || _install
  } 9> "$root/.venv/.installing"
}

_is_set_up() {
  for have in "$extras" "[dev]"; do
    [ "$(cat "$root/.venv/.histoxai$have" 2>/dev/null)" = "$stamp" ] && return 0
  done
  return 1
}

_install() {
  local base=${PYTHON:-python3}
  "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
    echo "histoxai needs Python 3.11 or newer; name one: PYTHON=python3.11 $0" >&2
    exit 1
  }
  echo "installing histoxai$extras into .venv (once; torch takes a minute or two)" >&2
  [ -x "$python" ] || "$base" -m venv "$root/.venv"
  "$python" -m pip install --quiet --no-compile --disable-pip-version-check -c "$root/constraints.txt" -e "$root$extras" >&2 || {
    echo "installation failed; see the lines above" >&2
    exit 1
  }
  # Tests and benchmarks compare with Quantus. It is installed without its dependencies, because its opencv would replace
  # the headless one.
  [ "$extras" != "[dev]" ] || "$python" -m pip install --quiet --no-compile --no-deps --disable-pip-version-check \
    -c "$root/constraints.txt" quantus >&2 || echo "Quantus could not be installed; what compares with it is skipped" >&2
  echo "$stamp" > "$root/.venv/.histoxai$extras"
}
