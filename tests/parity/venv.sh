#!/bin/sh
# venv.sh DIR: makes the Python environment of `make parity` in DIR and prints its Python; it sees the
# packages that the system has, and installs those that are missing. What stays missing is named.
dir=$1
packages="torch numpy scipy sklearn:scikit-learn nibabel safetensors cv2:opencv-python-headless albumentations"

missing()
{
    for p in $packages; do
        "$dir/bin/python" -c "import ${p%%:*}" >/dev/null 2>&1 || printf '%s ' "${p##*:}"
    done
}

command -v python3 >/dev/null 2>&1 || { echo "make parity: python3 is missing; the committed numbers in tests/golden are what make test uses" >&2; exit 1; }
if [ ! -x "$dir/bin/python" ]; then
    python3 -m venv --system-site-packages "$dir" >&2 ||
        python3 -m venv --system-site-packages --without-pip "$dir" >&2 ||
        { echo "make parity: python3 -m venv failed (on Debian: the package python3-venv)" >&2; exit 1; }
fi
lacking=$(missing)
if [ -n "$lacking" ]; then
    echo "make parity: installing $lacking" >&2
    for p in $lacking; do
        "$dir/bin/python" -m pip install --quiet --disable-pip-version-check "$p" >&2 ||
            echo "make parity: could not install $p" >&2
    done
    lacking=$(missing)
    [ -n "$lacking" ] && echo "make parity: still missing: $lacking; what needs them is not compared" >&2
fi
echo "$dir/bin/python"
