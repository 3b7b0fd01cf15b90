"""The plain LSTM (sections 3.2 and 3.4) as loops over examples and layers."""

import torch

from tests.reference import networks as net

SHOWN = {  # what the LSTM is shown after the input: its label, or results of the step before, in this order
    "target": ("target",),
    "prev_target": ("target",),
    "prev_target_pred": ("target", "pred"),
    "prev_target_err": ("target", "err"),
    "prev_target_pred_err": ("target", "pred", "err"),
}


def lstm_task(state, options, support_x, support_y, query_x):
    """Feed [x, y] of the support set, then every query on its own with zeros for the label."""
    if "body.0.weight" in state:
        embedded = net.forward_body(state, options, support_x)[0]
        queries = net.query_features(state, options, support_x, query_x)
    else:
        embedded, queries = support_x.flatten(1), query_x.flatten(1)
    labels = net.label_vectors(support_y, len(state["head.weight"]), embedded)
    blank = torch.cat([torch.zeros_like(labels[0]) for _ in SHOWN[options["inputs"]]])
    layers = range(net.count(state, "lstm.{}.weight_ih_l0"))
    sizes = [state[f"lstm.{l}.weight_hh_l0"].shape[1] for l in layers]
    zeros = [embedded.new_zeros(n) for n in sizes]
    walk = lstm_sequence if options["inputs"] == "target" else lstm_delayed
    walk = lstm_set if options["support_mode"] == "set" else walk
    h, c = walk(state, options, embedded, labels, zeros)
    if not options["query_cell"]:
        c = zeros
    top = [lstm_stack(state, torch.cat([query, blank]), h, c)[0][-1] for query in queries]  # h of the last
    return net.linear(state["head.weight"], state["head.bias"], top)


def lstm_stack(state, x, h, c):
    """One step of all LSTM layers on one input; layer l+1 sees the new h of layer l."""
    new_h, new_c = [], []
    for l in range(len(h)):
        x, c_l = net.lstm_cell(state, f"lstm.{l}", "_l0", x, h[l], c[l])
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
        h = [net.mean_over([outcome[i][0][l] for i in examples]) for l in range(len(h))]
        c = [outcome[i][1] for i in examples]
        if options["pool_cell"]:
            c = [[net.mean_over([c[i][l] for i in examples]) for l in range(len(h))]] * len(examples)
    return h, c[0]  # equal for all examples where it is pooled, else never used


def lstm_sequence(state, options, embedded, labels, zeros):
    """T walks over the support set in the order given, the state carried over."""
    h, c = zeros, zeros
    for _ in range(options["passes"]):
        for i in range(len(embedded)):
            h, c = lstm_stack(state, torch.cat([embedded[i], labels[i]]), h, c)
    return h, c


def lstm_delayed(state, options, embedded, labels, zeros):
    """T walks of M + 1 steps: x_i (last x_0 again) with target, output and error of step i - 1."""
    parts, examples = SHOWN[options["inputs"]], len(embedded)
    h, c = zeros, zeros
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
