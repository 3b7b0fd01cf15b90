"""What a step does, counted and not timed: arithmetic, bytes, operations, memory."""

import weakref
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.cases import Step

TRANSCENDENTAL = ("tanh", "sigmoid", "exp", "log", "_softmax", "_log_softmax", "sqrt", "rsqrt", "sin")
NO_KERNEL = (
    "_unsafe_view",
    "empty",
    "new_empty",
    "empty_like",
    "empty_strided",
    "_local_scalar_dense",
    "detach",
)


@dataclass
class Counter(TorchDispatchMode):
    """Operations as autograd's back end sees them, forward and backward, each with the tensors it reads and
    writes.

    `flops` are those of matrix products and convolutions by torch's own formulas, as FlopCounterMode counts
    them, a multiply-add as two; `bytes` what every kernel reads and writes, as if nothing stayed in a cache;
    `transcendental` the elements of tanh and its like, without their derivatives, which need none; `kernels`
    the operations that are no mere views, about as many as a GPU would launch; `peak` the bytes of the
    tensors made and alive at once.
    """

    flops: int = 0
    bytes: int = 0
    transcendental: int = 0
    ops: int = 0
    kernels: int = 0
    peak: int = 0
    live: int = 0
    by_name: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()
        self.storages: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.ops += 1
        if formula := FORMULAS.get(func.overloadpacket):
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        written = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        if name not in NO_KERNEL and not is_view(func):
            read = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
            self.kernels += 1
            self.by_name[name] = self.by_name.get(name, 0) + 1
            self.bytes += sum(x.numel() * x.element_size() for x in (*read, *written))
            if name.removesuffix("_") in TRANSCENDENTAL:
                self.transcendental += sum(x.numel() for x in written)
        for tensor in written:
            self.keep(tensor.untyped_storage())
        return out

    def totals(self) -> dict[str, Any]:
        """The counts, and the most frequent kernels by name."""
        names = ("flops", "bytes", "transcendental", "ops", "kernels", "peak")
        frequent = sorted(self.by_name.items(), key=lambda item: -item[1])[:12]
        return {name: getattr(self, name) for name in names} | {"by_name": dict(frequent)}

    def keep(self, storage: Any) -> None:
        if storage not in self.storages:
            self.storages.add(storage)
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self.free, storage.nbytes())

    def free(self, size: int) -> None:
        self.live -= size


def is_view(func: Any) -> bool:
    """Whether what comes back is an argument seen in another shape."""
    returned = [r.alias_info for r in func._schema.returns]
    return any(alias is not None and not alias.is_write for alias in returned)


def rnn_flops(x: Any, w_ih: Any, w_hh: Any, *_: Any, **__: Any) -> int:
    """Of an LSTM layer: torch has no formula for it."""
    return 2 * x.shape[0] * x.shape[1] * (w_ih.numel() + w_hh.numel())


def rnn_backward_flops(x: Any, w_ih: Any, w_hh: Any, *_: Any, **__: Any) -> int:
    return 2 * rnn_flops(x, w_ih, w_hh)


FORMULAS = flop_registry | {
    torch.ops.aten.mkldnn_rnn_layer: rnn_flops,
    torch.ops.aten.mkldnn_rnn_layer_backward: rnn_backward_flops,
}


def count(step: Step) -> Counter:
    """One step's counts; the first ones, which make Adam's state, are not it."""
    for _ in range(2):
        step()
    with Counter() as counter:
        step()
    return counter
