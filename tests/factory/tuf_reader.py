"""python-tuf reads a factory: URL of the base, a folder, and targets to fetch.

Prints PASS for each thing that held.
"""

import json
import pathlib
import sys
import urllib.request

from tuf.ngclient import Updater

base, folder, *targets = sys.argv[1:]
folder = pathlib.Path(folder)
metadata, files = folder / "metadata", folder / "files"
metadata.mkdir(parents=True)
files.mkdir()


def get(path, **headers):
    return urllib.request.urlopen(urllib.request.Request(f"{base}/{path}", headers=headers))


root = get("metadata/1.root.json").read()


def updater():
    return Updater(
        metadata_dir=str(metadata),
        metadata_base_url=f"{base}/metadata/",
        target_dir=str(files),
        target_base_url=f"{base}/targets/",
        bootstrap=root,
    )


client = updater()
client.refresh()
documents = {}
for target in targets:
    info = client.get_targetinfo(target)
    assert info is not None, target
    path = client.download_target(info, filepath=str(files / target.replace("/", "+")))
    documents[target] = json.loads(pathlib.Path(path).read_text())
    print("PASS", target, info.length)

index = f"index/{documents[targets[0]]['file']['blake3']}.bin"
info = client.get_targetinfo(index)
path = client.download_target(info, filepath=str(files / "index"))
assert pathlib.Path(path).read_bytes().startswith(b"OUTINDEX")
print("PASS", index, info.length)
assert client.get_targetinfo("manifest/other@1.json") is None

# A second visit starts from what the first one left, and a range is a range.
client = updater()
client.refresh()
whole = get("metadata/timestamp.json").read()
part = get("metadata/timestamp.json", Range="bytes=10-19")
assert part.status == 206 and part.read() == whole[10:20]
assert part.headers["Content-Range"] == f"bytes 10-19/{len(whole)}"
print("PASS again, and a range")
