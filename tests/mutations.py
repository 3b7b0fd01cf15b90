"""Breaks the package in one place at a time and asks the tests: `python -m tests.mutations [word of a mutation ...]`.

Every mutation must turn a test red. Each runs in its own copy of the repository; the first copy is unchanged and
must stay green. Exits 1 if a mutation survives. About half an hour for all on two cores.
"""

import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("benchmarks", "fewshot", "tests", "conf", "docs/compare.md", "train.py", "pyproject.toml")
TESTS = (
    "tests/test_against_reference.py",
    "tests/test_learners.py",
    "tests/test_episodes.py",
    "tests/test_settings.py",
    "tests/test_results.py",
    "tests/test_grammar.py",
    "tests/test_baselines.py",
    "tests/test_lightning.py",
    "tests/test_backbones.py",
    "tests/test_report.py",
    "tests/test_distributed.py",
    "tests/test_compiled.py",
)
AT_A_TIME = 2
BASE, LSTM, MAML = "fewshot/methods/base.py", "fewshot/methods/lstm.py", "fewshot/methods/maml.py"
OPLSTM, PROTONET = "fewshot/methods/oplstm.py", "fewshot/methods/protonet.py"
WARP, SAP = "fewshot/methods/warpmaml.py", "fewshot/methods/sap.py"
LAYERS, BODY, EPISODES = "fewshot/backbones/layers.py", "fewshot/backbones/blocks.py", "fewshot/episodes.py"
TASK_WEIGHT = "fewshot/backbones/task_weight.py"
RESNET, LIBRARY = "fewshot/backbones/resnet12.py", "fewshot/backbones/library.py"
WEIGHTS = "fewshot/backbones/weights.py"
SOURCE = "fewshot/data/image_source.py"
PAPER, NUMBERS, RECORD = (
    *("fewshot/results/paper.py", "fewshot/results/paper.csv", "fewshot/results/record.py"),
)
EVALUATE, TESTED = "fewshot/training/evaluate.py", "fewshot/config/eval_config.py"
FLOORS, IDENTITY = "fewshot/baselines.py", "fewshot/config/run_id.py"
DRAWS = "fewshot/config/random_search.py"
TABLE, PAIRS = "fewshot/report/table.py", "fewshot/report/pairs.py"
STATISTICS, DIAGNOSTICS = "fewshot/results/statistics.py", "fewshot/results/diagnostics.py"
RANKS, DATAMODULE = "fewshot/training/distributed.py", "fewshot/data/datamodule.py"
COMPILED = "fewshot/training/compiled.py"
OPTIONS, CHECKS, CLI = "fewshot/options.py", "fewshot/config/checks.py", "fewshot/cli.py"
# the file of tests that turns red soonest
FIRST = {BASE: TESTS[1], BODY: TESTS[1], EPISODES: TESTS[2], SOURCE: TESTS[2]}
FIRST |= dict.fromkeys((PAPER, NUMBERS, RECORD, EVALUATE, TESTED, DIAGNOSTICS), TESTS[4])
FIRST |= dict.fromkeys((OPTIONS, CHECKS, CLI), TESTS[5])
FIRST |= dict.fromkeys((DRAWS, TABLE, PAIRS, STATISTICS, "conf/search/lstm_sine.yaml"), TESTS[9])
FIRST |= {RANKS: TESTS[10], DATAMODULE: TESTS[10], COMPILED: TESTS[11]}
FIRST |= {FLOORS: TESTS[6], IDENTITY: TESTS[7], RESNET: TESTS[8], LIBRARY: TESTS[8], WEIGHTS: TESTS[8]}


@dataclass(frozen=True)
class Mutation:
    """`old`, which occurs once in `file`, becomes `new`."""

    file: str
    old: str
    new: str
    what: str


MUTATIONS = [
    Mutation(*row)
    for row in (
        # what shares a run
        (RANKS, "dist.all_reduce(total)", "pass", "gradients of one process alone"),
        (
            RANKS,
            "dist.all_reduce(total)",
            "dist.all_reduce(total); total /= 2",
            "the mean of their gradients",
        ),
        (DATAMODULE, "self.ranks)[self.rank]", "self.ranks)[0]", "all processes see the same tasks"),
        # warnings
        (DIAGNOSTICS, "mean - ci95 > baselines", "mean + ci95 > baselines", "chance left by luck"),
        (DIAGNOSTICS, "(norms < VANISHED)", "(norms > VANISHED)", "gradients that do not vanish"),
        # the base
        (BASE, '"loss": losses.sum()', '"loss": losses.mean()', "mean over the meta-batch"),
        (BASE, "losses.detach().mean()", "losses.detach().sum()", "the log shows the sum"),
        (BASE, '"none").mean(1)', '"none").sum(1)', "cross-entropy summed over the queries"),
        (
            BASE,
            '"none").flatten(1).mean(1)',
            '"none").flatten(1).sum(1)',
            "squared error summed over the queries",
        ),
        (BASE, "if bn != ", "if bn == ", "BN choice flipped"),
        (BASE, "reference=shots)", "reference=None)", "BN statistics of support and queries together"),
        (BASE, "[:, shots:]", "[:, :-shots]", "predictions of the wrong rows"),
        (BASE, "right = 100 * ", "right = 1 * ", "accuracy as a fraction"),
        (
            BASE,
            "targets.flatten(1).T, num_outputs=",
            "-targets.flatten(1).T, num_outputs=",
            "wrong test error",
        ),
        (BASE, "torch.optim.Adam(", "torch.optim.AdamW(", "weight decay"),
        (BASE, "update(episode.tasks)", "update(episode.tasks + 1)", "test tasks numbered from 1"),
        # layers and body
        (LAYERS, "EPS = 1e-5", "EPS = 1e-3", "another eps"),
        (LAYERS, "correction=0", "correction=1", "unbiased variance"),
        (
            LAYERS,
            "axes = (1, *range(3, x_BMO.dim()))",
            "axes = (0, 1, *range(3, x_BMO.dim()))",
            "BN over all tasks",
        ),
        (LAYERS, "axes = (1, *range", "axes = tuple(range", "BN over pixels and not examples"),
        (LAYERS, "x_BMO[:, :reference]", "x_BMO", "BN reference ignored"),
        (
            LAYERS,
            "x_BMO[:, :reference]",
            "x_BMO[:, :reference].detach()",
            "no gradient through BN statistics",
        ),
        (LAYERS, "- mean * scale", "+ mean * scale", "BN adds the mean"),
        (
            LAYERS,
            "weight.flatten(0, 1), bias, padding",
            "weight.flatten(0, 1), None, padding",
            "no task bias",
        ),
        (
            LAYERS,
            "(tasks, -1)).transpose(0, 1)",
            "(-1, tasks)).transpose(1, 2).transpose(0, 1)",
            "channels of tasks mixed",
        ),
        (LAYERS, "if reference is None:", "if True:", "BN over support and queries for bn=support"),
        (
            LAYERS,
            "bias.expand(tasks, -1).flatten()",
            "0 * bias.expand(tasks, -1).flatten()",
            "BN without its bias",
        ),
        (
            LAYERS,
            "weight.expand(tasks, -1).flatten()",
            "weight.detach().expand(tasks, -1).flatten()",
            "BN weight fixed",
        ),
        (LAYERS, "baddbmm(bias.unsqueeze(-2)", "baddbmm(0 * bias.unsqueeze(-2)", "per-task bias dropped"),
        (BODY, "return F.relu(", "return F.leaky_relu(", "another nonlinearity"),
        (BODY, "F.max_pool2d", "F.avg_pool2d", "average pooling"),
        (BODY, "torch.zeros_like(made.bias)", "torch.ones_like(made.bias)", "hidden biases start at 1"),
        (BODY, "torch.ones(outputs)", "torch.full((outputs,), 0.1)", "BN weights start at 0.1"),
        (
            BODY,
            "size >> len(widths)",
            "size // 2 * 2 >> len(widths) - 1",
            "features counted with one pooling less",
        ),
        # ProtoNet
        (PROTONET, "return -torch.cdist", "return torch.cdist", "largest distance wins"),
        (PROTONET, 'dist").square()', 'dist")', "distance not squared"),
        (PROTONET, " / targets_BMN.sum(1).unsqueeze(-1)", "", "sums for prototypes"),
        (PROTONET, "self.body(support_x)", "self.body(support_x).detach()", "no gradient through prototypes"),
        # MAML
        (MAML, "torch.sub(weight, grad, alpha=size)", "torch.add(weight, grad, alpha=size)", "inner ascent"),
        (MAML, "weight.plus(-size * grad", "weight.plus(size * grad", "inner ascent of layers"),
        (MAML, "x.detach() if self.first_order else x", "x", "first order in the outputs alone"),
        (MAML, "create_graph = outer and not self.first_order", "create_graph = False", "always first order"),
        (
            MAML,
            "create_graph = outer and not self.first_order",
            "create_graph = outer",
            "first_order ignored",
        ),
        (
            MAML,
            "self.steps if self.training else self.eval_inner_steps",
            "self.steps",
            "eval_inner_steps ignored",
        ),
        (MAML, "range(self.steps if", "range(1 + self.steps if", "one inner step more"),
        (
            MAML,
            "task_losses(predictions, support_y).sum()",
            "task_losses(predictions, support_y).mean()",
            "inner mean",
        ),
        (
            MAML,
            "clamp(g, -self.clamp, self.clamp)",
            "clamp(g, -self.clamp, None)",
            "inner clamp from below only",
        ),
        (MAML, "grads = tuple(clamp(g, -self.clamp, self.clamp) for g in grads)", "pass", "no inner clamp"),
        (MAML, "copies.register_hook(self.clamped_sum)", "pass", "no outer clamp"),
        (MAML, "return self.grad_clip_each and", "return", "clamped after each task always"),
        (MAML, "nn.utils.clip_grad_value_(self.parameters(), self.clamp)", "pass", "no clamp of the sum"),
        (MAML, 'not self.adapt_head_only or name.startswith("head.")', "True", "ANIL adapts all"),
        (
            MAML,
            "names = [name for name in weights if self.adapts(name)]",
            "names = list(weights)",
            "all copies are adapted",
        ),
        (
            MAML,
            "total[0].add_(part).clamp_(-self.clamp, self.clamp)",
            "total[0].add_(part.clamp(-self.clamp, self.clamp))",
            "clamp before the sum",
        ),
        (
            MAML,
            "of_each[name].detach() if self.first_order",
            "of_each[name] if self.first_order",
            "compiled: second order",
        ),
        (COMPILED, "quick(*learner.alike(*told))", "quick(*told)", "each kind of a pass compiled anew"),
        (
            MAML,
            "return copies.view_as(copies)",
            "return copies",
            "inner gradients run through the clamp's hook",
        ),
        (
            MAML,
            "self.predicted(weights | moved, support_x)",
            "self.predicted(weights | moved, support_x, 2)",
            "BN of the inner loop by two examples",
        ),
        (MAML, "self.body.bn, support_x", '"none", support_x', "bn=support ignored"),
        # Warp-MAML
        (
            WARP,
            'name.startswith(("warps.", "body.0."))',
            'name.startswith("warps.")',
            "the first block adapted",
        ),
        (WARP, 'name.startswith(("warps.", "body.0."))', 'name.startswith("body.0.")', "the warps adapted"),
        (WARP, "if t == self.steps - 1 or not self.last_loss:", "if True:", "last_loss ignored"),
        (WARP, "if t == self.steps - 1 or not self.last_loss:", "if t == self.steps - 1:", "last loss only"),
        (WARP, "p.detach().requires_grad_()", "p", "warps of earlier steps learn from later losses"),
        (BASE, "(g * (p - p.detach()))", "(-g * (p - p.detach()))", "gradients turned round"),
        (WARP, "x = warp(block(x, reference))", "x = block(x, reference)", "no warp"),
        (WARP, "x = warp(block(x, reference))", "x = block(warp(x), reference)", "warps before the blocks"),
        (
            BASE,
            "losses.detach() + gradient / len(losses)",
            "losses.detach() + gradient",
            "gradients times the meta-batch",
        ),
        # SAP
        (SAP, '"transforms_head.", ', "", "head's transform fixed"),
        (SAP, '"transforms_head.", "head."))', '"transforms_head."))', "head fixed"),
        (
            SAP,
            '"transforms_head.", "head."))',
            '"transforms_head.", "head.", "strengths."))',
            "strengths adapted",
        ),
        (SAP, '("transforms.", ', '("transforms", ', "adapted by the beginning of a name"),
        (
            SAP,
            "share = self.strength_head.sigmoid()",
            "share = 1 - self.strength_head.sigmoid()",
            "head's share turned round",
        ),
        (SAP, "none + mtl * self.mtl_scale", "mtl * self.mtl_scale", "the plain kernel left out"),
        (
            SAP,
            "simple * self.simple_scale.unsqueeze(-1)",
            "simple * self.simple_scale.unsqueeze(-2)",
            "scales of inputs, not outputs",
        ),
        (
            SAP,
            "scalar * self.scalar_shift.unsqueeze(-1)",
            "-scalar * self.scalar_shift.unsqueeze(-1)",
            "shift's sign",
        ),
        (SAP, "vector * self.vector_shift", "self.vector_shift", "shifts not mixed"),
        (
            SAP,
            "identity, matrix = strengths.multiplication.softmax(0)",
            "matrix, identity = strengths.multiplication.softmax(0)",
            "mix exchanged",
        ),
        (SAP, "identity, point, kernel, svd =", "identity, point, svd, kernel =", "3x3 and svd exchanged"),
        (SAP, "self.svd_v.unsqueeze(-2)", "self.svd_u.unsqueeze(-2)", "u uᵀ for u vᵀ"),
        (SAP, "self.svd_u * self.svd_s.unsqueeze(-1)", "self.svd_u", "svd without s"),
        (
            SAP,
            "(0, 1, 0, 1)), mixed, shift)[..., 1:, 1:]",
            "(1, 0, 1, 0)), mixed, shift)[..., :-1, :-1]",
            "above and left, not below and right",
        ),
        (SAP, "self.at = 1 if centred else 0", "self.at = 1", "centred ignored"),
        (
            SAP,
            "block.activate(u, reference, partial(transform, strengths=strengths))",
            "block.activate(u, reference)",
            "no transformation",
        ),
        (
            BODY,
            "self.pool(transform(F.relu(u)))",
            "transform(self.pool(F.relu(u)))",
            "transformed after pooling",
        ),
        (
            BODY,
            "self.pool(transform(F.relu(u)))",
            "self.pool(F.relu(transform(u)))",
            "transformed before ReLU",
        ),
        # plain LSTM
        (LSTM, "t > 0 or self.first_labels", "self.first_labels", "labels never shown"),
        (LSTM, "t > 0 or self.first_labels", "True", "labels at the first pass"),
        (
            LSTM,
            "c.mean(2, keepdim=True) if self.pool_cell else c",
            "c.mean(2, keepdim=True)",
            "c always pooled",
        ),
        (LSTM, "c.mean(2, keepdim=True) if self.pool_cell else c", "c", "c never pooled"),
        (LSTM, "[(h.mean(2, keepdim=True), ", "[(h, ", "h not pooled"),
        (LSTM, "[(h.mean(2, keepdim=True), ", "[(h.sum(2, keepdim=True), ", "pooled by the sum"),
        (
            LSTM,
            "[(h.mean(2, keepdim=True), ",
            "[(h.mean((1, 2), keepdim=True).expand(h[..., :1].shape), ",
            "pooled over tasks",
        ),
        (LSTM, "without + self.seen_labels(y_BMN)", "without", "labels never seen"),
        (LSTM, "layer.bias_ih_l0 + layer.bias_hh_l0", "layer.bias_ih_l0", "one bias vector"),
        (LSTM, "if not self.query_cell:", "if self.query_cell:", "query cell flipped"),
        (LSTM, "for t in range(self.passes)", "for t in range(self.passes - 1)", "one pass less (set)"),
        (
            LSTM,
            "walk = torch.cat([x_BMD, y_BMN], -1)",
            "walk = torch.cat([x_BMD, y_BMN], -1).flip(1)",
            "walk backwards",
        ),
        (LSTM, "            state = new\n", "", "every walk from the beginning"),
        (LSTM, "for i in (*range(examples), 0):", "for i in range(examples):", "the last label is not seen"),
        (LSTM, "self.seen_labels(left)", "self.seen_labels(0 * left)", "nothing left by the step before"),
        (LSTM, "(prediction - label).square()", "(prediction - label)", "the error is not squared"),
        (LSTM, '"pred": prediction,', '"pred": -prediction,', "the prediction's sign"),
        (
            LSTM,
            'inputs.removeprefix("prev_")',
            'inputs.removeprefix("prev_target_")',
            "the label left out of the inputs",
        ),
        (
            LSTM,
            'read_set if self.support == "set"',
            'read_set if self.support != "set"',
            "set and sequence exchanged",
        ),
        (LSTM, "[(h, None) for", "[(torch.zeros_like(h), h) for", "h and c exchanged"),
        (LSTM, "c.permute(2, 1, 0)) for", "h.permute(2, 1, 0)) for", "c of a sequence lost"),
        (LSTM, "None if body.flat else body", "body", "the FC net under the LSTM"),
        # OP-LSTM
        (OPLSTM, "weight.plus(h * s, a)", "weight.plus(-h * s, a)", "step turned round"),
        (OPLSTM, "weight.plus(h * s, a)", "weight.plus(h, a)", "gamma and norms ignored"),
        (OPLSTM, "1.0 if self.gamma is None else self.gamma", "1.0", "gamma ignored"),
        (OPLSTM, "torch.tensor(float(gamma))", "torch.tensor(gamma * gamma)", "gamma starts elsewhere"),
        (OPLSTM, 'in ("joint", "matrix")', 'in ("joint",)', "matrix is none"),
        (OPLSTM, 'in ("joint", "matrix")', 'in ("matrix",)', "joint is none"),
        (OPLSTM, 'if self.normalisation == "joint"', "if True", "matrix is joint"),
        (OPLSTM, 'if self.normalisation == "joint"', "if False", "joint is matrix"),
        (OPLSTM, 'if self.normalisation == "example"', "if False", "example is none"),
        (OPLSTM, "F.normalize(a_BMI, dim=-1)", "a_BMI", "only h is normalised"),
        (OPLSTM, "F.normalize(a_BMI, dim=-1)", "F.normalize(a_BMI, dim=1)", "normalised over examples"),
        (OPLSTM, ".clamp_min(1e-24).rsqrt()", ".rsqrt()", "norm without a guard"),
        (OPLSTM, ".clamp_min(1e-24).rsqrt()", ".clamp_min(1e-24).reciprocal()", "the squared norm divides"),
        (OPLSTM, "return h_BMO / h_BMO.shape[1], a_BMI", "return h_BMO, a_BMI", "sum over the support set"),
        (OPLSTM, "if self.pool_state:", "if not self.pool_state:", "state pooling flipped"),
        (
            OPLSTM,
            "[(pool(h, a_BMO.shape), pool(c, a_BMO.shape))",
            "[(pool(h, a_BMO.shape), c)",
            "c not pooled",
        ),
        (
            OPLSTM,
            "[(pool(h, a_BMO.shape), pool(c, a_BMO.shape))",
            "[(h, pool(c, a_BMO.shape))",
            "h not pooled",
        ),
        (OPLSTM, "state.mean(2, keepdim=True)", "state.mean(3, keepdim=True)", "pooled over nodes"),
        (OPLSTM, "state.mean(2, keepdim=True)", "state.mean((1, 2), keepdim=True)", "pooled over tasks too"),
        (
            OPLSTM,
            "return x_DR.view(a_BMO.shape), new",
            "return new[-1][0].view(a_BMO.shape), new",
            "pooled h in the update",
        ),
        (OPLSTM, "softmax(-1) if self.softmax", "softmax(-1) if not self.softmax", "softmax flipped"),
        (OPLSTM, "outputs[-1].softmax(-1)", "outputs[-1].softmax(1)", "softmax over examples"),
        (OPLSTM, "softmax and not task.regression", "softmax", "softmax on regression"),
        (OPLSTM, "x_DR.detach() if self.detach else x_DR", "x_DR", "never detached"),
        (OPLSTM, "x_DR.detach() if self.detach else x_DR", "x_DR.detach()", "always detached"),
        (OPLSTM, "weights[layer].transposed(h_BMO)", "weights[layer].transposed(-h_BMO)", "message's sign"),
        (
            OPLSTM,
            "weights[layer].transposed(h_BMO)",
            "weights[layer].transposed(shown[layer])",
            "message of activations",
        ),
        (OPLSTM, "torch.stack([a_BMO, m_BMO])", "torch.stack([m_BMO, a_BMO])", "order inside z"),
        (
            OPLSTM,
            "below[layer], layer, outputs",
            "inputs[layer], layer, outputs",
            "outer product of activations",
        ),
        (
            OPLSTM,
            "if self.preactivation else inputs",
            "if not self.preactivation else inputs",
            "pre-activation flipped",
        ),
        (OPLSTM, "* inverse_spread(outputs[layer])", "", "update without the spread"),
        (OPLSTM, "self.hidden[layer].bn_weight * inverse", "inverse", "update without BN's weight"),
        (
            OPLSTM,
            ".square().sum(1, keepdim=True) + 1e-7",
            ".square().mean(1, keepdim=True) + 1e-7",
            "mean square",
        ),
        (OPLSTM, "range(self.passes)", "range(self.passes + 1)", "one pass more"),
        (
            OPLSTM,
            "self.coordinate(self.cells(layer), shown[layer], message, states[layer])",
            "self.coordinate(self.cells(layer), shown[layer], message, None)",
            "state forgotten between passes",
        ),
        (
            OPLSTM,
            "self.hidden_lstm if layer < len(self.hidden) else",
            "self.hidden_lstm if layer > 0 else",
            "LSTMs of the wrong layers",
        ),
        (OPLSTM, "torch.empty(1)", "torch.empty(2)", "two biases"),
        (
            OPLSTM,
            "uniform_(-(0.5**0.5), 0.5**0.5)",
            "uniform_(-0.025, 0.025)",
            "bias as torch would start it",
        ),
        (OPLSTM, "cell.bias_ih + cell.bias_hh", "cell.bias_ih", "one bias vector"),
        (LAYERS, "i, f, g, o = gates", "f, i, g, o = gates", "gates exchanged"),
        (
            OPLSTM,
            "self.body.bn if self.hidden else",
            "self.body.bn if not self.hidden else",
            "bn=support ignored",
        ),
        # numbers that are not finite
        (
            BASE,
            ".isfinite().flatten(1)",
            ".isnan().logical_not().flatten(1)",
            "infinite predictions are guesses",
        ),
        (BASE, "return nan_unless_finite(right, predictions)", "return right", "NaN is a class"),
        (
            MAML,
            "return self.clamps_each or self.adapts(name)",
            "return self.grad_clip_each or self.adapts(name)",
            "copies for no clamp",
        ),
        # the order of a support set
        (SOURCE, "order.sort(1).values)", "order)", "queries under the labels of other classes"),
        (
            SOURCE,
            "self._gather(shown, order)",
            "self._gather(index[:, :, :shots], order)",
            "images in another order",
        ),
        (EPISODES, "ORDER = np.uint64(2**32)", "ORDER = np.uint64(0)", "the order follows the classes"),
        (
            EPISODES,
            "np.argsort(random_bits(keys_B[:, None], np.ar",
            "np.sort(random_bits(keys_B[:, None] * np.uint64(0), np.ar",
            "one order",
        ),
        # results: what stands beside what
        (PAPER, 'result.get("run_status", result["status"])', '"finished"', "any status"),
        (PAPER, 'json.dumps(result["config_diff"], sort_keys=True)', '""', "any settings"),
        (PAPER, '"variant", "trained_on", "data"', '"variant", "data", "data"', "trained on anything"),
        (PAPER, '"shots", "val_shots"', '"shots", "shots"', "trained for any shots"),
        (PAPER, '"test_queries", "tasks")', '"tasks")', "any number of queries"),
        (PAPER, '"variant": "released"', '"variant": "paper"', "the other variant's numbers"),
        (NUMBERS, "41.31", "41.3", "another number"),
        (RECORD, 'f"{ways}-way {result', 'f"5-way {result', "ways not named"),
        (EVALUATE, '"run_status": status', '"run_status": "finished"', "a run that timed out has finished"),
        (EVALUATE, 'tested.data.get("ways", 1)', 'tested.data.get("ways", 1) + 1', "other ways"),
        (TESTED, "CROSS_DOMAIN_QUERIES = 15", "CROSS_DOMAIN_QUERIES = 5", "queries across"),
        # settings
        ("conf/settings/sap-mini.yaml", "released:false", "released:true", "SAP centred under released"),
        ("conf/settings/lstm-sine.yaml", "sequence}, text", "set}, text", "labels hidden from sequences"),
        (
            "conf/settings/oplstm-mini.yaml",
            "detach: ${by_variant:{released:${by_backbone:{mlp:false, fc:false, other:true}}",
            "detach: ${by_variant:{released:${by_backbone:{mlp:false, fc:false, other:false}}",
            "inputs not detached",
        ),
        ("conf/settings/oplstm-sine.yaml", "passes: 9", "passes: 8", "a pass less"),
        ("conf/settings/maml-mini.yaml", "5:2", "5:4", "another meta-batch"),
        ("conf/settings/warpmaml-mini.yaml", "{1:5, other", "{1:1, other", "trained on its own shots"),
        ("conf/family/sine.yaml", "num_val_tasks: 1000", "num_val_tasks: 600", "fewer validation tasks"),
        ("conf/family/omniglot.yaml", "text: 15", "text: 5", "fewer queries under text"),
        (
            "conf/experiment/figure5-omniglot.yaml",
            "train_queries: 10",
            "train_queries: 15",
            "more queries than drawings",
        ),
        ("conf/experiment/figure6.yaml", "${variant}", "text", "Figure 6 by one form"),
        # studies and their reports
        ("conf/search/lstm_sine.yaml", "1e-5,4e-2", "1e-5,4e-1", "another range of rates"),
        ("conf/search/lstm_sine.yaml", "passes,int,1,14", "passes,int,1,13", "fewer passes"),
        (DRAWS, "(int(high) - int(low) + 1)", "(int(high) - int(low))", "the last number left out"),
        (DRAWS, "math.exp(math.log(low) + where", "math.exp(where", "a rate off its range"),
        (DRAWS, "/{name}", "", "all settings drawn alike"),
        (DRAWS, "{_root_.study}/", "", "all searches drawn alike"),
        (STATISTICS, "stats.t.ppf(0.975", "stats.t.ppf(0.95", "a 90% interval"),
        (
            STATISTICS,
            "stats.t.ppf(0.975, values.shape[axis] - 1)",
            "1.96",
            "a normal interval for three seeds",
        ),
        (
            TABLE,
            'line["ci95_tasks"] + line["paper_ci95"]',
            'line["ci95_tasks"]',
            "the paper's interval left out",
        ),
        (TABLE, "0.5 * 10.0**-digits + ", "", "the paper's number taken for exact"),
        (
            TABLE,
            "sizes.max() / sizes.sum()",
            "sizes.max() / len(sizes)",
            "another share of the worst task",
        ),
        (IDENTITY, "< updates and (run", "< updates or (run", "as many tasks called shrunk"),
        (PAIRS, "common[first] - common[second]", "common[first] + common[second]", "a sum for a difference"),
        (PAIRS, "half_width(seeds_S)", "half_width(pooled)", "tasks for seeds"),
        (PAIRS, '"holm"', '"bonferroni"', "another correction"),
        (PAIRS, '"difference"] < 0) == ', '"difference"] > 0) == ', "the worse called better"),
        (PAIRS, "ascending=lower_is_better", "ascending=not lower_is_better", "ranks upside down"),
        # checks
        (OPTIONS, "strict=True", "strict=False", "true and 1.0 taken for 1"),
        (OPTIONS, "Few = Annotated[int, Field(ge=1", "Few = Annotated[int, Field(ge=0", "no steps at all"),
        (OPTIONS, "Field(gt=0, allow_inf_nan=False)", "Field(ge=0, allow_inf_nan=False)", "a rate of 0"),
        (OPTIONS, "gt=0, allow_inf_nan=False", "gt=0", "an infinite rate"),
        (OPTIONS, "Field(min_length=1)]", "Field(min_length=0)]", "no layers at all"),
        (OPTIONS, "is_plain(declared[name]) and not is_plain_value(value)", "False", "tensors for numbers"),
        (
            OPTIONS,
            "        before(given.arguments)",
            "        dict(given.arguments)",
            "options not checked together",
        ),
        (OPTIONS, "if type(value) is not int", "if False", "true for a sign"),
        (
            BASE,
            "cls.__init__ = checked(cls.__init__, cls.prepare, cls.remember, parent)",
            "pass",
            "constructors unchecked",
        ),
        (BASE, 'told(arguments["backbone', "dict(arguments", "backbones unchecked"),
        (CHECKS, "if name not in kinds:", "if False:", "unknown settings taken"),
        (CHECKS, "if left_out := [", "if left_out := [][:0] and [", "settings left out"),
        (CLI, "refuse_renamed(cfg, hydra_cfg.runtime.choices, overrides)", "pass", "names set alone"),
        # floors, and what a learner is told
        (FLOORS, ".argmin(-1)", ".argmax(-1)", "the farthest neighbour"),
        (FLOORS, "support_y.mean(1, keepdim=True)", "support_y[:, :1]", "the first value for the mean"),
        (FLOORS, "return 100 * ", "return 1 * ", "the floor as a fraction"),
        (
            MAML,
            "self.stepped(weights[n], self.step_size(n), g)",
            "self.stepped(weights[n], self.inner_lr, g)",
            "no step sizes of one's own",
        ),
        (IDENTITY, "if key in LIGHTNING}", "if key not in LIGHTNING}", "other options in a run's name"),
        # episodes
        (EPISODES, "(counter + np.uint64(1))", "counter", "words from 0"),
        # the weights of tasks
        (TASK_WEIGHT, "torch.baddbmm(y_BMO, x_BMI", "torch.baddbmm(0 * y_BMO, x_BMI", "the base forgotten"),
        (
            TASK_WEIGHT,
            "x_BMI, y_BMO @ self.h_BKO.mT",
            "x_BMI, -y_BMO @ self.h_BKO.mT",
            "products subtracted going down",
        ),
        (
            TASK_WEIGHT,
            "torch.cat([self.h_BKO, h_BMO], 1)",
            "torch.cat([h_BMO, self.h_BKO], 1)",
            "products mixed up",
        ),
        (TASK_WEIGHT, "(h_BMO @ h_BMO.mT) * (", "(h_BMO @ h_BMO.mT) + (", "another norm"),
        # further backbones
        (LAYERS, "weight.shape[-1] // 2", "1", "1×1 convolutions padded"),
        (RESNET, "SLOPE = 0.1", "SLOPE = 0.2", "another leaky ReLU"),
        (RESNET, "+ self.shortcut(", "- self.shortcut(", "the shortcut subtracted"),
        (RESNET, "x.mean((3, 4))", "x.amax((3, 4))", "maximum over the pixels"),
        (RESNET, "self.bn_bias, reference)", "self.bn_bias)", "ResNet-12's BN reference ignored"),
        (LIBRARY, "self.sets.reference, self.eps)", "None, self.eps)", "a library's BN reference ignored"),
        (LIBRARY, "- self.mean)", "+ self.mean)", "images not normalised"),
        (LIBRARY, "self.train()(torch", "self(torch", "stored statistics moved"),
        (WEIGHTS, "weights_only=True", "weights_only=False", "a file of weights runs code"),
        (MAML, "if not alone and", "if False and", "MAML on one copy of the weights"),
        (EPISODES, "0xBF58476D1CE4E5B9", "0xBF58476D1CE4E5BB", "another constant"),
        (EPISODES, "z ^ (z >> np.uint64(31))", "z ^ (z >> np.uint64(32))", "another shift"),
        (EPISODES, "SPLITS.index(split)", "0", "splits share tasks"),
        (EPISODES, "np.array([seed], dtype", "np.array([0], dtype", "seeds share tasks"),
        (
            EPISODES,
            "tasks.astype(np.uint64))",
            "np.arange(len(tasks), dtype=np.uint64))",
            "tasks by place in the batch",
        ),
        (EPISODES, "np.uint64(11)", "np.uint64(12)", "half of the interval"),
        (EPISODES, "low + (high - low)", "low + high", "another interval"),
        (EPISODES, "axis=1)[:, :ways]", "axis=1)[:, -ways:]", "the last classes: ways do not nest"),
        (EPISODES, "[..., :examples]", "[..., -examples:]", "masked images drawn"),
        (EPISODES, "positions_E >= counts", "positions_E > counts", "one image beyond the class"),
        (EPISODES, "np.arange(1, ways + 1,", "np.arange(0, ways,", "classes and images by one key"),
        (EPISODES, "counts_BN.max()", "counts_BN.min()", "images beyond the smallest class never drawn"),
        (
            EPISODES,
            "starts_C[classes_BN][..., None]",
            "starts_C[np.sort(classes_BN)][..., None]",
            "starts of other classes",
        ),
    )
]


def copy(source: Path, target: Path) -> None:
    for name in COPIED:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (source / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / name, target / name)


class FirstRed:
    """Plugin that remembers the first failure."""

    test: str | None = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.test:
            self.test = report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and not self.test:
            self.test = f"{report.nodeid} (import)"


def first_red(base: Path, mutation: Mutation | None) -> str | None:
    """The first test that fails in a copy of `base` with the mutation, None if all pass; in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        target = Path(folder).resolve() / "copy"
        copy(base, target)
        if mutation:
            path = target / mutation.file
            text = path.read_text()
            assert text.count(mutation.old) == 1, (
                f"{mutation.file}: {text.count(mutation.old)} times {mutation.old!r}"
            )
            path.write_text(text.replace(mutation.old, mutation.new))
        os.chdir(target)
        os.environ["PYTHONPATH"] = str(target)
        sys.path[:] = [str(target), *(entry for entry in sys.path if entry and Path(entry).resolve() != ROOT)]
        sys.dont_write_bytecode = True
        for name in [
            name for name in sys.modules if name.partition(".")[0] in ("fewshot", "tests", "benchmarks")
        ]:
            del sys.modules[name]
        file = mutation.file if mutation else ""
        first = FIRST.get(file, TESTS[3] if file.startswith("conf/") else TESTS[0])
        tests = sorted(TESTS, key=lambda name: name != first)
        red = FirstRed()
        with open(target / "said", "w") as said, redirect_stdout(said), redirect_stderr(said):
            code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests], plugins=[red])
        for name in ("fewshot.methods", "tests.conftest"):  # the copy, not the repository
            assert Path(str(sys.modules[name].__file__)).is_relative_to(target), sys.modules[name].__file__
        assert (code == 0) == (red.test is None), (target / "said").read_text()
        os.chdir(ROOT)
    return red.test


def main(words: Sequence[str]) -> int:
    console = Console()
    chosen = [m for m in MUTATIONS if not words or any(word in f"{m.file} {m.what}" for word in words)]
    outcomes: dict[Mutation | None, str | None] = {}
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    context = multiprocessing.get_context(
        "forkserver"
    )  # a new process a mutation, the libraries imported once
    context.set_forkserver_preload(
        ["hydra", "hypothesis", "lightning", "pytest", "scipy.stats", "torch", "torchmetrics"]
    )
    with (
        tempfile.TemporaryDirectory(prefix="mutations-") as folder,
        ProcessPoolExecutor(AT_A_TIME, context, max_tasks_per_child=1) as pool,
    ):
        base = Path(folder) / "base"
        copy(ROOT, base)  # once: whoever edits the repository meanwhile does not meddle
        for m in chosen:
            count = (base / m.file).read_text().count(m.old)
            assert count == 1, f"{m.file}: {count} times {m.old!r}"
        with Progress(console=console) as progress:
            bar = progress.add_task("mutations", total=len(chosen) + 1)
            running = {pool.submit(first_red, base, m): m for m in [None, *chosen]}
            for done in as_completed(running):
                outcomes[running[done]] = done.result()
                progress.advance(bar)
                if running[done] and outcomes[running[done]] is None:
                    progress.console.print(f"[bold red]survived:[/] {running[done]}")
    table = Table("file", "mutation", "first red test")
    for m in chosen:
        table.add_row(m.file.removeprefix("fewshot/"), m.what, outcomes[m] or "[bold red]SURVIVED")
    console.print(table)
    survivors = [m for m in chosen if outcomes[m] is None]
    console.print(
        f"{len(chosen)} mutations, {len(survivors)} survived; unchanged: {outcomes[None] or 'green'}"
    )
    return 1 if survivors or outcomes[None] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
