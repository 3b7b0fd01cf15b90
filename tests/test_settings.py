"""The settings of the reported runs: sizes, rates, budgets and what `variant` changes, against the paper's
protocol."""

import math

import pytest
import torch
from omegaconf import OmegaConf

from fewshot.config.compose import composed
from fewshot.episodes import Task
from fewshot.training.build import make_learner

pytestmark = pytest.mark.usefixtures("undrawn")

TASKS = {
    "sine": Task((1,), 1, True),
    "omniglot": Task((1, 28, 28), 5, False),
    "mini": Task((3, 84, 84), 5, False),
    "cub": Task((3, 84, 84), 5, False),
}


def chosen(data, method, shots=1, variant="released"):
    """conf/train.yaml as the command line would compose it."""
    return composed([f"data={data}", f"method={method}", f"shots={shots}", f"variant={variant}"])


COUNTS = {  # parameters; variant=paper has one bias for each class
    "sine maml": 17_018,
    "sine lstm": 20_201,
    "sine oplstm": 17_923,
    "omniglot maml": 247_621,
    "omniglot protonet": 247_296,
    "omniglot lstm": 13_530_097,
    "omniglot oplstm": 248_525,
    "mini maml": 121_093,
    "mini warpmaml": 231_877,
    "mini sap": 412_852,
    "mini protonet": 113_088,
    "mini lstm": 55_879_349,
    "mini oplstm": 133_182,
}
MORE = {"omniglot oplstm": 1, "mini oplstm": 4}  # parameters of variant=paper


@pytest.mark.parametrize("run", COUNTS)
def test_parameter_counts(run):
    data, method = run.split()
    for variant, more in (("released", 0), ("paper", MORE.get(run, 0))):
        with torch.device("meta"):
            learner = make_learner(chosen(data, method, variant=variant), TASKS[data])
        assert sum(parameter.numel() for parameter in learner.parameters()) == COUNTS[run] + more


REPORTED = {
    "sine lstm": "lr=0.004673978383086751 passes=4 meta_batch_size=4 hidden=[40,40]",
    "sine oplstm": "lr=0.0010448688371510757 passes=9 meta_batch_size=1 gamma=0.025 lstm_units=[5,5,1]",
    "sine maml": "lr=0.0032937018686863585 inner_lr=0.003769030557807799 inner_steps=14 eval_inner_steps=14 "
    "meta_batch_size=2 grad_clip=10.0",
    "omniglot lstm": "lr=8.33e-5 passes=3 meta_batch_size=12 hidden=[1024,600,400,200,92] first_labels=true",
    "omniglot oplstm": "lr=2.5e-4 passes=1 meta_batch_size=4 lstm_units=[5,5,1]",
    "omniglot maml": "lr=3.125e-5 inner_lr=0.4 inner_steps=1 eval_inner_steps=3 meta_batch_size=32 "
    "grad_clip=null",
    "omniglot protonet": "lr=2.5e-4 meta_batch_size=4",
    "mini lstm": "lr=6.9e-5 passes=3 meta_batch_size=32 hidden=[1904,1904] first_labels=true",
    "mini oplstm": "lr=2.5e-4 passes=3 meta_batch_size=4 gamma=0.025 lstm_units=[40,20,1]",
    "mini maml": "lr=1e-3 inner_lr=0.01 inner_steps=5 eval_inner_steps=10 grad_clip=10.0",
    "mini protonet": "lr=2.5e-4 meta_batch_size=4",
    "mini warpmaml": "lr=1e-3 inner_lr=0.1 inner_steps=5 eval_inner_steps=5 meta_batch_size=1",
    "mini sap": "lr=1e-3 inner_lr=0.0360774985854036 inner_steps=1 eval_inner_steps=10 meta_batch_size=4 "
    "grad_clip=10.0",
}
VARIANTS = {
    "maml": ("first_order=false grad_clip_each=true", "first_order=false grad_clip_each=false"),
    "sap": ("centred=false", "centred=true"),
    "warpmaml": ("last_loss=false", "last_loss=true"),
    "lstm": ("pool_cell=false query_cell=false", "pool_cell=true query_cell=true first_labels=true"),
    "oplstm": (
        "pool_state=false softmax=false",
        "normalisation=example gamma=0.025 pool_state=true softmax=true preactivation=false detach=false "
        "scalar_bias=false",
    ),
    "protonet": ("", ""),
}
RELEASED = {
    "sine lstm": "first_labels=false",
    "sine oplstm": "normalisation=joint gamma=0.025 detach=false preactivation=false",
    "omniglot oplstm": "normalisation=none gamma=null preactivation=true detach=false scalar_bias=false",
    "mini oplstm": "normalisation=matrix gamma=0.025 preactivation=false detach=true scalar_bias=true",
}
BUDGETS = {  # updates in all and between validations, tasks of validation and test, test queries by variant
    ("sine", "lstm", 5): (17_500, 625, 1000, 2000, 50, 50),
    ("sine", "oplstm", 10): (70_000, 2500, 1000, 2000, 50, 50),
    ("sine", "maml", 20): (35_000, 1250, 1000, 2000, 50, 50),
    ("omniglot", "maml", 1): (80_000, 2500, 600, 600, 1, 15),
    ("omniglot", "oplstm", 5): (80_000, 2500, 600, 600, 5, 15),
    ("mini", "lstm", 1): (80_000, 2500, 600, 600, 1, 15),
    ("mini", "maml", 5): (60_000, 2000, 600, 600, 5, 15),
    ("mini", "warpmaml", 1): (60_000, 2500, 600, 600, 1, 15),
    ("cub", "sap", 1): (15_000, 625, 600, 600, 1, 15),
    ("mini", "sap", 5): (10_000, 625, 600, 600, 5, 15),
    ("cub", "protonet", 5): (80_000, 2500, 600, 600, 5, 15),
}


@pytest.mark.parametrize("variant", ["released", "paper"])
@pytest.mark.parametrize(
    "run", [*REPORTED, *(run.replace("mini", "cub") for run in REPORTED if "mini" in run)]
)
def test_settings_of_the_reported_runs(run, variant):
    """A typing error in conf/ would run another experiment under the paper's name."""
    data, method = run.split()
    same = run.replace("cub", "mini")
    expected = f"{REPORTED[same]} {VARIANTS[method][variant == 'paper']}"
    expected += f" {RELEASED.get(same, '')}" if variant == "released" else ""
    cfg = chosen(data, method, variant=variant)
    for name, value in OmegaConf.from_dotlist(expected.split()).items():
        assert cfg.method[name] == value, name


@pytest.mark.parametrize("variant", ["released", "paper"])
@pytest.mark.parametrize(("data", "method", "shots"), BUDGETS)
def test_budgets_of_the_reported_runs(data, method, shots, variant):
    cfg = chosen(data, method, shots, variant)
    *budget, released, paper = BUDGETS[data, method, shots]
    names = ("max_steps", "val_check_interval", "num_val_tasks", "num_test_tasks")
    assert [cfg.trainer[name] for name in names] == budget
    assert cfg.data.test_queries == (released if variant == "released" else paper)
    assert cfg.data.train_queries == cfg.data.val_queries == (50 if data == "sine" else 15)
    assert cfg.shots == shots
    if data == "sine":
        assert cfg.data.sign == (1 if variant == "released" else -1)
    else:
        assert cfg.data.ways == 5


def test_settings_by_other_settings():
    """Warp-MAML always trains on 5 shots; released sequences on sine show their labels in the first pass."""
    assert composed(["data=sine", "method=lstm", "method.support_mode=sequence"]).method.first_labels
    assert [chosen("mini", "maml", shots).method.meta_batch_size for shots in (1, 5)] == [4, 2]
    for method, shots, expected in (("warpmaml", 1, 5), ("warpmaml", 5, 5), ("maml", 1, 1), ("sap", 1, 1)):
        assert chosen("mini", method, shots).data.train_shots == expected


@pytest.mark.parametrize(("backbone", "spread"), [("fc", 784), ("conv4", 27), ("mlp", 1)])
def test_initialisation_is_torch_s(backbone, spread):
    """Torch's defaults, batch norm at the identity; only the MLP's hidden biases start at 0."""
    data = {"fc": "omniglot", "conv4": "mini", "mlp": "sine"}[backbone]
    learner = make_learner(chosen(data, "maml"), TASKS[data])
    first = learner.net.body[0]
    bound = 1 / math.sqrt(spread)
    assert 0.9 * bound < first.weight.abs().max() <= bound
    assert (first.bias.abs().max() == 0) == (backbone == "mlp")
    assert learner.net.head.bias.abs().max() > 0
    if backbone != "mlp":
        assert (first.bn_weight == 1).all()
        assert (first.bn_bias == 0).all()


@pytest.mark.parametrize("variant", ["released", "paper"])
def test_figures(variant):
    """A character has 20 drawings; the similarity of Figure 6 is that of the variant."""
    for shots in (1, 10):
        cfg = composed(["experiment=figure5-omniglot", f"shots={shots}", f"variant={variant}"])
        assert (cfg.data.name, cfg.method.name) == ("omniglot", "lstm")
        assert max(cfg.data.train_queries, cfg.data.val_queries, cfg.data.test_queries) <= 20 - shots
    cfg = composed(["experiment=figure6", f"variant={variant}"])
    assert (cfg.data.name, cfg.method.name, cfg.trainer.similarity) == ("mini", "oplstm", variant)


@pytest.mark.parametrize(("variant", "bound"), [("released", 0.5**0.5), ("paper", 1600**-0.5)])
def test_the_output_bias_starts_as_released(variant, bound):
    biases, cfg = [], chosen("mini", "oplstm", variant=variant)
    for seed in range(40):
        torch.manual_seed(seed)
        learner = make_learner(cfg, TASKS["mini"])
        biases.append(learner.head.bias.detach())
    spread = torch.cat(biases).abs().max()
    assert 0.8 * bound < spread <= bound
