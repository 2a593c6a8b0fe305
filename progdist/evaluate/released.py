"""The checkpoints released with the paper, saved as the models of a workdir.

The original model is called cifar_original. The students are expected as cifar_N, as
`imagenet_8` is called; those that the folder holds are used.
"""

import base64
import hashlib
import json
import sys
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from progdist import checkpoint, data, parallel, preflight
from progdist.checkpoint import CheckpointError
from progdist.config import Config
from progdist.data.download import DownloadError, Remote, fetch, read_text
from progdist.model import param_template
from progdist.plan import Phase
from progdist.sampling import cards
from progdist.workdir import files

SUMS = "SHA256SUMS"
Place = Path | Remote
_HOST = "https://storage.googleapis.com"
_DOWNLOADS = "downloads"


def find(folder: str, phases: Sequence[Phase]) -> dict[Phase, Place]:
    """Returns the checkpoints of phases in a folder; phase 0 is the original model.

    Args:
      folder: a directory, or gs://BUCKET/FOLDER of Google Cloud Storage, with public
        access.
      phases: the phases to look for.

    Raises:
      DownloadError: if the folder cannot be listed.
    """
    is_remote = folder.startswith("gs://")
    places = _objects(folder) if is_remote else files.expand(folder).glob("cifar_*")
    by_name: dict[str, Place] = {place.name: place for place in places}
    names = {p: f"cifar_{p.num_steps if p.number else 'original'}" for p in phases}
    return {phase: by_name[name] for phase, name in names.items() if name in by_name}


def save(
    phase: Phase, place: Place, workdir: Path, config: Config, source: data.Source
) -> None:
    """Saves a checkpoint as a model of the workdir, with a card.

    Raises:
      CheckpointError: if it belongs to another network or phase, or its SHA-256 differs
        from the recorded one.
      DownloadError: if it cannot be downloaded.
    """
    if not isinstance(place, Remote):
        _save(phase, place, str(place), workdir, config, source)
        return
    path = workdir / _DOWNLOADS / place.name
    try:
        if not path.exists():
            fetch(place, path)
        _save(phase, path, place.url, workdir, config, source)
    finally:
        path.unlink(missing_ok=True)


def _save(
    phase: Phase,
    path: Path,
    origin: str,
    workdir: Path,
    config: Config,
    source: data.Source,
) -> None:
    mesh = parallel.make_mesh(jax.devices()[:1])
    template = param_template(preflight.make_model(config), mesh)
    num_steps = checkpoint.check_model(path, template).get("num_steps")
    if num_steps not in (None, phase.num_steps):
        raise CheckpointError(
            f"{path}: is a student of {num_steps} steps, not of {phase.num_steps}"
        )
    _check_digest(path, workdir / SUMS)
    facts = {"commit": None, "versions": {}, "origin": origin}
    checkpoint.save_model(
        checkpoint.model_dir(workdir, phase.number, phase.num_steps),
        checkpoint.load_model(path, template),
        cards.make_card(config, phase, source) | facts,
    )


def _check_digest(path: Path, sums: Path) -> None:
    """Compares a file with its recorded SHA-256; records it the first time."""
    lines = sums.read_text().splitlines() if sums.exists() else []
    recorded = {name: digest for digest, _, name in (x.partition("  ") for x in lines)}
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if path.name not in recorded:
        text = "\n".join([*lines, f"{digest}  {path.name}", ""])
        files.write_bytes(sums, text.encode())
        print(f"{path.name}: SHA-256 {digest}, recorded in {sums}", file=sys.stderr)
    elif digest != recorded[path.name]:
        raise CheckpointError(
            f"{path}: its SHA-256 is {digest}, but {sums} has {recorded[path.name]}; "
            "delete that line to accept the file"
        )


def _objects(folder: str) -> list[Remote]:
    """Returns the objects of a folder whose names begin with cifar_."""
    bucket, _, path = folder.removeprefix("gs://").strip("/").partition("/")
    prefix = urllib.parse.quote(f"{path}/cifar_", safe="")
    url = f"{_HOST}/storage/v1/b/{bucket}/o?prefix={prefix}"
    text = read_text(url)
    try:
        items = json.loads(text).get("items", [])
        return [_object(bucket, item) for item in items]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DownloadError(f"{url}: not a listing of objects ({error})") from None


def _object(bucket: str, item: dict[str, Any]) -> Remote:
    """Returns an object of a listing; composite objects have no MD5."""
    url = f"{_HOST}/{bucket}/{urllib.parse.quote(item['name'])}"
    md5 = base64.b64decode(item.get("md5Hash", "")).hex()
    return Remote(url, int(item["size"]), md5=md5)
