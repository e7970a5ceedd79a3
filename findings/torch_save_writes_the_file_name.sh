#!/usr/bin/env bash
# torch 2.13.0 (CPU): torch.save(object, path) writes the file's name into the file: it is the folder of every record in
# the archive. Equal weights saved under two names have different hashes, and a file that is renamed later has the hash
# of its first name. So a SHA-256 of a weights file does not tell whether two networks are the same, caches that go by
# content miss, and a name (of a project, or a patient) stays in a file that is shared under another one. Saved through
# an open file, the folder is always "archive" and equal weights have equal hashes. torch.export.save does the same.
#
# Seen: "weights.pt and patient_7.pt: hashes differ, first records weights/data.pkl and patient_7/data.pkl; through an
# open file: hashes equal, archive/data.pkl; torch.export.save: hashes differ". Fails when that changes.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then
    python3 -m venv "$folder/venv"
    PYTHON="$folder/venv/bin/python"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check "torch==2.13.0" "numpy<3"
fi
"$PYTHON" - "$folder" <<'PYTHON'
import hashlib
import sys
import zipfile
from pathlib import Path

import torch

root = Path(sys.argv[1])
torch.manual_seed(0)
network = torch.nn.Conv3d(1, 2, 3)
program = torch.export.export(network, (torch.rand(1, 1, 8, 8, 8),))


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def first(path):
    return zipfile.ZipFile(path).namelist()[0]


by_path = [root / "weights.pt", root / "patient_7.pt"]
by_file = [root / "one.pt", root / "another.pt"]
exported = [root / "weights.pt2", root / "patient_7.pt2"]
for path in by_path:
    torch.save(network.state_dict(), path)
for path in by_file:
    with path.open("wb") as file:
        torch.save(network.state_dict(), file)
for path in exported:
    torch.export.save(program, path)
same = [len({digest(path) for path in pair}) == 1 for pair in (by_path, by_file, exported)]
words = ["equal" if equal else "differ" for equal in same]
print(f"weights.pt and patient_7.pt: hashes {words[0]}, first records {first(by_path[0])} and {first(by_path[1])}; "
      f"through an open file: hashes {words[1]}, {first(by_file[0])}; torch.export.save: hashes {words[2]}")
assert same == [False, True, False], "the behavior has changed"
assert [first(path) for path in by_path] == ["weights/data.pkl", "patient_7/data.pkl"], "the behavior has changed"
PYTHON
