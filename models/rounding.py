"""Whether a new model starts chaotic: whether rounding, not the text, decides what its concepts are.

Each concept reads the tokens by a softmax. Where scores are large it picks one token, and a rounding error can make it
pick another; layer by layer the error grows until two machines, or 32 and 16 bits, train unrelated models.
"""

import copy

import torch

from .autoencoder import ConceptModel
from .configuration import ConceptConfig

# The rounding error of a start up to which bf16, about 10,000 times coarser, still moves the concepts by less than a
# tenth of their size.
CHAOTIC = 5e-6
# Layers of more weights than this are not built a second time just to measure them.
MEASURABLE = 100_000_000
TOKENS = 64


def rounding_error(config: ConceptConfig) -> float | None:
    """Mean difference of a new encoder's concepts in 32 and in 64 bits on one random text, relative to their size.

    Returns:
        About 1e-6 for a sound start and above `CHAOTIC` for a chaotic one; None where the encoder is too large to
        measure. The global random state stays as it is.
    """
    config = copy.deepcopy(config)
    # Any tokens serve, and few of them: the layers make the difference.
    config.vocab_size, config.pad_token_id = TOKENS, 0
    config.max_sequence_length = min(TOKENS, config.max_sequence_length)
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in ConceptModel(config).parameters())
    if size > MEASURABLE:
        return None
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.no_grad():
        torch.manual_seed(0)
        encoder = ConceptModel(config).encoder.eval()
        ids = torch.randint(1, TOKENS, (1, config.max_sequence_length))
        rounded = encoder(ids).double()
        exact = encoder.double()(ids)
    return float((rounded - exact).abs().mean() / exact.abs().mean())


def chaos_warning(error: float | None) -> str | None:
    """What to tell whoever starts a training with this `rounding_error`; None where there is nothing to say."""
    if error is None or error <= CHAOTIC:
        return None
    return (
        f"the start is chaotic: rounding to 32 bits alone moves the concepts by {error:.0e} of their size (sound: up "
        f"to {CHAOTIC:.0e}), bf16 by far more; another machine trains another model from the same spec, so compare "
        "several seeds; fix: model.initializer_range of 0.02, fewer layers, or no model.use_bixt"
    )
