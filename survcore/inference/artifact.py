"""A model on disk: ``model.json`` says what it is, ``model.safetensors`` holds its weights; nothing is pickled."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from survcore.errors import CheckpointError
from survcore.files import replacing_folder

FORMAT = "survcore-model"
FORMAT_VERSION = 2
DESCRIPTION = "model.json"
WEIGHTS = "model.safetensors"
_OWN_DIGEST = "description_sha256"


def save_artifact(path: str | Path, description: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """Write a model folder; an existing one is replaced as a whole."""
    data = save_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()})
    header = {"format": FORMAT, "format_version": FORMAT_VERSION, "weights_sha256": hashlib.sha256(data).hexdigest()}
    # As it will be read back, so that the digest is that of what is read.
    whole = json.loads(json.dumps({**description, **header}))
    with replacing_folder(path) as folder:
        (folder / WEIGHTS).write_bytes(data)
        (folder / DESCRIPTION).write_text(json.dumps({**whole, _OWN_DIGEST: _digest(whole)}, indent=1))


def load_artifact(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Description and weights of a model folder.

    Raises:
        CheckpointError: the folder is no survcore model, of another version, or its weights are cut short or changed.
    """
    folder = Path(path)
    if not (folder / DESCRIPTION).is_file() and (folder / "model" / DESCRIPTION).is_file():
        folder = folder / "model"
    try:
        description = json.loads((folder / DESCRIPTION).read_text())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is not a survcore model: it holds no {DESCRIPTION}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{folder / DESCRIPTION} is cut short or not JSON: {error}") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise CheckpointError(f"{folder / DESCRIPTION} does not describe a survcore model")
    if description.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder} has model format {description.get('format_version')}, this survcore reads {FORMAT_VERSION}"
        )
    # Models saved before descriptions had a digest have none.
    own = description.pop(_OWN_DIGEST, None)
    if own is not None and own != _digest(description):
        raise CheckpointError(f"{folder / DESCRIPTION} was changed after it was saved (checksum differs)")
    try:
        data = (folder / WEIGHTS).read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} holds no {WEIGHTS}") from error
    if hashlib.sha256(data).hexdigest() != description.get("weights_sha256"):
        raise CheckpointError(f"{folder / WEIGHTS} is cut short or was changed after it was saved (checksum differs)")
    try:
        return description, load_tensors(data)
    except SafetensorError as error:
        raise CheckpointError(f"{folder / WEIGHTS} is not a safetensors file: {error}") from error


def _digest(description: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()
