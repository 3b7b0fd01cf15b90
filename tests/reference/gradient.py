"""MAML, Warp-MAML, SAP and ProtoNet, one task at a time."""

import torch

from tests.reference import networks as net


def maml_task(state, options, support_x, support_y, query_x):
    """Gradient steps on the support loss for all tensors that the method adapts, then the query set."""
    names = [name for name in state if adapts(name, options)]
    weights = with_gradient(state, names)
    for _ in range(options["inner_steps"]):
        weights = inner_step(weights, options, names, support_x, support_y)
    return net.head(weights, net.query_features(weights, options, support_x, query_x))


def adapts(name, options):
    """MAML moves body and head, ANIL the head, Warp-MAML all but warps and first block, SAP no body."""
    if options["method"] == "warpmaml":
        return name.startswith(("body.", "head.")) and not name.startswith("body.0.")
    if options["method"] == "sap":
        return name.startswith(("transforms.", "transforms_head.", "head."))
    if options["method"] == "metasgd":
        return not name.startswith("step_sizes.")
    return name.startswith("head.") or not options.get("adapt_head_only", False)


def with_gradient(weights, names):
    """The same weights, the named ones fit to be differentiated even where the caller records nothing."""
    needed = {
        n: weights[n] if weights[n].requires_grad else weights[n].detach().requires_grad_() for n in names
    }
    return {**weights, **needed}


def inner_step(weights, options, names, support_x, support_y):
    """One gradient step on the support loss for the named tensors; the others stay as they are."""
    clamp = options.get("grad_clip")
    with torch.enable_grad():
        prediction = net.head(weights, net.forward_body(weights, options, support_x)[0])
        support_loss = net.task_loss(prediction, support_y)
        gradients = torch.autograd.grad(support_loss, [weights[n] for n in names], create_graph=True)
        if options.get("first_order"):
            gradients = [gradient.detach() for gradient in gradients]
        if clamp is not None:
            gradients = [gradient.clamp(-clamp, clamp) for gradient in gradients]
        moved = {n: weights[n] - step_size(weights, options, n) * g for n, g in zip(names, gradients)}
    return {**weights, **moved}


def step_size(weights, options, name):
    """Meta-SGD learns one for each number of a parameter; they are listed in the order of the parameters."""
    if options["method"] != "metasgd":
        return options["inner_lr"]
    own = [n for n in weights if not n.startswith("step_sizes.")]
    return weights[f"step_sizes.{own.index(name)}"]


def warpmaml_gradient(state, options, support_x, support_y, query_x, query_y):
    """Meta-gradient of one task (protocol, last section; Flennerhag et al. 2020) by name.

    Every step has warps phi_t of its own, equal in value. L_t, the query loss after step t, is
    differentiated with respect to phi_t and the initial base weights, and summed over the steps; with
    last_loss the base weights take the loss after the last step alone.
    """
    base = {name: tensor for name, tensor in state.items() if not name.startswith("warps.")}
    total = {name: torch.zeros_like(tensor, requires_grad=False) for name, tensor in state.items()}
    names = [name for name in state if adapts(name, options)]
    weights = with_gradient(state, names)
    for t in range(1, options["inner_steps"] + 1):
        phi = {n: w.detach().clone().requires_grad_() for n, w in state.items() if n.startswith("warps.")}
        weights = inner_step({**weights, **phi}, options, names, support_x, support_y)
        prediction = net.head(weights, net.query_features(weights, options, support_x, query_x))
        gradients = net.gradient_by_name(net.task_loss(prediction, query_y), {**base, **phi})
        for name, gradient in gradients.items():
            if name in phi or t == options["inner_steps"] or not options["last_loss"]:
                total[name] = total[name] + gradient
    return total


def reptile_gradient(state, options, support_x, support_y):
    """(θ - θ') / α of one task, by name, where θ' is what the inner loop makes of θ."""
    weights = with_gradient(state, list(state))
    for _ in range(options["inner_steps"]):
        weights = inner_step(weights, options, list(state), support_x, support_y)
    return {name: (state[name] - weights[name]).detach() / options["inner_lr"] for name in state}


def protonet_task(state, options, support_x, support_y, query_x):
    """Minus the squared Euclidean distance to the mean feature of every class."""
    features = net.forward_body(state, options, support_x)[0]
    queries = net.query_features(state, options, support_x, query_x)
    members = [[f for f, y in zip(features, support_y) if y == label] for label in range(options["ways"])]
    prototypes = [net.mean_over(of_class) for of_class in members]
    return torch.stack([torch.stack([-((q - p) ** 2).sum() for p in prototypes]) for q in queries])
