"""Where models come from: a local directory, a hub id, or a known model fetched once.

Importing this loads neither torch nor transformers.
"""

from safekv.engines.hf.store.checkpoint import check_checkpoint
from safekv.engines.hf.store.library import ModelLibrary, ModelState, default_root
from safekv.engines.hf.store.names import known_model, model_id, resolve_model
from safekv.engines.hf.store.packaged import DEFAULT_MODEL, KNOWN_MODELS, PackagedModel
from safekv.engines.hf.store.progress import Phase, Progress, Report

__all__ = [
    "DEFAULT_MODEL",
    "KNOWN_MODELS",
    "ModelLibrary",
    "ModelState",
    "PackagedModel",
    "Phase",
    "Progress",
    "Report",
    "check_checkpoint",
    "default_root",
    "known_model",
    "model_id",
    "resolve_model",
]
