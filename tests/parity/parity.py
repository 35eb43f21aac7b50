#!/usr/bin/env python3
"""parity.py BUILD [MODULE...]: every number of ours beside that of an implementation that we did
not write, live. Each parity_*.py here has rows(build), which yields (quantity, ours, theirs, error,
tolerance); a row agrees when error <= tolerance. Ends with "N agree, M differ"; the exit status is
1 when one differs or a comparison could not be made. `make parity` runs it with all modules; one
alone, after make parity-build: build/venv/bin/python tests/parity/parity.py build parity_data"""
import glob
import importlib
import os
import sys
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))


def show(value):
    if isinstance(value, (bool, str)):
        return str(value)
    if isinstance(value, int):
        return "%d" % value
    return "%.8g" % float(value)


def main():
    sys.path.insert(0, HERE)
    build = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else "build")
    names = sys.argv[2:] or sorted(os.path.basename(p)[:-3]
                                   for p in glob.glob(os.path.join(HERE, "parity_*.py")))
    agree, differ, missing = 0, 0, []
    line = "%-58s %-24s %-24s %10s %10s  %s"
    print(line % ("quantity", "ours", "theirs", "error", "tolerance", "verdict"))
    for name in names:
        try:
            rows = importlib.import_module(name).rows(build)
            for quantity, ours, theirs, error, tolerance in rows:
                same = float(error) <= float(tolerance)  # false for NaN
                print(line % (quantity, show(ours), show(theirs), "%.3g" % float(error),
                              "%.3g" % float(tolerance), "agree" if same else "DIFFERS"),
                      flush=True)
                agree += same
                differ += not same
        except ImportError as e:
            missing.append("%s: not compared: %s" % (name, e))
        except Exception as e:  # the other comparisons go on
            traceback.print_exc()
            missing.append("%s: ended early: %s" % (name, e))
    for sentence in missing:
        print(sentence)
    print("%d agree, %d differ%s" % (agree, differ, ", %d parts ended early" % len(missing)
                                     if missing else ""))
    return 1 if differ or missing or agree == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
