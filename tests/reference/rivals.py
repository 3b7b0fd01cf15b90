"""Ridge regression by its normal equations, the delta rule example by example, centroids, slow descent."""

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


def unit(x):
    return x / x.norm().clamp(min=1e-12)


def centroid_task(state, options, support_x, support_y, query_x):
    """Minus the squared distance to each class's mean, or its cosine; features have length 1."""
    support, queries = features(state, options, support_x, query_x)
    if options.get("normalise", True):
        support, queries = [unit(x) for x in support], [unit(x) for x in queries]
    means = [mean_over([x for x, y in zip(support, support_y) if y == n]) for n in range(options["ways"])]
    if options["distance"] == "cosine":
        return torch.stack([torch.stack([unit(x) @ unit(mean) for mean in means]) for x in queries])
    return torch.stack([torch.stack([-((x - mean) ** 2).sum() for mean in means]) for x in queries])


def logistic_task(state, options, support_x, support_y, query_x):
    """Logits W x, for W by gradient descent on Σ_m cross entropy + λ/2 ‖W‖²; x has length 1, and a 1 more."""
    support, queries = features(state, options, support_x, query_x)
    support, queries = ([torch.cat([unit(x), torch.ones_like(x[:1])]) for x in s] for s in (support, queries))
    weight = torch.zeros(options["ways"], len(support[0]), dtype=support[0].dtype)
    for _ in range(1500):
        gradient = options["penalty"] * weight
        for x, y in zip(support, support_y):
            error = torch.softmax(weight @ x, 0)
            error[y] -= 1
            gradient = gradient + torch.outer(error, x)
        weight = weight - gradient / (options["penalty"] + len(support))  # no curvature is greater
    return torch.stack([weight @ x for x in queries])
