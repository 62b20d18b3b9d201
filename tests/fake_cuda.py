"""Fake CUDA tensors on a machine without a GPU: devices, dtypes and shapes are true, and nothing is computed.

    with fake_cuda(library) as syncs:
        move(model)(**on_fake_cuda(batch)).loss.backward()
    assert not syncs.asked

A tensor on the wrong device, or of a dtype that does not fit, raises as on a GPU. What a real GPU would make the host
wait for, such as `.item()`, is answered with a made value and kept in `syncs.asked`.
"""

import ctypes
import shutil
import subprocess
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

SOURCE = Path(__file__).with_suffix(".cpp")
ROOT = SOURCE.parents[1]
aten = torch.ops.aten
# Operations that read a mask on the host, to learn how many elements it selects.
BY_MASK = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)
# Operations that refuse floats of two dtypes on a GPU, and indices that are not int64, where fake tensors take them.
ONE_DTYPE = (aten.mm, aten.addmm, aten.native_layer_norm, aten.index_put, aten.index_put_, aten._index_put_impl_)
ONE_DTYPE += (aten.index_add, aten.index_add_)
LONG_INDEX = {aten.gather: 2, aten.nll_loss_forward: 1}
# What a number that the host asks for is said to be.
ANSWER = 3


def build_device_guard(folder: Path) -> Path | None:
    """Compile the pretended device of fake_cuda.cpp; None where there is no compiler."""
    compiler, torchs = shutil.which("g++") or shutil.which("clang++"), Path(torch.__file__).parent
    if compiler is None:
        return None
    library = folder / "fake_cuda.so"
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    linked = [f"-L{torchs / 'lib'}", "-lc10", "-ltorch_cpu"]
    flags = ["-shared", "-fPIC", "-O0", "-w", "-std=c++20", abi, f"-I{torchs / 'include'}"]
    subprocess.run([compiler, *flags, str(SOURCE), "-o", str(library), *linked], check=True)
    return library


class HostSyncs(TorchDispatchMode):
    """Answers what only a computation could know, keeps the lines of this project that asked, and checks dtypes.

    Attributes:
        asked: the lines, in order.
        ran: names of all operations.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.ran: set[str] = set()

    def _note(self) -> None:
        for frame in reversed(traceback.extract_stack()):
            if frame.filename.startswith(str(ROOT)) and frame.filename != __file__ and not _installed(frame.filename):
                where = Path(frame.filename).relative_to(ROOT).as_posix()
                self.asked.append(f"{where}:{frame.lineno} {frame.line}")
                return
        self.asked.append("in the backward pass")  # which has a thread of its own

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        _check_dtypes(func, args)
        self.ran.add(func.overloadpacket.__name__)
        if func is aten._local_scalar_dense.default:
            if args[0].device.type == "cuda":
                self._note()
            return float(ANSWER) if args[0].is_floating_point() else ANSWER
        if func is aten.nonzero.default and args[0].device.type == "cuda":
            self._note()
            return args[0].new_empty((args[0].numel(), args[0].ndim), dtype=torch.int64)
        if func in BY_MASK and any(index is not None and index.dtype == torch.bool for index in args[1]):
            self._note()
            args = (args[0], _all_of(args[1]), *args[2:])
        if func is aten._to_copy.default and args[0].device.type == "cuda":
            device = kwargs.get("device")
            if device is not None and torch.device(device).type == "cpu" and not kwargs.get("non_blocking"):
                self._note()
        return func(*args, **kwargs)


def _installed(file: str) -> bool:
    """Whether a file is a library's, as in an environment within the checkout."""
    return "site-packages" in Path(file).parts


def _check_dtypes(func: Any, args: tuple[Any, ...]) -> None:
    operation = func.overloadpacket
    if operation in ONE_DTYPE:
        floats = {tensor.dtype for tensor in args if isinstance(tensor, Tensor) and tensor.is_floating_point()}
        if len(floats) > 1:
            raise RuntimeError(f"{func}: two dtypes, {' and '.join(sorted(map(str, floats)))}")
    if operation in LONG_INDEX and (found := args[LONG_INDEX[operation]].dtype) != torch.int64:
        raise RuntimeError(f"{func}: the dtype of an index is {found}, not int64")


def _all_of(indices: list[Tensor | None]) -> list[Tensor | None]:
    """Indices with every mask replaced by those of all its elements."""
    plain: list[Tensor | None] = []
    for index in indices:
        if index is not None and index.dtype == torch.bool:
            plain += [index.new_empty(index.numel(), dtype=torch.int64) for _ in range(index.ndim)]
        else:
            plain.append(index)
    return plain


@contextmanager
def fake_cuda(library: Path | None) -> Iterator[HostSyncs]:
    """Make every new tensor a fake one while the block runs, on whatever device it names.

    Args:
        library: of `build_device_guard`; None where torch can use a GPU.
    """
    exchange = ctypes.CDLL(str(library)).exchange if library else lambda: None
    exchange()
    try:
        with (
            patch.object(torch.cuda, "is_available", lambda: True),
            patch.object(torch.cuda, "is_bf16_supported", lambda *_: True),
            # Backward passes in this thread: torch starts those of devices once, for the ones there are at its first.
            torch.autograd.set_multithreading_enabled(False),
            FakeTensorMode(allow_non_fake_inputs=True),
            HostSyncs() as syncs,
        ):
            yield syncs
    finally:
        exchange()


def on_fake_cuda(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors of the shapes and dtypes of a batch, on the fake GPU."""
    return tree_map_only(
        Tensor, lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda"), dict(batch)
    )


def move(module: nn.Module) -> nn.Module:
    """Put parameters and buffers of a module on the fake GPU; a tensor that is neither stays behind, and is seen."""
    moved: dict[int, Tensor] = {}  # a tied weight stays tied
    for part in module.modules():
        for own in (part._parameters, part._buffers):
            for name, tensor in own.items():
                if tensor is None:
                    continue
                if id(tensor) not in moved:
                    fake = torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")
                    parameter = isinstance(tensor, nn.Parameter)
                    moved[id(tensor)] = nn.Parameter(fake, tensor.requires_grad) if parameter else fake
                own[name] = moved[id(tensor)]
    return module
