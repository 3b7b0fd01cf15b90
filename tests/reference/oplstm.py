"""OP-LSTM (Algorithm 1) as loops over examples, layers and nodes.

A node of a convolution is a channel's window after pooling. Its h belongs to the pixel that won the window.
"""

import itertools

import torch
import torch.nn.functional as F

from tests.reference import networks as net

ROW_EPS = 1e-7  # the BN factor of the pre-activation form, inside the root
NORM_MIN = 1e-12  # smallest norm that is divided by (its square is 1e-24)


def oplstm_task(state, options, support_x, support_y, query_x):
    """T passes over the support set, then the query set under H_T (Algorithm 1)."""
    names = [f"body.{i}.weight" for i in range(net.count(state, "body.{}.weight"))] + ["head.weight"]
    if options["backbone"] == "conv4" and options.get("layers") != "all":
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
    features, u, a, statistics = net.forward_body(current, options, support_x)
    adapted = options["backbone"] == "conv4" and len(names) > 1
    won = [winners(current, l, u[l], statistics) for l in layers[:-1]] if adapted else None
    below, seen = layer_inputs(current, options, support_x, support_y, features, u, a, statistics, won)
    target = net.label_vectors(support_y, len(current["head.weight"]), features)

    h, new_memory = {}, {}
    for i in examples:
        message = target[i]  # Eq. 17, output layer: the target
        for l in reversed(layers):
            lstm = "output_lstm" if names[l] == "head.weight" else "hidden_lstm"
            nodes = []
            for j in range(len(message)):  # Eq. 15, node by node, on the z of Eq. 17
                z = torch.stack([seen[l][i].flatten()[j], message[j]])
                nodes.append(coordinate_lstm(current, options, lstm, z, (i, l, j), memory, new_memory))
            h[i, l] = torch.stack(nodes)
            if won and l < len(layers) - 1:
                h[i, l] = at_winners(h[i, l], won[l], i, u[l], options.get("unpooling") == "even")
            message = message_below(current[names[l]], h[i, l])
            if f"warps.{l - 2}.weight" in current:  # on the output of layer l - 1
                m = message.reshape(a[l - 1][i].shape)
                message = message_below(current[f"warps.{l - 2}.weight"], m)

    updates = []
    for l in layers:
        update = net.mean_over([outer_product(options, h[i, l], below[l][i]) for i in examples])  # 1/M sum_i
        if options["preactivation"] and names[l] != "head.weight":
            factor = row_factor(u[l], current[f"body.{l}.bn_weight"])
            update = factor.reshape(-1, *[1] * (update.dim() - 1)) * update
        updates.append(update)
    after = dict(current)
    for name, update in zip(names, normalise(options, updates)):
        after[name] = current[name] + current.get("gamma", 1.0) * update  # Eq. 14
    if not options["pool_state"]:
        return after, new_memory
    windows = [len(won[l]) // len(support_x) // len(u[l][0]) if won else 1 for l in layers[:-1]]
    return after, pool_memory(new_memory, examples, [*windows, 1])


def winners(current, l, u, statistics):
    """(example, channel, window's row and column) -> row and column of its largest pixel after batch norm."""
    v = net.batch_norm(u, statistics[l], current[f"body.{l}.bn_weight"], current[f"body.{l}.bn_bias"])
    v = v.detach()
    found = {}
    for i, c, y, x in itertools.product(*map(range, (*v.shape[:2], v.shape[2] // 2, v.shape[3] // 2))):
        window = [(2 * y + dy, 2 * x + dx) for dy in (0, 1) for dx in (0, 1)]
        found[i, c, y, x] = max(window, key=lambda place: float(v[i, c, place[0], place[1]]))
    return found


def at_winners(h, won, i, u, even):
    """One example's h, a number a window in order, at the pixels of u that won, or if `even` at all."""
    grid = [
        [[u.new_zeros(()) for _ in range(u.shape[3])] for _ in range(u.shape[2])] for _ in range(u.shape[1])
    ]
    windows = [key for key in won if key[0] == i]
    for number, key in zip(h, windows):
        window = itertools.product(*((2 * k, 2 * k + 1) for k in key[2:]))
        pixels = [*window] if even else [won[key]]
        for y, x in pixels:
            grid[key[1]][y][x] = number / len(pixels)
    return torch.stack([torch.stack([torch.stack(row) for row in channel]) for channel in grid])


def picked(u, won):
    """The values of u at the pixels that won, (M, O, windows' rows, windows' columns)."""
    last = max(won)
    values = torch.stack([u[key[0], key[1], y, x] for key, (y, x) in won.items()])
    return values.reshape([n + 1 for n in last])


def message_below(weight, h):
    """Eq. 17 below: (H_t)^T h_{t+1}, un-pooled h; every pixel sums over the outputs that read it."""
    if h.dim() == 1:
        return weight.T @ h
    message = h.new_zeros(weight.shape[1], h.shape[1] + 2, h.shape[2] + 2)  # with the padding
    for y, x in itertools.product(range(h.shape[1]), range(h.shape[2])):
        read = torch.zeros_like(message)
        read[:, y : y + 3, x : x + 3] = sum(weight[o] * h[o, y, x] for o in range(len(weight)))
        message = message + read
    return message[:, 1:-1, 1:-1].flatten()


def layer_inputs(current, options, support_x, support_y, features, u, a, statistics, won):
    """Per layer: what its outer product takes from below, and what its coordinate LSTM sees."""
    prediction = net.linear(current["head.weight"], current["head.bias"], features)
    if options["softmax"] and net.is_classification(support_y):
        prediction = F.softmax(prediction, dim=-1)
    if not won and options["backbone"] == "conv4":
        return [features], [prediction]
    x = support_x if won else support_x.flatten(1)
    if options["preactivation"]:
        hidden = [picked(*pair) for pair in zip(u, won)] if won else u
    else:  # a^l before a warp; a is after it
        hidden = [activation(current, l, u[l], statistics, won) for l in range(len(u))]
    below = hidden if options["preactivation"] else a
    return [x, *below[:-1], below[-1].flatten(1)], [*hidden, prediction]


def activation(current, l, u, statistics, won):
    """a^l of one layer's linear outputs."""
    if statistics:
        u = net.batch_norm(u, statistics[l], current[f"body.{l}.bn_weight"], current[f"body.{l}.bn_bias"])
    return F.max_pool2d(torch.relu(u), 2) if won else torch.relu(u)


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
    """h a^T of one example; divided by its Frobenius norm ||h|| ||a|| in the text's Eq. 14.

    Of a convolution the sum over positions of h (O,) times the patch (I, 3, 3) that the position reads.
    """
    if h.dim() == 3:
        padded = F.pad(a, (1, 1, 1, 1))
        places = itertools.product(range(h.shape[1]), range(h.shape[2]))
        update = sum(
            torch.einsum("o,ikl->oikl", h[:, y, x], padded[:, y : y + 3, x : x + 3]) for y, x in places
        )
        return update / norm(update) if options["normalisation"] == "example" else update
    if options["normalisation"] == "example":
        h = h / torch.linalg.vector_norm(h).clamp_min(NORM_MIN)
        a = a / torch.linalg.vector_norm(a).clamp_min(NORM_MIN)
    return h.reshape(-1, 1) * a.reshape(1, -1)


def norm(update):
    return torch.sqrt((update**2).sum().clamp_min(NORM_MIN**2))


def row_factor(u, bn_weight):
    """BN weight over the root of the summed squared deviations of u over the support set."""
    axes = (0,) if u.dim() == 2 else (0, 2, 3)
    return bn_weight / torch.sqrt(((u - u.mean(axes, keepdim=True)) ** 2).sum(axes) + ROW_EPS)


def normalise(options, updates):
    """One norm per averaged matrix, or one of all layers joined; guarded before the root."""
    squares = [(update**2).sum() for update in updates]
    if options["normalisation"] == "joint":
        squares = [sum(squares) for _ in updates]
    if options["normalisation"] in ("joint", "matrix"):
        return [update / torch.sqrt(s.clamp_min(NORM_MIN**2)) for update, s in zip(updates, squares)]
    return updates


def pool_memory(memory, examples, windows):
    """Eq. 16: every cell's h and c averaged over the examples and the windows of its channel, not over nodes.

    `windows` has each layer's number of windows a channel, 1 without pooling.
    """

    def pooled(s, l, j, k):  # s = 0 is h, s = 1 is c
        first = j // windows[l] * windows[l]
        places = itertools.product(examples, range(first, first + windows[l]))
        return net.mean_over([memory[i, l, place, k][s] for i, place in places])

    return {(i, l, j, k): (pooled(0, l, j, k), pooled(1, l, j, k)) for i, l, j, k in memory}
