"""`trainer.compile`: training by compiled code, or by CUDA graphs."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from omegaconf import DictConfig
from torch._dynamo.exc import TorchDynamoException

from fewshot.errors import UserError, brief
from fewshot.methods import MetaLearner
from fewshot.training.captured import captured, recordable

# passes or inner steps: each saves .3 ms or more on a CPU, and compiling takes half a minute or more
LONG = 150_000


@contextmanager
def compiled(learner: MetaLearner, cfg: DictConfig, device: torch.device) -> Iterator[None]:
    """Inside, training calls compiled code for the learner's method `repeated`.

    On a GPU, with `trainer.compile=true`, all of the `losses` of a `one_graph` learner are compiled as CUDA
    graphs; with `auto` nothing is compiled, and the `losses` are captured as they are. Validation and test do
    without. What `auto` cannot compile is trained as it is. `learner.compiled` says what happened.

    Raises:
        UserError: `trainer.compile=true`, and the machine has no compiler.
    """
    learner.compiled = wanted(learner, cfg, device)
    if not learner.compiled:
        replays = cfg.trainer.compile == "auto" and recordable(learner, cfg, device)
        with captured(learner) if replays else nullcontext():
            yield
        return
    name = str(piece(learner, device))
    print(
        f"compiling {type(learner).__name__}.{name}: half a minute or more the first time (trainer.compile)",
        file=sys.stderr,
    )
    setattr(learner, name, as_graphs(learner) if name == "losses" else either(learner, name, cfg))
    try:
        with torch._dynamo.config.patch(allow_rnn=True):  # a learner may read the weights of a torch.nn.LSTM
            yield
    finally:
        delattr(learner, name)
        torch._dynamo.reset()  # it takes eight variants of one method, and a multirun may have more


def as_graphs(learner: MetaLearner) -> Callable[..., Any]:
    """The learner's `losses`, compiled and replayed as CUDA graphs."""
    # channels last, which tensor cores take: torch has it off where no layer has more than 64
    options: dict[str, Any] = {"triton.cudagraphs": True, "force_layout_optimization": True}
    replayed = torch.compile(learner.losses, fullgraph=True, dynamic=False, options=options)
    # the next update writes its results into the same memory, and a progress bar may show these
    return lambda episode: tuple(result.clone() for result in replayed(episode))


def either(learner: MetaLearner, name: str, cfg: DictConfig) -> Callable[..., Any]:
    """A method of the learner, compiled in training and as it is elsewhere."""
    plain = getattr(learner, name)
    quick = torch.compile(plain, fullgraph=True, dynamic=False)

    def call(*args: Any) -> Any:
        if not learner.compiled or not torch.is_grad_enabled():
            return plain(*args)
        try:
            return quick(*learner.alike(*args))
        except TorchDynamoException as error:
            if cfg.trainer.compile is True:
                raise
            learner.compiled = False
            reason = f"which torch cannot compile ({brief(error, 100)})"
            print(f"trains {name} without compiling, {reason}", file=sys.stderr)
            return plain(*args)

    return call


def piece(learner: MetaLearner, device: torch.device) -> str | None:
    """The method to compile for training on `device`, None if none is worth it."""
    graphs = learner.one_graph and device.type == "cuda" and learner.micro_batch_size is None
    return "losses" if graphs else learner.repeated


def wanted(learner: MetaLearner, cfg: DictConfig, device: torch.device) -> bool:
    """Whether to compile; says so where compiling would pay and is not done."""
    choice, name = cfg.trainer.compile, piece(learner, device)
    if choice is True and name is None:
        which = f"method={cfg.method.name} with backbone={cfg.backbone.name}"
        raise UserError(f"trainer.compile=true: {which} has no part worth compiling, choose auto or false")
    steps = cfg.trainer.max_steps * (getattr(learner, learner.steps_setting) if learner.steps_setting else 1)
    if choice == "auto" and (name == "losses" or recordable(learner, cfg, device)):
        if name == "losses" and cfg.backbone.name == "conv4" and cfg.trainer.max_steps >= 10_000:
            faster = (
                "trainer.compile=true trainer.precision=tf32 took half the time on images, by CUDA graphs"
            )
            print(faster, file=sys.stderr)
        return False
    if not choice or name is None or (choice == "auto" and steps < LONG):
        return False
    if why := no_compiler(device):
        if choice is True:
            raise UserError(f"trainer.compile=true: torch cannot compile here, choose auto or false ({why})")
        print(
            f"trains without compiling, which would be faster: torch cannot compile here ({why})",
            file=sys.stderr,
        )
    return not why


def no_compiler(device: torch.device) -> str:
    """Why torch cannot compile for `device`, "" if it can: tried on a line of code."""
    probe: Callable[[torch.Tensor], Any] = torch.compile(lambda x: x.sin() + 1, dynamic=False)
    try:
        probe(torch.zeros(8, device=device))
    except Exception as error:
        return brief(error, 100)
    return ""
