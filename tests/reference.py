"""Slow reference of the four few-shot learners: OP-LSTM, plain LSTM, MAML and ProtoNet.

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


# ---------------------------------------------------------------- public functions
def predict(method, state, options, support_x, support_y, query_x):
    """Predictions (B, Q, out) of `method` for every query of every task."""
    learner = {"oplstm": oplstm_task, "lstm": lstm_task, "maml": maml_task, "protonet": protonet_task}[method]
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
    """Gradient of `loss` by name, task after task; for MAML with the outer clamp."""
    state = {name: tensor.detach().clone().requires_grad_() for name, tensor in state.items()}
    total = {name: torch.zeros_like(tensor, requires_grad=False) for name, tensor in state.items()}
    clamp = options["clamp"] if method == "maml" else None
    each = clamp is not None and {"each": True, "sum": False}[options["outer_clamp"]]
    for b in range(len(support_x)):
        one = slice(b, b + 1)  # a meta-batch of this task alone
        value = loss(method, state, options, support_x[one], support_y[one], query_x[one], query_y[one])
        gradients = torch.autograd.grad(value, list(state.values()), allow_unused=True)
        for name, gradient in zip(state, gradients):
            if gradient is not None:
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

    Returns the features (n, D) and, per block, the linear outputs u, activations a and statistics.
    """
    conv, bn = {"mlp": (False, False), "fc": (False, True), "conv4": (True, True)}[options["backbone"]]
    a = x if conv else x.flatten(1)
    linear_outputs, activations, statistics = [], [], []
    for i in range(count(state, "body.{}.weight")):
        weight, bias = state[f"body.{i}.weight"], state[f"body.{i}.bias"]
        u = F.conv2d(a, weight, bias, padding=1) if conv else linear(weight, bias, a)
        linear_outputs.append(u)
        a = u
        if bn:
            statistics.append(batch_statistics(u) if given is None else given[i])
            a = batch_norm(u, statistics[i], state[f"body.{i}.bn_weight"], state[f"body.{i}.bn_bias"])
        a = F.max_pool2d(torch.relu(a), 2) if conv else torch.relu(a)
        activations.append(a)
    return a.flatten(1), linear_outputs, activations, statistics


def query_features(state, options, support_x, query_x):
    """Features of the query set: with its own BN statistics, or with the support set's."""
    shared = {"transductive": False, "support": True}[options.get("bn", "transductive")]
    statistics = forward_body(state, options, support_x)[3] if shared else None
    return forward_body(state, options, query_x, statistics)[0]


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
                    coordinate_lstm(current, options, lstm, seen[l][i, j], message[j], (i, l, j), memory, new_memory)
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
    if options["support"] == "set" and options["query_cell"] and not options["pool_cell"]:
        raise ValueError("the query cannot start from a cell state that stays per example")
    if "body.0.weight" in state:
        embedded = forward_body(state, options, support_x)[0]
        queries = query_features(state, options, support_x, query_x)
    else:
        embedded, queries = support_x.flatten(1), query_x.flatten(1)
    labels = label_vectors(support_y, len(state["head.weight"]), embedded)
    walk = {"set": lstm_set, "sequence": lstm_sequence}[options["support"]]
    sizes = [state[f"lstm.{l}.weight_hh_l0"].shape[1] for l in range(count(state, "lstm.{}.weight_ih_l0"))]
    zeros = [embedded.new_zeros(n) for n in sizes]
    h, c = walk(state, options, embedded, labels, zeros)
    if not options["query_cell"]:
        c = zeros
    top = []  # h of the last layer
    for query in queries:
        top.append(lstm_stack(state, torch.cat([query, torch.zeros_like(labels[0])]), h, c)[0][-1])
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
    for _ in range(options["passes"]):
        for i in range(len(embedded)):
            h, c = lstm_stack(state, torch.cat([embedded[i], labels[i]]), h, c)
    return h, c


# ---------------------------------------------------------------- MAML and ProtoNet
def maml_task(state, options, support_x, support_y, query_x):
    """Gradient steps on the support loss for all body and head tensors, then the query set."""
    clamp = options["clamp"]
    with torch.enable_grad():
        weights = {name: tensor for name, tensor in state.items() if name.startswith(("body.", "head."))}
        weights = {n: w if w.requires_grad else w.detach().requires_grad_() for n, w in weights.items()}
        for _ in range(options["steps"]):
            features = forward_body(weights, options, support_x)[0]
            prediction = linear(weights["head.weight"], weights["head.bias"], features)
            support_loss = task_loss(prediction, support_y)
            gradients = torch.autograd.grad(support_loss, list(weights.values()), create_graph=True)
            if options["first_order"]:
                gradients = [gradient.detach() for gradient in gradients]
            if clamp is not None:
                gradients = [gradient.clamp(-clamp, clamp) for gradient in gradients]
            weights = {n: w - options["inner_lr"] * g for (n, w), g in zip(weights.items(), gradients)}
    features = query_features(weights, options, support_x, query_x)
    return linear(weights["head.weight"], weights["head.bias"], features)


def protonet_task(state, options, support_x, support_y, query_x):
    """Minus the squared Euclidean distance to the mean feature of every class."""
    features = forward_body(state, options, support_x)[0]
    queries = query_features(state, options, support_x, query_x)
    prototypes = []
    for label in range(options["ways"]):
        prototypes.append(mean_over([f for f, y in zip(features, support_y.tolist()) if y == label]))
    return torch.stack([torch.stack([-((q - p) ** 2).sum() for p in prototypes]) for q in queries])
