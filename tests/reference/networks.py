"""What the learners' networks compute (Eq. 13), and LSTM cells (Eqs. 1 to 6), as plain loops.

A state with SAP's transforms or Warp-MAML's warps runs through these too (protocol, last section).
"""

import torch
import torch.nn.functional as F

BN_EPS = 1e-5  # BatchNorm, on the biased variance


def is_classification(y):
    """Class labels are integers, regression targets floats."""
    return not y.is_floating_point()


def task_loss(prediction, query_y):
    """Cross entropy (integer labels) or squared error, averaged over the examples of one task."""
    if is_classification(query_y):
        return F.cross_entropy(prediction, query_y)
    return ((prediction - query_y) ** 2).mean()


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


def mean_over(tensors):
    """Mean of equally shaped tensors."""
    return sum(tensors) / len(tensors)


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
    shared = options["bn"] == "support"
    statistics = forward_body(state, options, support_x)[3] if shared else None
    return forward_body(state, options, query_x, statistics)[0]


def head(state, features):
    """The last linear layer; under SAP followed by its own mixed transform."""
    y = linear(state["head.weight"], state["head.bias"], features)
    if "strength_head" in state:
        s = torch.sigmoid(state["strength_head"])
        y = (1 - s) * y + s * linear(state["transforms_head.weight"], state["transforms_head.bias"], y)
    return y


def warp(state, i, a):
    """Warp i, linear and without residual, on the output of block i + 1; nothing where there is none."""
    if f"warps.{i}.weight" not in state:
        return a
    weight, bias = state[f"warps.{i}.weight"], state[f"warps.{i}.bias"]
    return F.conv2d(a, weight, bias, padding=1) if a.dim() == 4 else linear(weight, bias, a)


def sap_weight(state, l, weight):
    """A block's weight scaled by C0 + C1 (per pair of channels) + C2 (per output); the bias is not."""
    if f"strengths.{l}.scale" not in state:
        return weight
    mix = F.softmax(state[f"strengths.{l}.scale"], dim=0)
    pairs, rows = state[f"transforms.{l}.mtl_scale"], state[f"transforms.{l}.simple_scale"]
    scaled = weight.clone()
    for o in range(weight.shape[0]):
        for i in range(weight.shape[1]):
            scaled[o, i] = (mix[0] + mix[1] * pairs[o, i] + mix[2] * rows[o]) * weight[o, i]
    return scaled


def sap_transform(state, options, l, x):
    """Level l on a set: a mixture of linear operators, then of shifts (protocol, last section)."""
    if f"strengths.{l}.multiplication" not in state:
        return x
    mix = F.softmax(state[f"strengths.{l}.multiplication"], dim=0)
    shift_mix = F.softmax(state[f"strengths.{l}.shift"], dim=0)
    own = f"transforms.{l}."
    if x.dim() == 4:
        operators = [F.conv2d(x, state[own + "conv1x1"])]
        for kernel in (state[own + "conv3x3"], svd_kernel(state, own)):
            if options["centred"]:
                operators.append(F.conv2d(x, kernel, padding=1))
            else:  # as released: two zeros on the right and at the bottom
                operators.append(F.conv2d(F.pad(x, (0, 2, 0, 2)), kernel))
    else:
        operators = [torch.stack([state[own + "matrix"] @ row for row in x])]
    y = mix[0] * x
    for share, operator in zip(mix[1:], operators):
        y = y + share * operator
    shifts = state[own + "vector_shift"].reshape((1, -1, 1, 1) if x.dim() == 4 else (1, -1))
    return y + shift_mix[1] * state[own + "scalar_shift"] + shift_mix[2] * shifts


def svd_kernel(state, own):
    """A 3x3 kernel of rank one, u s v^T, for every pair of channels."""
    u, s, v = state[own + "svd_u"], state[own + "svd_s"], state[own + "svd_v"]
    return torch.stack(
        [torch.stack([s[o, i] * torch.outer(u[o, i], v[o, i]) for i in range(len(s))]) for o in range(len(s))]
    )


def lstm_cell(state, prefix, suffix, x, h, c):
    """One LSTM cell on one input vector (Eqs. 1-6), gates in torch's row order i, f, g, o."""
    gates = state[f"{prefix}.weight_ih{suffix}"] @ x + state[f"{prefix}.bias_ih{suffix}"]
    gates = gates + state[f"{prefix}.weight_hh{suffix}"] @ h + state[f"{prefix}.bias_hh{suffix}"]
    n = len(h)
    i, f = torch.sigmoid(gates[:n]), torch.sigmoid(gates[n : 2 * n])
    g, o = torch.tanh(gates[2 * n : 3 * n]), torch.sigmoid(gates[3 * n :])
    c = f * c + i * g
    return o * torch.tanh(c), c
