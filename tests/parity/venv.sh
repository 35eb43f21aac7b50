#!/bin/sh
# venv.sh WHO DIR: makes the Python environment of `make WHO` (parity, golden) in DIR and prints its
# Python; it sees the packages that the system has, and installs those that are missing. What stays
# missing is named.
who=$1 dir=$2

say() { echo "make $who: $*" >&2; }

missing()
{
    "$dir/bin/python" - << 'END'
from importlib.util import find_spec
packages = {"torch": "torch", "numpy": "numpy", "scipy": "scipy", "sklearn": "scikit-learn",
            "nibabel": "nibabel", "safetensors": "safetensors", "cv2": "opencv-python-headless",
            "albumentations": "albumentations", "skimage": "scikit-image",
            "brainextractor": "brainextractor", "statsmodels": "statsmodels"}
print(*(name for module, name in packages.items() if find_spec(module) is None))
END
}

if ! python3 -c "" > /dev/null 2>&1; then
    say "python3 is missing or does not start (make test needs none: it uses the numbers in tests/golden)"
    exit 1
fi
if [ ! -x "$dir/bin/python" ] &&
    ! python3 -m venv --system-site-packages "$dir" > /dev/null 2>&1 &&
    ! python3 -m venv --system-site-packages --without-pip "$dir" >&2; then
    say "python3 -m venv failed (on Debian it is the package python3-venv)"
    exit 1
fi
lacking=$(missing) || exit 1
for package in $lacking; do
    say "installing $package"
    "$dir/bin/python" -m pip install --quiet --disable-pip-version-check "$package" >&2 ||
        say "could not install $package"
done
if [ -n "$lacking" ] && lacking=$(missing) && [ -n "$lacking" ]; then
    say "missing: $lacking; what needs them is left out"
fi
if ! command -v Rscript > /dev/null 2>&1; then
    say "Rscript is missing; what needs R and its package pROC is left out"
elif ! Rscript --vanilla -e 'quit(status = !requireNamespace("pROC", quietly = TRUE))' > /dev/null 2>&1; then
    say "R has no package pROC (install.packages(\"pROC\")); what needs it is left out"
fi
echo "$dir/bin/python"
