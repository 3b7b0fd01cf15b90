"""OP-LSTM (Algorithm 1) as loops over examples, layers and nodes."""

import torch
import torch.nn.functional as F

from tests.reference import networks as net

ROW_EPS = 1e-7  # the BN factor of the pre-activation form, inside the root
NORM_MIN = 1e-12  # smallest norm that is divided by (its square is 1e-24)


def oplstm_task(state, options, support_x, support_y, query_x):
    """T passes over the support set, then the query set under H_T (Algorithm 1)."""
    names = [f"body.{i}.weight" for i in range(net.count(state, "body.{}.weight"))] + ["head.weight"]
    if options["backbone"] == "conv4":
        names = ["head.weight"]  # H^1..H^L, bottom first; the conv body is not adapted
    current = dict(state)  # H_t of every adapted layer, the rest as meta-learned
    memory = {}  # (h, c) of every (example, layer, node, cell); absent means zero
    for _ in range(options["passes"]):
        current, memory = oplstm_pass(current, options, names, memory, support_x, support_y)
    features = net.query_features(current, options, support_x, query_x)
    return net.linear(current["head.weight"], current["head.bias"], features)  # the raw u^L


def oplstm_pass(current, options, names, memory, support_x, support_y):
    """One pass t: all layers are updated at once, from a_t and H_t, after all examples."""
    examples, layers = range(len(support_x)), range(len(names))
    features, u, a, _ = net.forward_body(current, options, support_x)
    below, seen = layer_inputs(current, options, support_x, support_y, features, u, a)
    target = net.label_vectors(support_y, len(current["head.weight"]), features)

    h, new_memory = {}, {}
    for i in examples:
        message = target[i]  # Eq. 17, output layer: the target
        for l in reversed(layers):
            lstm = "output_lstm" if names[l] == "head.weight" else "hidden_lstm"
            nodes = []
            for j in range(len(message)):  # Eq. 15, node by node, on the z of Eq. 17
                z = torch.stack([seen[l][i, j], message[j]])
                nodes.append(coordinate_lstm(current, options, lstm, z, (i, l, j), memory, new_memory))
            h[i, l] = torch.stack(nodes)
            message = current[names[l]].T @ h[i, l]  # Eq. 17 below: (H_t)^T h_{t+1}, un-pooled h

    updates = []
    for l in layers:
        update = net.mean_over([outer_product(options, h[i, l], below[l][i]) for i in examples])  # 1/M sum_i
        if options["preactivation"] and names[l] != "head.weight":
            update = row_factor(u[l], current[f"body.{l}.bn_weight"]).reshape(-1, 1) * update
        updates.append(update)
    after = dict(current)
    for name, update in zip(names, normalise(options, updates)):
        after[name] = current[name] + current.get("gamma", 1.0) * update  # Eq. 14
    return after, pool_memory(new_memory, examples) if options["pool_state"] else new_memory


def layer_inputs(current, options, support_x, support_y, features, u, a):
    """Per layer: what its outer product takes from below, and what its coordinate LSTM sees."""
    prediction = net.linear(current["head.weight"], current["head.bias"], features)
    if options["softmax"] and net.is_classification(support_y):
        prediction = F.softmax(prediction, dim=-1)
    if options["backbone"] == "conv4":
        return [features], [prediction]
    hidden = u if options["preactivation"] else a
    return [support_x.flatten(1)] + hidden, hidden + [prediction]


def coordinate_lstm(state, options, lstm, x, node, memory, new_memory):
    """The stack of cells at one node for one example (Eq. 15); returns the last cell's one number."""
    if options["detach"]:
        x = x.detach()
    for k in range(net.count(state, lstm + ".{}.weight_ih")):
        zero = x.new_zeros(state[f"{lstm}.{k}.weight_hh"].shape[1])
        h, c = memory.get((*node, k), (zero, zero))
        new_memory[(*node, k)] = net.lstm_cell(state, f"{lstm}.{k}", "", x, h, c)
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
    squares = [(update**2).sum() for update in updates]
    if options["normalisation"] == "joint":
        squares = [sum(squares) for _ in updates]
    if options["normalisation"] in ("joint", "matrix"):
        return [update / torch.sqrt(s.clamp_min(NORM_MIN**2)) for update, s in zip(updates, squares)]
    return updates


def pool_memory(memory, examples):
    """Eq. 16: every cell's h and c averaged over the examples, not over nodes."""

    def pooled(s, l, j, k):  # s = 0 is h, s = 1 is c
        return net.mean_over([memory[i, l, j, k][s] for i in examples])

    return {(i, l, j, k): (pooled(0, l, j, k), pooled(1, l, j, k)) for i, l, j, k in memory}
