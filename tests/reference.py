"""Slow reference of the few-shot learners: OP-LSTM, plain LSTM, MAML, Warp-MAML, SAP and ProtoNet.

Everything is written as Python loops over tasks, examples, layers and nodes, straight from the
paper's equations and the settled protocol, so that it can be checked by eye. It shares no code
with the vectorised implementations that it tests. `state` maps parameter names to tensors and
`options` names the variant; every function is differentiable with respect to the state.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

BN_EPS = 1e-5  # BatchNorm, on the biased variance
ROW_EPS = 1e-7  # the BN factor of the pre-activation form, inside the root
NORM_MIN = 1e-12  # smallest norm that is divided by (its square is 1e-24)
EXTRAS = {  # what the sequence LSTM is shown of the step before, after the input, in this order
    "prev_target": ("target",),
    "prev_target_pred": ("target", "pred"),
    "prev_target_err": ("target", "err"),
    "prev_target_pred_err": ("target", "pred", "err"),
}


# ---------------------------------------------------------------- public functions
def predict(method, state, options, support_x, support_y, query_x):
    """Predictions (B, Q, out) of `method` for every query of every task."""
    learner = {
        "oplstm": oplstm_task,
        "lstm": lstm_task,
        "maml": maml_task,
        "warpmaml": warpmaml_task,
        "sap": sap_task,
        "protonet": protonet_task,
    }[method]
    tasks = range(len(support_x))
    return torch.stack([learner(state, options, support_x[b], support_y[b], query_x[b]) for b in tasks])


def task_loss(prediction, query_y):
    """Cross entropy (integer labels) or squared error, averaged over the examples of one task."""
    if is_classification(query_y):
        return F.cross_entropy(prediction, query_y)
    if prediction.shape != query_y.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} against target {tuple(query_y.shape)}")
    return ((prediction - query_y) ** 2).mean()


def loss(method, state, options, support_x, support_y, query_x, query_y):
    """Sum over the meta-batch of the task losses."""
    predictions = predict(method, state, options, support_x, support_y, query_x)
    return sum(task_loss(predictions[b], query_y[b]) for b in range(len(query_y)))


def meta_gradient(method, state, options, support_x, support_y, query_x, query_y):
    """Gradient of `loss` by name, task after task, with the outer clamp of the gradient-based learners.

    MAML clamps after every task or once (outer_clamp), Warp-MAML and SAP once. Warp-MAML's is not the
    gradient of `loss`: see warpmaml_gradient.
    """
    state = {name: tensor.detach().clone().requires_grad_() for name, tensor in state.items()}
    total = {name: torch.zeros_like(tensor, requires_grad=False) for name, tensor in state.items()}
    clamp = options["grad_clip"] if method in ("maml", "warpmaml", "sap") else None
    each = method == "maml" and clamp is not None and {"each": True, "sum": False}[options["outer_clamp"]]
    for b in range(len(support_x)):
        one = slice(b, b + 1)  # a meta-batch of this task alone
        if method == "warpmaml":
            gradients = warpmaml_gradient(state, options, support_x[b], support_y[b], query_x[b], query_y[b])
        else:
            value = loss(method, state, options, support_x[one], support_y[one], query_x[one], query_y[one])
            gradients = gradient_by_name(value, state)
        for name, gradient in gradients.items():
            total[name] = total[name] + gradient
        if each or (clamp is not None and b == len(support_x) - 1):
            total = {name: gradient.clamp(-clamp, clamp) for name, gradient in total.items()}
    return total


# ---------------------------------------------------------------- shared pieces
def is_classification(y):
    """Class labels are integers, regression targets floats."""
    return not y.is_floating_point()


def count(state, pattern):
    """How many consecutive indices i = 0, 1, ... give a name in the state."""
    i = 0
    while pattern.format(i) in state:
        i += 1
    return i


def label_vectors(support_y, ways, like):
    """Targets as vectors (M, out): one-hot for classes, as they are for regression."""
    return F.one_hot(support_y, ways).to(like.dtype) if is_classification(support_y) else support_y


def gradient_by_name(value, tensors):
    """Gradient of one number with respect to named tensors, without those it does not depend on."""
    gradients = torch.autograd.grad(value, list(tensors.values()), allow_unused=True, retain_graph=True)
    return {name: gradient for name, gradient in zip(tensors, gradients) if gradient is not None}


def linear(weight, bias, x):
    """W x_i + b for every example; the bias may be one scalar shared by all rows."""
    return torch.stack([weight @ row + bias for row in x])


def batch_statistics(u):
    """Mean and biased variance of every node or channel over the set (and its pixels)."""
    axes = (0,) if u.dim() == 2 else (0, 2, 3)
    mean = u.mean(axes, keepdim=True)
    return mean, ((u - mean) ** 2).mean(axes, keepdim=True)


def batch_norm(u, statistics, weight, bias):
    """BatchNorm written out, with the given statistics."""
    mean, variance = statistics
    shape = (1, -1) if u.dim() == 2 else (1, -1, 1, 1)
    return (u - mean) / torch.sqrt(variance + BN_EPS) * weight.reshape(shape) + bias.reshape(shape)


def forward_body(state, options, x, given=None):
    """Run one set through all blocks (Eq. 13); `given` replaces the set's own BN statistics.

    A state with SAP's transforms or Warp-MAML's warps (protocol, last section) runs through these too.
    Returns the features (n, D) and, per block, the linear outputs u, activations a and statistics.
    """
    conv, bn = {"mlp": (False, False), "fc": (False, True), "conv4": (True, True)}[options["backbone"]]
    a = x if conv else x.flatten(1)
    a = sap_transform(state, options, 0, a)
    linear_outputs, activations, statistics = [], [], []
    for i in range(count(state, "body.{}.weight")):
        weight, bias = sap_weight(state, i + 1, state[f"body.{i}.weight"]), state[f"body.{i}.bias"]
        u = F.conv2d(a, weight, bias, padding=1) if conv else linear(weight, bias, a)
        linear_outputs.append(u)
        a = u
        if bn:
            statistics.append(batch_statistics(u) if given is None else given[i])
            a = batch_norm(u, statistics[i], state[f"body.{i}.bn_weight"], state[f"body.{i}.bn_bias"])
        a = sap_transform(state, options, i + 1, torch.relu(a))
        a = F.max_pool2d(a, 2) if conv else a
        a = warp(state, i - 1, a)
        activations.append(a)
    return a.flatten(1), linear_outputs, activations, statistics


def query_features(state, options, support_x, query_x):
    """Features of the query set: with its own BN statistics, or with the support set's."""
    shared = {"transductive": False, "support": True}[options.get("bn", "transductive")]
    statistics = forward_body(state, options, support_x)[3] if shared else None
    return forward_body(state, options, query_x, statistics)[0]


def head(state, features):
    """The last linear layer; under SAP followed by its own mixed transform."""
    y = linear(state["head.weight"], state["head.bias"], features)
    if "strength_head" in state:
        s = torch.sigmoid(state["strength_head"])
        y = (1 - s) * y + s * linear(state["transforms_head.weight"], state["transforms_head.bias"], y)
    return y


def lstm_cell(state, prefix, suffix, x, h, c):
    """One LSTM cell on one input vector (Eqs. 1-6), gates in torch's row order i, f, g, o."""
    gates = state[f"{prefix}.weight_ih{suffix}"] @ x + state[f"{prefix}.bias_ih{suffix}"]
    gates = gates + state[f"{prefix}.weight_hh{suffix}"] @ h + state[f"{prefix}.bias_hh{suffix}"]
    n = len(h)
    i, f = torch.sigmoid(gates[:n]), torch.sigmoid(gates[n : 2 * n])
    g, o = torch.tanh(gates[2 * n : 3 * n]), torch.sigmoid(gates[3 * n :])
    c = f * c + i * g
    return o * torch.tanh(c), c


def mean_over(tensors):
    """Mean of equally shaped tensors."""
    return sum(tensors) / len(tensors)


# ---------------------------------------------------------------- OP-LSTM
def oplstm_task(state, options, support_x, support_y, query_x):
    """T passes over the support set, then the query set under H_T (Algorithm 1)."""
    if options["preactivation"] and options["backbone"] != "fc":
        raise ValueError("the pre-activation form exists on the FC net only")
    names = [f"body.{i}.weight" for i in range(count(state, "body.{}.weight"))] + ["head.weight"]
    if options["backbone"] == "conv4":
        names = ["head.weight"]  # H^1..H^L, bottom first; the conv body is not adapted
    current = dict(state)  # H_t of every adapted layer, the rest as meta-learned
    memory = {}  # (h, c) of every (example, layer, node, cell); absent means zero
    for _ in range(options["passes"]):
        current, memory = oplstm_pass(current, options, names, memory, support_x, support_y)
    features = query_features(current, options, support_x, query_x)
    return linear(current["head.weight"], current["head.bias"], features)  # the raw u^L


def oplstm_pass(current, options, names, memory, support_x, support_y):
    """One pass t: all layers are updated at once, from a_t and H_t, after all examples."""
    examples, layers = range(len(support_x)), range(len(names))
    features, u, a, _ = forward_body(current, options, support_x)
    below, seen = layer_inputs(current, options, support_x, support_y, features, u, a)
    target = label_vectors(support_y, len(current["head.weight"]), features)

    h, new_memory = {}, {}
    for i in examples:
        message = target[i]  # Eq. 17, output layer: the target
        for l in reversed(layers):
            lstm = "output_lstm" if names[l] == "head.weight" else "hidden_lstm"
            h[i, l] = torch.stack(
                [  # Eq. 15, node by node, on the z of Eq. 17
                    coordinate_lstm(
                        current, options, lstm, seen[l][i, j], message[j], (i, l, j), memory, new_memory
                    )
                    for j in range(len(message))
                ]
            )
            message = current[names[l]].T @ h[i, l]  # Eq. 17 below: (H_t)^T h_{t+1}, un-pooled h

    updates = []
    for l in layers:
        update = mean_over([outer_product(options, h[i, l], below[l][i]) for i in examples])  # 1/M sum_i
        if options["preactivation"] and names[l] != "head.weight":
            update = row_factor(u[l], current[f"body.{l}.bn_weight"]).reshape(-1, 1) * update
        updates.append(update)
    after = dict(current)
    for name, update in zip(names, normalise(options, updates)):
        after[name] = current[name] + current.get("gamma", 1.0) * update  # Eq. 14
    return after, pool_memory(new_memory, examples) if options["pool_state"] else new_memory


def layer_inputs(current, options, support_x, support_y, features, u, a):
    """Per layer: what its outer product takes from below, and what its coordinate LSTM sees."""
    prediction = linear(current["head.weight"], current["head.bias"], features)
    if options["softmax"] and is_classification(support_y):
        prediction = F.softmax(prediction, dim=-1)
    if options["backbone"] == "conv4":
        return [features], [prediction]
    hidden = u if options["preactivation"] else a
    return [support_x.flatten(1)] + hidden, hidden + [prediction]


def coordinate_lstm(state, options, lstm, seen, message, node, memory, new_memory):
    """The stack of cells at one node for one example (Eq. 15); returns the last cell's one number."""
    x = torch.stack([seen, message])  # Eq. 17
    if options["detach"]:
        x = x.detach()
    for k in range(count(state, lstm + ".{}.weight_ih")):
        zero = x.new_zeros(state[f"{lstm}.{k}.weight_hh"].shape[1])
        h, c = memory.get((*node, k), (zero, zero))
        new_memory[(*node, k)] = lstm_cell(state, f"{lstm}.{k}", "", x, h, c)
        x = new_memory[(*node, k)][0]
    return x.reshape(())


def outer_product(options, h, a):
    """h a^T of one example; divided by its Frobenius norm ||h|| ||a|| in the text's Eq. 14."""
    if options["normalisation"] == "example":
        h = h / torch.linalg.vector_norm(h).clamp_min(NORM_MIN)
        a = a / torch.linalg.vector_norm(a).clamp_min(NORM_MIN)
    return h.reshape(-1, 1) * a.reshape(1, -1)


def row_factor(u, bn_weight):
    """BN weight over the root of the summed squared deviations of u over the support set."""
    return bn_weight / torch.sqrt(((u - u.mean(0)) ** 2).sum(0) + ROW_EPS)


def normalise(options, updates):
    """One norm per averaged matrix, or one of all layers joined; guarded before the root."""
    kind = options["normalisation"]
    squares = [(update**2).sum() for update in updates]
    if kind == "matrix":
        return [update / torch.sqrt(s.clamp_min(NORM_MIN**2)) for update, s in zip(updates, squares)]
    if kind == "joint":
        return [update / torch.sqrt(sum(squares).clamp_min(NORM_MIN**2)) for update in updates]
    if kind in ("example", "none"):
        return updates
    raise ValueError(f"normalisation {kind!r}")


def pool_memory(memory, examples):
    """Eq. 16: every cell's h and c averaged over the examples, not over nodes."""

    def pooled(s, l, j, k):  # s = 0 is h, s = 1 is c
        return mean_over([memory[i, l, j, k][s] for i in examples])

    return {(i, l, j, k): (pooled(0, l, j, k), pooled(1, l, j, k)) for i, l, j, k in memory}


# ---------------------------------------------------------------- plain LSTM
def lstm_task(state, options, support_x, support_y, query_x):
    """Feed [x, y] of the support set, then every query on its own with zeros for the label."""
    if options["support_mode"] == "set" and options["query_cell"] and not options["pool_cell"]:
        raise ValueError("the query cannot start from a cell state that stays per example")
    if "body.0.weight" in state:
        embedded = forward_body(state, options, support_x)[0]
        queries = query_features(state, options, support_x, query_x)
    else:
        embedded, queries = support_x.flatten(1), query_x.flatten(1)
    labels = label_vectors(support_y, len(state["head.weight"]), embedded)
    inputs = options.get("inputs", "target")
    if options["support_mode"] == "set" and inputs != "target":
        raise ValueError("a set has no previous step")
    blank = torch.zeros_like(labels[0])
    if inputs != "target":
        blank = torch.cat([blank for _ in EXTRAS[inputs]])
    walk = {"set": lstm_set, "sequence": lstm_sequence}[options["support_mode"]]
    sizes = [state[f"lstm.{l}.weight_hh_l0"].shape[1] for l in range(count(state, "lstm.{}.weight_ih_l0"))]
    zeros = [embedded.new_zeros(n) for n in sizes]
    h, c = walk(state, options, embedded, labels, zeros)
    if not options["query_cell"]:
        c = zeros
    top = []  # h of the last layer
    for query in queries:
        top.append(lstm_stack(state, torch.cat([query, blank]), h, c)[0][-1])
    return linear(state["head.weight"], state["head.bias"], top)


def lstm_stack(state, x, h, c):
    """One step of all LSTM layers on one input; layer l+1 sees the new h of layer l."""
    new_h, new_c = [], []
    for l in range(len(h)):
        x, c_l = lstm_cell(state, f"lstm.{l}", "_l0", x, h[l], c[l])
        new_h.append(x)
        new_c.append(c_l)
    return new_h, new_c


def lstm_set(state, options, embedded, labels, zeros):
    """Eq. 10: all examples from the pooled h; then h (and c, if pooled) averaged over the set."""
    examples = range(len(embedded))
    h, c = zeros, [zeros for _ in examples]  # c[example][layer]
    for t in range(options["passes"]):
        shown = labels if t > 0 or options["first_labels"] else torch.zeros_like(labels)
        outcome = [lstm_stack(state, torch.cat([embedded[i], shown[i]]), h, c[i]) for i in examples]
        h = [mean_over([outcome[i][0][l] for i in examples]) for l in range(len(h))]
        c = [outcome[i][1] for i in examples]
        if options["pool_cell"]:
            c = [[mean_over([c[i][l] for i in examples]) for l in range(len(h))]] * len(examples)
    return h, c[0]  # equal for all examples where it is pooled, else never used


def lstm_sequence(state, options, embedded, labels, zeros):
    """T walks over the support set in the order given, the state carried over."""
    h, c = zeros, zeros
    if options.get("inputs", "target") != "target":
        return lstm_delayed(state, options, embedded, labels, h, c)
    for _ in range(options["passes"]):
        for i in range(len(embedded)):
            h, c = lstm_stack(state, torch.cat([embedded[i], labels[i]]), h, c)
    return h, c


def lstm_delayed(state, options, embedded, labels, h, c):
    """T walks of M + 1 steps: x_i (last x_0 again) with target, output and error of step i - 1."""
    parts, examples = EXTRAS[options["inputs"]], len(embedded)
    for _ in range(options["passes"]):
        extras = [torch.zeros_like(labels[0]) for _ in parts]
        for i in range(examples + 1):
            h, c = lstm_stack(state, torch.cat([embedded[i % examples]] + extras), h, c)
            if i < examples:
                prediction = state["head.weight"] @ h[-1] + state["head.bias"]
                error = (prediction - labels[i]) ** 2
                seen = {"target": labels[i], "pred": prediction, "err": error}
                extras = [seen[part] for part in parts]
    return h, c


# ---------------------------------------------------------------- MAML, Warp-MAML, SAP and ProtoNet
def maml_task(state, options, support_x, support_y, query_x):
    """Gradient steps on the support loss for all body and head tensors, then the query set.

    With adapt_head_only (ANIL) the steps move the head alone.
    """
    weights = {name: tensor for name, tensor in state.items() if name.startswith(("body.", "head."))}
    names = [
        name for name in weights if name.startswith("head.") or not options.get("adapt_head_only", False)
    ]
    weights = adapt(weights, options, names, support_x, support_y)
    return head(weights, query_features(weights, options, support_x, query_x))


def adapt(weights, options, names, support_x, support_y):
    """All the inner steps of the named tensors."""
    weights = with_gradient(weights, names)
    for _ in range(options["inner_steps"]):
        weights = inner_step(weights, options, names, support_x, support_y)
    return weights


def with_gradient(weights, names):
    """The same weights, the named ones fit to be differentiated even where the caller records nothing."""
    needed = {
        n: weights[n] if weights[n].requires_grad else weights[n].detach().requires_grad_() for n in names
    }
    return {**weights, **needed}


def inner_step(weights, options, names, support_x, support_y):
    """One gradient step on the support loss for the named tensors; the others stay as they are."""
    clamp = options["grad_clip"]
    with torch.enable_grad():
        prediction = head(weights, forward_body(weights, options, support_x)[0])
        support_loss = task_loss(prediction, support_y)
        gradients = torch.autograd.grad(support_loss, [weights[n] for n in names], create_graph=True)
        if options["first_order"]:
            gradients = [gradient.detach() for gradient in gradients]
        if clamp is not None:
            gradients = [gradient.clamp(-clamp, clamp) for gradient in gradients]
        moved = {n: weights[n] - options["inner_lr"] * g for n, g in zip(names, gradients)}
    return {**weights, **moved}


def warp(state, i, a):
    """Warp i, linear and without residual, on the output of block i + 1; nothing where there is none."""
    if f"warps.{i}.weight" not in state:
        return a
    weight, bias = state[f"warps.{i}.weight"], state[f"warps.{i}.bias"]
    return F.conv2d(a, weight, bias, padding=1) if a.dim() == 4 else linear(weight, bias, a)


def warpmaml_names(state):
    """What Warp-MAML's inner steps move: all blocks but the first, and the head; not the warps."""
    names = [name for name in state if name.startswith(("body.", "head."))]
    return [name for name in names if not name.startswith("body.0.")]


def warpmaml_task(state, options, support_x, support_y, query_x):
    """Gradient steps through the warps, then the query set under the last weights."""
    weights = adapt(state, options, warpmaml_names(state), support_x, support_y)
    return head(weights, query_features(weights, options, support_x, query_x))


def warpmaml_gradient(state, options, support_x, support_y, query_x, query_y):
    """Meta-gradient of one task (protocol, last section; Flennerhag et al. 2020) by name.

    Every step has warps phi_t of its own, equal in value. L_t, the query loss after step t, is
    differentiated with respect to phi_t and the initial base weights, and summed over the steps; with
    last_loss the base weights take the loss after the last step alone.
    """
    base = {name: tensor for name, tensor in state.items() if not name.startswith("warps.")}
    total = {name: torch.zeros_like(tensor, requires_grad=False) for name, tensor in state.items()}
    names = warpmaml_names(state)
    weights = with_gradient(state, names)
    for t in range(1, options["inner_steps"] + 1):
        phi = {n: w.detach().clone().requires_grad_() for n, w in state.items() if n.startswith("warps.")}
        weights = inner_step({**weights, **phi}, options, names, support_x, support_y)
        prediction = head(weights, query_features(weights, options, support_x, query_x))
        gradients = gradient_by_name(task_loss(prediction, query_y), {**base, **phi})
        for name, gradient in gradients.items():
            if name in phi or t == options["inner_steps"] or not options["last_loss"]:
                total[name] = total[name] + gradient
    return total


def sap_task(state, options, support_x, support_y, query_x):
    """Gradient steps for all transforms and the head, not for body and strengths; then the query set."""
    names = [name for name in state if name.startswith(("transforms.", "transforms_head.", "head."))]
    weights = adapt(state, options, names, support_x, support_y)
    return head(weights, query_features(weights, options, support_x, query_x))


def sap_weight(state, l, weight):
    """A block's weight scaled by C0 + C1 (per pair of channels) + C2 (per output); the bias is not."""
    if f"strengths.{l}.scale" not in state:
        return weight
    mix = F.softmax(state[f"strengths.{l}.scale"], dim=0)
    pairs, rows = state[f"transforms.{l}.mtl_scale"], state[f"transforms.{l}.simple_scale"]
    scaled = []
    for o in range(weight.shape[0]):
        scale = [mix[0] + mix[1] * pairs[o, i] + mix[2] * rows[o] for i in range(weight.shape[1])]
        scaled.append(torch.stack([scale[i] * weight[o, i] for i in range(weight.shape[1])]))
    return torch.stack(scaled)


def sap_transform(state, options, l, x):
    """Level l on a set: a mixture of linear operators, then of shifts (protocol, last section)."""
    if f"strengths.{l}.multiplication" not in state:
        return x
    mix, shift_mix = (
        F.softmax(state[f"strengths.{l}.multiplication"], dim=0),
        F.softmax(state[f"strengths.{l}.shift"], dim=0),
    )
    own = f"transforms.{l}."
    if x.dim() == 4:
        operators = [F.conv2d(x, state[own + "conv1x1"])]
        for kernel in (
            state[own + "conv3x3"],
            svd_kernel(state[own + "svd_u"], state[own + "svd_s"], state[own + "svd_v"]),
        ):
            if options["centred"]:
                operators.append(F.conv2d(x, kernel, padding=1))
            else:  # as released: two zeros on the right and at the bottom
                operators.append(F.conv2d(F.pad(x, (0, 2, 0, 2)), kernel))
    else:
        operators = [torch.stack([state[own + "matrix"] @ row for row in x])]
    if len(mix) != 1 + len(operators):
        raise ValueError(f"{len(mix)} strengths for the identity and {len(operators)} operators")
    y = mix[0] * x
    for k in range(len(operators)):
        y = y + mix[k + 1] * operators[k]
    shifts = state[own + "vector_shift"].reshape((1, -1, 1, 1) if x.dim() == 4 else (1, -1))
    return y + shift_mix[1] * state[own + "scalar_shift"] + shift_mix[2] * shifts


def svd_kernel(u, s, v):
    """A 3x3 kernel of rank one, u s v^T, for every pair of channels."""
    outputs, inputs = s.shape
    rows = []
    for o in range(outputs):
        rows.append(
            torch.stack([u[o, i].reshape(3, 1) * s[o, i] * v[o, i].reshape(1, 3) for i in range(inputs)])
        )
    return torch.stack(rows)


def protonet_task(state, options, support_x, support_y, query_x):
    """Minus the squared Euclidean distance to the mean feature of every class."""
    features = forward_body(state, options, support_x)[0]
    queries = query_features(state, options, support_x, query_x)
    prototypes = []
    for label in range(options["ways"]):
        prototypes.append(mean_over([f for f, y in zip(features, support_y.tolist()) if y == label]))
    return torch.stack([torch.stack([-((q - p) ** 2).sum() for p in prototypes]) for q in queries])
