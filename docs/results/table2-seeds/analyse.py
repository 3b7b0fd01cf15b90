"""What OP-LSTM's LSTMs do in the last state of each run: python analyse.py OUTPUTS FILE

A row per run, on 100 validation tasks with 15 queries a class. Layers count from 0 to the output layer.
"""

import sys
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
import torch
from omegaconf import OmegaConf
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from fewshot.backbones.task_weight import TaskWeight
from fewshot.episodes import Episode
from fewshot.methods import OPLSTM
from fewshot.methods.lstm_layers import cell, input_gates
from fewshot.training.build import make_datamodule, make_learner, prepare_process
from fewshot.training.folder import load_weights

Weights = list[Tensor]  # of each layer, (B, O, I)


def accuracy(learner: OPLSTM, weights: Weights, episode: Episode) -> float:
    logits = learner.activations(episode.query_x.flatten(2), list(map(TaskWeight, weights)))[1][-1]
    return 100 * float((logits.argmax(-1) == episode.query_y).float().mean())


def alignment(support_BMI: Tensor, query_BQI: Tensor, episode: Episode) -> float:
    """The mean cosine of a query's features and those of its class's support example, less that of others."""
    a, q = (x - x.mean(1, keepdim=True) for x in (support_BMI, query_BQI))
    cosines_BMQ = normalize(a, dim=-1) @ normalize(q, dim=-1).mT
    same_BMQ = episode.support_y.unsqueeze(2) == episode.query_y.unsqueeze(1)
    return (cosines_BMQ[same_BMQ].mean() - cosines_BMQ[~same_BMQ].mean()).item()


def saturated(cells: torch.nn.ModuleList, a: Tensor, m: Tensor) -> float:
    """The share of input and output gates outside .05 ... .95, of all cells."""
    z, shares = torch.stack([a, m]).flatten(1), []
    for layer in cells:
        gates = input_gates(layer, z)
        i, _, _, o = gates.sigmoid().chunk(4)
        shares += [i.flatten(), o.flatten()]
        z, _ = cell(gates, None)
    return float(((torch.cat(shares) - 0.5).abs() > 0.45).float().mean())


def measures(learner: OPLSTM, episode: Episode) -> dict[str, float]:
    """Of the first pass over the support set, and accuracy by the number of passes."""
    x, y = episode.support_x.flatten(2), learner.targets(episode.support_y)
    tasks, base = len(x), learner.initial_weights()
    after, _ = learner.one_pass(base, [None] * len(base), x, y)
    start, end = ([w.materialize(tasks).detach() for w in weights] for weights in (base, after))
    updates = [b - a for a, b in zip(start, end, strict=True)]
    with torch.enable_grad():
        own = [w.clone().requires_grad_() for w in start]
        inputs, outputs = learner.activations(x, list(map(TaskWeight, own)))
        loss = cross_entropy(outputs[-1].transpose(1, 2), episode.support_y, reduction="sum")
        grads = torch.autograd.grad(loss, own)
    found = {}
    for layer, (w, update, grad) in enumerate(zip(start, updates, grads, strict=True)):
        # how much of the update is descent, its size beside the weights', and units that are always zero
        found[f"cosine_{layer}"] = cosine_similarity(update.flatten(1), -grad.flatten(1)).mean().item()
        found[f"size_{layer}"] = (update.flatten(1).norm(dim=1) / w.flatten(1).norm(dim=1)).mean().item()
        found[f"dead_inputs_{layer}"] = (inputs[layer] == 0).flatten(0, 1).all(0).float().mean().item()
    logits = outputs[-1].detach()
    of_label, of_others = (learner.output_lstm(logits, torch.full_like(logits, m), None)[0] for m in (1, 0))
    h_output = learner.output_lstm(logits, y, None)[0]
    message, hidden = base[-1].transposed(h_output), outputs[-2].detach()
    # of the output LSTM: h of the class less that of others
    found["label_effect"] = (of_label - of_others).mean().item()
    found["hidden_h"] = learner.hidden_lstm(hidden, message, None)[0].mean().item()
    found["saturated_output"] = saturated(learner.output_lstm, logits, y)
    found["saturated_hidden"] = saturated(learner.hidden_lstm, hidden, message)
    read = outputs[-2] if learner.preactivation else inputs[-1]  # by the output layer's update
    for name, weights in {"before": start, "after": end}.items():
        features = learner.activations(episode.query_x.flatten(2), list(map(TaskWeight, weights)))[0][-1]
        found[f"alignment_{name}"] = alignment(read.detach(), features, episode)
    reverse = [a - u for a, u in zip(start, updates, strict=True)]
    found["accuracy_output_only"] = accuracy(learner, [*start[:-1], end[-1]], episode)
    found["accuracy_hidden_only"] = accuracy(learner, [*end[:-1], start[-1]], episode)
    found["accuracy_hidden_reversed"] = accuracy(learner, [*reverse[:-1], end[-1]], episode)
    found["accuracy_output_reversed"] = accuracy(learner, [*end[:-1], reverse[-1]], episode)
    found["accuracy_all_reversed"] = accuracy(learner, reverse, episode)
    for passes in range(7):
        learner.passes = passes
        predicted = learner.predict(episode).argmax(-1)
        found[f"accuracy_{passes}_passes"] = 100 * (predicted == episode.query_y).float().mean().item()
    learner.passes = learner.hparams["passes"]
    return found


def main(outputs: str, file: str) -> None:
    prepare_process(1)
    rows, begun = [], set()
    for path in sorted(Path(outputs).rglob("last.ckpt")):
        cfg: Any = OmegaConf.load(path.with_name("config.yaml"))
        datamodule = make_datamodule(cfg, "fit")
        episode = datamodule.episode("val", range(100), 15)
        L.seed_everything(cfg.seed, verbose=False)
        learner: Any = make_learner(cfg, datamodule.source.task).eval()
        run = {"seed": cfg.seed, "variant": cfg.variant, "class": type(learner).__name__}
        with torch.no_grad():
            if str(run) not in begun:  # its runs of other lengths begin alike
                rows.append(run | {"update": 0} | measures(learner, episode))
                begun.add(str(run))
            rows.append(run | {"update": load_weights(learner, path)} | measures(learner, episode))
        print(rows[-1], flush=True)
    frame = pd.DataFrame(rows).sort_values(["variant", "class", "seed", "update"])
    frame.round(4).to_csv(file, index=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
