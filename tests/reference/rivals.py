"""Ridge regression by its normal equations, and the delta rule example by example."""

import torch

from tests.reference.networks import forward_body, label_vectors, mean_over, query_features


def features(state, options, support_x, query_x):
    return forward_body(state, options, support_x)[0], query_features(state, options, support_x, query_x)


def ridge_task(state, options, support_x, support_y, query_x):
    """W solves (Σ x xᵀ + λ I) W = Σ x yᵀ, of least penalised squared error; predictions are α W x + β."""
    support, queries = features(state, options, support_x, query_x)
    targets = label_vectors(support_y, options["ways"], support)
    products = torch.exp(state["log_penalty"]) * torch.eye(support.shape[1], dtype=support.dtype)
    sums = torch.zeros(support.shape[1], targets.shape[1], dtype=support.dtype)
    for x, y in zip(support, targets):
        products, sums = products + torch.outer(x, x), sums + torch.outer(x, y)
    weight = torch.inverse(products) @ sums
    return torch.stack([state["scale"] * (weight.T @ x) + state["shift"] for x in queries])


def deltanet_task(state, options, support_x, support_y, query_x):
    """T times W ← W + 1/M Σ_m β_m (v_m - W k_m) k_mᵀ; a query's prediction is s W k."""
    support, queries = features(state, options, support_x, query_x)

    def key(x):
        k = state["key.weight"] @ x
        return k / k.norm().clamp(min=1e-12)  # features may all be zero

    weight = state["initial"]
    for _ in range(options["passes"]):
        updates = []
        for x, y in zip(support, label_vectors(support_y, options["ways"], support)):
            rate = torch.sigmoid(state["rate.weight"] @ x + state["rate.bias"])
            updates.append(rate * torch.outer(state["value.weight"] @ y - weight @ key(x), key(x)))
        weight = weight + mean_over(updates)
    return torch.stack([state["scale"] * (weight @ key(x)) for x in queries])
