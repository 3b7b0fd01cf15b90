"""The same learners in plain JAX, to know what this machine could do.

One task as a function; vmap over tasks, or a loop where each has large weights of its own; lax.scan over
passes and inner steps; jit of the whole step with optax's Adam.

`tests/test_rival.py` holds it to the predictions and meta-gradients of ours. Shape suffixes, of one task: M
support examples, Q queries, I inputs and O outputs of a layer.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.cases import Step
from fewshot.episodes import Episode
from fewshot.methods.base import MetaLearner
from fewshot.methods.lstm import PlainLSTM
from fewshot.methods.maml import MAML
from fewshot.methods.oplstm import OPLSTM
from fewshot.methods.protonet import ProtoNet

FEW_WEIGHTS = 100_000

Params = dict[str, jax.Array]
# of one task: M×I, M×O targets, Q×I → Q×O
Predict = Callable[[Params, jax.Array, jax.Array, jax.Array], jax.Array]


def batch_norm(u_MO: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
    return (u_MO - u_MO.mean(0)) * jax.lax.rsqrt(u_MO.var(0) + 1e-5) * weight + bias


def network(p: Params, layers: int, x_MI: jax.Array) -> tuple[list[jax.Array], list[jax.Array]]:
    """Every layer's input and linear output; with a head the last layer has no nonlinearity."""
    inputs, outputs = [x_MI], []
    for k in range(layers):
        u_MO = inputs[-1] @ p[f"body.{k}.weight"].T + p[f"body.{k}.bias"]
        outputs.append(u_MO)
        if f"body.{k}.bn_weight" in p:
            u_MO = batch_norm(u_MO, p[f"body.{k}.bn_weight"], p[f"body.{k}.bn_bias"])
        inputs.append(jax.nn.relu(u_MO))
    if "head.weight" in p:
        outputs.append(inputs[-1] @ p["head.weight"].T + p["head.bias"])
    return inputs, outputs


def cell(p: Params, name: str, end: str, x: jax.Array, state: tuple[jax.Array, jax.Array]) -> Any:
    """The new (h, c) of an LSTM cell; its rows may have any number of axes before the last."""
    w_ih, w_hh, b_ih, b_hh = (
        p[f"{name}.{kind}{end}"] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    h, c = state
    i, f, g, o = jnp.split(x @ w_ih.T + b_ih + h @ w_hh.T + b_hh, 4, -1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def protonet(learner: ProtoNet) -> Predict:
    layers = len(list(learner.body.children()))

    def predict(p: Params, x_MI: jax.Array, y_MO: jax.Array, query_QI: jax.Array) -> jax.Array:
        support, query = (network(p, layers, x)[0][-1] for x in (x_MI, query_QI))
        prototypes = (y_MO.T @ support) / y_MO.sum(0)[:, None]
        return -jnp.square(query[:, None] - prototypes[None]).sum(-1)

    return predict


def maml(learner: MAML) -> Predict:
    layers = len(learner.net.body)  # type: ignore[arg-type]
    loss_of = loss_function(learner)

    def predict(p: Params, x_MI: jax.Array, y_MO: jax.Array, query_QI: jax.Array) -> jax.Array:
        def support_loss(weights: Params) -> jax.Array:
            return loss_of(network(weights, layers, x_MI)[1][-1], y_MO)

        def inner_step(weights: Params, _: None) -> tuple[Params, None]:
            grads = jax.grad(support_loss)(weights)
            if (clamp := learner.grad_clip) is not None:
                grads = jax.tree.map(lambda g: jnp.clip(g, -clamp, clamp), grads)
            return jax.tree.map(lambda w, g: w - learner.inner_lr * g, weights, grads), None

        weights, _ = jax.lax.scan(inner_step, p, None, learner.inner_steps)
        return network(weights, layers, query_QI)[1][-1]

    return predict


def pool(rows: jax.Array) -> jax.Array:
    return jnp.broadcast_to(rows.mean(0), rows.shape)


def plain_lstm(learner: PlainLSTM) -> Predict:
    depth = len(learner.lstm)

    def walk(p: Params, x: jax.Array, states: list[Any]) -> tuple[jax.Array, list[Any]]:
        new = []
        for k in range(depth):
            x, c = cell(p, f"lstm.{k}", "_l0", x, states[k])
            new.append((x, c))
        return x, new

    def predict(p: Params, x_MI: jax.Array, y_MO: jax.Array, query_QI: jax.Array) -> jax.Array:
        examples, queries = len(x_MI), len(query_QI)

        def one_pass(states: list[Any], shown: jax.Array) -> tuple[list[Any], None]:
            _, states = walk(p, jnp.concatenate([x_MI, y_MO * shown], -1), states)
            return [(pool(h), pool(c) if learner.pool_cell else c) for h, c in states], None

        sizes = learner.hparams["hidden"]
        zeros = [(jnp.zeros((examples, units), x_MI.dtype),) * 2 for units in sizes]
        shown = jnp.ones(learner.passes, x_MI.dtype).at[0].set(float(learner.first_labels))
        states, _ = jax.lax.scan(one_pass, zeros, shown)
        start = [(h[:1], c[:1] if learner.query_cell else jnp.zeros_like(c[:1])) for h, c in states]
        start = jax.tree.map(lambda s: jnp.broadcast_to(s, (queries, s.shape[1])), start)
        top, _ = walk(
            p, jnp.concatenate([query_QI, jnp.zeros((queries, y_MO.shape[1]), x_MI.dtype)], -1), start
        )
        return top @ p["head.weight"].T + p["head.bias"]

    return predict


def oplstm(learner: OPLSTM) -> Predict:
    """The released settings: one norm of all layers' updates, or none; states neither pooled nor shown
    softmax."""
    hidden, cells = len(learner.hidden), len(learner.output_lstm)
    names = [*(f"body.{k}" for k in range(hidden)), "head"]
    units = [lstm.hidden_size for lstm in learner.output_lstm]

    def factor(p: Params, k: int, u_MO: jax.Array) -> jax.Array | float:
        if not learner.preactivation or k == hidden:
            return 1.0
        return p[f"body.{k}.bn_weight"] * jax.lax.rsqrt(jnp.square(u_MO - u_MO.mean(0)).sum(0) + 1e-7)

    def predict(p: Params, x_MI: jax.Array, y_MO: jax.Array, query_QI: jax.Array) -> jax.Array:
        def one_pass(carried: Any, _: None) -> Any:
            weights, states = carried
            inputs, outputs = network(p | weights, hidden, x_MI)
            below = [x_MI, *outputs[:-1]] if learner.preactivation else inputs
            shown, message = [*below[1:], outputs[-1]], y_MO
            updates: Params = {}
            new: dict[str, list[Any]] = {}
            for k in reversed(range(hidden + 1)):
                z, new[names[k]] = jnp.stack([shown[k], message], -1), []
                for n in range(cells):
                    lstm = f"{'output' if k == hidden else 'hidden'}_lstm.{n}"
                    z, c = cell(p, lstm, "", z, states[names[k]][n])
                    new[names[k]].append((z, c))
                h_MO, weight = z[..., 0], f"{names[k]}.weight"
                message = h_MO @ weights[weight]
                updates[weight] = (h_MO * factor(p, k, outputs[k])).T @ below[k] / len(x_MI)
            scale = p.get("gamma", 1.0)
            if learner.normalisation == "joint":
                square = sum(jnp.square(update).sum() for update in updates.values())
                scale = scale * jax.lax.rsqrt(jnp.maximum(square, 1e-24))
            return ({name: weights[name] + scale * updates[name] for name in weights}, new), None

        weights = {f"{name}.weight": p[f"{name}.weight"] for name in names}
        zeros = {
            name: [(jnp.zeros((len(x_MI), len(p[f"{name}.weight"]), u), x_MI.dtype),) * 2 for u in units]
            for name in names
        }
        (weights, _), _ = jax.lax.scan(one_pass, (weights, zeros), None, learner.passes)
        return network(p | weights, hidden, query_QI)[1][-1]

    return predict


def has_rival(learner: MetaLearner) -> bool:
    """Whether the settings of this learner are among those written here."""
    body = learner.net.body if type(learner) is MAML else getattr(learner, "body", None)
    if body is not None and (not body.flat or body.bn == "support"):
        return False
    if isinstance(learner, OPLSTM):
        shown = learner.pool_state or learner.softmax or learner.detach
        return learner.normalisation in ("joint", "none") and not shown
    if isinstance(learner, PlainLSTM):
        return learner.support_mode == "set"
    return isinstance(learner, ProtoNet) or (
        type(learner) is MAML and not (learner.first_order or learner.adapt_head_only)
    )


def predictor(learner: MetaLearner) -> Predict:
    rivals: dict[type, Callable[[Any], Predict]] = {
        OPLSTM: oplstm,
        PlainLSTM: plain_lstm,
        ProtoNet: protonet,
        MAML: maml,
    }
    return rivals[type(learner)](learner)


def loss_function(learner: MetaLearner) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The mean loss of one task's predictions."""
    if learner.task.regression:
        return lambda predictions, y: jnp.square(predictions - y).mean()
    return lambda predictions, y: -(jax.nn.log_softmax(predictions) * y).sum(-1).mean()


def copied(learner: MetaLearner) -> Params:
    """The learner's parameters, by their names in a network."""
    named = learner.named_parameters()
    return {name.removeprefix("net."): jnp.array(p.detach().cpu().numpy()) for name, p in named}


def arrays(learner: MetaLearner, episode: Episode) -> list[np.ndarray]:
    """Flat support and query inputs and their targets, as `Predict` takes them, with the task axis before."""
    parts = [episode.support_x.flatten(2), learner.targets(episode.support_y)]
    parts += [episode.query_x.flatten(2), learner.targets(episode.query_y)]
    return [part.cpu().numpy() for part in parts]


def gradient_function(learner: MetaLearner) -> Callable[..., Params]:
    """The meta-gradient of a batch, clamped as the learner does."""
    predict, loss_of = predictor(learner), loss_function(learner)
    # large weights of every task's own fall out of a CPU's caches: MAML's step on the FC net takes half the
    # time so
    one_by_one = (
        isinstance(learner, (MAML, OPLSTM)) and sum(p.numel() for p in learner.parameters()) > FEW_WEIGHTS
    )

    def task_loss(p: Params, x: jax.Array, y: jax.Array, query_x: jax.Array, query_y: jax.Array) -> jax.Array:
        return loss_of(predict(p, x, y, query_x), query_y)

    def batch_loss(p: Params, *batch: jax.Array) -> jax.Array:
        if one_by_one:
            return jax.lax.map(lambda one: task_loss(p, *one), batch).sum()
        return jax.vmap(task_loss, (None, 0, 0, 0, 0))(p, *batch).sum()

    def clamped(p: Params, *batch: jax.Array) -> Params:
        bound: Any = learner.grad_clip

        def add(total: Params, one: Params) -> tuple[Params, None]:
            return jax.tree.map(lambda t, g: jnp.clip(t + g, -bound, bound), total, one), None

        of_tasks = jax.vmap(jax.grad(task_loss), (None, 0, 0, 0, 0))(p, *batch)
        return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, p), of_tasks)[0]

    return clamped if isinstance(learner, MAML) and learner.clip_of_each else jax.grad(batch_loss)


def rival(learner: MetaLearner, batches: Iterator[Episode]) -> tuple[Step, float]:
    """A training step on the same batches, drawn and gathered as ours are, and the seconds its compilation
    took."""
    gradient, optimizer = gradient_function(learner), optax.adam(learner.lr)

    def update(p: Params, state: Any, *batch: jax.Array) -> tuple[Params, Any]:
        updates, state = optimizer.update(gradient(p, *batch), state)
        return optax.apply_updates(p, updates), state

    p = copied(learner)
    held = [p, optimizer.init(p)]
    began = time.perf_counter()
    jitted = jax.jit(update, donate_argnums=(0, 1)).lower(*held, *arrays(learner, next(batches))).compile()
    seconds = time.perf_counter() - began

    def step() -> None:
        held[:] = jax.block_until_ready(jitted(*held, *arrays(learner, next(batches))))

    return step, seconds
