"""The code that travels with a checkpoint, so that transformers loads it without this project. No torch here."""

import json
import shutil
from pathlib import Path
from typing import Any

# Which module serves which of transformers' Auto classes, as config.json's auto_map wants it.
AUTO_MAP = {
    "AutoConfig": "configuration.ConceptConfig",
    "AutoModel": "autoencoder.ConceptModel",
    "AutoModelForMaskedLM": "autoencoder.ConceptModelForMaskedLM",
    "AutoModelForSequenceClassification": "classifier.ConceptModelForSequenceClassification",
}
# The flat files that travel with a checkpoint as its remote code.
REMOTE_CODE = (
    *("family", "configuration", "labels", "layers", "losses", "encoder", "decoders", "heads"),
    *("autoencoder", "classifier"),
)


def copy_code(folder: Path) -> None:
    """Put the remote code into a folder."""
    here = Path(__file__).parent
    for name in REMOTE_CODE:
        shutil.copyfile(here / f"{name}.py", folder / f"{name}.py")


def renew_format(folder: Path) -> dict[str, Any]:
    """Write the configuration and the remote code of a checkpoint folder as today; its weights stay as they are.

    Returns:
        The configuration.
    """
    path = folder / "config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if "decoder" in config:  # as in `ConceptConfig`
        config["decoder_type"] = config.pop("decoder")
    config["auto_map"] = AUTO_MAP
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")  # as transformers writes it
    copy_code(folder)
    return config
