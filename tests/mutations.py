"""Breaks the package in one place at a time; a test of that part must fail: `python -m tests.mutations [path
...]`.

Each mutation runs in its own copy of the repository. The unchanged copy has to pass. Arguments restrict the
files, as `fewshot/methods`. Exits 1 if a mutation survives.
"""

import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("benchmarks", "fewshot", "tests", "conf", "docs/compare.md", "train.py", "pyproject.toml")
AT_A_TIME = 2
LEARNERS = ("against_reference", "learners", "settings")
TESTS = {  # the beginning of a file's path: the tests that guard it, the fastest to fail first
    "fewshot/methods/base": ("learners", "against_reference"),
    "fewshot/methods/losses": ("learners", "against_reference"),
    "fewshot/methods": (*LEARNERS, "backbones", "compiled"),
    "fewshot/backbones": (*LEARNERS, "backbones"),
    "fewshot/baselines": ("baselines",),
    "fewshot/episodes": ("episodes",),
    "fewshot/data/image_source": ("episodes",),
    "fewshot/data": ("distributed", "episodes"),
    "fewshot/options": ("learners", "cli"),
    "fewshot/config": ("report", "lightning", "results", "runs", "settings"),
    "fewshot/training/compiled": ("compiled",),
    "fewshot/training/distributed": ("distributed",),
    "fewshot/training/evaluate": ("evaluate", "results"),
    "fewshot/results": ("results", "report"),
    "fewshot/report": ("report",),
    "conf/search": ("report",),
    "conf": ("settings", "report"),
}


class Mutation(NamedTuple):
    """`old`, which occurs once in `file`, becomes `new`."""

    file: str
    old: str
    new: str


MUTATIONS = {
    "fewshot/methods/base.py": [
        ('"loss": losses.sum()', '"loss": losses.mean()'),
        ("losses.detach().mean()", "losses.detach().sum()"),
        ('"none").mean(1)', '"none").sum(1)'),
        ('"none").flatten(1).mean(1)', '"none").flatten(1).sum(1)'),
        ("if bn != ", "if bn == "),
        ("reference=shots)", "reference=None)"),
        ("[:, shots:]", "[:, :-shots]"),
        ("torch.optim.Adam(", "torch.optim.AdamW("),
        ("update(episode.tasks)", "update(episode.tasks + 1)"),
    ],
    "fewshot/methods/coordinate_lstm.py": [
        ("[(pool(h), pool(c))", "[(pool(h), c)"),
        ("[(pool(h), pool(c))", "[(h, pool(c))"),
        ("values.mean(2, keepdim=True)", "values.mean(3, keepdim=True)"),
        ("values.mean(2, keepdim=True)", "values.mean((1, 2), keepdim=True)"),
        ("cell.bias_ih + cell.bias_hh", "cell.bias_ih"),
    ],
    "fewshot/methods/losses.py": [
        ("100 * shares", "shares"),
        ("targets.flatten(1).T, num_outputs=", "-targets.flatten(1).T, num_outputs="),
        ("(g * (p - p.detach()))", "(-g * (p - p.detach()))"),
        ("torch.stack(zeros).sum() / len(losses)", "torch.stack(zeros).sum()"),
        (".isfinite().flatten(1)", ".isnan().logical_not().flatten(1)"),
        ("return nan_unless_finite(100 * shares, predictions)", "return 100 * shares"),
        ("total += gradient", "total.copy_(gradient)"),
    ],
    "fewshot/methods/lstm.py": [
        ("t > 0 or self.first_labels", "self.first_labels"),
        ("t > 0 or self.first_labels", "True"),
        ("mean(c) if self.pool_cell else c", "mean(c)"),
        ("mean(c) if self.pool_cell else c", "c"),
        ("[(mean(h), ", "[(h, "),
        ("values_DBM.mean(2, keepdim=True)", "values_DBM.sum(2, keepdim=True)"),
        (
            "values_DBM.mean(2, keepdim=True)",
            "values_DBM.mean((1, 2), keepdim=True).expand(values_DBM[..., :1].shape)",
        ),
        ("unlabelled + self.lstm.label_gates(y_BMN)", "unlabelled"),
        ("if not self.query_cell:", "if self.query_cell:"),
        ("for t in range(self.passes)", "for t in range(self.passes - 1)"),
        ("torch.cat([x_BMD, y_BMN], -1)", "torch.cat([x_BMD, y_BMN], -1).flip(1)"),
        ("for i in (*range(examples), 0):", "for i in range(examples):"),
        ("self.lstm.label_gates(previous)", "self.lstm.label_gates(0 * previous)"),
        ("(prediction - label).square()", "(prediction - label)"),
        ('"pred": prediction,', '"pred": -prediction,'),
        ('inputs.removeprefix("prev_")', 'inputs.removeprefix("prev_target_")'),
        ('self.read_set if self.support_mode == "set"', 'self.read_set if self.support_mode != "set"'),
        ("[(h, None) for", "[(torch.zeros_like(h), h) for"),
        ("None if body.flat else body", "body"),
    ],
    "fewshot/methods/lstm_stack.py": [
        ("layer.bias_ih_l0 + layer.bias_hh_l0", "layer.bias_ih_l0"),
        ("            state = new\n", ""),
        ("c.permute(2, 1, 0)) for", "h.permute(2, 1, 0)) for"),
        ("gates_DBM + product(layer.weight_hh_l0, h)", "gates_DBM"),
    ],
    "fewshot/methods/maml.py": [
        ("torch.sub(weight, grad, alpha=size)", "torch.add(weight, grad, alpha=size)"),
        ("weight.plus(-size * grad", "weight.plus(size * grad"),
        ("x.detach() if self.first_order else x", "x"),
        ("create_graph = training and not self.first_order", "create_graph = False"),
        ("create_graph = training and not self.first_order", "create_graph = training"),
        ("self.inner_steps if self.training else self.eval_inner_steps", "self.inner_steps"),
        ("range(self.inner_steps if", "range(1 + self.inner_steps if"),
        ("task_losses(predictions, support_y).sum()", "task_losses(predictions, support_y).mean()"),
        ("clip(grad, -self.grad_clip, self.grad_clip)", "clip(grad, -self.grad_clip, None)"),
        ("return self.grad_clip_each and", "return"),
        (
            "return self.clips_each_task or self.adapts(name)",
            "return self.grad_clip_each or self.adapts(name)",
        ),
        ("nn.utils.clip_grad_value_(self.parameters(), self.grad_clip)", "pass"),
        ('not self.adapt_head_only or name.startswith("head.")', "True"),
        ("names = [name for name in weights if self.adapts(name)]", "names = list(weights)"),
        ("by_name[name].detach() if self.first_order", "by_name[name] if self.first_order"),
        ("self.call_net(weights | changed, support_x)", "self.call_net(weights | changed, support_x, 2)"),
        ("self.body.bn, support_x", '"none", support_x'),
        ("size = self.step_size(name)\n        if isinstance", "size = self.inner_lr\n        if isinstance"),
        ("if not self.body.per_task and", "if False and"),
    ],
    "fewshot/methods/oplstm.py": [
        ("torch.tensor(float(gamma))", "torch.tensor(gamma * gamma)"),
        ("if self.pool_state else state", "if not self.pool_state else state"),
        ("softmax(-1) if self.softmax", "softmax(-1) if not self.softmax"),
        ("outputs[-1].softmax(-1)", "outputs[-1].softmax(1)"),
        ("softmax and not task.regression", "softmax"),
        ("message.detach()) if self.detach", "message.detach()) if False"),
        ("message.detach()) if self.detach", "message.detach()) if True"),
        ("weights[layer].transposed(h_BMO)", "weights[layer].transposed(-h_BMO)"),
        ("weights[layer].transposed(h_BMO)", "weights[layer].transposed(above[layer])"),
        ("(a, m, states[layer])", "(m, a, states[layer])"),
        ("(a, m, states[layer])", "(a, m, None)"),
        ("mean_outer_product(h_BMO, below[layer]", "mean_outer_product(h_BMO, inputs[layer]"),
        ("if self.preactivation else inputs", "if not self.preactivation else inputs"),
        (" * inverse_spread(outputs[layer])", ".view(1, 1, -1)"),
        ("self.hidden[layer].bn_weight * inverse", "inverse"),
        ("range(self.passes)", "range(self.passes + 1)"),
        ("self.hidden_lstm if layer < len(self.hidden) else", "self.hidden_lstm if layer > 0 else"),
        ("uniform_(-(0.5**0.5), 0.5**0.5)", "uniform_(-0.025, 0.025)"),
        ("self.body.bn if self.hidden else", "self.body.bn if not self.hidden else"),
    ],
    "fewshot/methods/outer_products.py": [
        ("weight.plus(h * scale, a)", "weight.plus(-h * scale, a)"),
        ("weight.plus(h * scale, a)", "weight.plus(h, a)"),
        ("1.0 if gamma is None else gamma", "1.0"),
        ('in ("joint", "matrix")', 'in ("joint",)'),
        ('in ("joint", "matrix")', 'in ("matrix",)'),
        ('if normalisation == "joint"', "if True"),
        ('if normalisation == "joint"', "if False"),
        ('if normalisation == "example"', "if False"),
        ("F.normalize(a_BMI, dim=-1)", "a_BMI"),
        ("F.normalize(a_BMI, dim=-1)", "F.normalize(a_BMI, dim=1)"),
        (".clamp_min(1e-24).rsqrt()", ".rsqrt()"),
        (".clamp_min(1e-24).rsqrt()", ".clamp_min(1e-24).reciprocal()"),
        ("return h_BMO / h_BMO.shape[1], a_BMI", "return h_BMO, a_BMI"),
        (".square().sum(1, keepdim=True) + 1e-7", ".square().mean(1, keepdim=True) + 1e-7"),
    ],
    "fewshot/methods/per_task.py": [
        ("repeated.register_hook(lambda grads: clipped_sum(grads, clip))", "pass"),
        ("total[0].add_(grad).clamp_(-clip, clip)", "total[0].add_(grad.clamp(-clip, clip))"),
        ("return repeated.view_as(repeated)", "return repeated"),
        ("own = {name: copy[number]", "own = {name: copy[0]"),
    ],
    "fewshot/methods/protonet.py": [
        ("return -torch.cdist", "return torch.cdist"),
        ('dist").square()', 'dist")'),
        (" / targets_BMN.sum(1).unsqueeze(-1)", ""),
        ("self.body(support_x)", "self.body(support_x).detach()"),
    ],
    "fewshot/methods/sap.py": [
        ('"transforms_head.", ', ""),
        ('"transforms_head.", "head."))', '"transforms_head."))'),
        ('"transforms_head.", "head."))', '"transforms_head.", "head.", "strengths."))'),
        ('("transforms.", ', '("transforms", '),
        ("torch.lerp(y, transformed,", "torch.lerp(transformed, y,"),
        ("partial(operations, strengths=strengths)", "None"),
    ],
    "fewshot/methods/sap_operations.py": [
        ("none + mtl * self.mtl_scale", "mtl * self.mtl_scale"),
        ("simple * self.simple_scale.unsqueeze(-1)", "simple * self.simple_scale.unsqueeze(-2)"),
        ("scalar * self.scalar_shift", "-scalar * self.scalar_shift"),
        ("vector * self.vector_shift", "self.vector_shift"),
        ("identity, matrix = strengths", "matrix, identity = strengths"),
        ("identity, conv1x1, conv3x3, svd =", "identity, conv1x1, svd, conv3x3 ="),
        ("self.svd_v.unsqueeze(-2)", "self.svd_u.unsqueeze(-2)"),
        ("self.svd_u * self.svd_s.unsqueeze(-1)", "self.svd_u"),
        ("(0, 1, 0, 1)), mixed, shift)[..., 1:, 1:]", "(1, 0, 1, 0)), mixed, shift)[..., :-1, :-1]"),
        ("self.center = 1 if centred else 0", "self.center = 1"),
    ],
    "fewshot/methods/warpmaml.py": [
        ('name.startswith(("warps.", "body.0."))', 'name.startswith("warps.")'),
        ('name.startswith(("warps.", "body.0."))', 'name.startswith("body.0.")'),
        ("if t == self.inner_steps - 1 or not self.last_loss:", "if True:"),
        ("if t == self.inner_steps - 1 or not self.last_loss:", "if t == self.inner_steps - 1:"),
        ("p.detach().requires_grad_()", "p"),
        ("x = warp(block(x, reference))", "x = block(warp(x), reference)"),
    ],
    "fewshot/backbones/blocks.py": [
        ("return F.relu(", "return F.leaky_relu("),
        ("F.max_pool2d", "F.avg_pool2d"),
        ("torch.zeros_like(made.bias)", "torch.ones_like(made.bias)"),
        ("torch.ones(outputs)", "torch.full((outputs,), 0.1)"),
        ("size >> len(widths)", "size // 2 * 2 >> len(widths) - 1"),
        ("self.pool(transform(F.relu(u)))", "transform(self.pool(F.relu(u)))"),
        ("self.pool(transform(F.relu(u)))", "self.pool(F.relu(transform(u)))"),
    ],
    "fewshot/backbones/layers.py": [
        ("EPS = 1e-5", "EPS = 1e-3"),
        ("correction=0", "correction=1"),
        ("axes = (1, *range(3, x_BMO.dim()))", "axes = (0, 1, *range(3, x_BMO.dim()))"),
        ("axes = (1, *range", "axes = tuple(range"),
        ("x_BMO[:, :reference]", "x_BMO"),
        ("x_BMO[:, :reference]", "x_BMO[:, :reference].detach()"),
        ("- mean * scale", "+ mean * scale"),
        ("weight.flatten(0, 1), bias, padding", "weight.flatten(0, 1), None, padding"),
        ("(tasks, -1)).transpose(0, 1)", "(-1, tasks)).transpose(1, 2).transpose(0, 1)"),
        ("if reference is None:", "if True:"),
        ("bias.expand(tasks, -1).flatten()", "0 * bias.expand(tasks, -1).flatten()"),
        ("weight.expand(tasks, -1).flatten()", "weight.detach().expand(tasks, -1).flatten()"),
        ("baddbmm(bias.unsqueeze(-2)", "baddbmm(0 * bias.unsqueeze(-2)"),
        ("i, f, g, o = gates", "f, i, g, o = gates"),
        ("weight.shape[-1] // 2", "1"),
    ],
    "fewshot/backbones/library.py": [
        ("self.sets.reference, self.eps)", "None, self.eps)"),
        ("- self.mean)", "+ self.mean)"),
        ("self.train()(torch", "self(torch"),
    ],
    "fewshot/backbones/resnet12.py": [
        ("SLOPE = 0.1", "SLOPE = 0.2"),
        ("+ self.shortcut(", "- self.shortcut("),
        ("x.mean((3, 4))", "x.amax((3, 4))"),
        ("self.bn_bias, reference)", "self.bn_bias)"),
    ],
    "fewshot/backbones/task_weight.py": [
        ("torch.baddbmm(y_BMO, x_BMI", "torch.baddbmm(0 * y_BMO, x_BMI"),
        ("x_BMI, y_BMO @ self.h_BKO.mT", "x_BMI, -y_BMO @ self.h_BKO.mT"),
        ("torch.cat([self.h_BKO, h_BMO], 1)", "torch.cat([h_BMO, self.h_BKO], 1)"),
        ("(h_BMO @ h_BMO.mT) * (", "(h_BMO @ h_BMO.mT) + ("),
    ],
    "fewshot/backbones/weights.py": [
        ("weights_only=True", "weights_only=False"),
    ],
    "fewshot/episodes.py": [
        ("ORDER = np.uint64(2**32)", "ORDER = np.uint64(0)"),
        (
            "np.argsort(random_bits(keys_B[:, None], np.ar",
            "np.sort(random_bits(keys_B[:, None] * np.uint64(0), np.ar",
        ),
        ("(counter + np.uint64(1))", "counter"),
        ("0xBF58476D1CE4E5B9", "0xBF58476D1CE4E5BB"),
        ("z ^ (z >> np.uint64(31))", "z ^ (z >> np.uint64(32))"),
        ("SPLITS.index(split)", "0"),
        ("np.array([seed], dtype", "np.array([0], dtype"),
        ("tasks.astype(np.uint64))", "np.arange(len(tasks), dtype=np.uint64))"),
        ("np.uint64(11)", "np.uint64(12)"),
        ("low + (high - low)", "low + high"),
        ("axis=1)[:, :ways]", "axis=1)[:, -ways:]"),
        ("[..., :examples]", "[..., -examples:]"),
        ("positions_E >= counts", "positions_E > counts"),
        ("np.arange(1, ways + 1,", "np.arange(0, ways,"),
        ("counts_BN.max()", "counts_BN.min()"),
        ("starts_C[classes_BN][..., None]", "starts_C[np.sort(classes_BN)][..., None]"),
    ],
    "fewshot/data/datamodule.py": [
        ("self.ranks)[self.rank]", "self.ranks)[0]"),
    ],
    "fewshot/data/image_source.py": [
        ("order.sort(1).values)", "order)"),
        ("self._gather(shown, order)", "self._gather(index[:, :, :shots], order)"),
    ],
    "fewshot/options.py": [
        ("strict=True, arb", "strict=False, arb"),
        ("Few = Annotated[int, Field(ge=1", "Few = Annotated[int, Field(ge=0"),
        ("Field(gt=0, lt=1e300", "Field(ge=0, lt=1e300"),
        ("if type(value) is not int", "if False"),
    ],
    "fewshot/config/eval_config.py": [
        ("CROSS_DOMAIN_QUERIES = 15", "CROSS_DOMAIN_QUERIES = 5"),
    ],
    "fewshot/config/random_search.py": [
        ("(int(high) - int(low) + 1)", "(int(high) - int(low))"),
        ("math.exp(math.log(low) + where", "math.exp(where"),
        ("/{name}", ""),
        ("{_root_.study}/", ""),
    ],
    "fewshot/training/compiled.py": [
        ("quick(*learner.alike(*args))", "quick(*args)"),
    ],
    "fewshot/training/distributed.py": [
        ("dist.all_reduce(total)", "pass"),
        ("dist.all_reduce(total)", "dist.all_reduce(total); total /= 2"),
    ],
    "fewshot/training/evaluate.py": [
        ('"run_status": status', '"run_status": "finished"'),
        ('tested.data.get("ways", 1)', 'tested.data.get("ways", 1) + 1'),
    ],
    "fewshot/results/paper.csv": [
        ("41.31", "41.3"),
    ],
    "fewshot/results/paper.py": [
        ('result.get("run_status", result["status"])', '"finished"'),
        ('json.dumps(result["config_diff"], sort_keys=True)', '""'),
        ('"variant", "trained_on", "data"', '"variant", "data", "data"'),
        ('"shots", "val_shots"', '"shots", "shots"'),
        ('["test_queries", "tasks"]', '["tasks"]'),
        ('variant="released"', 'variant="paper"'),
    ],
    "fewshot/results/record.py": [
        ('"{ways}-way {shots}-shot, ', '"5-way {shots}-shot, '),
    ],
    "fewshot/results/statistics.py": [
        ("stats.t.ppf(0.975", "stats.t.ppf(0.95"),
        ("stats.t.ppf(0.975, count - 1)", "1.96"),
        ("mean - ci95 > baselines", "mean + ci95 > baselines"),
    ],
    "fewshot/report/pairs.py": [
        ("common[first] - common[second]", "common[first] + common[second]"),
        ("half_width(seeds_S)", "half_width(pooled)"),
        ('"holm"', '"bonferroni"'),
        ('ascending="mse" in', 'ascending="mse" not in'),
    ],
    "fewshot/report/table.py": [
        ("sizes.max() / sizes.sum()", "sizes.max() / len(sizes)"),
    ],
    "fewshot/baselines.py": [
        (".argmin(-1)", ".argmax(-1)"),
        ("support_y.mean(1, keepdim=True)", "support_y[:, :1]"),
        ("return 100 * ", "return 1 * "),
    ],
    "conf/experiment/figure5-omniglot.yaml": [
        ("train_queries: 10", "train_queries: 15"),
    ],
    "conf/experiment/figure6.yaml": [
        ("${variant}", "text"),
    ],
    "conf/family/omniglot.yaml": [
        ("paper:15", "paper:5"),
    ],
    "conf/family/sine.yaml": [
        ("num_val_tasks: 1000", "num_val_tasks: 600"),
    ],
    "conf/search/lstm_sine.yaml": [
        ("1e-5,4e-2", "1e-5,4e-1"),
        ("passes,int,1,14", "passes,int,1,13"),
    ],
    "conf/settings/lstm-sine.yaml": [
        ("{sequence:true, other:false}", "{sequence:true, other:true}"),
    ],
    "conf/settings/maml-mini.yaml": [
        ("5:2", "5:4"),
    ],
    "conf/settings/oplstm-mini.yaml": [
        (
            "detach: ${by:variant,{released:${by:backbone.name,{mlp:false, fc:false, other:true}}",
            "detach: ${by:variant,{released:${by:backbone.name,{mlp:false, fc:false, other:false}}",
        ),
    ],
    "conf/settings/oplstm-sine.yaml": [
        ("passes: 9", "passes: 8"),
    ],
    "conf/settings/sap-mini.yaml": [
        ("released:false", "released:true"),
    ],
    "conf/settings/warpmaml-mini.yaml": [
        ("{1:5, other", "{1:1, other"),
    ],
}


def copy(source: Path, target: Path) -> None:
    for name in COPIED:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (source / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / name, target / name)


def tests_of(file: str) -> list[str]:
    part = max((part for part in TESTS if file.startswith(part)), key=len)
    return [f"tests/test_{name}.py" for name in TESTS[part]]


class FirstFailure:
    """Plugin that remembers the first failure."""

    test: str | None = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.test:
            self.test = report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and not self.test:
            self.test = f"{report.nodeid} (import)"


def first_failure(base: Path, mutation: Mutation | None, tests: list[str]) -> str | None:
    """The first test that fails in a copy of `base` with the mutation, None if all pass; needs a fresh
    process."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        target = Path(folder).resolve() / "copy"
        copy(base, target)
        if mutation:
            path = target / mutation.file
            path.write_text(path.read_text().replace(mutation.old, mutation.new))
        os.chdir(target)
        os.environ["PYTHONPATH"] = str(target)
        sys.path[:] = [str(target), *(entry for entry in sys.path if entry and Path(entry).resolve() != ROOT)]
        sys.dont_write_bytecode = True
        for name in list(sys.modules):
            if name.partition(".")[0] in ("fewshot", "tests", "benchmarks"):
                del sys.modules[name]
        failure = FirstFailure()
        with open(target / "output", "w") as output, redirect_stdout(output), redirect_stderr(output):
            code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests], plugins=[failure])
        for name in ("fewshot.methods", "tests.conftest"):  # the copy was tested, not the repository
            assert Path(str(sys.modules[name].__file__)).is_relative_to(target), sys.modules[name].__file__
        assert (code == 0) == (failure.test is None), (target / "output").read_text()
        os.chdir(ROOT)
    return failure.test


def main(paths: Sequence[str]) -> int:
    console = Console()
    chosen = [
        Mutation(file, *row)
        for file, rows in MUTATIONS.items()
        for row in rows
        if not paths or file.startswith(tuple(paths))
    ]
    for mutation in chosen:
        count = (ROOT / mutation.file).read_text().count(mutation.old)
        assert count == 1, f"{mutation.file}: {count} times {mutation.old!r}"
    outcomes: dict[Mutation | None, str | None] = {}
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    context = multiprocessing.get_context("forkserver")  # a new process per mutation, libraries imported once
    context.set_forkserver_preload(["hydra", "hypothesis", "lightning", "pytest", "scipy.stats", "torch"])
    with (
        tempfile.TemporaryDirectory(prefix="mutations-") as folder,
        ProcessPoolExecutor(AT_A_TIME, context, max_tasks_per_child=1) as pool,
        Progress(console=console) as progress,
    ):
        base = Path(folder) / "base"
        copy(ROOT, base)  # edits of the repository do not change the runs
        every = sorted({test for mutation in chosen for test in tests_of(mutation.file)})
        running = {pool.submit(first_failure, base, m, tests_of(m.file)): m for m in chosen}
        running[pool.submit(first_failure, base, None, every)] = None
        bar = progress.add_task("mutations", total=len(running))
        for done in as_completed(running):
            mutation = running[done]
            outcomes[mutation] = done.result()
            progress.advance(bar)
            if mutation and outcomes[mutation] is None:
                progress.console.print(f"survived: {mutation}", markup=False)
    table = Table("file", "old", "new", "first failing test")
    for mutation in chosen:
        table.add_row(*map(escape, mutation), outcomes[mutation] or "SURVIVED")
    console.print(table)
    survivors = [mutation for mutation in chosen if outcomes[mutation] is None]
    unchanged = outcomes[None] or "passes"
    console.print(f"{len(chosen)} mutations, {len(survivors)} survived; the unchanged copy: {unchanged}")
    return 1 if survivors or outcomes[None] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
