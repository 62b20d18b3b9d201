"""Running the command as a user does, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# Seconds after which something hangs. A busy machine is slow, which is no fault of a test.
PATIENCE = 900.0

# An experiment of seconds: real stages, tiny sizes.
TINY = """\
name: tiny
data:
  dataset: builtin/python_docs
  max_documents: 150
  train_tokenizer_vocab_size: 600
  block_tokens: 32
  held_out_share: 0.1
model: {hidden_size: 32, num_layers: 1, num_concepts: 8, num_attention_heads: 2, intermediate_size: 32}
training:
  max_steps: 12
  global_batch_size: 16
  per_device_batch_size: 8
  learning_rate: 1.0e-3
  warmup_steps: 2
  eval_every_steps: 6
  max_eval_blocks: 32
  checkpoint_every_steps: 4
evaluation:
  data: made
  tasks: [mrpc, stsb]
  epochs: 0.5
  max_train_examples: 200
  max_length: 32
  learning_rate: 1.0e-3
analysis: {max_samples: 16}
"""


def environment(home: Path, **more: str) -> dict[str, str]:
    """The environment of a user without accounts and without a network, whose state lies under `home`."""
    private = ("HF_TOKEN", "WANDB_API_KEY", "PREFECT_API_URL", "COGITO_DATA_ROOT", "COGITO_LOG")
    kept = {name: value for name, value in os.environ.items() if name not in private}
    kept |= {"COGITO_HOME": str(home), "COGITO_MACHINE": "testbox", "HF_HUB_OFFLINE": "1"}
    kept |= {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return kept | more


def cogito(
    *arguments: str | Path, home: Path, timeout: float = PATIENCE, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run `cogito ...` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=environment(home, **more),
        timeout=timeout,
        cwd=home.parent,
    )


def answer(done: subprocess.CompletedProcess[str]) -> Any:
    """The JSON that a command with --json wrote."""
    assert done.stdout.strip(), done.stderr
    return json.loads(done.stdout)
