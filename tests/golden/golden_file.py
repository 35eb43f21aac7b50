"""How the make_*.py here write their files: beside themselves, whole or not at all."""
import os

HERE = os.path.dirname(os.path.abspath(__file__))


def replace(name, content):
    """The file `name` with this text or these bytes; when anything fails, the old one stays."""
    path = os.path.join(HERE, name)
    if isinstance(content, str):
        content = content.encode()
    try:
        with open(path + ".part", "wb") as f:
            f.write(content)
        os.replace(path + ".part", path)
    finally:
        if os.path.exists(path + ".part"):
            os.remove(path + ".part")
    print("%s, %d bytes" % (name, len(content)))
