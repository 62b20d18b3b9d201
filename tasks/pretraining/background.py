"""Writing beside the training: what is to be written is copied, then a thread writes and hashes it.

A kill finds the same files as before: a state counts once its marker is there.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch.utils._pytree import tree_map_only


def host_copy(content: Any) -> Any:
    """Copies in main memory of the tensors of a state dict; tensors that share their memory still do."""
    copies: dict[Any, torch.Tensor] = {}

    def copy(tensor: torch.Tensor) -> torch.Tensor:
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if place not in copies or not tensor.numel():
            copies[place] = tensor.detach().to("cpu", copy=True)
        return copies[place]

    return tree_map_only(torch.Tensor, copy, content)


class BackgroundWriter:
    """One thread that does what it is given in order. What went wrong is raised by the next call of any method."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._under_way: deque[Future[None]] = deque()

    def submit(self, work: Callable[[], None]) -> None:
        """Write this after all before it; waits while two are under way, each of which holds a copy in memory."""
        while len(self._under_way) > 1:
            self._under_way.popleft().result()
        self._under_way.append(self._thread.submit(work))

    def check(self) -> None:
        """Raise what has gone wrong so far."""
        while self._under_way and self._under_way[0].done():
            self._under_way.popleft().result()

    def wait(self) -> None:
        """Return when all is written."""
        while self._under_way:
            self._under_way.popleft().result()

    def close(self) -> None:
        """End the thread, once all is written."""
        self._thread.shutdown()
