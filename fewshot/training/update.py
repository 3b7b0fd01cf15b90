"""`trainer.compile`: a training update as one function, compiled on a CPU, captured as a CUDA graph on a GPU.

It changes weights and Adam's state in place. They remain those of Lightning's optimizer, so that a run is
saved and resumed as without it.
"""

import math
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from torch.optim.adam import adam

from fewshot.backbones.task_weight import gradients, swapped
from fewshot.episodes import Episode
from fewshot.errors import brief
from fewshot.methods import MetaLearner

MANY_UPDATES = 10_000  # compiling takes half a minute to some minutes the first time on a machine
# C++ around the kernels instead of Python, in a file of its own: in one OP-LSTM's passes take many minutes
ON_CPU: Any = {"cpp_wrapper": True, "cpp_wrapper_build_separate": True}
Update = Callable[..., dict[str, Tensor]]  # of an episode's tensors
FIRST_UPDATES = 5  # in which it is compiled or captured, or torch says that it cannot be
SHORT_UPDATE = 0.01  # seconds; Lightning takes .0003 for a batch
INTERVALS = ("max_steps", "val_check_interval", "save_every_n_steps", "log_every_n_steps")


def kind_of_update(choice: bool | str, learner: MetaLearner, trainer: L.Trainer) -> str:
    """How `trainer.compile` lets a run be trained: "eager", "compiled" or "captured"."""
    cls = type(learner)
    own = cls.training_step is not MetaLearner.training_step
    own = own or cls.configure_optimizers is not MetaLearner.configure_optimizers
    needs_grad = trainer.gradient_clip_val or trainer.accumulate_grad_batches > 1 or trainer.world_size > 1
    needs_grad = needs_grad or learner.micro_batch_size or "mixed" in str(trainer.precision)
    on_gpu = trainer.strategy.root_device.type == "cuda"
    if not is_pure(learner) or own or needs_grad or not choice:
        return "eager"
    if choice == "auto" and on_gpu:
        return "captured"
    return "compiled" if choice is True or trainer.max_steps >= MANY_UPDATES else "eager"


def is_pure(learner: MetaLearner) -> bool:
    """Whether the learner's own class declares `pure`, which is not inherited."""
    return bool(vars(type(learner)).get("pure", False))


class WholeUpdate(Callback):
    """Lets a run be trained by `update_function`, or eagerly, after a line that says why torch cannot.

    Short updates are grouped into one batch of Lightning's; a group ends where a log, a validation or a
    checkpoint is due.
    """

    def __init__(self, settings: DictConfig) -> None:
        self.settings, self.done = settings, 0

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        pl_module.update_kind = kind_of_update(self.settings.compile, pl_module, trainer)

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if (kind := pl_module.update_kind) == "eager":
            return
        if kind == "compiled":
            print("compiling, which takes minutes the first time (trainer.compile)", file=sys.stderr)
        self.update = faster(update_function(pl_module, trainer.optimizers[0]), kind, pl_module.device)
        optimization: Any = trainer.fit_loop.epoch_loop.automatic_optimization
        optimization.run = partial(self.run, trainer)

    def run(self, trainer: Any, optimizer: Any, batch_idx: int, kwargs: dict[str, Any]) -> dict[str, Tensor]:
        """What Lightning does with a batch, and counts of it: here one episode or a list of them."""
        loop, batch, started = trainer.fit_loop.epoch_loop, kwargs["batch"], time.perf_counter()
        episodes, optimization = batch if isinstance(batch, list) else [batch], loop.automatic_optimization
        try:
            for episode in episodes:
                outputs = self.update(*episode)
        except (TorchDynamoException, torch.AcceleratorError) as error:
            learner = trainer.lightning_module
            if self.done >= FIRST_UPDATES:
                raise
            print(f"trains eagerly: it cannot be {learner.update_kind}: {brief(error, 200)}", file=sys.stderr)
            learner.update_kind = "eager"
            del optimization.run  # from now on its class's own
            return optimization.run(optimizer, batch_idx, kwargs)
        self.done += len(episodes)
        steps = optimization.optim_progress.optimizer.step
        for count in (steps.total, steps.current):
            count.ready, count.completed = count.ready + len(episodes), count.completed + len(episodes)
        loop.batch_progress.increment_by(len(episodes) - 1)  # Lightning counts one
        loop._batches_that_stepped += len(episodes) - 1
        if self.done == FIRST_UPDATES and time.perf_counter() - started < SHORT_UPDATE:
            trainer.datamodule.streams["train"].group = math.gcd(*(self.settings[name] for name in INTERVALS))
        return outputs


def update_function(learner: MetaLearner, optimizer: Any) -> Update:
    """A step of Adam along the gradient of an episode's summed losses.

    It returns the loss, the predictions, and the norm of the gradient.
    """
    weights = {name: p.detach() for name, p in learner.named_parameters()}
    states = [state_of(p, optimizer) for p in learner.parameters()]
    averages, squares, steps = ([s[name] for s in states] for name in ("exp_avg", "exp_avg_sq", "step"))
    [group] = optimizer.param_groups
    beta1, beta2 = group["betas"]
    settings = {"lr": group["lr"], "beta1": beta1, "beta2": beta2, "eps": group["eps"]}
    settings |= {"weight_decay": 0.0, "amsgrad": False, "maximize": False}

    def update(*episode: Tensor) -> dict[str, Tensor]:
        def loss(at: dict[str, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            with swapped(learner, at):
                losses, predictions = learner.losses(Episode(*episode))
            return losses.sum(), (losses.detach().sum(), predictions.detach())

        found, (total, predictions) = gradients(loss, weights, create_graph=False)
        grads = [*found.values()]
        norm = torch.stack([grad.square().sum() for grad in grads]).sum().sqrt()
        if learner.grad_clip is not None:
            grads = [grad.clamp(-learner.grad_clip, learner.grad_clip) for grad in grads]
        options: Any = settings | {"fused": not torch.compiler.is_compiling()}
        adam([*weights.values()], grads, averages, squares, [], steps, **options)
        return {"loss": total, "predictions": predictions, "gradient_norm": norm}

    return update


def state_of(parameter: Tensor, optimizer: Any) -> dict[str, Tensor]:
    """Adam's state of a parameter; before its first step that of zero steps."""
    if parameter not in optimizer.state:
        moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
        step = torch.zeros((), dtype=torch.float32, device=parameter.device)
        optimizer.state[parameter] = {"step": step, **moments}
    return optimizer.state[parameter]


def faster(update: Update, kind: str, device: torch.device) -> Update:
    """The update compiled or captured."""
    torch._dynamo.reset()  # what an earlier job of a multirun has compiled
    torch._dynamo.config.allow_rnn = True  # a learner may read the weights of an nn.LSTM
    options = ON_CPU if device.type == "cpu" else {"force_layout_optimization": True}
    if kind == "compiled":
        update = torch.compile(update, fullgraph=True, dynamic=False, options=options)
    if device.type == "cuda":
        update = Captured(update)
    return torch.no_grad()(update)


class Captured:
    """An update as a CUDA graph, which launches all kernels at once; three updates before let CUDA set up."""

    def __init__(self, update: Update) -> None:
        self.update, self.calls, self.stream = update, 0, torch.cuda.Stream()

    def __call__(self, *episode: Tensor) -> dict[str, Tensor]:
        self.calls += 1
        if self.calls <= 3:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                outputs = self.update(*episode)
            torch.cuda.current_stream().wait_stream(self.stream)
            return outputs
        if self.calls == 4:
            self.graph, self.inputs = torch.cuda.CUDAGraph(), [x.clone() for x in episode]
            with torch.cuda.graph(self.graph):
                self.outputs = self.update(*self.inputs)
        for own, new in zip(self.inputs, episode, strict=True):
            own.copy_(new)
        self.graph.replay()
        return {name: x.clone() for name, x in self.outputs.items()}  # the next update overwrites them
