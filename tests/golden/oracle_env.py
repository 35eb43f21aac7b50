"""A virtual environment for the oracles that want old or rare packages: Albumentations 1.0.3 over
OpenCV 4 (which rounds the source coordinates of a warp to 1/32 pixel; OpenCV 5 does not) and five
compressors that are not zlib. It is made in build/oracles ($QNET_BUILD/oracles) on first use, by pip; where that fails,
python() says why and the interpreter at hand is used, with whatever it has."""
import os, subprocess, sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PACKAGES = ["numpy==1.26.4", "scipy==1.11.4", "opencv-python-headless==4.8.1.78", "albumentations==1.0.3",
            "pyyaml", "scikit-image==0.22.0", "networkx", "imageio", "pillow", "packaging",
            "lazy_loader", "tifffile", "isal", "zopfli", "zlib-ng", "deflate"]


def python():
    folder = os.path.join(os.environ.get("QNET_BUILD") or os.path.join(ROOT, "build"), "oracles")
    made = os.path.join(folder, "bin", "python")
    if not os.path.exists(os.path.join(folder, "complete")):
        try:
            subprocess.run([sys.executable, "-m", "venv", folder], check=True, capture_output=True)
            subprocess.run([made, "-m", "pip", "install", "-q", "--no-deps"] + PACKAGES, check=True,
                           capture_output=True)
            open(os.path.join(folder, "complete"), "w").close()
        except (OSError, subprocess.CalledProcessError) as e:
            text = getattr(e, "stderr", b"") or b""
            print("oracle_env: no virtual environment (%s): using %s\n%s" %
                  (e, sys.executable, text.decode()[-500:]), file=sys.stderr)
            return sys.executable
    return made
